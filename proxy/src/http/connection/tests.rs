//! What connections turn out to speak, and whose policy that makes theirs.

use std::path::Path;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::detect::tests::client_hello;
use crate::dialect;
use crate::endpoint::{Choice, Names};
use crate::intercept::NetworkNamespace;
use crate::observe::{Handshake, Metrics, Timestamp};
use crate::policy::Table;
use crate::retry::BudgetPolicy;
use crate::tcp::connect::Progress;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream, listener.accept().await.unwrap().0)
}

/// What a connection with this upstream is taken for once the application has written `says`, which it does after
/// the upstream has done what it does, and has ended its side.
async fn spoken(protocol: Protocol, upstream: Option<&TcpStream>, says: &[u8]) -> Spoken {
    let (mut application, mut client) = pair().await;
    let (mut read, mut sni, metrics) = (BytesMut::new(), None, Metrics::new(Default::default));
    let detected = detected(&mut client, upstream, protocol, &mut read, None, &mut sni, &metrics);
    let (spoken, ()) = tokio::join!(biased; detected, async {
        application.write_all(says).await.unwrap();
        application.shutdown().await.unwrap();
    });
    spoken
}

/// What a connection is whose server speaks first, and whose client speaks HTTP/2 after that.
async fn spoken_after(server_says: &[u8], protocol: Protocol) -> Spoken {
    let (upstream, mut server) = pair().await;
    server.write_all(server_says).await.unwrap();
    upstream.readable().await.unwrap();
    spoken(protocol, Some(&upstream), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await
}

#[tokio::test]
async fn a_server_that_sends_its_settings_first_speaks_http2() {
    let spoken = spoken_after(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100], Protocol::Auto).await;
    assert!(matches!(spoken, Spoken::Http2));
}

#[tokio::test]
async fn a_server_that_greets_is_left_alone() {
    const GREETING: &[u8] = b"220 mail.test ESMTP\r\n";
    assert!(matches!(spoken_after(GREETING, Protocol::Auto).await, Spoken::Other));
    // Unless HTTP is what is spoken here.
    assert!(matches!(spoken_after(GREETING, Protocol::Grpc).await, Spoken::Http2));
}

#[tokio::test]
async fn what_is_http_is_held_to_it_when_its_client_ends() {
    for says in [&b""[..], b"GE", b"\x16\x03"] {
        assert!(matches!(spoken(Protocol::Http, None, says).await, Spoken::Http1));
        assert!(matches!(spoken(Protocol::Auto, None, says).await, Spoken::Other));
    }
}

/// What a client is taken for that says just this, and has this much patience.
async fn spoken_in_time(protocol: Protocol, says: &[u8], patience: Option<Duration>) -> Option<Spoken> {
    let (mut application, mut client) = pair().await;
    application.write_all(says).await.unwrap();
    let (mut read, mut sni, metrics) = (BytesMut::new(), None, Metrics::new(Default::default));
    if !says.is_empty() {
        client.readable().await.unwrap();
    }
    tokio::time::pause();
    let detected = detected(&mut client, None, protocol, &mut read, patience, &mut sni, &metrics);
    let spoken = timeout(Duration::from_hours(1), detected).await.ok();
    drop(application);
    spoken
}

#[tokio::test]
async fn a_client_that_pauses_is_relayed_unless_it_speaks_http() {
    assert!(matches!(spoken_in_time(Protocol::Auto, b"GE", None).await, Some(Spoken::Other)));
    tokio::time::resume();
    assert!(spoken_in_time(Protocol::Http, b"GE", None).await.is_none());
}

#[tokio::test]
async fn a_silent_client_whose_connection_leads_nowhere_is_let_go() {
    let patience = Some(NOWHERE_PATIENCE);
    assert!(matches!(spoken_in_time(Protocol::Auto, b"", patience).await, Some(Spoken::Other)));
    tokio::time::resume();
    let spoken = spoken_in_time(Protocol::Http, b"", patience).await;
    assert!(matches!(spoken, Some(Spoken::Nothing(Reason::AttemptsExhausted))));
}

/// Nothing is tried again here, unless a server's name says so.
const DOCUMENTS: &str = "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: all}
spec: {tcp: {maxConnectAttempts: 1}, http: {upstream: pool}}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: patient}
spec:
  to: [{hosts: ['*.patient.test']}]
  tcp: {maxConnectAttempts: 3, backOff: {baseInterval: 1ms}}
  http: {upstream: pool}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: spent}
spec:
  to: [{hosts: [spent.test]}]
  tcp: {maxConnectAttempts: 3, backOff: {baseInterval: 1ms}}
  http: {upstream: pool}
  budget: {percent: 0, minPerSecond: 0}
";

/// How a TLS client's connection to there ends that asks for this server, and what is recorded of it.
async fn tls(server: &str, destination: SocketAddr, upstream: Option<TcpStream>) -> (Reason, Connection) {
    let parsed = dialect::parse(Path::new("p.yaml"), DOCUMENTS).unwrap();
    let table = Arc::new(Table::try_new(parsed.policies).unwrap());
    let router = table.router(destination, &"".into(), None, &Names::default());
    let unnamed = Arc::clone(router.of_server("other.test"));
    let budgets = Budgets::new(BudgetPolicy::default());
    let namespace = Arc::new(NetworkNamespace::own().unwrap());
    let http = Http {
        protocol: Protocol::Auto,
        connect: unnamed.tcp.clone(),
        router,
        endpoint: upstream.as_ref().map(|_| destination),
        way: Choice::new(destination, []).into(),
        dialer: Dialer { namespace, mark: 0, traffic_class: 0 },
        addresses: Addresses::default(),
        budget: budgets.destination(destination, unnamed.budget),
        budgets,
        epoch: Instant::now(),
        buffers: Buffers::new(1 << 20),
        prior: Prior::default(),
        shares: None,
        is_unconnected: upstream.is_none(),
        observer: Observer::new(Metrics::new(Default::default), None),
        workload: "test".into(),
        destination,
    };
    let mut record = Connection {
        time: Timestamp::now(),
        workload: "test".into(),
        source: None,
        original_destination: destination,
        endpoint: None,
        policy: unnamed.name.to_string().into(),
        handshake: Handshake::Held,
        sni: None,
        attempts: Progress::default().finish(http.observer.metrics()),
        bytes_sent: 0,
        bytes_received: 0,
        connect: Duration::ZERO,
        duration: Duration::ZERO,
        reason: Reason::Closed,
    };
    let (mut application, client) = pair().await;
    application.write_all(&client_hello(Some(server), &["h2"], 1 << 14)).await.unwrap();
    client.readable().await.unwrap();
    application.shutdown().await.unwrap();
    let ((_stop, stopped), (_drain, draining)) = (watch::channel(false), watch::channel(false));
    let (signals, moved) = (Signals { stopped, draining }, Moved::default());
    let reason = serve(client, upstream, http, &moved, &mut record, signals, &Pool::default()).await;
    (reason, record)
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_policy_of_a_tls_server_s_name_says_how_its_connection_is_made() {
    for (server, policy, attempts, why) in [
        ("other.test", "all", 1, Reason::AttemptsExhausted),
        ("a.patient.test", "patient", 3, Reason::AttemptsExhausted),
        ("spent.test", "spent", 1, Reason::BudgetExhausted),
    ] {
        let (reason, record) = tls(server, nobody().await, None).await;
        assert_eq!((&*record.policy, record.attempts.total(), reason), (policy, attempts, why), "{server}");
        assert_eq!(record.sni.as_deref(), Some(server));
    }
}

#[tokio::test]
async fn a_connection_that_was_made_before_its_server_was_named_is_recorded_under_the_name_s_policy() {
    let (upstream, mut server) = pair().await;
    let destination = upstream.peer_addr().unwrap();
    server.shutdown().await.unwrap();
    let (reason, record) = tls("a.patient.test", destination, Some(upstream)).await;
    assert_eq!((&*record.policy, record.attempts.total(), reason), ("patient", 0, Reason::Closed));
    let mut relayed = Vec::new();
    server.read_to_end(&mut relayed).await.unwrap();
    assert_eq!(relayed, client_hello(Some("a.patient.test"), &["h2"], 1 << 14));
}
