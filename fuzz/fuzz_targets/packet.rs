//! Whatever was captured: what is made of a SYN has the lengths, the checksums and the addresses that a network stack
//! looks at, and the SYN that is put back is the one that was sent.
#![no_main]
#![expect(clippy::expect_used, reason = "a panic is how a fuzz target tells")]

use libfuzzer_sys::fuzz_target;
use redial::intercept::{Answer, Syn};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fuzz_target!(|bytes: &[u8]| {
    let Some(syn) = Syn::parse(bytes) else { return };
    let packet = syn.released();
    let released = Ip::read(packet.bytes());
    assert_eq!(released.protocol, TCP);
    assert!(released.checksum_is_good());
    assert_eq!(released.payload.len(), usize::from(released.payload[12] >> 4) * 4, "no data");
    assert_as_sent(bytes, packet.bytes(), released.header);

    let again = Syn::parse(packet.bytes()).expect("it is the SYN that was sent");
    assert_eq!(again.released().bytes(), packet.bytes());
    assert_eq!(
        (again.client(), again.engine(), again.traffic_class()),
        (syn.client(), syn.engine(), syn.traffic_class())
    );

    for kind in [Answer::Reset, Answer::HostUnreachable, Answer::NetworkUnreachable] {
        let packet = syn.answer(kind);
        let answer = Ip::read(packet.bytes());
        assert!(answer.checksum_is_good(), "{kind:?}");
        assert_eq!((answer.source, answer.destination), (released.destination, released.source));
        if kind == Answer::Reset {
            assert_eq!((answer.protocol, answer.payload.len()), (TCP, 20));
            assert_eq!(answer.payload[..4], [&released.payload[2..4], &released.payload[..2]].concat());
            assert_eq!(word(answer.payload, 8), word(released.payload, 4).wrapping_add(1), "acknowledged");
            assert_eq!(answer.payload[12..14], [0x50, 0x14]);
        } else {
            let is_v4 = released.source.len() == 4;
            assert_eq!((answer.protocol, answer.payload[0]), if is_v4 { (ICMP, 3) } else { (ICMPV6, 1) });
            let quoted = &answer.payload[8..];
            assert_eq!(quoted, &packet_start(syn.released().bytes(), released.header + 8));
        }
    }
});

/// A packet as a network stack reads it.
struct Ip<'a> {
    header: usize,
    protocol: u8,
    source: &'a [u8],
    destination: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn read(packet: &'a [u8]) -> Self {
        let half = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
        if packet[0] >> 4 == 4 {
            let header = usize::from(packet[0] & 15) * 4;
            assert_eq!(half(2), packet.len(), "total length");
            assert!(is_good(&[&packet[..header]]), "the header's checksum");
            let (source, destination) = (&packet[12..16], &packet[16..20]);
            Self { header, protocol: packet[9], source, destination, payload: &packet[header..] }
        } else {
            assert_eq!(packet[0] >> 4, 6);
            assert_eq!(half(4), packet.len() - 40, "payload length");
            let (source, destination) = (&packet[8..24], &packet[24..40]);
            Self { header: 40, protocol: packet[6], source, destination, payload: &packet[40..] }
        }
    }

    fn checksum_is_good(&self) -> bool {
        if self.protocol == ICMP {
            return is_good(&[self.payload]);
        }
        let length = u16::try_from(self.payload.len()).expect("a short packet").to_be_bytes();
        is_good(&[self.source, self.destination, &[0, self.protocol], &length, self.payload])
    }
}

/// RFC 1071, by its definition: the sum of the 16-bit words, the checksum's own among them, is a multiple of 65,535. Each
/// part but the last is of even length.
fn is_good(parts: &[&[u8]]) -> bool {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 =
        words.map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum();
    sum != 0 && sum.is_multiple_of(0xffff)
}

/// All but lengths and checksums.
fn assert_as_sent(sent: &[u8], released: &[u8], header: usize) {
    let made = if header == 40 && sent[0] >> 4 == 6 { vec![4, 5] } else { vec![2, 3, 10, 11] };
    let of_tcp = [header + 16, header + 17];
    for (at, (sent, released)) in sent.iter().zip(released).enumerate() {
        assert!(
            sent == released || made.contains(&at) || of_tcp.contains(&at),
            "byte {at}: {sent} {released}"
        );
    }
}

fn packet_start(packet: &[u8], length: usize) -> Vec<u8> {
    packet.iter().copied().take(length).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map(u32::from_be_bytes).unwrap_or_default()
}
