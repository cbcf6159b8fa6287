//! The packets of a held handshake: the client's SYN as it was copied, put back on the wire as it was, and the
//! answers that make the client's connect() fail as the network's own would.
//!
//! Pure. The bytes of a SYN come from a workload's socket and are treated as hostile: every length is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const RST_ACK: u8 = 0x14;
const HOP_LIMIT: u8 = 64;
/// Of the packet that it is about, an ICMP error carries the IP header and these first bytes of TCP: both ports and
/// the sequence number.
const ICMP_QUOTED_TCP: usize = 8;

/// A whole IP packet, on the stack: none that is made here is longer than a SYN.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    bytes: [u8; redial_ebpf::MAX_SYN],
    len: usize,
}

/// A client's SYN, without the data that it may have carried.
#[derive(Clone, Copy, Debug)]
pub struct Syn {
    /// IP and TCP header as sent, except that lengths are those without data.
    packet: Packet,
    ip_header_len: usize,
    client: SocketAddr,
    engine: SocketAddr,
    traffic_class: u8,
}

/// How a connect() is made to fail, in the network's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// RST|ACK: ECONNREFUSED.
    Reset,
    /// ICMP host (or address) unreachable: EHOSTUNREACH.
    HostUnreachable,
    /// ICMP network unreachable (or no route): ENETUNREACH.
    NetworkUnreachable,
}

impl Packet {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn new() -> Self {
        Self { bytes: [0; redial_ebpf::MAX_SYN], len: 0 }
    }

    /// Appends; what does not fit is left out, which no caller's packet ever needs.
    fn push(&mut self, bytes: &[u8]) {
        if let Some(target) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            target.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn set_u16(&mut self, offset: usize, value: u16) {
        if let Some(target) = self.bytes.get_mut(offset..offset + 2) {
            target.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn from(&self, offset: usize) -> &[u8] {
        self.bytes().get(offset..).unwrap_or_default()
    }
}

impl Syn {
    /// Reads the packet that the program copied. `None` where it is not a SYN that can be put back as it was.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let version = bytes.first()? >> 4;
        let (ip_header_len, protocol, source, destination, traffic_class): (usize, u8, IpAddr, IpAddr, u8) =
            match version {
                4 => {
                    let header: &[u8; IPV4_HEADER] = bytes.first_chunk()?;
                    let len = usize::from(header[0] & 0x0f) * 4;
                    let source = Ipv4Addr::from(*header.get(12..)?.first_chunk::<4>()?);
                    let destination = Ipv4Addr::from(*header.get(16..)?.first_chunk::<4>()?);
                    (len, header[9], source.into(), destination.into(), header[1])
                }
                6 => {
                    let header: &[u8; IPV6_HEADER] = bytes.first_chunk()?;
                    let source = Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?);
                    let destination = Ipv6Addr::from(*header.get(24..)?.first_chunk::<16>()?);
                    let class = (header[0] << 4) | (header[1] >> 4);
                    (IPV6_HEADER, header[6], source.into(), destination.into(), class)
                }
                _ => return None,
            };
        if protocol != TCP || ip_header_len < IPV4_HEADER {
            return None;
        }
        let tcp: &[u8; TCP_HEADER] = bytes.get(ip_header_len..)?.first_chunk()?;
        let tcp_header_len = usize::from(tcp[12] >> 4) * 4;
        let len = ip_header_len + tcp_header_len;
        let is_syn = tcp[13] & 0x17 == 0x02;
        if !is_syn || tcp_header_len < TCP_HEADER || len > bytes.len() || len > redial_ebpf::MAX_SYN {
            return None;
        }
        let mut packet = Packet::new();
        packet.push(bytes.get(..len)?);
        if version == 4 {
            packet.set_u16(2, u16::try_from(len).ok()?);
        } else {
            packet.set_u16(4, u16::try_from(tcp_header_len).ok()?);
        }
        Some(Self {
            packet,
            ip_header_len,
            client: SocketAddr::new(source, u16::from_be_bytes([tcp[0], tcp[1]])),
            engine: SocketAddr::new(destination, u16::from_be_bytes([tcp[2], tcp[3]])),
            traffic_class,
        })
    }

    /// The client's address, by which the engine knows the connection when it accepts it.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The listener's address.
    #[must_use]
    pub fn engine(&self) -> SocketAddr {
        self.engine
    }

    /// The IPv4 type of service or IPv6 traffic class that the application chose.
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        self.traffic_class
    }

    /// The SYN as the wire would have had it: the copy was taken before the checksum was filled in.
    #[must_use]
    pub fn released(&self) -> Packet {
        let mut packet = self.packet;
        packet.set_u16(self.ip_header_len + 16, 0);
        if self.client.is_ipv4() {
            packet.set_u16(10, 0);
            let sum =
                checksum(Sum::default().add(packet.bytes().get(..self.ip_header_len).unwrap_or_default()));
            packet.set_u16(10, sum);
        }
        let sum =
            transport_checksum(TCP, self.client.ip(), self.engine.ip(), packet.from(self.ip_header_len));
        packet.set_u16(self.ip_header_len + 16, sum);
        packet
    }

    /// A packet that makes the client's connect() fail.
    #[must_use]
    pub fn answer(&self, answer: Answer) -> Packet {
        match answer {
            Answer::Reset => self.reset(),
            Answer::HostUnreachable => self.unreachable(1, 3),
            Answer::NetworkUnreachable => self.unreachable(0, 0),
        }
    }

    fn reset(&self) -> Packet {
        let mut packet = self.ip_header(TCP, TCP_HEADER);
        let start = packet.len;
        let sequence = self.packet.from(self.ip_header_len + 4).first_chunk().copied().unwrap_or_default();
        let acknowledged = u32::from_be_bytes(sequence).wrapping_add(1);
        packet.push(&self.engine.port().to_be_bytes());
        packet.push(&self.client.port().to_be_bytes());
        packet.push(&[0; 4]);
        packet.push(&acknowledged.to_be_bytes());
        packet.push(&[0x50, RST_ACK, 0, 0, 0, 0, 0, 0]);
        let sum = transport_checksum(TCP, self.engine.ip(), self.client.ip(), packet.from(start));
        packet.set_u16(start + 16, sum);
        packet
    }

    /// ICMP "destination unreachable" (RFC 792, RFC 4443) about the client's SYN, as a router would send it.
    fn unreachable(&self, code_v4: u8, code_v6: u8) -> Packet {
        let quoted_len = self.ip_header_len + ICMP_QUOTED_TCP;
        let (protocol, kind, code) =
            if self.client.is_ipv4() { (ICMP, 3, code_v4) } else { (ICMPV6, 1, code_v6) };
        let released = self.released();
        let quoted = released.bytes().get(..quoted_len).unwrap_or_default();
        let mut packet = self.ip_header(protocol, ICMP_HEADER + quoted.len());
        let start = packet.len;
        packet.push(&[kind, code, 0, 0, 0, 0, 0, 0]);
        packet.push(quoted);
        let sum = if self.client.is_ipv4() {
            checksum(Sum::default().add(packet.from(start)))
        } else {
            transport_checksum(ICMPV6, self.engine.ip(), self.client.ip(), packet.from(start))
        };
        packet.set_u16(start + 2, sum);
        packet
    }

    /// The header of a packet from the engine's address to the client's.
    fn ip_header(&self, protocol: u8, payload_len: usize) -> Packet {
        let mut packet = Packet::new();
        let payload_len = u16::try_from(payload_len).unwrap_or(u16::MAX);
        match (self.engine.ip(), self.client.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.push(&[0x45, 0]);
                packet.push(&(payload_len + 20).to_be_bytes());
                packet.push(&[0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
                packet.push(&source.octets());
                packet.push(&destination.octets());
                let sum = checksum(Sum::default().add(packet.bytes()));
                packet.set_u16(10, sum);
            }
            (source, destination) => {
                packet.push(&[0x60, 0, 0, 0]);
                packet.push(&payload_len.to_be_bytes());
                packet.push(&[protocol, HOP_LIMIT]);
                packet.push(&super::address::octets(source));
                packet.push(&super::address::octets(destination));
            }
        }
        packet
    }
}

/// The checksum over the pseudo-header (RFC 9293, RFC 8200) and `payload`.
fn transport_checksum(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> u16 {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Sum::default().add(&source.octets()).add(&destination.octets())
        }
        (source, destination) => {
            Sum::default().add(&super::address::octets(source)).add(&super::address::octets(destination))
        }
    };
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    checksum(sum.add(&[0, protocol]).add(&len.to_be_bytes()).add(payload))
}

/// A running ones' complement sum (RFC 1071). Every part but the last must be of even length.
#[derive(Clone, Copy, Default)]
struct Sum(u32);

impl Sum {
    fn add(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let sum = pairs.iter().fold(self.0, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)));
        Self(rest.iter().fold(sum, |sum, byte| sum + (u32::from(*byte) << 8)))
    }
}

fn checksum(sum: Sum) -> u16 {
    let mut folded = sum.0;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !u16::try_from(folded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Answer, Sum, Syn, checksum};
    use std::net::SocketAddr;

    /// A SYN from 127.0.0.1:40000 to 127.0.0.1:61000 with options, as a kernel sends it.
    fn syn_v4(data: &[u8]) -> Vec<u8> {
        let mut packet =
            vec![0x45, 0x10, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0xde, 0xad, 127, 0, 0, 1, 127, 0, 0, 1];
        packet.extend(tcp());
        packet.extend(data);
        let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet
    }

    fn syn_v6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
        packet.extend(std::net::Ipv6Addr::LOCALHOST.octets());
        packet.extend(std::net::Ipv6Addr::LOCALHOST.octets());
        packet.extend(tcp());
        packet
    }

    fn tcp() -> Vec<u8> {
        let mut tcp = vec![
            0x9c, 0x40, 0xee, 0x48, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x70, 0x02, 0xff, 0xd7, 0xbe, 0xef,
            0, 0,
        ];
        tcp.extend([2, 4, 0xff, 0xd7, 4, 2, 1, 1]);
        tcp
    }

    fn is_valid_v4(packet: &[u8]) -> bool {
        checksum(Sum::default().add(&packet[..20])) == 0
            && usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len()
    }

    fn transport_is_valid(packet: &[u8], protocol: u8) -> bool {
        let v4 = packet[0] >> 4 == 4;
        let (addresses, payload) =
            if v4 { (&packet[12..20], &packet[20..]) } else { (&packet[8..40], &packet[40..]) };
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        checksum(Sum::default().add(addresses).add(&[0, protocol]).add(&len).add(payload)) == 0
    }

    #[test]
    fn addresses_and_class_are_read() {
        let syn = Syn::parse(&syn_v4(&[])).unwrap();
        assert_eq!(syn.client(), "127.0.0.1:40000".parse::<SocketAddr>().unwrap());
        assert_eq!(syn.engine(), "127.0.0.1:61000".parse::<SocketAddr>().unwrap());
        assert_eq!(syn.traffic_class(), 0x10);
        assert_eq!(Syn::parse(&syn_v6()).unwrap().client(), "[::1]:40000".parse::<SocketAddr>().unwrap());
    }

    #[test]
    fn a_released_syn_has_good_checksums_and_no_data() {
        let sent = syn_v4(b"fast open data");
        let released = Syn::parse(&sent).unwrap().released();
        assert_eq!(released.bytes().len(), 48);
        assert!(is_valid_v4(released.bytes()));
        assert!(transport_is_valid(released.bytes(), 6));
        assert_eq!(released.bytes()[20..36], sent[20..36], "all but the checksum is as it was sent");

        let released = Syn::parse(&syn_v6()).unwrap().released();
        assert!(transport_is_valid(released.bytes(), 6));
    }

    #[test]
    fn a_reset_acknowledges_the_syn() {
        for (sent, header) in [(syn_v4(&[]), 20), (syn_v6(), 40)] {
            let reset = Syn::parse(&sent).unwrap().answer(Answer::Reset);
            let tcp = &reset.bytes()[header..];
            assert!(transport_is_valid(reset.bytes(), 6));
            assert_eq!(tcp[..4], [0xee, 0x48, 0x9c, 0x40], "from the engine's port to the client's");
            assert_eq!(tcp[8..12], [0, 0, 0, 0], "sequence number + 1, wrapped");
            assert_eq!(tcp[13], 0x14);
        }
    }

    #[test]
    fn an_icmp_error_quotes_the_syn() {
        let sent = syn_v4(&[]);
        let syn = Syn::parse(&sent).unwrap();
        for (answer, code) in [(Answer::HostUnreachable, 1), (Answer::NetworkUnreachable, 0)] {
            let error = syn.answer(answer);
            assert!(is_valid_v4(error.bytes()));
            assert_eq!(checksum(Sum::default().add(&error.bytes()[20..])), 0);
            assert_eq!(error.bytes()[20..22], [3, code]);
            assert_eq!(error.bytes()[48..56], sent[20..28], "ports and sequence number");
        }
        let error = Syn::parse(&syn_v6()).unwrap().answer(Answer::HostUnreachable);
        assert!(transport_is_valid(error.bytes(), 58));
        assert_eq!(error.bytes()[40..42], [1, 3]);
    }

    #[test]
    fn what_is_not_a_syn_is_refused() {
        let good = syn_v4(&[]);
        for len in 0..good.len() {
            assert!(Syn::parse(&good[..len]).is_none(), "cut to {len} bytes");
        }
        let with = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            Syn::parse(&bytes)
        };
        assert!(with(0, 0x55).is_none(), "no such IP version");
        assert!(with(0, 0x44).is_none(), "IP header too short");
        assert!(with(0, 0x4f).is_none(), "IP header too long");
        assert!(with(9, 17).is_none(), "not TCP");
        assert!(with(32, 0x40).is_none(), "TCP header too short");
        assert!(with(32, 0xf0).is_none(), "TCP header too long");
        assert!(with(33, 0x12).is_none(), "SYN|ACK");
        assert!(with(33, 0x10).is_none(), "ACK");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Some(syn) = Syn::parse(&bytes) {
                for packet in [syn.released(), syn.answer(Answer::Reset), syn.answer(Answer::HostUnreachable)] {
                    proptest::prop_assert!(!packet.bytes().is_empty());
                }
            }
        }
    }
}
