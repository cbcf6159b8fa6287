//! What the kernel programs report, read from their ring buffer.

use super::{packet::Syn, programs::Original};
use aya::maps::{MapData, RingBuf};
use redial_ebpf::{EVENT_GONE, EVENT_HANDSHAKE, EVENT_UNKNOWN_NETNS};
use std::io;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

/// A held handshake: the client waits in SYN_SENT until its SYN is released or answered.
#[derive(Clone, Debug)]
pub struct Handshake {
    pub netns_cookie: u64,
    pub original: Original,
    pub syn: Syn,
}

#[derive(Clone, Debug)]
pub enum Event {
    Handshake(Box<Handshake>),
    /// A client whose handshake was held is no longer waiting.
    Gone {
        socket_cookie: u64,
    },
    /// A process of an enrolled cgroup connected from a network namespace where no engine listens.
    UnknownNetns {
        netns_cookie: u64,
        cgroup_id: u64,
    },
    /// A SYN that could not be read. Its client can only wait for its own timeout.
    Unreadable {
        socket_cookie: u64,
    },
}

/// The most events that are taken at a time.
const BATCH: usize = 256;

/// The ring buffer, as a stream.
pub struct EventStream {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl EventStream {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, and gives the same one for as long as it lives.
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor that is not a socket")]
        let ring = unsafe { AsyncFd::register(ring)? };
        Ok(Self { ring })
    }

    /// Waits for events, and hands over those that are there, up to a bound: there are other things to do.
    pub async fn next_batch(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        for _ in 0..BATCH {
            let Some(item) = ready.get_inner_mut().next() else {
                ready.clear_ready();
                return Ok(());
            };
            if let Some(event) = Event::decode(&item) {
                drop(item);
                each(event);
            }
        }
        ready.retain_ready();
        Ok(())
    }
}

impl Event {
    /// What the programs wrote. None where it is cut short, or of a kind that they do not write.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = redial_ebpf::Event::read_from_prefix(bytes).ok()?;
        let original = Original::from(&raw.original);
        let socket_cookie = original.socket_cookie;
        match raw.kind {
            EVENT_HANDSHAKE => {
                let syn =
                    usize::try_from(raw.syn_len).ok().and_then(|len| raw.syn.get(..len)).and_then(Syn::parse);
                Some(match syn {
                    Some(syn) => {
                        Self::Handshake(Box::new(Handshake { netns_cookie: raw.netns_cookie, original, syn }))
                    }
                    None => Self::Unreadable { socket_cookie },
                })
            }
            EVENT_GONE => Some(Self::Gone { socket_cookie }),
            EVENT_UNKNOWN_NETNS => {
                Some(Self::UnknownNetns { netns_cookie: raw.netns_cookie, cgroup_id: original.cgroup_id })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Event::decode(&bytes);
        }
    }
}
