//! What the kernel knows of a TCP socket.

#![expect(unsafe_code, reason = "there is no safe way to ask for the length of a socket's send queue")]

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd};

/// How many of the bytes that were written the peer has not acknowledged. It is answered for a socket that is closed by
/// now as well.
pub fn unacknowledged(socket: &impl AsFd) -> Result<usize, Errno> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel writes one int: SIOCOUTQ, which
    // has TIOCOUTQ's number, in tcp(7).
    Errno::result(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    usize::try_from(bytes).map_err(|_| Errno::EOVERFLOW)
}

/// Whether both directions are over.
pub fn is_hung_up(socket: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}
