//! The client: does one case's work on one path for some time, and measures.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use nix::sys::resource::{Resource, getrlimit};

use crate::http::client::Asking;
use crate::http::faults::Faults;
use crate::http::{self, Answers};
use crate::server::{CHUNK, ECHO, GIVE, PORTS, TAKE};
use crate::work::{Measured, Metric, Work};

/// What a client says when everything is prepared.
pub const READY: &str = "ready";

const GIBIBYTE: f64 = 1_073_741_824.0;

/// Prepares, [waits](ready), works and measures.
pub fn measure(work: Work, host: Ipv4Addr, time: Duration) -> Result<Measured> {
    match work {
        Work::Requests(asking) => {
            let wanted = asking.connections;
            let asking = Asking { connections: fitting(wanted)?, ..asking };
            let connections = (!asking.is_new_each).then_some(asking.connections);
            let mut measured =
                asked(http::client::ask(host, time, asking)?, time, connections, asking.faults)?;
            measured.values.extend(fewer(asking.connections, wanted)?);
            Ok(measured)
        }
        Work::Streams(streaming) => {
            let answers = http::streams::ask(host, time, streaming)?;
            asked(answers, time, Some(streaming.connections), streaming.faults)
        }
        Work::Idle { connections } => {
            let kept = http::idle::open(host, fitting(connections)?)?;
            ready()?;
            let values = fewer(kept.len(), connections)?.into_iter().collect();
            let connections = number(kept.len())?;
            Ok(Measured { values, connections, requests: connections, gibibytes: 0.0 })
        }
        Work::Rest => {
            ready()?;
            Ok(Measured { values: Vec::new(), connections: 0.0, requests: 0.0, gibibytes: 0.0 })
        }
        Work::Connect => connect(host, time),
        Work::Exchange { threads } => exchange(host, time, threads),
        Work::Upload { streams } => transfer(host, time, streams, upload),
        Work::Download { streams } => transfer(host, time, streams, download),
        Work::PingPong { bytes } => ping_pong(host, time, bytes),
    }
}

/// Says that everything is prepared, and waits for the word to begin.
pub fn ready() -> Result<()> {
    writeln!(stdout(), "{READY}")?;
    ensure!(stdin().read_line(&mut String::new())? > 0, "not to begin");
    Ok(())
}

/// As many connections as a proxy with a socket at either end can have descriptors for.
pub fn fitting(connections: usize) -> Result<usize> {
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(connections.min(usize::try_from(descriptors.saturating_sub(1000) / 2)?))
}

/// Says how many there are, where these are not as many as the case says.
fn fewer(connections: usize, wanted: usize) -> Result<Option<(Metric, f64)>> {
    (connections < wanted).then(|| Ok((Metric::Connections, number(connections)?))).transpose()
}

/// Without a number of connections there was one for each request.
fn asked(answers: Answers, time: Duration, connections: Option<usize>, faults: Faults) -> Result<Measured> {
    let requests = number(answers.took.len())?;
    let mut values = quantiles(answers.took)?;
    values.push((Metric::PerSecond, requests / time.as_secs_f64()));
    if !faults.are_none() {
        values.push((Metric::FailedPercent, number(answers.failed)? * 100.0 / requests));
    }
    let connections = connections.map_or(Ok(requests), number)?;
    Ok(Measured { values, connections, requests, gibibytes: 0.0 })
}

fn connect(host: Ipv4Addr, time: Duration) -> Result<Measured> {
    ready()?;
    let mut took = Vec::new();
    let end = Instant::now() + time;
    for address in addresses(host) {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        took.push(begun.elapsed());
        drop(stream);
    }
    let connections = number(took.len())?;
    Ok(Measured { values: quantiles(took)?, connections, requests: 0.0, gibibytes: 0.0 })
}

fn exchange(host: Ipv4Addr, time: Duration, threads: usize) -> Result<Measured> {
    ready()?;
    let begun = Instant::now();
    let end = begun + time;
    let counts = at_once(threads, |index| {
        let mut count = 0_usize;
        for address in addresses(host).skip(index) {
            if Instant::now() >= end {
                break;
            }
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(&[ECHO, 0])?;
            stream.read_exact(&mut [0])?;
            count += 1;
        }
        Ok(count)
    })?;
    let connections = number(counts.iter().sum::<usize>())?;
    let rate = connections / begun.elapsed().as_secs_f64();
    Ok(Measured { values: vec![(Metric::PerSecond, rate)], connections, requests: 0.0, gibibytes: 0.0 })
}

fn ping_pong(host: Ipv4Addr, time: Duration, bytes: usize) -> Result<Measured> {
    let mut stream = open(host, 0, ECHO)?;
    let (message, mut answer) = (vec![b'.'; bytes], vec![0; bytes]);
    ready()?;
    let mut took = Vec::new();
    let end = Instant::now() + time;
    loop {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        took.push(begun.elapsed());
    }
    ensure!(answer == message, "the answer is not what was sent");
    Ok(Measured { values: quantiles(took)?, connections: 1.0, requests: 0.0, gibibytes: 0.0 })
}

/// All streams move for the same time, which begins when they are open.
fn transfer(
    host: Ipv4Addr,
    time: Duration,
    streams: usize,
    one: impl Fn(Ipv4Addr, usize, Duration) -> Result<(u64, Duration)> + Sync,
) -> Result<Measured> {
    ready()?;
    let each = at_once(streams, |index| one(host, index, time))?;
    let longest = each.iter().map(|(_, took)| *took).max().context("no streams")?;
    let gibibytes = number(each.iter().map(|(bytes, _)| *bytes).sum::<u64>())? / GIBIBYTE;
    let values = vec![(Metric::GibibytesPerSecond, gibibytes / longest.as_secs_f64())];
    Ok(Measured { values, connections: number(streams)?, requests: 0.0, gibibytes })
}

/// How much was sent, and how long it took until all of it had arrived.
fn upload(host: Ipv4Addr, index: usize, time: Duration) -> Result<(u64, Duration)> {
    let mut stream = open(host, index, TAKE)?;
    let chunk = vec![b'.'; CHUNK];
    let (begun, mut sent) = (Instant::now(), 0);
    while begun.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += u64::try_from(CHUNK)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived).context("the server's count")?;
    ensure!(u64::from_be_bytes(arrived) == sent, "the server did not get what was sent");
    Ok((sent, begun.elapsed()))
}

/// How much was received in which time. What is still under way is not waited for.
fn download(host: Ipv4Addr, index: usize, time: Duration) -> Result<(u64, Duration)> {
    let mut stream = open(host, index, GIVE)?;
    let mut chunk = vec![0; CHUNK];
    let (begun, mut received) = (Instant::now(), 0);
    while begun.elapsed() < time {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "the server ended the stream");
        received += u64::try_from(count)?;
    }
    Ok((received, begun.elapsed()))
}

fn open(host: Ipv4Addr, index: usize, wanted: u8) -> Result<TcpStream> {
    let address = addresses(host).nth(index).context("no ports")?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wanted])?;
    Ok(stream)
}

fn addresses(host: Ipv4Addr) -> impl Iterator<Item = SocketAddr> {
    PORTS.iter().cycle().map(move |port| SocketAddr::from((host, *port)))
}

/// Does something in several threads at once. Any failure is all's.
fn at_once<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a client's thread panicked"))?)
            .collect()
    })
}

fn quantiles(mut took: Vec<Duration>) -> Result<Vec<(Metric, f64)>> {
    took.sort_unstable();
    let at = |hundredths: usize| {
        let duration = took.get(took.len() * hundredths / 100).context("nothing was measured")?;
        anyhow::Ok(duration.as_secs_f64() * 1e6)
    };
    Ok(vec![(Metric::MedianMicroseconds, at(50)?), (Metric::P99Microseconds, at(99)?)])
}

/// A count as a number to divide; exact as long as it has less than 53 bits, which any count here has.
fn number(count: impl TryInto<u64>) -> Result<f64> {
    let count = count.try_into().ok().context("a count")?;
    let (high, low) = (u32::try_from(count >> 32)?, u32::try_from(count & u64::from(u32::MAX))?);
    Ok(f64::from(high) * 4_294_967_296.0 + f64::from(low))
}
