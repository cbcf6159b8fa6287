//! The scripted server's HTTP/2 connections.

use std::future::poll_fn;
use std::io::Write;
use std::net::{Shutdown, TcpStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Entry, HANG, Log, Respond, Step};
use crate::exchange::Body;
use crate::exchange::h2::{named, pairs, read_body, send};
use crate::http1::Fields;

/// The connection under the streams.
#[derive(Debug)]
struct Wire {
    socket: StdStream,
    /// Told when the connection is to go.
    gone: Notify,
}

pub(super) async fn serve(stream: TcpStream, log: &Log) {
    // A second handle of the same socket, for what the h2 crate would not do.
    let (stream, socket) = match stream.into_std().and_then(|stream| Ok((stream.try_clone()?, stream))) {
        Ok((stream, socket)) => (TcpStream::from_std(stream), socket),
        Err(_) => return,
    };
    let Ok(stream) = stream else { return };
    let wire = Arc::new(Wire { socket, gone: Notify::new() });
    let Ok(mut connection) = h2::server::Builder::new().handshake::<_, Bytes>(stream).await else { return };
    let gone = wire.gone.notified();
    tokio::pin!(gone);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = &mut gone => return,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let serving = Serving::begin(log, request, respond, &wire);
        tokio::spawn(serving);
    }
}

/// One request under way.
struct Serving {
    entry: Entry,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    wire: Arc<Wire>,
    read: bool,
}

/// Why a script ends before its end.
enum Stop {
    /// While it waited, or before the end of the request.
    Cancelled,
    Done,
}

/// A write that fails says nothing: whether it does depends on how much was in flight.
impl From<h2::Error> for Stop {
    fn from(_: h2::Error) -> Self {
        Self::Done
    }
}

impl Serving {
    fn begin(
        log: &Log,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        wire: &Arc<Wire>,
    ) -> impl Future<Output = ()> + use<> {
        let (head, body) = request.into_parts();
        let mut headers: Fields = named(&head.headers);
        if let Some(authority) = head.uri.authority() {
            headers.insert(":authority".to_owned(), vec![authority.to_string()]);
        }
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let (entry, steps) = log.begin(head.method.as_str(), path, headers);
        let mut serving = Self { entry, body, respond, stream: None, wire: Arc::clone(wire), read: false };
        async move {
            if let Err(Stop::Cancelled) = serving.play(&steps).await {
                serving.entry.note(|attempt| attempt.cancelled = true);
            }
        }
    }

    async fn play(&mut self, steps: &[Step]) -> Result<(), Stop> {
        if !matches!(steps.first(), Some(Step::Early)) {
            self.read().await?;
        }
        for step in steps {
            self.step(step).await?;
        }
        // Dropping a stream with its request half read would reset it.
        self.read().await
    }

    async fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Early => {}
            Step::Read => self.read().await?,
            Step::Respond(respond) => {
                let body = respond.body.as_ref().map(Body::bytes).unwrap_or_default();
                let bare = body.is_empty() && respond.trailers.is_empty();
                let mut stream = self.respond.send_response(head(respond), bare)?;
                if !bare {
                    send(&mut stream, body, respond.trailers.is_empty()).await?;
                    if !respond.trailers.is_empty() {
                        stream.send_trailers(pairs(&respond.trailers))?;
                    }
                }
            }
            Step::Head(respond) => self.stream = Some(self.respond.send_response(head(respond), false)?),
            Step::Interim(respond) => self.respond.send_informational(head(respond))?,
            Step::Data(body) => {
                let stream = self.stream.as_mut().ok_or(Stop::Done)?;
                send(stream, body.bytes(), false).await?;
            }
            Step::End { trailers } => {
                let stream = self.stream.as_mut().ok_or(Stop::Done)?;
                if trailers.is_empty() {
                    stream.send_data(Bytes::new(), true)?;
                } else {
                    stream.send_trailers(pairs(trailers))?;
                }
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(*ms)).await?,
            Step::Hang => {
                self.wait(HANG).await?;
                return Err(Stop::Done);
            }
            Step::Close => {
                self.flushed().await;
                let _ = self.wire.socket.shutdown(Shutdown::Write);
                sleep(Duration::from_millis(100)).await;
                self.wire.gone.notify_one();
                return Err(Stop::Done);
            }
            Step::Abort => {
                self.flushed().await;
                let _ = SockRef::from(&self.wire.socket).set_linger(Some(Duration::ZERO));
                self.wire.gone.notify_one();
                // To drop the stream before its connection is gone would say CANCEL first.
                sleep(Duration::from_millis(100)).await;
                return Err(Stop::Done);
            }
            Step::Reset(code) => {
                self.flushed().await;
                let code = reason(code);
                match &mut self.stream {
                    Some(stream) => stream.send_reset(code),
                    None => self.respond.send_reset(code),
                }
                return Err(Stop::Done);
            }
            Step::Goaway(last) => {
                self.flushed().await;
                // Length 8, type 7, no flags, stream 0; then the last stream and no error.
                let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
                frame.extend(last.to_be_bytes());
                frame.extend([0; 4]);
                let _ = (&self.wire.socket).write_all(&frame);
            }
            Step::Raw(text) => {
                self.flushed().await;
                let _ = (&self.wire.socket).write_all(text.as_bytes());
            }
        }
        Ok(())
    }

    /// Lets the connection's own task write what it has, so that what comes next comes after it.
    async fn flushed(&self) {
        sleep(Duration::from_millis(20)).await;
    }

    async fn read(&mut self) -> Result<(), Stop> {
        if self.read {
            return Ok(());
        }
        self.read = true;
        let mut bytes = Vec::new();
        let read = read_body(&mut self.body, &mut bytes).await;
        self.entry.note(|attempt| {
            attempt.body = bytes;
            attempt.complete = read.is_ok();
            if let Ok(trailers) = &read {
                attempt.trailers = named(trailers);
            }
        });
        read.map(drop).map_err(|_| Stop::Cancelled)
    }

    async fn wait(&mut self, time: Duration) -> Result<(), Stop> {
        let reset = match &mut self.stream {
            Some(stream) => timeout(time, poll_fn(|cx| stream.poll_reset(cx))).await,
            None => timeout(time, poll_fn(|cx| self.respond.poll_reset(cx))).await,
        };
        if reset.is_ok() { Err(Stop::Cancelled) } else { Ok(()) }
    }
}

fn head(respond: &Respond) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(respond.status).unwrap_or_default();
    *head.headers_mut() = pairs(&respond.headers());
    head
}

fn reason(code: &str) -> Reason {
    match code {
        "no-error" => Reason::NO_ERROR,
        "protocol-error" => Reason::PROTOCOL_ERROR,
        "refused-stream" => Reason::REFUSED_STREAM,
        "cancel" => Reason::CANCEL,
        "enhance-your-calm" => Reason::ENHANCE_YOUR_CALM,
        _ => Reason::INTERNAL_ERROR,
    }
}
