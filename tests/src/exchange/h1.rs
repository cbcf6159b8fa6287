//! The HTTP/1 client: bytes out, messages in.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{AFTERWARDS, Client, Interim, Request, Response, Seen, connect, milliseconds, shown};
use crate::http1::{Content, Ended, Framing, Head, Reader, chunk, fields, last_chunk};

/// What the reading half tells the writing half.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    responses: usize,
    /// Whether the response that is under way has said something: 100 Continue, or itself.
    spoken: bool,
    tunnel: bool,
}

pub(super) async fn run(client: &Client, to: SocketAddr, start: Instant) -> Seen {
    let stream = match connect(client, to, start).await {
        Ok(stream) => stream,
        Err(seen) => return seen,
    };
    let _ = stream.set_nodelay(true);
    let (reading, mut writing) = stream.into_split();
    let mut reader = Reader::new(reading);
    let (tell, progress) = watch::channel(Progress::default());
    let mut responses = Vec::new();

    let work = async {
        let read = read(client, &mut reader, &mut responses, &tell);
        let write = write(client, &mut writing, progress);
        tokio::pin!(read);
        tokio::select! {
            ended = &mut read => ended,
            () = write => read.await,
        }
    };
    let finished = timeout(client.patience(start), work).await;
    let ms = milliseconds(start);
    let end = match finished {
        Err(_) if client.give_up.is_some() => "given up".to_owned(),
        Err(_) => "timeout".to_owned(),
        Ok(Some(ended)) => ended.word().to_owned(),
        Ok(None) => match timeout(AFTERWARDS, reader.ended()).await {
            Ok(ended) => ended.word().to_owned(),
            Err(_) => "open".to_owned(),
        },
    };
    if reader.has_more() {
        responses.push(Response::none("unasked bytes"));
    }
    Seen { responses, end, ms }
}

/// Reads all responses; `Some` where the connection ended with or before the last of them.
async fn read<R: tokio::io::AsyncRead + Unpin>(
    client: &Client,
    reader: &mut Reader<R>,
    responses: &mut Vec<Response>,
    tell: &watch::Sender<Progress>,
) -> Option<Ended> {
    let raw = Request::default();
    let requests: Vec<_> = if client.raw.is_some() { vec![&raw] } else { client.requests.iter().collect() };
    for request in requests {
        responses.push(Response::none("nothing"));
        let response = responses.last_mut()?;
        match read_one(request, reader, response, tell).await {
            Ok(Framing::UntilClose) => {
                "complete".clone_into(&mut response.end);
                return Some(Ended::Closed);
            }
            Ok(Framing::None | Framing::Length(_) | Framing::Chunked) => {
                "complete".clone_into(&mut response.end);
            }
            Err(ended) => {
                ended.word().clone_into(&mut response.end);
                return Some(ended);
            }
        }
        tell.send_modify(|progress| {
            progress.responses += 1;
            progress.spoken = false;
        });
    }
    None
}

async fn read_one<R: tokio::io::AsyncRead + Unpin>(
    request: &Request,
    reader: &mut Reader<R>,
    response: &mut Response,
    tell: &watch::Sender<Progress>,
) -> Result<Framing, Ended> {
    let (head, status) = loop {
        let head = reader.head().await?;
        let status: u16 = head.word(1).parse().map_err(|_| Ended::Malformed)?;
        tell.send_modify(|progress| progress.spoken = true);
        if (100..200).contains(&status) && status != 101 {
            response.interim.push(Interim { status, headers: fields(&head.headers) });
        } else {
            break (head, status);
        }
    };
    response.status = status;
    response.headers = fields(&head.headers);
    "head".clone_into(&mut response.end);
    let framing = response_framing(request, status, &head);
    if status == 101 || (request.method == "CONNECT" && (200..300).contains(&status)) {
        tell.send_modify(|progress| progress.tunnel = true);
    }
    let mut content = Content::default();
    let read = reader.body(framing, &mut content).await;
    response.body = shown(&content.bytes);
    response.trailers = fields(&content.trailers);
    read.map(|()| framing)
}

fn response_framing(request: &Request, status: u16, head: &Head) -> Framing {
    match status {
        101 => Framing::UntilClose,
        200..300 if request.method == "CONNECT" => Framing::UntilClose,
        204 | 304 => Framing::None,
        _ if request.method == "HEAD" => Framing::None,
        _ => head.framing().unwrap_or(Framing::UntilClose),
    }
}

/// Writes all requests. A write that fails is not news: the reading half says how the connection ended.
async fn write(client: &Client, stream: &mut OwnedWriteHalf, mut progress: watch::Receiver<Progress>) {
    if let Some(raw) = &client.raw {
        let _ = stream.write_all(raw.as_bytes()).await;
    } else {
        for (index, request) in client.requests.iter().enumerate() {
            if index > 0 && !client.pipeline {
                let _ = progress.wait_for(|progress| progress.responses >= index).await;
                sleep(Duration::from_millis(client.gap)).await;
            }
            if write_one(request, stream, &mut progress).await.is_err() {
                return;
            }
        }
    }
    if let Some(text) = &client.tunnel {
        let _ = progress.wait_for(|progress| progress.tunnel).await;
        let _ = stream.write_all(text.as_bytes()).await;
    }
    if client.half_close || client.tunnel.is_some() {
        let _ = stream.shutdown().await;
    }
}

async fn write_one(
    request: &Request,
    stream: &mut OwnedWriteHalf,
    progress: &mut watch::Receiver<Progress>,
) -> std::io::Result<()> {
    let mut body = request.body.as_ref().map(super::Body::bytes).unwrap_or_default();
    let chunked = request.chunked || !request.trailers.is_empty();
    let has = |name: &str| {
        request.headers.iter().any(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))
    };
    let mut head = format!("{} {} HTTP/{}\r\n", request.method, request.path, request.version);
    if !has("host") {
        head += "Host: example.test\r\n";
    }
    for line in &request.headers {
        head += line;
        head += "\r\n";
    }
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else if request.body.is_some() && !has("content-length") {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let encoded = |part: &[u8]| if chunked { chunk(part) } else { part.to_vec() };
    let rest = request.pause.map_or_else(Vec::new, |pause| body.split_off(pause.after.min(body.len())));
    if request.wait_for_continue {
        stream.write_all(head.as_bytes()).await?;
        let _ = progress.wait_for(|progress| progress.spoken).await;
        stream.write_all(&encoded(&body)).await?;
    } else {
        let mut first = head.into_bytes();
        first.extend(encoded(&body));
        stream.write_all(&first).await?;
    }
    if let Some(pause) = request.pause {
        match pause.ms {
            Some(ms) => sleep(Duration::from_millis(ms)).await,
            None => std::future::pending().await,
        }
        stream.write_all(&encoded(&rest)).await?;
    }
    if chunked {
        stream.write_all(last_chunk(&request.trailers).as_bytes()).await?;
    }
    Ok(())
}
