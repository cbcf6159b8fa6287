//! The attempts of one connection: choose an endpoint, connect, ask what to do about a failure, and again.

use crate::{
    endpoint::Choice,
    intercept::NetworkNamespace,
    observe::{Attempt, Attempts, Metrics},
    reason::{AttemptOutcome, Reason},
    retry::{self, ConnectRetry, Jitter, Verdict, budgets::DestinationBudget, connect::decide},
};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::{self, SocketAddr},
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Makes upstream connections that look like the client's own.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub namespace: Arc<NetworkNamespace>,
    pub mark: u32,
    pub traffic_class: u8,
}

/// No attempt connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub why: Reason,
    /// How the last attempt ended, which is what the client is told.
    pub last: AttemptOutcome,
}

/// The attempts as they are made, the one in flight included: whoever stops them halfway still has the record.
#[derive(Debug, Default)]
pub struct Progress {
    ended: Attempts,
    in_flight: Option<(SocketAddr, Instant, Duration)>,
}

/// What the attempts of one connection share with those of others.
pub struct Shared<'a> {
    pub budget: &'a DestinationBudget,
    pub metrics: &'a Metrics,
    /// Where the budgets' clock starts.
    pub epoch: Instant,
}

/// Connects to the destination as its policy says, whose time runs from `begun` on.
pub async fn connect(
    retry: &ConnectRetry,
    begun: Instant,
    destination: SocketAddr,
    mut endpoints: Choice,
    dialer: &Dialer,
    shared: &Shared<'_>,
    progress: &mut Progress,
) -> Result<(net::TcpStream, SocketAddr), Failed> {
    shared.budget.deposit(begun - shared.epoch);
    let mut backoff = Duration::ZERO;
    let mut made = 0;
    loop {
        let endpoint = endpoints.next_endpoint();
        let limit = retry.attempt_limit(made, begun.elapsed());
        progress.begin(endpoint, backoff);
        let result = attempt(dialer, endpoint, limit).await;
        made += 1;
        let outcome = match result {
            Ok(stream) => {
                progress.end(AttemptOutcome::Connected, shared.metrics);
                return Ok((stream, endpoint));
            }
            Err(error) => outcome_of(&error),
        };
        progress.end(outcome, shared.metrics);
        let attempts = retry::Attempts { made, elapsed: begun.elapsed() };
        match decide(retry, &attempts, outcome, Jitter::from_bits(fastrand::u64(..))) {
            Verdict::GiveUp { why } => return Err(Failed { why, last: outcome }),
            Verdict::Retry { after } => {
                if let Err(scope) = shared.budget.withdraw(shared.epoch.elapsed()) {
                    shared.metrics.budget_refused(scope);
                    return Err(Failed { why: Reason::BudgetExhausted, last: outcome });
                }
                shared.metrics.retried(outcome);
                tracing::debug!(%destination, %endpoint, outcome = outcome.as_str(), ?after, "retrying");
                sleep(after).await;
                backoff = after;
            }
        }
    }
}

/// One attempt, on its own.
pub async fn dial(
    dialer: &Dialer,
    endpoint: SocketAddr,
    limit: Option<Duration>,
) -> Result<TcpStream, AttemptOutcome> {
    let stream = attempt(dialer, endpoint, limit).await.and_then(TcpStream::from_std);
    stream.map_err(|error| outcome_of(&error))
}

async fn attempt(
    dialer: &Dialer,
    endpoint: SocketAddr,
    limit: Option<Duration>,
) -> io::Result<net::TcpStream> {
    let socket = dialer.socket(endpoint)?;
    match socket.connect(&endpoint.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let stream = net::TcpStream::from(socket);
    // On this host and in its other network namespaces the handshake is over by now: to ask costs less than to wait.
    let ready = readiness(&stream)?;
    if ready.is_empty() {
        let waiting = TcpStream::from_std(stream)?;
        let in_time = match limit {
            Some(limit) => {
                timeout(limit, waiting.writable()).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
            }
            None => waiting.writable().await,
        };
        return in_time.and_then(|()| waiting.into_std()).and_then(connected);
    }
    // One that failed says so beside.
    if ready == PollFlags::POLLOUT { Ok(stream) } else { connected(stream) }
}

/// A connection attempt that has come to its end has either failed or made a connection.
fn connected(stream: net::TcpStream) -> io::Result<net::TcpStream> {
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// What poll(2) says of a connection attempt: nothing while it goes on.
fn readiness(stream: &net::TcpStream) -> io::Result<PollFlags> {
    let mut descriptors = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut descriptors, PollTimeout::ZERO) {
        Ok(_) => Ok(descriptors[0].revents().unwrap_or(PollFlags::POLLERR)),
        // A signal came: how it is will be seen by waiting.
        Err(Errno::EINTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

impl Dialer {
    /// The address that a connection to there would come from.
    pub fn source(&self, endpoint: SocketAddr) -> io::Result<SocketAddr> {
        let socket = self.namespace.run(|| {
            let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, None)?;
            socket.connect(&endpoint.into())?;
            Ok(socket)
        })?;
        socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::AddrNotAvailable.into())
    }

    /// A socket in the workload's network namespace, so that its routes, source address and network policies apply.
    fn socket(&self, endpoint: SocketAddr) -> io::Result<Socket> {
        let socket = self.namespace.run(|| {
            Socket::new(Domain::for_address(endpoint), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        })?;
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        // The low two bits are the kernel's, for congestion notification.
        let class = u32::from(self.traffic_class & 0xfc);
        if class != 0 {
            if endpoint.is_ipv4() { socket.set_tos_v4(class)? } else { socket.set_tclass_v6(class)? }
        }
        Ok(socket)
    }
}

impl Progress {
    fn begin(&mut self, endpoint: SocketAddr, backoff: Duration) {
        self.in_flight = Some((endpoint, Instant::now(), backoff));
    }

    fn end(&mut self, outcome: AttemptOutcome, metrics: &Metrics) {
        if let Some((endpoint, begun, backoff)) = self.in_flight.take() {
            self.ended.push(Attempt { endpoint, outcome, duration: begun.elapsed(), backoff });
            metrics.attempt_ended(outcome);
        }
    }

    /// The attempts that were made. One that was stopped halfway ends as cancelled.
    #[must_use]
    pub fn finish(mut self, metrics: &Metrics) -> Attempts {
        self.end(AttemptOutcome::Cancelled, metrics);
        self.ended
    }
}

fn outcome_of(error: &io::Error) -> AttemptOutcome {
    if error.kind() == ErrorKind::TimedOut {
        return AttemptOutcome::Timeout;
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => AttemptOutcome::Refused,
        Some(Errno::EHOSTUNREACH | Errno::EHOSTDOWN | Errno::ENOPROTOOPT) => AttemptOutcome::HostUnreachable,
        Some(Errno::ENETUNREACH | Errno::ENETDOWN) => AttemptOutcome::NetworkUnreachable,
        Some(Errno::ECONNRESET | Errno::ECONNABORTED | Errno::EPIPE) => AttemptOutcome::Reset,
        // Ports, descriptors or memory that ran out, or a local rule that forbids: nothing left this host.
        _ => AttemptOutcome::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::outcome_of;
    use crate::reason::AttemptOutcome;
    use nix::errno::Errno;
    use std::io;

    #[test]
    fn errors_of_the_network_are_told_apart() {
        let of = |errno: Errno| outcome_of(&io::Error::from(errno));
        assert_eq!(of(Errno::ECONNREFUSED), AttemptOutcome::Refused);
        assert_eq!(of(Errno::ETIMEDOUT), AttemptOutcome::Timeout);
        assert_eq!(of(Errno::EHOSTUNREACH), AttemptOutcome::HostUnreachable);
        assert_eq!(of(Errno::ENETUNREACH), AttemptOutcome::NetworkUnreachable);
        assert_eq!(of(Errno::ECONNRESET), AttemptOutcome::Reset);
        assert_eq!(of(Errno::EADDRNOTAVAIL), AttemptOutcome::Local);
        assert_eq!(of(Errno::EMFILE), AttemptOutcome::Local);
        assert_eq!(outcome_of(&io::ErrorKind::TimedOut.into()), AttemptOutcome::Timeout);
    }
}
