//! The HTTP/2 client, with prior knowledge.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{
    AFTERWARDS, Body, Client, Interim, Request, Response, Seen, connect, milliseconds, shown, unconnected,
};
use crate::http1::{Fields, field};

pub(super) async fn run(client: &Client, to: SocketAddr, start: Instant) -> Seen {
    let stream = match connect(client, to, start).await {
        Ok(stream) => stream,
        Err(seen) => return seen,
    };
    let _ = stream.set_nodelay(true);
    // This sends the preface and waits for nothing.
    let (sender, connection) = match h2::client::handshake(stream).await {
        Ok(both) => both,
        Err(error) => return unconnected(&word(&error), start),
    };
    let mut driver = tokio::spawn(connection);

    let mut responses = vec![Response::none("nothing"); client.requests.len()];
    let finished = {
        let work = async {
            if client.pipeline {
                let mut tasks = Vec::new();
                for request in client.requests.clone() {
                    let sender = sender.clone();
                    tasks.push(tokio::spawn(async move {
                        let mut response = Response::none("nothing");
                        exchange(&request, sender, &mut response).await;
                        response
                    }));
                }
                for (task, response) in tasks.into_iter().zip(&mut responses) {
                    if let Ok(got) = task.await {
                        *response = got;
                    }
                }
            } else {
                for (index, (request, response)) in client.requests.iter().zip(&mut responses).enumerate() {
                    if index > 0 {
                        sleep(Duration::from_millis(client.gap)).await;
                    }
                    exchange(request, sender.clone(), response).await;
                }
            }
        };
        timeout(client.patience(start), work).await
    };
    let ms = milliseconds(start);
    let end = match (finished, client.give_up) {
        (Err(_), Some(_)) => {
            // What was dropped is told to the other side before the connection goes.
            let _ = timeout(AFTERWARDS, &mut driver).await;
            "given up"
        }
        (Err(_), None) => "timeout",
        (Ok(()), _) => match timeout(AFTERWARDS, &mut driver).await {
            Ok(_) => "closed",
            Err(_) => "open",
        },
    };
    driver.abort();
    Seen { responses, end: end.to_owned(), ms }
}

async fn exchange(request: &Request, sender: SendRequest<Bytes>, response: &mut Response) {
    if let Err(error) = try_exchange(request, sender, response).await {
        response.end = word(&error);
    }
}

async fn try_exchange(
    request: &Request,
    sender: SendRequest<Bytes>,
    response: &mut Response,
) -> Result<(), h2::Error> {
    let mut sender = sender.ready().await?;
    let body = request.body.as_ref().map(Body::bytes);
    let trailers = pairs(&request.trailers);
    let (coming, stream) = sender.send_request(head(request), body.is_none() && trailers.is_empty())?;
    let (tell, spoken) = watch::channel(false);
    let write = async {
        // That the server wants no more of it is for the response to tell.
        let _ = write(request, body, trailers, stream, spoken).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = read(coming, response, &tell) => read,
        () = write => Ok(()),
    }
}

fn head(request: &Request) -> http::Request<()> {
    let mut authority = "example.test".to_owned();
    let mut head = http::Request::new(());
    for line in &request.headers {
        let (name, value) = field(line);
        if name.eq_ignore_ascii_case("host") {
            authority = value;
        } else if let Some((name, value)) = header(&name, &value) {
            head.headers_mut().append(name, value);
        }
    }
    *head.version_mut() = http::Version::HTTP_2;
    *head.method_mut() = request.method.parse().unwrap_or_default();
    let uri = format!("http://{authority}{}", request.path);
    *head.uri_mut() = uri.parse().unwrap_or_default();
    head
}

async fn write(
    request: &Request,
    body: Option<Vec<u8>>,
    trailers: HeaderMap,
    mut stream: SendStream<Bytes>,
    mut spoken: watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let mut body = body.unwrap_or_default();
    if body.is_empty() && trailers.is_empty() && request.body.is_none() {
        // The stream ended with its head; this keeps the sending half until the answer is there.
        std::future::pending::<()>().await;
    }
    if request.wait_for_continue {
        let _ = spoken.wait_for(|spoken| *spoken).await;
    }
    let rest = request.pause.map_or_else(Vec::new, |pause| body.split_off(pause.after.min(body.len())));
    let ends = trailers.is_empty();
    if let Some(pause) = request.pause {
        send(&mut stream, body, false).await?;
        match pause.ms {
            Some(ms) => sleep(Duration::from_millis(ms)).await,
            None => std::future::pending().await,
        }
        send(&mut stream, rest, ends).await?;
    } else {
        send(&mut stream, body, ends).await?;
    }
    if !ends {
        stream.send_trailers(trailers)?;
    }
    std::future::pending().await
}

/// Sends bytes as fast as the other side takes them.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    bytes: Vec<u8>,
    ends: bool,
) -> Result<(), h2::Error> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = loop {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room,
                Some(Err(error)) => return Err(error),
                None => return Err(h2::Reason::STREAM_CLOSED.into()),
            }
        };
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, ends && bytes.is_empty())?;
        if bytes.is_empty() {
            return Ok(());
        }
    }
    if ends { stream.send_data(Bytes::new(), true) } else { Ok(()) }
}

async fn read(
    mut coming: ResponseFuture,
    response: &mut Response,
    spoken: &watch::Sender<bool>,
) -> Result<(), h2::Error> {
    while let Some(interim) = poll_fn(|cx| coming.poll_informational(cx)).await {
        let (parts, ()) = interim?.into_parts();
        response.interim.push(Interim { status: parts.status.as_u16(), headers: named(&parts.headers) });
        spoken.send_replace(true);
    }
    let (parts, mut body) = coming.await?.into_parts();
    spoken.send_replace(true);
    response.status = parts.status.as_u16();
    response.headers = named(&parts.headers);
    let mut bytes = Vec::new();
    let read = read_body(&mut body, &mut bytes).await;
    response.body = shown(&bytes);
    response.trailers = named(&read?);
    "complete".clone_into(&mut response.end);
    Ok(())
}

/// Reads a body to its end, with its trailers.
pub(crate) async fn read_body(body: &mut RecvStream, into: &mut Vec<u8>) -> Result<HeaderMap, h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        into.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(body.trailers().await?.unwrap_or_default())
}

/// How a stream ended that did not end well.
pub(crate) fn word(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_reset() => format!("reset {reason:?}"),
        Some(reason) if error.is_go_away() => format!("goaway {reason:?}"),
        Some(reason) => format!("failed {reason:?}"),
        None => "closed".to_owned(),
    }
}

pub(crate) fn named(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        fields.entry(name.to_string()).or_default().push(value);
    }
    fields
}

pub(crate) fn pairs(lines: &[String]) -> HeaderMap {
    let fields = lines.iter().map(|line| field(line));
    fields.filter_map(|(name, value)| header(&name, &value)).collect()
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.to_ascii_lowercase().parse().ok()?, value.parse().ok()?))
}
