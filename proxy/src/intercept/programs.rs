//! The kernel programs: loading them, attaching them to a workload's cgroup, and the maps that steer them.

use super::{
    address::{OriginalDestination, endpoint, octets},
    cgroup::Cgroup,
    event::EventStream,
    features::{self, Kernel, Missing},
    listener::Listener,
    netns::NetworkNamespace,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, ProgramError, SockOps,
        cgroup_skb::CgroupSkbLink, cgroup_sock_addr::CgroupSockAddrLink, sock_ops::SockOpsLink,
    },
};
use ipnet::IpNet;
use nix::{
    libc,
    time::{ClockId, clock_gettime},
};
use redial_ebpf::{
    ClientKey, Counter, ENGINE_FULL, ENGINE_HELD, Engine, VERDICT_CONNECTED, VERDICT_TIMED_OUT, Verdict,
};
use serde::Serialize;
use std::{fs::File, io, net::SocketAddr, time::Duration};

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

const CONNECT4: &str = "redial_connect4";
const CONNECT6: &str = "redial_connect6";
const NAMES: [&str; 4] =
    ["redial_getpeername4", "redial_getpeername6", "redial_getsockname4", "redial_getsockname6"];
const SOCKOPS: &str = "redial_sockops";
const EGRESS: &str = "redial_egress";
/// Only where there is an entry (linux/bpf.h).
const BPF_EXIST: u64 = 2;

/// When a client's connect() is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HandshakeMode {
    /// When the upstream's answer is known.
    #[default]
    Held,
    /// At once, before the upstream connection is made.
    Eager,
}

impl HandshakeMode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Eager => "eager",
        }
    }
}

/// Destinations that are never intercepted.
#[derive(Clone, Debug, Default)]
pub struct Exclusions {
    pub ports: Vec<u16>,
    pub ranges: Vec<IpNet>,
}

/// What a kernel program noted about a redirected connection.
#[derive(Clone, Copy, Debug)]
pub struct Original {
    pub socket_cookie: u64,
    pub cgroup_id: u64,
    pub destination: OriginalDestination,
    /// SO_MARK of the client's socket, which the upstream socket is given too.
    pub mark: u32,
}

/// The loaded programs and their maps. Dropping it takes everything out of the kernel.
pub struct Programs {
    ebpf: Ebpf,
    engines: HashMap<MapData, u64, Engine>,
    verdicts: HashMap<MapData, u64, Verdict>,
    originals: HashMap<MapData, ClientKey, redial_ebpf::Original>,
    heartbeat: Array<MapData, u64>,
    handshake: HandshakeMode,
}

/// What the programs count. Readable from any thread.
pub struct KernelCounters(PerCpuArray<MapData, u64>);

/// The links that make a cgroup a workload. Dropping it detaches the programs.
#[derive(Debug)]
pub struct Attachment {
    /// What brings new connections in. Dropped first when another agent takes over.
    intake: Vec<CgroupSockAddrLink>,
    _names: Vec<CgroupSockAddrLink>,
    _sockops: SockOpsLink,
    _egress: Option<CgroupSkbLink>,
}

#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    #[error(
        "this redial was built without its kernel programs; run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    #[error("{0}")]
    Missing(Missing),
    #[error("cannot load the kernel programs: {0}")]
    Load(#[source] EbpfError),
    #[error("the kernel does not accept the program {program}: {source}")]
    Refused { program: &'static str, source: ProgramError },
    #[error(
        "CAP_NET_ADMIN is needed to hold handshakes: {0} lets nobody attach programs for packets to a cgroup without it \
         (Linux 6.9 does); `--handshake eager` does without"
    )]
    NoNetAdmin(Kernel),
    #[error("cannot attach {program} to the cgroup {cgroup}: {source}")]
    Attach { program: &'static str, cgroup: String, source: ProgramError },
    #[error("cannot open the cgroup {cgroup}: {source}")]
    Cgroup { cgroup: String, source: io::Error },
    #[error("the kernel programs and this agent do not fit together: {0}")]
    Mismatch(&'static str),
    #[error("cannot write to the map {map}: {source}")]
    Map { map: &'static str, source: MapError },
    #[error("cannot read the kernel's events: {0}")]
    Events(io::Error),
}

impl Programs {
    /// Loads the programs. Nothing is intercepted before [`Programs::attach`].
    pub fn load(
        handshake: HandshakeMode,
        exclusions: &Exclusions,
    ) -> Result<(Self, EventStream, KernelCounters), InterceptError> {
        let object = OBJECT.ok_or(InterceptError::NoObject)?;
        if let Some(missing) = features::missing(handshake) {
            return Err(InterceptError::Missing(missing));
        }
        features::tell_optional();
        let knows_mptcp = u8::from(features::knows_mptcp());
        let mut ebpf = EbpfLoader::new()
            .override_global(redial_ebpf::KNOWS_MPTCP, &knows_mptcp, true)
            .load(object)
            .map_err(InterceptError::Load)?;
        for name in [CONNECT4, CONNECT6].into_iter().chain(NAMES) {
            program::<CgroupSockAddr>(&mut ebpf, name)?.load().map_err(refused(name))?;
        }
        program::<SockOps>(&mut ebpf, SOCKOPS)?.load().map_err(refused(SOCKOPS))?;
        if handshake == HandshakeMode::Held {
            let egress = program::<CgroupSkb>(&mut ebpf, EGRESS)?;
            egress.load().map_err(refused(EGRESS))?;
            if !may_attach(egress) {
                return Err(InterceptError::NoNetAdmin(Kernel::running()));
            }
        }
        let events = RingBuf::try_from(take(&mut ebpf, redial_ebpf::EVENTS)?).map_err(map_error("EVENTS"))?;
        let events = EventStream::new(events).map_err(InterceptError::Events)?;
        exclude(&mut ebpf, exclusions)?;
        let counters = take(&mut ebpf, redial_ebpf::COUNTERS)?;
        let counters = KernelCounters(PerCpuArray::try_from(counters).map_err(map_error("COUNTERS"))?);
        let programs = Self {
            engines: HashMap::try_from(take(&mut ebpf, redial_ebpf::ENGINES)?)
                .map_err(map_error("ENGINES"))?,
            verdicts: HashMap::try_from(take(&mut ebpf, redial_ebpf::VERDICTS)?)
                .map_err(map_error("VERDICTS"))?,
            originals: HashMap::try_from(take(&mut ebpf, redial_ebpf::ORIGINALS)?)
                .map_err(map_error("ORIGINALS"))?,
            heartbeat: Array::try_from(take(&mut ebpf, redial_ebpf::HEARTBEAT)?)
                .map_err(map_error("HEARTBEAT"))?,
            ebpf,
            handshake,
        };
        Ok((programs, events, counters))
    }

    /// Attaches every program to a cgroup. The connect hooks come last, so that no connection is redirected before
    /// everything that it needs is in place.
    pub fn attach(&mut self, cgroup: &Cgroup) -> Result<Attachment, InterceptError> {
        let directory = cgroup
            .open_directory()
            .map_err(|source| InterceptError::Cgroup { cgroup: cgroup.name().to_owned(), source })?;
        let name = cgroup.name();
        let sockops = self.attach_sockops(&directory, name)?;
        let egress = match self.handshake {
            HandshakeMode::Held => Some(self.attach_egress(&directory, name)?),
            HandshakeMode::Eager => None,
        };
        let names = NAMES
            .into_iter()
            .map(|program| self.attach_sock_addr(program, &directory, name))
            .collect::<Result<_, _>>()?;
        let intake = [CONNECT4, CONNECT6]
            .into_iter()
            .map(|program| self.attach_sock_addr(program, &directory, name))
            .collect::<Result<_, _>>()?;
        Ok(Attachment { intake, _names: names, _sockops: sockops, _egress: egress })
    }

    /// Tells the programs where the engine of a network namespace listens.
    pub fn set_engine(
        &mut self,
        namespace: &NetworkNamespace,
        listeners: &[Listener],
    ) -> Result<(), InterceptError> {
        let port = |v4: bool| {
            let mut addresses = listeners.iter().map(Listener::address);
            addresses.find(|address| address.is_ipv4() == v4).map_or(0, |address| address.port())
        };
        let flags = if self.handshake == HandshakeMode::Held { ENGINE_HELD } else { 0 };
        let engine = Engine { port_v4: port(true), port_v6: port(false), flags };
        self.engines.insert(namespace.cookie(), engine, 0).map_err(map_error("ENGINES"))
    }

    pub fn remove_engine(&mut self, namespace: &NetworkNamespace) {
        // It may be gone already: only its absence matters.
        let _ = self.engines.remove(&namespace.cookie());
    }

    /// Lets a namespace's new connections go direct while there is no room for them, and takes them again afterwards.
    pub fn set_full(&mut self, namespace: &NetworkNamespace, full: bool) -> Result<(), InterceptError> {
        let cookie = namespace.cookie();
        let mut engine = self.engines.get(&cookie, 0).map_err(map_error("ENGINES"))?;
        engine.flags = if full { engine.flags | ENGINE_FULL } else { engine.flags & !ENGINE_FULL };
        self.engines.insert(cookie, engine, BPF_EXIST).map_err(map_error("ENGINES"))
    }

    /// The upstream connection exists: getsockname() answers with `local`, and the client's SYNs pass.
    pub fn connected(&mut self, socket_cookie: u64, local: SocketAddr) -> Result<(), InterceptError> {
        self.decide(socket_cookie, Verdict { local: endpoint(local), kind: VERDICT_CONNECTED, padding: 0 })
    }

    /// Nothing answered: the client's connect() ends with ETIMEDOUT when its SYN timer next fires.
    pub fn timed_out(&mut self, socket_cookie: u64) -> Result<(), InterceptError> {
        self.decide(socket_cookie, Verdict { kind: VERDICT_TIMED_OUT, ..Verdict::default() })
    }

    /// Changes the entry that the program made for a socket. Where there is none the client has gone.
    fn decide(&mut self, socket_cookie: u64, verdict: Verdict) -> Result<(), InterceptError> {
        match self.verdicts.insert(socket_cookie, verdict, BPF_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            result => result.map_err(map_error("VERDICTS")),
        }
    }

    /// Where a connection that was accepted without a held handshake was meant to go. Answers once.
    pub fn take_original(&mut self, namespace: &NetworkNamespace, client: SocketAddr) -> Option<Original> {
        let key = ClientKey {
            netns_cookie: namespace.cookie(),
            port: client.port(),
            family: if client.is_ipv4() { 4 } else { 6 },
            padding: 0,
        };
        let original = self.originals.get(&key, 0).ok()?;
        let _ = self.originals.remove(&key);
        Some(Original::from(&original))
    }

    /// Says that the agent turns. Connections go direct a few seconds after the last time.
    pub fn beat(&mut self) -> Result<(), InterceptError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.heartbeat.set(0, now, 0).map_err(map_error("HEARTBEAT"))
    }

    fn attach_sock_addr(
        &mut self,
        name: &'static str,
        directory: &File,
        cgroup: &str,
    ) -> Result<CgroupSockAddrLink, InterceptError> {
        let program = program::<CgroupSockAddr>(&mut self.ebpf, name)?;
        program
            .attach(directory, CgroupAttachMode::Single)
            .and_then(|link| program.take_link(link))
            .map_err(|source| InterceptError::Attach { program: name, cgroup: cgroup.to_owned(), source })
    }

    fn attach_sockops(&mut self, directory: &File, cgroup: &str) -> Result<SockOpsLink, InterceptError> {
        let program = program::<SockOps>(&mut self.ebpf, SOCKOPS)?;
        program
            .attach(directory, CgroupAttachMode::Single)
            .and_then(|link| program.take_link(link))
            .map_err(|source| InterceptError::Attach { program: SOCKOPS, cgroup: cgroup.to_owned(), source })
    }

    fn attach_egress(&mut self, directory: &File, cgroup: &str) -> Result<CgroupSkbLink, InterceptError> {
        let program = program::<CgroupSkb>(&mut self.ebpf, EGRESS)?;
        program
            .attach(directory, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)
            .and_then(|link| program.take_link(link))
            .map_err(|source| InterceptError::Attach { program: EGRESS, cgroup: cgroup.to_owned(), source })
    }
}

impl KernelCounters {
    /// What they did so far, summed over the processors, in the order of [`Counter::ALL`].
    #[must_use]
    pub fn read(&self) -> [u64; Counter::ALL.len()] {
        Counter::ALL.map(|counter| {
            // A fieldless enum's value is its index.
            #[expect(clippy::as_conversions, reason = "an enum's discriminant has no other reading")]
            let index = counter as u32;
            self.0.get(&index, 0).map_or(0, |values| values.iter().sum())
        })
    }
}

impl Attachment {
    /// Sends new connections past this agent, while those that it has are served on.
    pub fn stop_intake(&mut self) {
        self.intake.clear();
    }
}

impl From<&redial_ebpf::Original> for Original {
    fn from(raw: &redial_ebpf::Original) -> Self {
        Self {
            socket_cookie: raw.socket_cookie,
            cgroup_id: raw.cgroup_id,
            destination: OriginalDestination::from(&raw.destination),
            mark: raw.mark,
        }
    }
}

/// Asks with what is no cgroup: the kernel looks at the privilege first.
fn may_attach(egress: &mut CgroupSkb) -> bool {
    let Ok(no_cgroup) = File::open("/") else { return true };
    match egress.attach(no_cgroup, CgroupSkbAttachType::Egress, CgroupAttachMode::Single) {
        Err(ProgramError::SyscallError(error)) => error.io_error.raw_os_error() != Some(libc::EPERM),
        _ => true,
    }
}

fn refused(program: &'static str) -> impl Fn(ProgramError) -> InterceptError {
    move |source| InterceptError::Refused { program, source }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, InterceptError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(InterceptError::Mismatch("a program is missing or of another type"))
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, InterceptError> {
    ebpf.take_map(name).ok_or(InterceptError::Mismatch("a map is missing"))
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> InterceptError {
    move |source| InterceptError::Map { map, source }
}

fn exclude(ebpf: &mut Ebpf, exclusions: &Exclusions) -> Result<(), InterceptError> {
    let mut ports: HashMap<MapData, u16, u8> =
        HashMap::try_from(take(ebpf, redial_ebpf::EXCLUDED_PORTS)?).map_err(map_error("EXCLUDED_PORTS"))?;
    for port in &exclusions.ports {
        ports.insert(port, 1, 0).map_err(map_error("EXCLUDED_PORTS"))?;
    }
    let mut ranges: LpmTrie<MapData, [u8; 16], u32> =
        LpmTrie::try_from(take(ebpf, redial_ebpf::EXCLUDED_RANGES)?).map_err(map_error("EXCLUDED_RANGES"))?;
    for range in &exclusions.ranges {
        let (family, above) = if range.network().is_ipv4() { (4, 96) } else { (6, 0) };
        let prefix = u32::from(range.prefix_len()) + above;
        ranges
            .insert(&Key::new(prefix, octets(range.network())), family, 0)
            .map_err(map_error("EXCLUDED_RANGES"))?;
    }
    Ok(())
}
