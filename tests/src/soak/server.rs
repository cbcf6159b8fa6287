//! The server of a soak: every service on its port, over IPv4 and IPv6. It checks every byte that comes, and writes down
//! in the ledger what it executes.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ledger::{Ledger, Mischief};
use super::traffic::{ANSWER, ID, Plan, pull, push};
use super::{Kind, Service};
use crate::netns::Netns;
use crate::pattern;

/// How connections end that the server has had enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Close,
    Reset,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    GoOn,
    EndConnections(How),
    Stop,
}

/// A running server. Drop closes its ports and resets its connections.
#[derive(Debug)]
pub struct Server {
    order: Arc<watch::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &Netns, ledger: &Arc<Ledger>) -> Result<Self> {
        let order = Arc::new(watch::Sender::new(Order::GoOn));
        let (theirs, ledger) = (Arc::clone(&order), Arc::clone(ledger));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = netns.run(move || {
            Ok(thread::spawn(move || {
                let result = serve(&theirs, &ledger, &ready);
                drop(ready.send(result));
            }))
        })?;
        is_ready.recv().map_err(|_| anyhow!("the server ended"))??;
        Ok(Self { order, thread: Some(thread) })
    }

    /// Ends every connection that there is.
    pub fn end_connections(&self, how: How) {
        self.order.send_replace(Order::EndConnections(how));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.order.send_replace(Order::Stop);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(
    order: &Arc<watch::Sender<Order>>,
    ledger: &Arc<Ledger>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ports = JoinSet::new();
        for service in Service::ALL {
            let listener = listen(service.port())?;
            ports.spawn(accept(listener, service, Arc::clone(order), Arc::clone(ledger)));
        }
        drop(ready.send(Ok(())));
        while ports.join_next().await.is_some() {}
        Ok(())
    })
}

fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_only_v6(false)?;
    socket.bind(&SockAddr::from(address)).with_context(|| format!("binding {address}"))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept(
    listener: TcpListener,
    service: Service,
    order: Arc<watch::Sender<Order>>,
    ledger: Arc<Ledger>,
) {
    let mut own = order.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = own.changed() => {
                if matches!(*own.borrow_and_update(), Order::Stop) {
                    break;
                }
            }
            accepted = listener.accept() => {
                // One that is gone already is no matter.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, service, order.subscribe(), Arc::clone(&ledger)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until it ends or is to end.
async fn connection(
    stream: TcpStream,
    service: Service,
    mut order: watch::Receiver<Order>,
    ledger: Arc<Ledger>,
) {
    let _ = stream.set_nodelay(true);
    // The socket goes with its last descriptor; until then this one can still say how.
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let socket = Arc::new(socket);
    let serving = async {
        // How a connection ends is its client's business.
        match service {
            Service::Stream => drop(serve_stream(stream, &ledger).await),
            _ => serve_http(stream, service, &socket, &ledger).await,
        }
    };
    tokio::select! {
        () = serving => {}
        _ = order.changed() => {
            if !matches!(*order.borrow_and_update(), Order::EndConnections(How::Close)) {
                reset(&socket);
            }
        }
    }
}

/// Makes the end of a connection a reset.
fn reset(socket: &OwnedFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Takes and gives what the client said it would, then says that it has all.
async fn serve_stream(mut stream: TcpStream, ledger: &Ledger) -> io::Result<()> {
    let plan = Plan::receive(&mut stream).await?;
    let id = plan.id;
    let (mut receiving, mut sending) = stream.split();
    let both = tokio::try_join!(
        async {
            pull(&mut receiving, id, plan.up).await?;
            if receiving.read(&mut [0]).await? == 0 {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "more than was sent"))
            }
        },
        push(&mut sending, !id, plan.down, plan.rest()),
    );
    if let Err(error) = both {
        if error.kind() == io::ErrorKind::InvalidData {
            ledger.wrong(format!("{plan:?}: the server got {error}"));
        }
        return Err(error);
    }
    ledger.begin(id, Service::Stream, Kind::Stream);
    ledger.executed(id);
    sending.write_all(&id.to_be_bytes()).await
}

async fn serve_http(stream: TcpStream, service: Service, socket: &Arc<OwnedFd>, ledger: &Arc<Ledger>) {
    let answering = service_fn(|request| {
        let (socket, ledger) = (Arc::clone(socket), Arc::clone(ledger));
        async move { answer(request, service, &socket, &ledger).await }
    });
    let stream = TokioIo::new(stream);
    if service == Service::H2 {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answering).await);
    } else {
        drop(http1::Builder::new().serve_connection(stream, answering).await);
    }
}

async fn answer(
    request: Request<Incoming>,
    service: Service,
    socket: &OwnedFd,
    ledger: &Ledger,
) -> io::Result<Response<Answer>> {
    let number = |name| request.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
    let kind = match *request.method() {
        Method::GET => Kind::Get,
        Method::PUT => Kind::Put,
        _ => Kind::Post,
    };
    let (Some(id), Some(size)) = (number(ID), number(ANSWER)) else {
        ledger.wrong(format!("a request as nobody sent it: {request:?}"));
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let length = request.headers().get(http::header::CONTENT_LENGTH).cloned();
    let Ok(body) = request.into_body().collect().await else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let body = body.to_bytes();
    let sent = length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    if body != pattern::from(id, sent) {
        ledger.wrong(format!("the body of {kind:?} {id} to {service:?}, {sent} bytes, is another"));
    }
    let mischief = ledger.begin(id, service, kind);
    match mischief {
        Mischief::Unavailable => return Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Mischief::Forgets => return abort(service, socket),
        Mischief::None | Mischief::LosesAnswer | Mischief::CutsAnswer => ledger.executed(id),
    }
    if mischief == Mischief::LosesAnswer {
        return abort(service, socket);
    }
    let cut = (mischief == Mischief::CutsAnswer).then_some(size / 2);
    let mut response = Response::new(Answer { id, size, sent: 0, cut });
    response.headers_mut().insert(ID, id.into());
    Ok(response)
}

fn status(code: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer { id: 0, size: 0, sent: 0, cut: None });
    *response.status_mut() = code;
    response
}

/// Ends an exchange without an answer: the connection of HTTP/1 with a reset, the stream of HTTP/2 likewise.
fn abort<T>(service: Service, socket: &OwnedFd) -> io::Result<T> {
    if service != Service::H2 {
        reset(socket);
    }
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// The body of an answer: the pattern from where the client expects it, piece by piece.
#[derive(Debug)]
struct Answer {
    id: u64,
    size: u64,
    sent: u64,
    /// After how many bytes it breaks off.
    cut: Option<u64>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _task: &mut Task<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let left = self.cut.unwrap_or(self.size) - self.sent;
        if left == 0 {
            return Poll::Ready(self.cut.map(|_| Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let position = (!self.id).wrapping_add(self.sent);
        let part = pattern::up_to(pattern::rest_of_pattern(position), left.min(16 * 1024));
        self.sent += u64::try_from(part.len()).unwrap_or(left);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && self.sent == self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.sent)
    }
}
