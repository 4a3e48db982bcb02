//! Frames, as they come and as they should leave.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use etherparse::checksum::Sum16BitWords;
use etherparse::{EtherType, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TransportHeader, UdpHeader};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const LB_BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// IPv6 extension headers: number and body, whose first byte is replaced by the next header's number.
pub type Extensions = Vec<(u8, Vec<u8>)>;

/// A frame, described: what the checksums and lengths follow from.
#[derive(Clone, Debug)]
pub struct Frame {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    /// EtherType and id of each tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// TCP control bits; `None`: UDP.
    pub tcp: Option<u8>,
    pub udp_checksum: bool,
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    pub dont_fragment: bool,
    pub ipv4_options: Vec<u8>,
    /// A multiple of four bytes, 40 at the most.
    pub tcp_options: Vec<u8>,
    pub extensions: Extensions,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn tcp(from: &str, to: &str, flags: u8) -> Self {
        Self {
            from_mac: CLIENT_MAC,
            to_mac: LB_MAC,
            tags: Vec::new(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            tcp: Some(flags),
            udp_checksum: true,
            ttl: 64,
            traffic_class: 0,
            dont_fragment: true,
            ipv4_options: Vec::new(),
            tcp_options: Vec::new(),
            extensions: Vec::new(),
            payload: b"some bytes of payload, an odd number".to_vec(),
        }
    }

    pub fn udp(from: &str, to: &str) -> Self {
        Self { tcp: None, ..Self::tcp(from, to, 0) }
    }

    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push((ethertype, id));
        self
    }

    pub fn untagged(mut self) -> Self {
        self.tags.clear();
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same packet as it leaves: other ends, other MACs, one hop less.
    pub fn leaving(&self, from: SocketAddr, to: SocketAddr, macs: ([u8; 6], [u8; 6])) -> Self {
        Self { from, to, from_mac: macs.0, to_mac: macs.1, ttl: self.ttl - 1, ..self.clone() }
    }

    /// The frame's bytes, with every length and checksum as it should be.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to_mac, self.from_mac].concat();
        for (ethertype, id) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        let (ethertype, protocol) = (
            if self.from.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 },
            if self.tcp.is_some() { IpNumber::TCP } else { IpNumber::UDP },
        );
        bytes.extend(ethertype.0.to_be_bytes());
        match (self.from, self.to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => self.write_v4(from, to, protocol, &mut bytes),
            (SocketAddr::V6(from), SocketAddr::V6(to)) => self.write_v6(from, to, protocol, &mut bytes),
            _ => panic!("a packet has one family"),
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn write_v4(&self, from: SocketAddrV4, to: SocketAddrV4, protocol: IpNumber, bytes: &mut Vec<u8>) {
        let mut transport = self.transport();
        let mut ip = Ipv4Header::new(
            (transport.header_len() + self.payload.len()) as u16,
            self.ttl,
            protocol,
            from.ip().octets(),
            to.ip().octets(),
        )
        .unwrap();
        ip.identification = 0x1234;
        ip.dont_fragment = self.dont_fragment;
        ip.dscp = (self.traffic_class >> 2).try_into().unwrap();
        ip.ecn = (self.traffic_class & 3).try_into().unwrap();
        ip.options = self.ipv4_options.as_slice().try_into().unwrap();
        ip.set_payload_len(transport.header_len() + self.payload.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        ip.write(bytes).unwrap();
        match &mut transport {
            TransportHeader::Tcp(tcp) => {
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
            }
            TransportHeader::Udp(udp) if self.udp_checksum => {
                udp.checksum = udp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
            }
            _ => {}
        }
        transport.write(bytes).unwrap();
    }

    fn write_v6(&self, from: SocketAddrV6, to: SocketAddrV6, protocol: IpNumber, bytes: &mut Vec<u8>) {
        let mut transport = self.transport();
        let extension_bytes: usize = self.extensions.iter().map(|(_, body)| body.len()).sum();
        let mut ip = Ipv6Header {
            payload_length: (extension_bytes + transport.header_len() + self.payload.len()) as u16,
            next_header: self.extensions.first().map_or(protocol, |(number, _)| IpNumber(*number)),
            hop_limit: self.ttl,
            source: from.ip().octets(),
            destination: to.ip().octets(),
            ..Default::default()
        };
        ip.traffic_class = self.traffic_class;
        ip.write(bytes).unwrap();
        for (place, (_, body)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(place + 1).map_or(protocol.0, |(number, _)| *number);
            bytes.push(next);
            bytes.extend(&body[1..]);
        }
        match &mut transport {
            TransportHeader::Tcp(tcp) => {
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
            }
            TransportHeader::Udp(udp) => {
                udp.checksum = udp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
            }
            _ => {}
        }
        transport.write(bytes).unwrap();
    }

    fn transport(&self) -> TransportHeader {
        match self.tcp {
            Some(flags) => {
                let mut tcp = TcpHeader::new(self.from.port(), self.to.port(), 0x01020304, 4096);
                tcp.fin = flags & FIN != 0;
                tcp.syn = flags & SYN != 0;
                tcp.rst = flags & RST != 0;
                tcp.ack = flags & ACK != 0;
                tcp.set_options_raw(&self.tcp_options).unwrap();
                TransportHeader::Tcp(tcp)
            }
            None => TransportHeader::Udp(UdpHeader {
                source_port: self.from.port(),
                destination_port: self.to.port(),
                length: (8 + self.payload.len()) as u16,
                checksum: 0,
            }),
        }
    }
}

/// The fragments of a frame's packet, each with as much of its payload (a multiple of 8), in their order.
pub fn fragments(frame: &Frame, size: usize, identification: u16) -> Vec<Vec<u8>> {
    let bytes = frame.bytes();
    let l3 = 14 + frame.tags.len() * 4;
    let header = if frame.from.is_ipv4() { 20 + frame.ipv4_options.len() } else { 40 };
    let (start, payload) = bytes.split_at(l3 + header);
    let cut = |(place, part): (usize, &[u8])| {
        let more = (place + 1) * size < payload.len();
        let offset = place * size;
        let mut start = start.to_vec();
        if frame.from.is_ipv4() {
            let mut ip = Ipv4Header::from_slice(&start[l3..]).unwrap().0;
            ip.set_payload_len(part.len()).unwrap();
            ip.identification = identification;
            ip.more_fragments = more;
            ip.fragment_offset = ((offset / 8) as u16).try_into().unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            start.truncate(l3);
            ip.write(&mut start).unwrap();
        } else {
            start[l3 + 4..l3 + 6].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
            let next = std::mem::replace(&mut start[l3 + 6], 44);
            start.extend([next, 0]);
            start.extend((offset as u16 | u16::from(more)).to_be_bytes());
            start.extend(u32::from(identification).to_be_bytes());
        }
        [&start, part].concat()
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// A frame with an ICMP message, described.
#[derive(Clone, Debug)]
pub struct Icmp {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub tags: Vec<(u16, u16)>,
    pub from: IpAddr,
    pub to: IpAddr,
    pub ttl: u8,
    pub kind: u8,
    pub code: u8,
    /// The second four bytes of the ICMP header.
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

impl Icmp {
    pub fn new(from: &str, to: &str, kind: u8, code: u8) -> Self {
        Self {
            from_mac: CLIENT_MAC,
            to_mac: LB_MAC,
            tags: Vec::new(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            ttl: 57,
            kind,
            code,
            rest: [0; 4],
            payload: Vec::new(),
        }
    }

    /// An echo request with an identifier, a sequence number and an odd number of bytes.
    pub fn echo(from: &str, to: &str) -> Self {
        Self {
            rest: [0xab, 0xcd, 0, 7],
            payload: (0..57).collect(),
            ..Self::new(from, to, if to.contains(':') { 128 } else { 8 }, 0)
        }
    }

    /// An error about a packet, of which it quotes so many bytes or all: "fragmentation needed" or "packet too big".
    pub fn too_big(from: &str, to: &str, about: &Frame, quoted: usize) -> Self {
        let (kind, code) = if to.contains(':') { (2, 0) } else { (3, 4) };
        Self { rest: [0, 0, 5, 0], ..Self::error(from, to, kind, code, about, quoted) }
    }

    /// Any error.
    pub fn error(from: &str, to: &str, kind: u8, code: u8, about: &Frame, quoted: usize) -> Self {
        let mut payload = about.clone().untagged().bytes().split_off(14);
        payload.truncate(quoted);
        Self { payload, ..Self::new(from, to, kind, code) }
    }

    /// The frame's bytes, with every length and checksum as it should be.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to_mac, self.from_mac].concat();
        for (ethertype, id) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(&self.payload);
        let length = message.len();
        let checksum = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut ip = Ipv4Header::new(length as u16, self.ttl, IpNumber::ICMP, from, to).unwrap();
                ip.identification = 0x1234;
                ip.header_checksum = ip.calc_header_checksum();
                bytes.extend(EtherType::IPV4.0.to_be_bytes());
                ip.write(&mut bytes).unwrap();
                Sum16BitWords::new()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    payload_length: length as u16,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Default::default()
                };
                bytes.extend(EtherType::IPV6.0.to_be_bytes());
                ip.write(&mut bytes).unwrap();
                Sum16BitWords::new()
                    .add_16bytes(from.octets())
                    .add_16bytes(to.octets())
                    .add_4bytes((length as u32).to_be_bytes())
                    .add_2bytes([0, IpNumber::IPV6_ICMP.0])
            }
            _ => panic!("a packet has one family"),
        };
        let checksum = checksum.add_slice(&message).ones_complement();
        message[2..4].copy_from_slice(&checksum.to_ne_bytes());
        bytes.extend(message);
        bytes
    }
}

/// Where a frame claims to come from and go to.
pub fn ends(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).expect("a frame that leaves is whole");
    let (from, to) = match sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(etherparse::TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => panic!("a frame that leaves is TCP or UDP"),
    };
    match sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => (
            SocketAddr::new(ip.header().source_addr().into(), from),
            SocketAddr::new(ip.header().destination_addr().into(), to),
        ),
        Some(etherparse::NetSlice::Ipv6(ip)) => (
            SocketAddr::new(ip.header().source_addr().into(), from),
            SocketAddr::new(ip.header().destination_addr().into(), to),
        ),
        _ => panic!("a frame that leaves is IP"),
    }
}
