//! One intercepted connection whose policy has something to say about HTTP: what it turns out to speak, and who serves it.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::exchange::Prior;
use super::pool::{Kind, Pool};
use super::replay::Buffers;
use super::session::{Connected, Session, Supply};
use super::wire::Wire;
use super::{h1, h2};
use crate::detect::{Detected, HTTP2_SETTINGS, begins_as_http2, detect};
use crate::endpoint::{Addresses, Way};
use crate::observe::{Connection, DetectedProtocol as Counted, Metrics, Observer};
use crate::policy::{Protocol, Router};
use crate::reason::Reason;
use crate::retry::budgets::DestinationBudget;
use crate::retry::{Budgets, ConnectRetry};
use crate::tcp::connect::{self, connect, dial};
use crate::tcp::relay::{self, Moved, Stopped, told};
use crate::tcp::{Dialer, Signals};

/// How long a client may take to say enough of itself. One that does not speak at first may take any time.
const DETECTION_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client may take to begin a request after its upstream has closed without a word. A client that waits for a
/// word is told of the close then; one that makes requests never needs to know of it.
const CLOSED_PATIENCE: Duration = Duration::from_millis(50);
/// How long a client may take to say anything where its connection leads nowhere. It may be one that waits for the server
/// to speak, which no server will.
const NOWHERE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client that shares upstream connections may say nothing before it gets one of its own: the server may be
/// the one that speaks first.
const SILENCE: Duration = Duration::from_millis(50);
/// How much is read at once while the protocol is not known.
const READ: usize = 16 * 1024;

/// What serving HTTP takes beside the connection itself.
pub struct Http {
    pub protocol: Protocol,
    pub connect: ConnectRetry,
    pub router: Router,
    /// Where the upstream connection leads, if there is one.
    pub endpoint: Option<SocketAddr>,
    pub way: Way,
    pub dialer: Dialer,
    pub addresses: Addresses,
    /// What the connection's own attempts to connect may cost.
    pub budget: Arc<DestinationBudget>,
    pub budgets: Budgets,
    pub epoch: Instant,
    pub buffers: Buffers,
    pub prior: Prior,
    /// Whose upstream connections the requests may use, where the policy has them shared.
    pub shares: Option<Kind>,
    /// Nothing was tried yet: each request finds its own way.
    pub is_unconnected: bool,
    pub observer: Observer,
    pub workload: Arc<str>,
    pub destination: SocketAddr,
}

/// What a connection turned out to be.
enum Spoken {
    Http1,
    Http2,
    /// Something else, or the upstream speaks first.
    Other,
    /// It ended before that was clear.
    Nothing(Reason),
}

/// Serves a connection until it ends. Without an upstream connection the first request is answered
/// with 503, unless its policy has retries left.
pub async fn serve(
    mut client: TcpStream,
    mut upstream: Option<TcpStream>,
    mut http: Http,
    moved: &Moved,
    record: &mut Connection,
    signals: Signals,
    pool: &Pool<TcpStream>,
) -> Reason {
    let Signals { mut stopped, draining } = signals;
    let mut read = BytesMut::new();
    let spoken = tokio::select! {
        spoken = http.recognise(&mut client, &mut upstream, &mut read, record) => spoken,
        () = told(&mut stopped) => Spoken::Nothing(Reason::Drained),
    };
    let is_http2 = match spoken {
        Spoken::Http1 => false,
        Spoken::Http2 => true,
        Spoken::Other => return relayed(client, upstream, &read, moved, stopped).await,
        Spoken::Nothing(why) => {
            client.reset();
            upstream.iter().for_each(Wire::reset);
            return why;
        }
    };
    let connected = upstream.zip(http.endpoint).map(|(stream, endpoint)| Connected { stream, endpoint });
    let upstream = match http.shares {
        Some(kind) => Supply::Pool(pool.share(kind), connected),
        None => Supply::Own(connected),
    };
    let session = Rc::new(http.session());
    if !is_http2 {
        return h1::serve(client, read, upstream, session, stopped, moved).await;
    }
    // What is cut off here is seen to be: HTTP/2 says where each message ends.
    tokio::select! {
        reason = h2::serve(client, read, upstream, session, draining, moved) => reason,
        () = told(&mut stopped) => Reason::Drained,
    }
}

/// Reads until it is clear what the client speaks, or the upstream has spoken first. The client has this much patience to
/// begin with.
async fn detected(
    client: &mut TcpStream,
    mut upstream: Option<&TcpStream>,
    protocol: Protocol,
    read: &mut BytesMut,
    patience: Option<Duration>,
    sni: &mut Option<Box<str>>,
    metrics: &Metrics,
) -> Spoken {
    let is_http = matches!(protocol, Protocol::Http | Protocol::Grpc);
    let mut begun = false;
    let mut patience = patience;
    // What is said to be HTTP is held to it, whatever the upstream does: requests will find out.
    upstream = upstream.filter(|_| !is_http);
    let (spoken, counted) = loop {
        read.reserve(READ);
        let next = poll_fn(|cx| poll_first(cx, client, upstream, read));
        let first = match patience {
            Some(patience) => timeout(patience, next).await.unwrap_or(First::Nobody),
            None => next.await,
        };
        match first {
            First::Client => {
                begun = true;
                patience = Some(DETECTION_PATIENCE).filter(|_| !is_http);
            }
            First::UpstreamClosed => {
                upstream = None;
                patience = patience.or(Some(CLOSED_PATIENCE));
                continue;
            }
            First::ClientReset => return Spoken::Nothing(Reason::ClientReset),
            // What is left of it is no request, and the end is passed on.
            First::ClientEnded if is_http => break (Spoken::Http1, Counted::Unknown),
            First::Nobody if is_http => return Spoken::Nothing(Reason::AttemptsExhausted),
            First::ClientEnded | First::Nobody => break (Spoken::Other, Counted::Unknown),
            First::Upstream if begun => break (Spoken::Other, Counted::Unknown),
            First::Upstream => break (Spoken::Other, Counted::ServerFirst),
        }
        match detect(read) {
            Detected::NeedMore => {}
            Detected::Http2 => break (Spoken::Http2, Counted::H2),
            Detected::Http1 => break (Spoken::Http1, Counted::Http1),
            Detected::Unknown | Detected::Tls(_) if is_http => break (Spoken::Http1, Counted::Http1),
            Detected::Unknown => break (Spoken::Other, Counted::Unknown),
            Detected::Tls(hello) => {
                *sni = hello.sni;
                break (Spoken::Other, Counted::Tls);
            }
        }
    };
    metrics.protocol_detected(counted);
    spoken
}

/// Who did something first.
enum First {
    Client,
    ClientEnded,
    ClientReset,
    Upstream,
    /// It closed without a word.
    UpstreamClosed,
    /// For as long as the client may take.
    Nobody,
}

fn poll_first(
    cx: &mut Context<'_>,
    client: &mut TcpStream,
    upstream: Option<&TcpStream>,
    read: &mut BytesMut,
) -> Poll<First> {
    // The client first: an upstream that closes an idle connection just then has not spoken.
    match pin!(client.read_buf(read)).poll(cx) {
        Poll::Ready(Ok(0)) => return Poll::Ready(First::ClientEnded),
        Poll::Ready(Ok(_)) => return Poll::Ready(First::Client),
        Poll::Ready(Err(_)) => return Poll::Ready(First::ClientReset),
        Poll::Pending => {}
    }
    let Some(upstream) = upstream else { return Poll::Pending };
    let mut first = [0; HTTP2_SETTINGS];
    let mut first = ReadBuf::new(&mut first);
    match upstream.poll_peek(cx, &mut first) {
        // A server that begins like this does not wait for the client, but says nothing before it either.
        Poll::Ready(Ok(_)) if begins_as_http2(first.filled()) => Poll::Pending,
        Poll::Ready(Ok(count)) if count > 0 => Poll::Ready(First::Upstream),
        Poll::Ready(Ok(_) | Err(_)) => Poll::Ready(First::UpstreamClosed),
        Poll::Pending => Poll::Pending,
    }
}

/// Gives back what was read, and relays.
async fn relayed(
    client: TcpStream,
    upstream: Option<TcpStream>,
    read: &[u8],
    moved: &Moved,
    stopped: Stopped,
) -> Reason {
    let Some(mut upstream) = upstream else {
        client.reset();
        return Reason::AttemptsExhausted;
    };
    if upstream.write_all(read).await.is_err() {
        // What the upstream said before it broke off is still the client's to read: the relay passes it on.
        tracing::debug!("the upstream does not take what the client said first");
    }
    moved.count_sent(read.len());
    relay::relay_until(&client, &upstream, moved, stopped).await
}

impl Http {
    /// Tells what the client speaks. A client that shares its upstream connections gets one of its own here if it needs
    /// one: it speaks no HTTP, or waits for the server to speak.
    async fn recognise(
        &mut self,
        client: &mut TcpStream,
        upstream: &mut Option<TcpStream>,
        read: &mut BytesMut,
        record: &mut Connection,
    ) -> Spoken {
        self.try_recognise(client, upstream, read, record).await.unwrap_or_else(Spoken::Nothing)
    }

    async fn try_recognise(
        &mut self,
        client: &mut TcpStream,
        upstream: &mut Option<TcpStream>,
        read: &mut BytesMut,
        record: &mut Connection,
    ) -> Result<Spoken, Reason> {
        let protocol = self.protocol;
        let may_be_silent = self.is_unconnected && protocol == Protocol::Auto;
        if may_be_silent && timeout(SILENCE, client.readable()).await.is_err() {
            *upstream = Some(self.connect(client, record).await?);
        }
        let leads_nowhere = upstream.is_none() && !self.is_unconnected;
        let patience = leads_nowhere.then_some(NOWHERE_PATIENCE);
        let metrics = self.observer.metrics();
        let spoken =
            detected(client, upstream.as_ref(), protocol, read, patience, &mut record.sni, metrics).await;
        if let Some(server) = &record.sni {
            let policy = self.router.of_server(server);
            record.policy = Arc::from(policy.name.to_string());
            // What was connected before was connected as all agree that may apply.
            self.connect = policy.tcp.clone();
            self.budget = self.budgets.destination(self.destination, policy.budget);
        }
        if matches!(spoken, Spoken::Other) && self.is_unconnected && upstream.is_none() {
            *upstream = Some(self.connect(client, record).await?);
        }
        Ok(spoken)
    }

    /// Connects as is done before a client's handshake where there is no pool.
    async fn connect(&mut self, client: &TcpStream, record: &mut Connection) -> Result<TcpStream, Reason> {
        let metrics = self.observer.metrics();
        let shared = connect::Shared { budget: &self.budget, metrics, epoch: self.epoch };
        let mut progress = connect::Progress::default();
        let endpoints = self.way.endpoints(&self.addresses);
        let connecting = connect(
            &self.connect,
            Instant::now(),
            self.destination,
            endpoints,
            &self.dialer,
            &shared,
            &mut progress,
        );
        let result = tokio::select! {
            result = connecting => result.map_err(|failed| failed.why),
            _ = client.ready(Interest::ERROR) => Err(Reason::ClientGone),
        };
        record.attempts = progress.finish(metrics);
        let (stream, endpoint) = result?;
        let stream = TcpStream::from_std(stream).map_err(|_| Reason::Overloaded)?;
        relay::prepare_upstream(&stream);
        record.endpoint = Some(endpoint);
        record.source = stream.local_addr().ok();
        self.endpoint = Some(endpoint);
        Ok(stream)
    }

    fn session(self) -> Session<TcpStream> {
        let limit = self.connect.request_limit();
        let dialer = self.dialer;
        Session {
            router: self.router,
            workload: self.workload,
            destination: self.destination,
            way: self.way,
            addresses: self.addresses,
            dial: Rc::new(move |endpoint| {
                let dialer = dialer.clone();
                Box::pin(async move {
                    let stream = dial(&dialer, endpoint, Some(limit)).await?;
                    relay::prepare_upstream(&stream);
                    Ok(stream)
                })
            }),
            budgets: self.budgets,
            epoch: self.epoch,
            buffers: self.buffers,
            prior: self.prior.into(),
            observer: self.observer,
            under: RefCell::default(),
        }
    }
}

#[cfg(test)]
mod tests;
