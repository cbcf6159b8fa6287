//! The addresses of the names that policies give, kept up to date in the background.
//!
//! A connection never waits for DNS: it arrives with an address, and the question is only whether that address is one
//! of a name's. An address stays known for a while after the last answer that had it, because names with many
//! addresses answer with some of them at a time, and applications keep addresses longer than they should.

use super::{Addresses, Service};
use crate::policy::{Host, Resolution};
use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    lookup_ip::LookupIp,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{ProtoError, rr::Name},
    system_conf::parse_resolv_conf,
};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    fs, io, iter,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long an address stays known after the last answer that had it.
const MEMORY: Duration = Duration::from_mins(5);
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(30);
/// After a failed lookup.
const RETRY: Duration = Duration::from_secs(2);
/// How long the first answers are waited for at start.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// How many addresses of one name are known at a time.
const MAX_ADDRESSES: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no resolver configuration: {message}")]
    Parse { path: PathBuf, message: String },
}

/// The known addresses of every name in force. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Names(Rc<Inner>);

#[derive(Default)]
struct Inner {
    published: Addresses,
    known: RefCell<Known>,
    watches: RefCell<HashMap<Host, JoinHandle<()>>>,
    /// The names that are Services'.
    services: RefCell<BTreeSet<Host>>,
    services_changed: Notify,
}

/// Both ways, so that a connection costs the same however many names there are.
#[derive(Default)]
struct Known {
    addresses: HashMap<Host, HashMap<IpAddr, Instant>>,
    hosts: HashMap<IpAddr, BTreeSet<Host>>,
    /// The names that are watched and have no address.
    unresolved: BTreeSet<Host>,
}

/// Where the system says what its resolver is.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A resolver as a file in the format of resolv.conf(5) describes it. `/etc/hosts` comes first, as everywhere. A file without
/// a nameserver is that of a machine without DNS, and so is no file where the system has its own: then `/etc/hosts` is all.
pub fn resolver(resolv_conf: &Path) -> Result<Rc<TokioResolver>, NamesError> {
    let path = resolv_conf.to_owned();
    let text = match fs::read(resolv_conf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(RESOLV_CONF) => Vec::new(),
        read => read.map_err(|source| NamesError::Read { path: path.clone(), source })?,
    };
    let parse = |message: String| NamesError::Parse { path: path.clone(), message };
    let (config, options) = if has_nameserver(&text) {
        parse_resolv_conf(text).map_err(|error| parse(error.to_string()))?
    } else {
        tracing::warn!(path = %path.display(), "no nameserver: names of policies that are not in /etc/hosts have no address");
        (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    };
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map(Rc::new)
        .map_err(|error| parse(error.to_string()))
}

/// A line that cannot be read, or whose address is none, is the parser's to complain of.
fn has_nameserver(resolv_conf: &[u8]) -> bool {
    let mut lines = resolv_conf.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines.any(|line| line.starts_with(b"nameserver"))
}

impl Names {
    /// The same for every thread.
    #[must_use]
    pub fn published(&self) -> &Addresses {
        &self.0.published
    }

    /// The known addresses of a host, in a stable order.
    #[must_use]
    pub fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        self.0.known.borrow().addresses(host)
    }

    /// Watches these hosts from now on, and no others. The future waits a moment for the first answers about new ones. What
    /// the names of Services stand for is told by [`Names::learn_service`].
    pub fn watch(
        &self,
        resolver: &Rc<TokioResolver>,
        hosts: Vec<Host>,
        services: &BTreeSet<Host>,
    ) -> impl Future<Output = ()> + use<> {
        let forget = |host: &Host| {
            self.0.known.borrow_mut().forget(host);
            self.0.published.forget(host);
        };
        let before = self.0.services.replace(services.clone());
        before.difference(services).for_each(forget);
        self.0.known.borrow_mut().unresolved.extend(services.difference(&before).cloned());
        let hosts: HashSet<Host> = hosts.into_iter().collect();
        self.0.watches.borrow_mut().retain(|host, watch| {
            let keep = hosts.contains(host);
            if !keep {
                watch.abort();
                forget(host);
            }
            keep
        });
        let (answered, mut answers) = tokio::sync::mpsc::channel(1);
        for host in hosts {
            let mut watches = self.0.watches.borrow_mut();
            watches.entry(host).or_insert_with_key(|host| {
                self.0.known.borrow_mut().unresolved.insert(host.clone());
                let follow = follow(self.clone(), Rc::clone(resolver), host.clone(), answered.clone());
                tokio::task::spawn_local(follow)
            });
        }
        drop(answered);
        async move {
            // Ends when every watch has dropped its sender: after its first answer, or its first failure.
            let _ = timeout(FIRST_ANSWERS, answers.recv()).await;
        }
    }

    /// What a host of [`Names::watch`] stands for that is a Service's. None: the cluster has no such Service.
    pub fn learn_service(&self, host: &Host, service: Option<Arc<Service>>) {
        if !self.0.services.borrow().contains(host) {
            return;
        }
        let addresses = service.iter().flat_map(|service| service.addresses());
        self.0.known.borrow_mut().are(host, addresses.map(|address| (address, Instant::now())).collect());
        match service {
            Some(service) => self.0.published.publish_service(host, service),
            None => self.0.published.forget(host),
        }
        self.0.services_changed.notify_waiters();
    }

    /// Waits until the Service whose the host is has an endpoint for what was dialled, or is none any more. Says whether it
    /// had to be waited for.
    pub async fn endpoints(&self, host: &Host, dialled: SocketAddr) -> bool {
        let mut has_waited = false;
        loop {
            let changed = self.0.services_changed.notified();
            if self.0.published.service(host).is_none_or(|service| !service.lacks_endpoints(dialled)) {
                return has_waited;
            }
            has_waited = true;
            changed.await;
        }
    }

    fn learn(&self, host: &Host, addresses: impl Iterator<Item = IpAddr>) {
        let mut known = self.0.known.borrow_mut();
        known.learn(host, addresses, Instant::now());
        self.0.published.publish(host, known.addresses(host));
    }
}

impl Resolution for Names {
    fn hosts_at(&self, address: IpAddr, visit: &mut dyn FnMut(&Host)) {
        self.0.known.borrow().hosts.get(&address).into_iter().flatten().for_each(visit);
    }

    fn unresolved(&self, visit: &mut dyn FnMut(&Host)) {
        self.0.known.borrow().unresolved.iter().for_each(visit);
    }
}

impl Known {
    fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        let known = self.addresses.get(host);
        let mut addresses: Vec<IpAddr> =
            known.map(|known| known.keys().copied().collect()).unwrap_or_default();
        addresses.sort_unstable();
        addresses
    }

    fn learn(&mut self, host: &Host, addresses: impl Iterator<Item = IpAddr>, now: Instant) {
        let mut known = self.forget(host);
        known.retain(|_, seen| now.duration_since(*seen) < MEMORY);
        for address in addresses.map(|address| address.to_canonical()) {
            if known.len() < MAX_ADDRESSES || known.contains_key(&address) {
                known.insert(address, now);
            }
        }
        self.are(host, known);
    }

    /// These and no others are the host's addresses.
    fn are(&mut self, host: &Host, known: HashMap<IpAddr, Instant>) {
        self.forget(host);
        for address in known.keys() {
            self.hosts.entry(*address).or_default().insert(host.clone());
        }
        if known.is_empty() {
            self.unresolved.insert(host.clone());
        }
        self.addresses.insert(host.clone(), known);
    }

    fn forget(&mut self, host: &Host) -> HashMap<IpAddr, Instant> {
        self.unresolved.remove(host);
        let known = self.addresses.remove(host).unwrap_or_default();
        for address in known.keys() {
            if let Some(hosts) = self.hosts.get_mut(address) {
                hosts.remove(host);
                if hosts.is_empty() {
                    self.hosts.remove(address);
                }
            }
        }
        known
    }
}

async fn lookup(resolver: &TokioResolver, host: &Host) -> Result<LookupIp, NetError> {
    resolver.lookup_ip(whole(host)?).await
}

/// The dot keeps the resolver from trying its search domains: a policy names the host in full. It is read as ASCII, because a
/// text of any script may have no `_` in it.
fn whole(host: &Host) -> Result<Name, ProtoError> {
    Name::from_ascii(format!("{}.", host.as_str()))
}

async fn follow(
    names: Names,
    resolver: Rc<TokioResolver>,
    host: Host,
    first_answer: tokio::sync::mpsc::Sender<()>,
) {
    let mut first_answer = Some(first_answer);
    let mut was_failing = false;
    loop {
        let pause = match lookup(&resolver, &host).await {
            Ok(answer) => {
                names.learn(&host, answer.iter());
                was_failing = false;
                let valid = answer.valid_until().saturating_duration_since(std::time::Instant::now());
                valid.clamp(SHORTEST_REFRESH, LONGEST_REFRESH)
            }
            Err(error) => {
                // What was last seen too long ago goes, as after an answer without it.
                names.learn(&host, iter::empty());
                if !was_failing {
                    tracing::warn!(host = host.as_str(), %error, "cannot resolve a policy's host name");
                }
                was_failing = true;
                RETRY
            }
        };
        drop(first_answer.take());
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::iter;
    use std::net::IpAddr;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::ResolverConfig;
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tempfile::NamedTempFile;
    use tokio::sync::mpsc;
    use tokio::time::{Instant, timeout};

    use super::{Known, MEMORY, Names, NamesError, RETRY, follow, lookup, resolver, whole};
    use crate::endpoint::{Endpoints, Service, ServicePort};
    use crate::policy::{Host, Resolution as _};

    fn learn(known: &mut Known, host: &str, addresses: &[&str], now: Instant) {
        let host: Host = host.parse().unwrap();
        known.learn(&host, addresses.iter().map(|address| address.parse().unwrap()), now);
    }

    fn at(known: &Known, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().unwrap();
        known.hosts.get(&address).into_iter().flatten().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_found_both_ways_for_as_long_as_they_are_known() {
        let (mut known, now) = (Known::default(), Instant::now());
        learn(&mut known, "a", &["10.0.0.1", "::ffff:10.0.0.2"], now);
        learn(&mut known, "b", &["10.0.0.1"], now);
        learn(&mut known, "c", &[], now);
        assert_eq!(at(&known, "10.0.0.1"), ["a", "b"]);
        assert_eq!(at(&known, "10.0.0.2"), ["a"]);
        assert_eq!(known.unresolved.iter().map(Host::as_str).collect::<Vec<_>>(), ["c"]);
        // Seen again, an address stays; what was last seen long ago goes.
        learn(&mut known, "a", &["10.0.0.2"], now + MEMORY);
        assert_eq!(at(&known, "10.0.0.1"), ["b"]);
        assert_eq!(known.addresses(&"a".parse().unwrap()), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        known.forget(&"b".parse().unwrap());
        assert!(at(&known, "10.0.0.1").is_empty() && known.hosts.len() == 1);
    }

    #[tokio::test]
    async fn without_a_nameserver_names_have_no_address() {
        let file = NamedTempFile::new().unwrap();
        for text in ["", "# nameserver 127.0.0.1\n", "search shop.test\noptions ndots:5\n"] {
            fs::write(file.path(), text).unwrap();
            let resolver = resolver(file.path()).unwrap();
            assert!(lookup(&resolver, &"db.test".parse().unwrap()).await.is_err(), "{text}");
            assert!(lookup(&resolver, &"localhost".parse().unwrap()).await.is_ok(), "{text}");
        }
        fs::write(file.path(), "nameserver nowhere\n").unwrap();
        assert!(matches!(resolver(file.path()), Err(NamesError::Parse { .. })));
        let missing = file.path().with_extension("missing");
        assert!(matches!(resolver(&missing), Err(NamesError::Read { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_a_name_that_can_no_longer_be_resolved_are_forgotten_in_time() {
        let nobody = ResolverConfig::from_parts(None, vec![], vec![]);
        let resolver = TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default());
        let resolver = Rc::new(resolver.build().unwrap());
        let (names, host): (_, Host) = (Names::default(), "a.test".parse().unwrap());
        names.learn(&host, iter::once("10.0.0.1".parse().unwrap()));
        let (answered, _answers) = mpsc::channel(1);
        let mut follow = Box::pin(follow(names.clone(), resolver, host.clone(), answered));
        assert!(timeout(MEMORY.saturating_sub(RETRY), &mut follow).await.is_err());
        assert_eq!(names.addresses(&host).len(), 1);
        assert!(timeout(2 * RETRY, &mut follow).await.is_err());
        assert!(names.addresses(&host).is_empty());
    }

    /// Kuma calls a service `backend_shop_svc_80.mesh`.
    #[test]
    fn every_host_of_a_policy_can_be_asked_for() {
        for host in ["backend_shop_svc_80.mesh", "db.shop.example", "xn--bcher-kva.example", "_tcp.a", "a"] {
            let name = whole(&host.parse().unwrap()).unwrap();
            assert_eq!((name.to_ascii(), name.is_fqdn()), (format!("{host}."), true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_services_endpoint_goes_on_when_it_comes() {
        let (names, host): (_, Host) = (Names::default(), "web.shop.svc.cluster.local".parse().unwrap());
        let (dialled, pod) = ("10.0.0.1:80".parse().unwrap(), "10.1.0.1");
        let service = |endpoints: &[&str]| {
            let near = endpoints.iter().map(|one| format!("{one}:8080").parse().unwrap()).collect();
            let v4 = Endpoints { near, far: Arc::default() };
            Some(Arc::new(Service {
                cluster_addresses: vec!["10.0.0.1".parse().unwrap()],
                endpoint_addresses: endpoints.iter().map(|one| one.parse().unwrap()).collect(),
                ports: vec![ServicePort { number: 80, v4, v6: Endpoints::default() }],
                ..Service::default()
            }))
        };
        let unresolved = |names: &Names| {
            let mut all = Vec::new();
            names.unresolved(&mut |host| all.push(host.to_string()));
            all
        };
        // What nobody asked for is passed over.
        names.learn_service(&host, service(&[pod]));
        assert!(names.published().service(&host).is_none());
        let resolver =
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default());
        let resolver = Rc::new(resolver.build().unwrap());
        let services = [host.clone()].into();
        names.watch(&resolver, Vec::new(), &services).await;
        assert_eq!(unresolved(&names), [host.as_str()]);
        assert!(!names.endpoints(&host, dialled).await, "nothing is known, so nothing is waited for");

        names.learn_service(&host, service(&[]));
        assert!(unresolved(&names).is_empty());
        let waiting = names.endpoints(&host, dialled);
        let mut waiting = pin!(waiting);
        assert!(timeout(Duration::from_secs(9), &mut waiting).await.is_err());
        names.learn_service(&host, service(&[pod]));
        assert!(waiting.await);
        assert!(!names.endpoints(&host, dialled).await);
        assert_eq!(at(&names.0.known.borrow(), pod), [host.as_str()]);
        assert_eq!(at(&names.0.known.borrow(), "10.0.0.1"), [host.as_str()]);

        names.watch(&resolver, Vec::new(), &BTreeSet::new()).await;
        assert!(at(&names.0.known.borrow(), pod).is_empty() && names.published().service(&host).is_none());
    }
}
