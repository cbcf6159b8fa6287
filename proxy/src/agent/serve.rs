//! The path of one connection, from the client's SYN to the relay or to the client's errno.

use super::{clients::Client, engine::Engine, limits::Slot, node::Node};
use crate::{
    endpoint::{Choice, Dialled, Way},
    http::{connection::Http, exchange::Prior, pool::Kind, replay::Buffers},
    intercept::{Answer, Handshake, Original, Syn},
    observe::{self, Connection, Timestamp},
    policy::{ConnectFailure, Policy, Router},
    reason::{AttemptOutcome, Reason},
    retry::{ConnectRetry, budgets::DestinationBudget},
    tcp::{Dialer, Failed, Job, connect, relay},
};
use std::{
    net::{self, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// A client whose SYN was released completes the handshake on loopback at once, or has gone.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(3);
/// An answer may come while the client's socket is in the middle of a system call, and ICMP errors are lost on it
/// then. So answers are repeated until the client is seen to have gone, at these intervals.
const ANSWER_INTERVALS: [Duration; 8] = [
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

/// A connection on its way, and what will be recorded of it.
struct Arrival {
    node: Rc<Node>,
    slot: Slot,
    begun: Instant,
    socket_cookie: u64,
    workload: Arc<str>,
    destination: SocketAddr,
    policy: Arc<Policy>,
    connect: ConnectRetry,
    router: Option<Router>,
    endpoints: Choice,
    /// What it was dialled to, where nothing leads it elsewhere than to that Service.
    service: Option<Dialled>,
    dialer: Dialer,
    budget: Arc<DestinationBudget>,
    buffers: Buffers,
    /// Whose upstream connections its requests may use, where the policy has them shared.
    shares: Option<Kind>,
    /// Nothing is tried before its requests are there, which all go elsewhere or find their own connections.
    is_unconnected: bool,
    handshake: observe::Handshake,
}

/// Serves a client whose handshake is held.
pub fn held(node: &Rc<Node>, handshake: &Handshake) {
    let original = handshake.original;
    let Some(engine) = node.engine(handshake.netns_cookie) else {
        // Its namespace's engine was just closed.
        node.metrics().events_lost(1);
        return node.timed_out(original.socket_cookie);
    };
    let client = node.wait_for(original.socket_cookie);
    let syn = handshake.syn;
    let Some(slot) = node.take_slot(&engine) else {
        node.metrics().connection_turned_away(Reason::Overloaded);
        let node = Rc::clone(node);
        tokio::task::spawn_local(async move {
            answer(&node, &engine, client, original.socket_cookie, &syn, Answer::Reset).await;
        });
        return;
    };
    let arrival = Arrival::new(node, &engine, slot, &original, syn.traffic_class(), observe::Handshake::Held);
    tokio::task::spawn_local(arrival.connect_held(engine, client, syn));
}

/// Serves a client that the engine has accepted without having held its handshake.
pub fn accepted(node: &Rc<Node>, engine: &Engine, stream: net::TcpStream, client: SocketAddr) {
    // Every redirected connection comes from one of these two; another loopback address is somebody's own.
    let is_redirected = client.ip() == Ipv4Addr::LOCALHOST || client.ip() == Ipv6Addr::LOCALHOST;
    let original = if is_redirected { node.take_original(engine, client) } else { None };
    let Some(original) = original else {
        // Some process connected to the engine's port by itself.
        tracing::debug!(%client, "a connection without an original destination");
        node.metrics().connection_turned_away(Reason::NoOriginalDestination);
        relay::reset(&stream);
        return;
    };
    let Some(slot) = node.take_slot(engine) else {
        node.metrics().connection_turned_away(Reason::Overloaded);
        relay::reset(&stream);
        return;
    };
    let arrival = Arrival::new(node, engine, slot, &original, 0, observe::Handshake::Eager);
    tokio::task::spawn_local(arrival.connect_eager(stream));
}

impl Arrival {
    fn new(
        node: &Rc<Node>,
        engine: &Engine,
        slot: Slot,
        original: &Original,
        traffic_class: u8,
        handshake: observe::Handshake,
    ) -> Self {
        let destination = original.destination.address();
        let table = node.table();
        let namespace = Arc::clone(engine.namespace());
        let workload = node.workload(original.cgroup_id, namespace.cookie());
        let identity = workload.identity.as_ref();
        let matched = table.lookup(destination, &workload.cgroup, identity, node.names());
        let policy = matched.policy;
        let router = matched.router;
        let is_shared = router.as_ref().is_some_and(Router::is_shared);
        let leads_elsewhere = router.as_ref().is_some_and(Router::leads_elsewhere);
        let addresses = node.names().published();
        let changes = addresses.changes();
        let targets = Choice::weighted(addresses.of(&policy.targets, destination), &mut draw);
        let (endpoints, service) = if !targets.is_empty() {
            (targets, None)
        } else if let Some(host) = matched.host {
            match addresses.service(&host) {
                Some(service) => {
                    let dialled = Dialled { host, address: destination, changes, endpoint: None };
                    (service.choice(destination, &mut draw), Some(dialled))
                }
                None => (Choice::new(destination, node.names().addresses(&host)), None),
            }
        } else {
            (Choice::new(destination, []), None)
        };
        let shares = is_shared.then(|| Kind {
            cgroup_id: original.cgroup_id,
            namespace: namespace.cookie(),
            mark: original.mark,
            traffic_class,
        });
        Self {
            node: Rc::clone(node),
            slot,
            begun: Instant::now(),
            socket_cookie: original.socket_cookie,
            workload: workload.name,
            destination,
            budget: node.budgets().destination(destination, policy.budget),
            buffers: engine.buffers().clone(),
            policy,
            connect: matched.patient.tcp.clone(),
            router,
            endpoints,
            service,
            dialer: Dialer { namespace, mark: original.mark, traffic_class },
            is_unconnected: shares.is_some() || leads_elsewhere,
            shares,
            handshake,
        }
    }

    async fn connect_held(mut self, engine: Rc<Engine>, mut client: Client, syn: Syn) {
        let node = Rc::clone(&self.node);
        let _held = node.metrics().handshake_held();
        let mut progress = connect::Progress::default();
        let result = tokio::select! {
            biased;
            () = client.gone() => Err(Failed { why: Reason::ClientGone, last: AttemptOutcome::Cancelled }),
            result = self.connect(&mut progress) => result,
        };
        let mut record = self.record(progress);
        let made = match result {
            Ok(None) => Made::default(),
            Ok(Some(connected)) => Made::connected(connected, &record),
            Err(failed) if self.answers_in_http(failed.why) => Made::nothing(failed.last, &record),
            Err(failed) => {
                tracing::debug!(destination = %self.destination, why = failed.why.as_str(), "gave up");
                record.reason = failed.why;
                if failed.why != Reason::ClientGone {
                    self.refuse(&engine, client, &syn, failed.last).await;
                }
                return self.end(record);
            }
        };
        self.note(&made, &mut record);
        let mut accepted = engine.expect(syn.client());
        if let Err(error) = engine.send(&syn.released()) {
            // The client's own next SYN passes, a second after its first.
            tracing::warn!(%error, "cannot put a held SYN back");
        }
        // On loopback the handshake is over by the time that the SYN is sent.
        engine.accept_released(&node, syn.client());
        let result = tokio::select! {
            biased;
            stream = &mut accepted => stream.map_err(|_| Reason::HandshakeLost),
            () = client.gone() => {
                // It may have sent all that it had to say and gone, and wait to be accepted.
                engine.accept_released(&node, syn.client());
                accepted.try_recv().map_err(|_| Reason::ClientGone)
            }
            () = sleep(HANDSHAKE_PATIENCE) => Err(Reason::HandshakeLost),
        };
        match result {
            Ok(stream) => self.serve(stream, made, record),
            Err(reason) => {
                drop(accepted);
                engine.forget(syn.client());
                made.upstream.iter().for_each(relay::reset);
                record.reason = reason;
                self.end(record);
            }
        }
    }

    async fn connect_eager(mut self, client: net::TcpStream) {
        let mut progress = connect::Progress::default();
        let result = self.connect(&mut progress).await;
        let mut record = self.record(progress);
        let made = match result {
            Ok(None) => Made::default(),
            Ok(Some(connected)) => Made::connected(connected, &record),
            Err(failed) if self.answers_in_http(failed.why) => Made::nothing(failed.last, &record),
            Err(failed) => {
                relay::reset(&client);
                record.reason = failed.why;
                return self.end(record);
            }
        };
        self.note(&made, &mut record);
        self.serve(client, made, record);
    }

    /// Makes the upstream connection; none where each request finds its own.
    async fn connect(
        &mut self,
        progress: &mut connect::Progress,
    ) -> Result<Option<(net::TcpStream, SocketAddr)>, Failed> {
        if self.is_unconnected {
            return Ok(None);
        }
        self.wait_for_endpoints().await;
        let shared =
            connect::Shared { budget: &self.budget, metrics: self.node.metrics(), epoch: self.node.epoch() };
        let endpoints = self.endpoints.clone();
        connect::connect(
            &self.connect,
            self.begun,
            self.destination,
            endpoints,
            &self.dialer,
            &shared,
            progress,
        )
        .await
        .map(Some)
    }

    /// Where a Service has no endpoint now, one may come within the time that the policy gives. After that the node says what
    /// becomes of the connection.
    async fn wait_for_endpoints(&mut self) {
        let Some(dialled) = &mut self.service else { return };
        let limit = [self.connect.connect_timeout(), self.connect.timeout()].into_iter().flatten().min();
        let (Some(limit), names) = (limit, self.node.names()) else { return };
        if timeout(limit, names.endpoints(&dialled.host, self.destination)).await != Ok(true) {
            return;
        }
        dialled.changes = names.published().changes();
        if let Some(service) = names.published().service(&dialled.host) {
            self.endpoints = service.choice(self.destination, &mut draw);
        }
    }

    /// Makes the client's connect() fail as the last attempt did.
    async fn refuse(&self, engine: &Engine, client: Client, syn: &Syn, last: AttemptOutcome) {
        let words = match last {
            AttemptOutcome::Refused | AttemptOutcome::Reset => Answer::Reset,
            AttemptOutcome::NetworkUnreachable => Answer::NetworkUnreachable,
            // What kept this host from connecting has no word on the wire; this is the nearest.
            AttemptOutcome::HostUnreachable | AttemptOutcome::Local => Answer::HostUnreachable,
            AttemptOutcome::Timeout => return self.node.timed_out(self.socket_cookie),
            AttemptOutcome::Connected | AttemptOutcome::Cancelled => return,
        };
        answer(&self.node, engine, client, self.socket_cookie, syn, words).await;
    }

    /// Whether the client is told by HTTP that no attempt made a connection.
    fn answers_in_http(&self, why: Reason) -> bool {
        why != Reason::ClientGone
            && self
                .router
                .as_ref()
                .is_some_and(|router| router.any(|http| http.connect_failure == ConnectFailure::Unavailable))
    }

    /// Tells the programs and the record what the attempts came to.
    fn note(&self, made: &Made, record: &mut Connection) {
        record.endpoint = made.endpoint;
        record.source = made.upstream.as_ref().and_then(|upstream| upstream.local_addr().ok());
        // Without an upstream connection nothing was seen on the wire: the address is what it would have been.
        if let Some(local) = record.source.or_else(|| self.dialer.source(self.destination).ok()) {
            self.node.connected(self.socket_cookie, local);
        }
    }

    fn serve(self, client: net::TcpStream, made: Made, record: Connection) {
        let guard = Box::new((self.slot, self.node.metrics().connection_opened()));
        let http = self.router.map(|router| {
            Box::new(Http {
                protocol: self.policy.protocol,
                connect: self.connect,
                router,
                endpoint: made.endpoint,
                // A request begins where the connection leads.
                way: Way::new(
                    self.endpoints.starting_at(made.endpoint),
                    self.service.map(|service| Dialled { endpoint: made.endpoint, ..service }),
                ),
                dialer: self.dialer,
                addresses: self.node.names().published().clone(),
                budget: self.budget,
                budgets: self.node.budgets().clone(),
                epoch: self.node.epoch(),
                buffers: self.buffers,
                prior: made.prior,
                shares: self.shares,
                is_unconnected: self.is_unconnected,
                observer: self.node.observer().clone(),
                workload: Arc::clone(&self.workload),
                destination: self.destination,
            })
        });
        let begun = self.begun.into_std();
        self.node.relay(Job { client, upstream: made.upstream, http, record, begun, guard });
    }

    fn record(&self, progress: connect::Progress) -> Connection {
        let attempts = progress.finish(self.node.metrics());
        let connect = self.begun.elapsed();
        self.node.metrics().connect_ended(connect, &attempts);
        Connection {
            time: Timestamp::now(),
            workload: Arc::clone(&self.workload),
            source: None,
            original_destination: self.destination,
            endpoint: None,
            policy: Arc::from(self.policy.name.to_string()),
            handshake: self.handshake,
            sni: None,
            attempts,
            bytes_sent: 0,
            bytes_received: 0,
            connect,
            duration: connect,
            reason: Reason::Closed,
        }
    }

    fn end(&self, record: Connection) {
        self.node.ended(Connection { time: Timestamp::now(), duration: self.begun.elapsed(), ..record });
    }
}

/// What a connection's attempts to connect came to; by default there were none.
#[derive(Default)]
struct Made {
    upstream: Option<net::TcpStream>,
    endpoint: Option<SocketAddr>,
    prior: Prior,
}

impl Made {
    fn connected((upstream, endpoint): (net::TcpStream, SocketAddr), record: &Connection) -> Self {
        let prior = Prior { failed: count(record.attempts.total().saturating_sub(1)), gave_up: None };
        Self { upstream: Some(upstream), endpoint: Some(endpoint), prior }
    }

    fn nothing(last: AttemptOutcome, record: &Connection) -> Self {
        let prior = Prior { failed: count(record.attempts.total()), gave_up: Some(last) };
        Self { upstream: None, endpoint: None, prior }
    }
}

fn draw(below: u32) -> u32 {
    fastrand::u32(..below)
}

fn count(attempts: usize) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}

/// Answers a held SYN until the client is seen to have gone.
async fn answer(
    node: &Node,
    engine: &Engine,
    mut client: Client,
    socket_cookie: u64,
    syn: &Syn,
    answer: Answer,
) {
    let packet = syn.answer(answer);
    for interval in ANSWER_INTERVALS {
        if let Err(error) = engine.send(&packet) {
            tracing::warn!(%error, "cannot answer a held SYN");
        }
        if timeout(interval, client.gone()).await.is_ok() {
            return;
        }
    }
    // Something in the namespace drops the answers. This one needs no packet.
    tracing::warn!(client = %syn.client(), "a client does not take the answer to its SYN");
    node.timed_out(socket_cookie);
}
