//! Frames: builds the one to explain, and parses the one that would leave.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader,
    TcpOptionElement, TransportSlice, UdpHeader,
};
use xdp_lb_common::process::GUE_PORT;

use crate::model::{Protocol, TcpFlag};

/// The Ethernet address of the router that sends the frame, locally administered.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The initial hop count of most hosts, minus some hops.
const HOPS: u8 = 60;

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its source.
    pub client: SocketAddr,
    /// Its destination, in the same family.
    pub vip: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its TCP flags.
    pub flags: &'a [TcpFlag],
}

/// The frame with the packet, to this Ethernet address.
pub fn frame(packet: &Packet<'_>, mac: [u8; 6]) -> Option<Vec<u8>> {
    let transport = transport(packet);
    let number = match packet.protocol {
        Protocol::Tcp => IpNumber::TCP,
        Protocol::Udp => IpNumber::UDP,
    };
    let length = u16::try_from(transport.len()).ok()?;
    let (ether_type, ip) = match (packet.client.ip(), packet.vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let mut header = Ipv4Header::new(length, HOPS, number, client.octets(), vip.octets()).ok()?;
            header.header_checksum = header.calc_header_checksum();
            (EtherType::IPV4, header.to_bytes().to_vec())
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let header = Ipv6Header {
                payload_length: length,
                next_header: number,
                hop_limit: HOPS,
                source: client.octets(),
                destination: vip.octets(),
                ..Ipv6Header::default()
            };
            (EtherType::IPV6, header.to_bytes().to_vec())
        }
        _ => return None,
    };
    let ethernet = Ethernet2Header { source: ROUTER, destination: mac, ether_type };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend(ip);
    frame.extend(transport);
    Some(frame)
}

/// The TCP or UDP header, without a checksum: the datapath updates it, but never verifies it.
fn transport(packet: &Packet<'_>) -> Vec<u8> {
    let (source, destination) = (packet.client.port(), packet.vip.port());
    match packet.protocol {
        Protocol::Udp => {
            UdpHeader { source_port: source, destination_port: destination, length: 8, checksum: 0 }
                .to_bytes()
                .to_vec()
        }
        Protocol::Tcp => {
            let mut header = TcpHeader::new(source, destination, 1, 64_240);
            for flag in packet.flags {
                match flag {
                    TcpFlag::Syn => header.syn = true,
                    TcpFlag::Ack => header.ack = true,
                    TcpFlag::Fin => header.fin = true,
                    TcpFlag::Rst => header.rst = true,
                    TcpFlag::Psh => header.psh = true,
                }
            }
            if header.syn {
                // Like hosts on an Ethernet.
                let room = header.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)]);
                debug_assert!(room.is_ok(), "a header has room for four bytes of options");
            }
            header.to_bytes().to_vec()
        }
    }
}

/// The parsed frame that would leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its source and destination MAC.
    pub macs: [[u8; 6]; 2],
    /// The outer addresses, in a tunnel.
    pub tunnel: Option<[IpAddr; 2]>,
    /// The packet's source and destination.
    pub packet: [SocketAddr; 2],
}

/// Parses a frame with TCP or UDP, in a tunnel or not.
pub fn read(frame: &[u8]) -> Option<Sent> {
    let (ethernet, _) = Ethernet2Header::from_slice(frame).ok()?;
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let addresses = addresses(sliced.net.as_ref()?)?;
    let macs = [ethernet.source, ethernet.destination];
    let inside = match sliced.transport {
        Some(TransportSlice::Udp(ref udp)) if udp.destination_port() == GUE_PORT => gue(udp.payload()),
        Some(_) => None,
        None => sliced.net.as_ref()?.ip_payload_ref().map(|payload| payload.payload),
    };
    let Some(inside) = inside else {
        let [source, destination] = ports(&sliced)?;
        let [from, to] = addresses;
        let packet = [SocketAddr::new(from, source), SocketAddr::new(to, destination)];
        return Some(Sent { macs, tunnel: None, packet });
    };
    let inner = SlicedPacket::from_ip(inside).ok()?;
    let [from, to] = self::addresses(inner.net.as_ref()?)?;
    let [source, destination] = ports(&inner)?;
    let packet = [SocketAddr::new(from, source), SocketAddr::new(to, destination)];
    Some(Sent { macs, tunnel: Some(addresses), packet })
}

/// The payload of a GUE packet: directly, or after a header of four bytes (draft-ietf-intarea-gue sections 3 and 4).
fn gue(payload: &[u8]) -> Option<&[u8]> {
    if payload.first()? >> 6 == 0 { payload.get(4..) } else { Some(payload) }
}

fn addresses(net: &NetSlice<'_>) -> Option<[IpAddr; 2]> {
    match net {
        NetSlice::Ipv4(ip) => Some([ip.header().source_addr().into(), ip.header().destination_addr().into()]),
        NetSlice::Ipv6(ip) => Some([ip.header().source_addr().into(), ip.header().destination_addr().into()]),
        _ => None,
    }
}

fn ports(sliced: &SlicedPacket<'_>) -> Option<[u16; 2]> {
    match sliced.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => Some([tcp.source_port(), tcp.destination_port()]),
        TransportSlice::Udp(udp) => Some([udp.source_port(), udp.destination_port()]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(client: &str, vip: &str, protocol: Protocol) -> Packet<'static> {
        let at = |text: &str| text.parse().unwrap();
        Packet { client: at(client), vip: at(vip), protocol, flags: &[TcpFlag::Syn, TcpFlag::Ack] }
    }

    #[test]
    fn a_frame_is_read_back() {
        for (client, vip) in
            [("192.0.2.2:1234", "203.0.113.10:80"), ("[2001:db8::2]:1234", "[2001:db8:1::10]:80")]
        {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let packet = packet(client, vip, protocol);
                let frame = frame(&packet, [1, 2, 3, 4, 5, 6]).unwrap();
                let sent = read(&frame).unwrap();
                assert_eq!(sent.macs, [ROUTER, [1, 2, 3, 4, 5, 6]]);
                assert_eq!((sent.packet, sent.tunnel), ([packet.client, packet.vip], None));
            }
        }
        assert_eq!(frame(&packet("192.0.2.2:1", "[2001:db8::1]:80", Protocol::Tcp), [0; 6]), None);
    }

    #[test]
    fn flags_are_set_and_a_syn_announces_its_segments() {
        let frame = frame(&packet("192.0.2.2:1234", "203.0.113.10:80", Protocol::Tcp), [0; 6]).unwrap();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
        assert!(tcp.syn() && tcp.ack() && !tcp.rst() && !tcp.fin());
        assert_eq!(tcp.options(), [2, 4, 5, 180]);
    }

    #[test]
    fn the_packet_in_a_tunnel_is_read_too() {
        let inner = frame(&packet("192.0.2.2:1234", "203.0.113.10:80", Protocol::Tcp), [0; 6]).unwrap();
        let inner = &inner[14..];
        let outer =
            Ipv4Header::new(inner.len() as u16, 60, IpNumber::IPV4, [198, 51, 100, 2], [198, 51, 100, 11]);
        let ethernet = Ethernet2Header { source: ROUTER, destination: [0; 6], ether_type: EtherType::IPV4 };
        let mut frame = ethernet.to_bytes().to_vec();
        frame.extend(outer.unwrap().to_bytes());
        frame.extend(inner);
        let sent = read(&frame).unwrap();
        assert_eq!(sent.tunnel.unwrap().map(|it| it.to_string()), ["198.51.100.2", "198.51.100.11"]);
        assert_eq!(sent.packet[1].to_string(), "203.0.113.10:80");
    }
}
