//! Packets that no flow sends: made up by somebody on the clients' network, in any name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

/// The quoted part of a packet in an ICMP error: its IP header and the first bytes behind (RFC 792, RFC 4443 section 3).
const QUOTED: usize = 64;

/// The least MTU that a link of either family may have (RFC 791, RFC 8200): what a forged "packet too big" tells.
const LEAST_MTU: [u16; 2] = [68, 1280];

/// A TCP packet's flag.
#[derive(Clone, Copy, Debug)]
pub enum Flag {
    /// ACK, and nothing more.
    Ack,
    /// RST.
    Rst,
    /// FIN and ACK.
    Fin,
}

/// A TCP packet of this sequence number.
pub fn tcp(from: SocketAddr, to: SocketAddr, flag: Flag, sequence: u32) -> Vec<u8> {
    let step = between(from.ip(), to.ip()).tcp(from.port(), to.port(), sequence, 1024);
    let acknowledges = sequence.rotate_left(16);
    let step = match flag {
        Flag::Ack => step.ack(acknowledges),
        Flag::Rst => step.rst(),
        Flag::Fin => step.fin().ack(acknowledges),
    };
    let mut packet = Vec::new();
    step.write(&mut packet, &[]).expect("a vector takes all, and the packet is short");
    packet
}

/// A datagram.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = between(from.ip(), to.ip()).udp(from.port(), to.port());
    step.write(&mut packet, payload).expect("a vector takes all, and the packet is short");
    packet
}

/// An ICMP error about a packet: "port unreachable", or "packet too big" with the least MTU that there may be.
pub fn error(from: IpAddr, to: IpAddr, about: &[u8], is_too_big: bool) -> Vec<u8> {
    let quoted = &about[..about.len().min(QUOTED)];
    let mut packet = Vec::new();
    let written = match (to, is_too_big) {
        (IpAddr::V4(_), false) => between(from, to).icmpv4_raw(3, 3, [0; 4]).write(&mut packet, quoted),
        (IpAddr::V4(_), true) => {
            let [high, low] = LEAST_MTU[0].to_be_bytes();
            between(from, to).icmpv4_raw(3, 4, [0, 0, high, low]).write(&mut packet, quoted)
        }
        (IpAddr::V6(_), false) => between(from, to).icmpv6_raw(1, 4, [0; 4]).write(&mut packet, quoted),
        (IpAddr::V6(_), true) => {
            let mtu = u32::from(LEAST_MTU[1]).to_be_bytes();
            between(from, to).icmpv6_raw(2, 0, mtu).write(&mut packet, quoted)
        }
    };
    written.expect("a vector takes all, and the packet is short");
    packet
}

/// One fragment of a packet of the IP layer: that with its first bytes, or one from the middle, without which the others
/// wait.
pub fn fragment(packet: &[u8], is_first: bool, identification: u32) -> Vec<u8> {
    /// In units of 8 bytes.
    const OFFSET: u16 = 4;
    let (at, length) = if is_first { (0, 8 * usize::from(OFFSET)) } else { (8 * usize::from(OFFSET), 16) };
    match Ipv4Header::from_slice(packet) {
        Ok((mut header, payload)) => {
            let part = &payload[at..][..length];
            header.more_fragments = true;
            header.dont_fragment = false;
            header.fragment_offset =
                IpFragOffset::try_new(if is_first { 0 } else { OFFSET }).expect("it is small");
            header.identification = identification as u16;
            header.set_payload_len(part.len()).expect("it is short");
            let mut bytes = Vec::new();
            header.write(&mut bytes).expect("a vector takes all");
            [&bytes[..], part].concat()
        }
        Err(_) => {
            let (mut header, payload) =
                Ipv6Header::from_slice(packet).expect("a packet is of one family or the other");
            let part = &payload[at..][..length];
            // RFC 8200, section 4.5.
            let place = (if is_first { 0 } else { OFFSET } << 3 | 1).to_be_bytes();
            let fragment = [&[header.next_header.0, 0][..], &place, &identification.to_be_bytes()].concat();
            header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
            header.set_payload_length(fragment.len() + part.len()).expect("it is short");
            [&header.to_bytes()[..], &fragment, part].concat()
        }
    }
}

/// A packet in a frame.
pub fn frame(from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&to[..], &from, &ethertype, packet].concat()
}

fn between(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (from, to) => PacketBuilder::ipv6(v6(from).octets(), v6(to).octets(), 64),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Senders that no packet may have on a link (RFC 6890, RFC 4291), and the VIPs, which are the load balancer's own.
pub fn martians(vips: [IpAddr; 2]) -> Vec<IpAddr> {
    let v4 = [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]];
    let v6 = ["::1", "::", "ff02::1"].map(|it| it.parse::<Ipv6Addr>().expect("it is an address"));
    let v4 = v4.map(|it| IpAddr::from(Ipv4Addr::from(it)));
    v4.into_iter().chain(v6.map(IpAddr::from)).chain(vips).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> [[SocketAddr; 2]; 2] {
        [["192.0.2.100:1", "192.0.2.10:7001"], ["[2001:db8:1::100]:1", "[2001:db8:1::10]:7001"]]
            .map(|ends| ends.map(|end| end.parse().unwrap()))
    }

    #[test]
    fn packets_are_of_the_family_of_their_ends_and_whole() {
        for [from, to] in ends() {
            let about = udp(to, from, b"quoted");
            for packet in [
                tcp(from, to, Flag::Rst, 1),
                udp(from, to, b"hello"),
                error(from.ip(), to.ip(), &about, true),
                error(from.ip(), to.ip(), &about, false),
            ] {
                let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
                assert!(sliced.transport.is_some(), "{from}: {packet:?}");
                assert_eq!(frame([1; 6], [2; 6], &packet).len(), packet.len() + 14);
            }
        }
    }

    #[test]
    fn fragments_say_that_they_are() {
        for [from, to] in ends() {
            let whole = udp(from, to, &[7; 100]);
            for is_first in [true, false] {
                let packet = fragment(&whole, is_first, 9);
                let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
                assert!(sliced.is_ip_payload_fragmented(), "{from}: {packet:?}");
            }
        }
    }
}
