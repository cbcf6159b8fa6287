//! HTTP/2 from a client: one task for its connection, and one for each request.

use std::io::ErrorKind;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use http::uri::{Authority, PathAndQuery};
use tokio::task::JoinSet;

use super::fields::RequestFields;
use super::limits;
use super::prefixed::Prefixed;
use super::stream::{Asked, MALFORMED};
use super::upstream::Upstreams;
use crate::http::exchange::{self, Timer};
use crate::http::session::{self, Session, Sizes, Supply};
use crate::http::wire::Wire;
use crate::observe::HttpProtocol;
use crate::reason::Reason;
use crate::tcp::relay::{Moved, Stopped, told};

/// Serves the requests of one client until it has had enough, or its last request is over after `draining` has become
/// true. `read` is what has come of the client already.
///
/// To be run in a `LocalSet`. Whatever ends it ends the requests and the upstream connections too.
pub async fn serve<S: Wire>(
    client: S,
    read: BytesMut,
    supply: Supply<S>,
    session: Rc<Session<S>>,
    mut draining: Stopped,
    moved: &Moved,
) -> Reason {
    let upstreams = Rc::new(Upstreams::new(Rc::clone(&session), supply));
    let mut requests = JoinSet::new();
    let reason = match limits::server().handshake(Prefixed::new(client, read, moved)).await {
        Ok(mut connection) => {
            let mut is_draining = false;
            loop {
                tokio::select! {
                    accepted = connection.accept() => match accepted {
                        Some(Ok((request, respond))) => {
                            let upstreams = Rc::clone(&upstreams);
                            requests.spawn_local(answer(Rc::clone(&session), upstreams, request, respond));
                        }
                        Some(Err(error)) => break ended(&session, &error),
                        None => break if is_draining { Reason::Drained } else { Reason::Closed },
                    },
                    Some(_) = requests.join_next() => {}
                    () = told(&mut draining), if !is_draining => {
                        is_draining = true;
                        connection.graceful_shutdown();
                    }
                }
            }
        }
        Err(error) => ended(&session, &error),
    };
    // The client's connection is gone, and so is each request's way back: they see that now.
    while requests.join_next().await.is_some() {}
    if let Ok(upstreams) = Rc::try_unwrap(upstreams) {
        upstreams.close().await;
    }
    reason
}

async fn answer<S: Wire>(
    session: Rc<Session<S>>,
    upstreams: Rc<Upstreams<S>>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, ());
    let taken = session.take(&RequestFields(&request));
    let policy = taken.http.for_request(&RequestFields(&request));
    let plan = session.plan(&taken, &policy, &RequestFields(&request));
    let _active = taken.under.origin.metrics.begin();
    let mut asked = Asked::new(upstreams, &policy, request, body, respond);
    let (mut timer, mut tried) = (Timer::default(), Vec::new());
    let ended = exchange::run(&mut asked, plan, &mut timer, &mut tried).await;
    let head = asked.head();
    let said = || session::Asked {
        method: Some(head.method().as_str()),
        authority: head.uri().authority().map(Authority::as_str),
        path: head.uri().path_and_query().map(PathAndQuery::as_str),
    };
    let sizes = Sizes {
        protocol: HttpProtocol::H2,
        is_grpc: asked.is_grpc(),
        request: asked.received(),
        response: asked.delivered(),
    };
    session.request_ended(&taken, &ended, &tried, said, sizes);
}

/// Why a client's connection broke.
fn ended<S: Wire>(session: &Session<S>, error: &h2::Error) -> Reason {
    tracing::debug!(%error, "the client's connection broke off");
    if error.is_library() {
        session.observer.metrics().request_malformed(MALFORMED);
        return Reason::BadRequest;
    }
    match error.get_io().map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe) => {
            Reason::ClientReset
        }
        Some(_) | None => Reason::Closed,
    }
}
