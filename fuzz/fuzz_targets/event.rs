//! What the kernel programs wrote is read as they wrote it, and what is cut short or odd is told from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redial::intercept::{Event, Handshake, Packet, Syn};
use redial_ebpf::{EVENT_GONE, EVENT_HANDSHAKE, EVENT_UNKNOWN_NETNS, MAX_SYN};

const LENGTH: usize = size_of::<redial_ebpf::Event>();

fuzz_target!(|bytes: &[u8]| {
    let event = Event::decode(bytes);
    let Some((&raw, _)) = bytes.split_first_chunk::<LENGTH>() else {
        assert!(event.is_none(), "{event:?} of {} bytes", bytes.len());
        return;
    };
    let u32_at = |at: usize| raw[at..].first_chunk().copied().map(u32::from_ne_bytes);
    let u64_at = |at: usize| raw[at..].first_chunk().copied().map(u64::from_ne_bytes);
    let syn_len = u32_at(4).and_then(|length| usize::try_from(length).ok());
    let syn = syn_len.filter(|length| *length <= MAX_SYN).and_then(|length| Syn::parse(&raw[64..][..length]));
    match (u32_at(0), event) {
        (Some(EVENT_HANDSHAKE), Some(Event::Handshake(handshake))) => {
            let Handshake { netns_cookie, original, syn: read } = *handshake;
            assert_eq!(Some(netns_cookie), u64_at(8));
            assert_eq!(Some(original.socket_cookie), u64_at(16));
            assert_eq!(Some(original.cgroup_id), u64_at(24));
            assert_eq!(Some(original.mark), u32_at(56));
            assert_eq!(
                Some(read.released().bytes()),
                syn.as_ref().map(Syn::released).as_ref().map(Packet::bytes)
            );
        }
        (Some(EVENT_HANDSHAKE), Some(Event::Unreadable { socket_cookie })) => {
            assert_eq!(Some(socket_cookie), u64_at(16));
            assert!(syn.is_none());
        }
        (Some(EVENT_GONE), Some(Event::Gone { socket_cookie })) => {
            assert_eq!(Some(socket_cookie), u64_at(16));
        }
        (Some(EVENT_UNKNOWN_NETNS), Some(Event::UnknownNetns { netns_cookie, cgroup_id })) => {
            assert_eq!((Some(netns_cookie), Some(cgroup_id)), (u64_at(8), u64_at(24)));
        }
        (Some(EVENT_HANDSHAKE | EVENT_GONE | EVENT_UNKNOWN_NETNS) | None, event) => panic!("{event:?}"),
        (Some(_), event) => assert!(event.is_none(), "{event:?}"),
    }
});
