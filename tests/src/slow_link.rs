//! A link between two namespaces that takes its time, as one between two machines does.
//!
//! Packets go through this process, from one TUN device to the other, each delayed by the same time. So both ends can do
//! something before either knows what the other does, which over veth is a matter of microseconds.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc::{IFF_NO_PI, IFF_TUN, O_NONBLOCK, TUNSETIFF, ifreq};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// Its ends' addresses.
pub const LEFT: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
pub const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

const DEVICE: &str = "slow0";
const MAX_PACKET: usize = 64 * 1024;

/// Drop takes it down.
#[derive(Debug)]
pub struct SlowLink {
    down: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl SlowLink {
    /// Joins two namespaces. A packet takes `delay` from one to the other.
    pub fn new(left: &Netns, right: &Netns, delay: Duration) -> Result<Self> {
        let (left, right) = (Arc::new(end(left, LEFT)?), Arc::new(end(right, RIGHT)?));
        let down = Arc::new(AtomicBool::new(false));
        let mut carriers = Vec::new();
        for (from, to) in [(&left, &right), (&right, &left)] {
            let (sender, receiver) = channel();
            let (from, to, down) = (Arc::clone(from), Arc::clone(to), Arc::clone(&down));
            carriers.push(thread::spawn(move || take_in(&from, delay, &sender, &down)));
            carriers.push(thread::spawn(move || give_out(&to, &receiver)));
        }
        Ok(Self { down, carriers })
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.down.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            drop(carrier.join());
        }
    }
}

/// A TUN device of a namespace, up and with this address.
fn end(netns: &Netns, address: Ipv4Addr) -> Result<File> {
    let device = netns.run(|| {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun")?;
        attach(&device).context("making a TUN device; these tests need root")?;
        Ok(device)
    })?;
    netns.ip(&["address", "add", &format!("{address}/24"), "dev", DEVICE])?;
    netns.ip(&["link", "set", DEVICE, "up"])?;
    Ok(device)
}

#[expect(unsafe_code, reason = "there is no safe way to this ioctl")]
fn attach(device: &File) -> Result<()> {
    // SAFETY: all zeros is an `ifreq`.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *place = i8::try_from(byte)?;
    }
    request.ifr_ifru.ifru_flags = i16::try_from(IFF_TUN | IFF_NO_PI)?;
    // SAFETY: the kernel reads and writes one `ifreq`, which lives until the call returns.
    let result = unsafe { nix::libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Reads what a namespace sends.
fn take_in(mut device: &File, delay: Duration, line: &Sender<(Instant, Vec<u8>)>, down: &AtomicBool) {
    let mut packet = vec![0; MAX_PACKET];
    while !down.load(Ordering::Relaxed) {
        match device.read(&mut packet) {
            Ok(length) => drop(line.send((Instant::now() + delay, packet[..length].to_vec()))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut readable = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut readable, PollTimeout::from(50_u8));
            }
            Err(_) => return,
        }
    }
}

/// Hands it to the other, when it is time.
fn give_out(mut device: &File, line: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, packet)) = line.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A packet that is lost is sent again, as on any link.
        drop(device.write(&packet));
    }
}
