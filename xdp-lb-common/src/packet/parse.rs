//! Parsing a frame. Nothing in a frame is trusted: each length is compared with the received bytes.

use crate::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};
use crate::packet::Packet;
use crate::packet::headers::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, ExtensionHeader, Icmp, Ipv4, Ipv6, Ipv6Fragment, TCP_ACK,
    TCP_FIN, TCP_SYN, Tcp, Udp, VlanTag, is_tag,
};
use crate::reason::Reason;
use crate::tables::{FlowKey, Tags};

/// The kind of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// A TCP or UDP packet, which is part of a flow.
    #[default]
    Flow,
    /// The first fragment of one, with its ports.
    FirstFragment,
    /// Another fragment of one. Its key's ports are 0.
    LaterFragment,
    /// An ICMP or ICMPv6 message. Its key's ports are 0.
    Icmp,
}

/// A parsed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// The 5-tuple.
    pub key: FlowKey,
    /// What it is.
    pub kind: Kind,
    /// Whether it is IPv4.
    pub is_v4: bool,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the TCP, UDP or ICMP header begins.
    pub l4: usize,
    /// The IP packet's length by its own word, bytes.
    pub ip_length: u32,
    /// The TCP control bits; 0 for others.
    pub tcp_flags: u8,
    /// Whether a live receiver answers it sooner or later: TCP with SYN, FIN or payload (a pure ACK needs no answer, RFC 9293
    /// section 3.10.7.4), and all of UDP.
    pub asks: bool,
    /// Hops left.
    pub ttl: u8,
    /// What the fragments of a packet have in common; of no meaning where it is whole.
    pub identification: Be32,
    /// The interface that it came in by.
    pub ingress: u32,
    /// The frame's receiver.
    pub destination_mac: MacAddress,
    /// The frame's sender.
    pub source_mac: MacAddress,
    /// The frame's VLAN tags.
    pub tags: Tags,
}

impl Parsed {
    /// Whether this is a TCP connection's first packet.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Whether this is a packet of a TCP connection that is there already.
    #[inline(always)]
    pub fn is_in_mid_flow(&self) -> bool {
        (self.key.protocol == Protocol::TCP) & !self.is_first()
    }
}

/// What a frame's Ethernet header says.
pub struct Link {
    /// The header, without tags.
    pub ethernet: Ethernet,
    /// The VLAN tags.
    pub tags: Tags,
    /// What follows the tags.
    pub ethertype: u16,
    /// Where that begins.
    pub l3: usize,
}

/// Reads a frame's Ethernet header.
///
/// # Errors
/// The reason why it is passed to the host.
#[inline(always)]
pub fn parse_link<P: Packet>(packet: &P) -> Result<Link, Reason> {
    let ethernet: Ethernet = packet.read(0).ok_or(Reason::Malformed)?;
    if ethernet.destination.is_group() {
        return Err(Reason::NotUnicast);
    }
    let mut ethertype = ethernet.ethertype.get();
    let mut tags = Tags::default();
    let mut l3 = size_of::<Ethernet>();
    let beside = packet.tag_beside();
    if is_tag(ethertype) {
        let tag: VlanTag = packet.read(14).ok_or(Reason::Malformed)?;
        tags.outer = u32::from(ethertype) << 16 | u32::from(tag.control.get());
        ethertype = tag.ethertype.get();
        l3 = 18;
        if is_tag(ethertype) {
            if beside != 0 {
                return Err(Reason::TooManyTags);
            }
            let tag: VlanTag = packet.read(18).ok_or(Reason::Malformed)?;
            tags.inner = u32::from(ethertype) << 16 | u32::from(tag.control.get());
            ethertype = tag.ethertype.get();
            l3 = 22;
            if is_tag(ethertype) {
                return Err(Reason::TooManyTags);
            }
        }
    }
    if beside != 0 {
        tags = Tags { outer: beside, inner: tags.outer };
    }
    Ok(Link { ethernet, tags, ethertype, l3 })
}

/// Reads a frame's headers.
///
/// A call of its own in the kernel, that leaves its result in memory which the verifier does not
/// follow: else it would look at all that comes after once for each combination of headers.
///
/// # Errors
/// The reason why it is passed to the host.
#[inline(never)]
pub fn parse<P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), Reason> {
    let link = parse_link(packet)?;
    let is_v4 = link.ethertype == ETHERTYPE_IPV4;
    let network = match link.ethertype {
        ETHERTYPE_IPV4 => parse_v4(packet, link.l3)?,
        ETHERTYPE_IPV6 => parse_v6(packet, link.l3)?,
        _ => return Err(Reason::NotIp),
    };
    let piece = network.piece;
    let whole_or_first = if piece.more { Kind::FirstFragment } else { Kind::Flow };
    let (transport, kind) = match network.protocol {
        protocol if piece.offset != 0 => {
            // One that begins in the middle of a TCP header would overwrite the flags (RFC 3128).
            if protocol == Protocol::TCP && piece.offset == 1 {
                return Err(Reason::Malformed);
            }
            let may_be_ours = matches!(protocol, Protocol::TCP | Protocol::UDP)
                | (!is_v4 & (protocol == DESTINATION_OPTIONS));
            if !may_be_ours {
                return Err(Reason::Fragment);
            }
            (Transport::default(), Kind::LaterFragment)
        }
        Protocol::TCP | Protocol::UDP => (parse_transport(packet, &network)?, whole_or_first),
        _ if piece.more => return Err(Reason::Fragment),
        protocol if protocol == if is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 } => {
            if network.payload < size_of::<Icmp>() {
                return Err(Reason::Malformed);
            }
            (Transport::default(), Kind::Icmp)
        }
        _ => return Err(Reason::NotTcpOrUdp),
    };
    *parsed = Parsed::of(&link, is_v4, &network, kind, transport, packet.ingress());
    Ok(())
}

impl Parsed {
    /// What a packet's headers say together.
    #[inline(always)]
    fn of(
        link: &Link,
        is_v4: bool,
        network: &Network,
        kind: Kind,
        transport: Transport,
        ingress: u32,
    ) -> Self {
        let Network { source, destination, protocol, ttl, l4, payload, piece } = *network;
        Self {
            key: FlowKey::new(
                Endpoint::new(source, transport.source, protocol),
                Endpoint::new(destination, transport.destination, protocol),
            ),
            kind,
            is_v4,
            l3: link.l3,
            l4,
            ip_length: (l4 + payload - link.l3) as u32,
            tcp_flags: transport.tcp_flags,
            asks: transport.asks,
            ttl,
            identification: piece.identification,
            ingress,
            destination_mac: link.ethernet.destination,
            source_mac: link.ethernet.source,
            tags: link.tags,
        }
    }
}

/// What a TCP or UDP header says, whose length is looked at.
#[inline(always)]
fn parse_transport<P: Packet>(packet: &P, network: &Network) -> Result<Transport, Reason> {
    if network.protocol == Protocol::TCP {
        let tcp: Tcp = packet.read(network.l4).ok_or(Reason::Malformed)?;
        let header = usize::from(tcp.data_offset >> 4) * 4;
        if header < size_of::<Tcp>() || header > network.payload {
            return Err(Reason::Malformed);
        }
        let asks = (tcp.flags & (TCP_SYN | TCP_FIN) != 0) | (header < network.payload);
        Ok(Transport { source: tcp.source, destination: tcp.destination, tcp_flags: tcp.flags, asks })
    } else {
        let udp: Udp = packet.read(network.l4).ok_or(Reason::Malformed)?;
        let length = usize::from(udp.length.get());
        if length < size_of::<Udp>() || length > network.payload && !network.piece.more {
            return Err(Reason::Malformed);
        }
        Ok(Transport { source: udp.source, destination: udp.destination, tcp_flags: 0, asks: true })
    }
}

/// What [`parse`] makes of a packet as most are: whole, of TCP or UDP over IPv4 (`V4`) or IPv6, without tags, options and
/// extension headers; nothing, where it is another. Where its headers lie are constants then, and it need not be kept in
/// memory. Whether its frame is for one host its caller sees, who knows this host's MACs.
#[inline(always)]
pub fn parse_plain<const V4: bool, P: Packet>(packet: &P) -> Option<Parsed> {
    let l3 = size_of::<Ethernet>();
    let ethernet: Ethernet = packet.read(0)?;
    let ethertype = if V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    if ethernet.ethertype.get() != ethertype || packet.tag_beside() != 0 {
        return None;
    }
    let (network, l4) = if V4 {
        (parse_v4(packet, l3).ok()?, l3 + size_of::<Ipv4>())
    } else {
        let ip: Ipv6 = packet.read(l3)?;
        if !matches!(ip.next_header, Protocol::TCP | Protocol::UDP) {
            return None;
        }
        (parse_v6(packet, l3).ok()?, l3 + size_of::<Ipv6>())
    };
    let is_whole = (network.piece.offset == 0) & !network.piece.more;
    if network.l4 != l4 || !is_whole || !matches!(network.protocol, Protocol::TCP | Protocol::UDP) {
        return None;
    }
    let link = Link { ethernet, tags: Tags::default(), ethertype, l3 };
    let network = Network { l4, piece: Piece::default(), ..network };
    let transport = parse_transport(packet, &network).ok()?;
    Some(Parsed::of(&link, V4, &network, Kind::Flow, transport, packet.ingress()))
}

/// What the IP header says.
struct Network {
    source: Address,
    destination: Address,
    protocol: Protocol,
    ttl: u8,
    /// Where the payload begins.
    l4: usize,
    /// How many bytes it has, by the header's word, and no more than are there.
    payload: usize,
    piece: Piece,
}

/// What the header behind it says; all 0 where there is none with ports.
#[derive(Clone, Copy, Default)]
struct Transport {
    source: Port,
    destination: Port,
    tcp_flags: u8,
    asks: bool,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Default)]
struct Piece {
    /// Where in the packet's payload it begins, in units of eight bytes.
    offset: u16,
    /// Whether others come behind it.
    more: bool,
    identification: Be32,
}

impl Piece {
    /// From an IPv4 header.
    #[inline(always)]
    fn v4(ip: &Ipv4) -> Self {
        let fragment = ip.fragment.get();
        Self {
            offset: fragment & 0x1fff,
            more: fragment & 0x2000 != 0,
            identification: Be32::new(u32::from(ip.identification.get())),
        }
    }
}

/// IPv4, with or without options (RFC 791).
#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, l3: usize) -> Result<Network, Reason> {
    let ip: Ipv4 = packet.read(l3).ok_or(Reason::Malformed)?;
    let header = usize::from(ip.version_and_length & 0xf) * 4;
    let total = usize::from(ip.total_length.get());
    if ip.version_and_length >> 4 != 4 || header < size_of::<Ipv4>() || total < header {
        return Err(Reason::Malformed);
    }
    if !packet.reaches(l3 + total) {
        return Err(Reason::LengthMismatch);
    }
    Ok(Network {
        source: Address::v4(ip.source),
        destination: Address::v4(ip.destination),
        protocol: ip.protocol,
        ttl: ip.ttl,
        l4: l3 + header,
        payload: total - header,
        piece: Piece::v4(&ip),
    })
}

/// How many IPv6 extension headers are walked: each that a sender may use before TCP or UDP, once.
const EXTENSION_HEADERS: usize = 4;

/// Extension headers (IANA "IPv6 Extension Header Types").
const HOP_BY_HOP: Protocol = Protocol(0);
const ROUTING: Protocol = Protocol(43);
const FRAGMENT: Protocol = Protocol(44);
const DESTINATION_OPTIONS: Protocol = Protocol::DESTINATION_OPTIONS;
/// Those that end the walk: authentication (it covers the addresses), mobility, HIP, Shim6, tests.
const NOT_WALKED: [u8; 6] = [51, 135, 139, 140, 253, 254];

/// IPv6, with a bounded walk of its extension headers (RFC 8200 section 4).
#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, l3: usize) -> Result<Network, Reason> {
    let ip: Ipv6 = packet.read(l3).ok_or(Reason::Malformed)?;
    if ip.version_and_flow.get() >> 28 != 6 {
        return Err(Reason::Malformed);
    }
    let start = l3 + size_of::<Ipv6>();
    let end = start + usize::from(ip.payload_length.get());
    if !packet.reaches(end) {
        return Err(Reason::LengthMismatch);
    }
    let (protocol, l4, piece) = walk(packet, ip.next_header, start)?;
    let (source, destination) = (Address::v6(ip.source), Address::v6(ip.destination));
    // IPv4-mapped addresses have no business on a wire (RFC 4942 section 2.2), and would be taken for
    // IPv4 in the tables.
    if l4 > end || source.is_v4() || destination.is_v4() {
        return Err(Reason::Malformed);
    }
    Ok(Network { source, destination, protocol, ttl: ip.hop_limit, l4, payload: end - l4, piece })
}

/// Walks over the extension headers; returns what follows them, where, and which part of a packet it is.
#[inline(always)]
fn walk<P: Packet>(
    packet: &P,
    mut protocol: Protocol,
    mut l4: usize,
) -> Result<(Protocol, usize, Piece), Reason> {
    let mut piece = Piece::default();
    for _ in 0..EXTENSION_HEADERS {
        if protocol == FRAGMENT {
            let header: Ipv6Fragment = packet.read(l4).ok_or(Reason::Malformed)?;
            let fragment = header.fragment.get();
            // A packet is fragmented once.
            if piece.more {
                return Err(Reason::Malformed);
            }
            piece = Piece {
                offset: fragment >> 3,
                more: fragment & 1 != 0,
                identification: header.identification,
            };
            protocol = header.next_header;
            l4 += size_of::<Ipv6Fragment>();
            if piece.offset != 0 {
                return Ok((protocol, l4, piece));
            }
            continue;
        }
        if !matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            break;
        }
        let header: ExtensionHeader = packet.read(l4).ok_or(Reason::Malformed)?;
        // With segments left, the address in the IP header is not the last one (RFC 8200 section 4.4).
        if protocol == ROUTING && header.segments_left != 0 {
            return Err(Reason::ExtensionHeaders);
        }
        protocol = header.next_header;
        l4 += (usize::from(header.length) + 1) * 8;
    }
    match protocol {
        FRAGMENT | HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => return Err(Reason::ExtensionHeaders),
        Protocol(number) if NOT_WALKED.contains(&number) => return Err(Reason::ExtensionHeaders),
        _ => {}
    }
    Ok((protocol, l4, piece))
}

/// The largest ICMP error that is looked into, bytes of IP. A router makes them of 576 or 1,280 bytes at the
/// most (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)); any fits into a frame.
const ERROR_LENGTH: u32 = 4096;

/// Reads the headers of the packet that an ICMP error quotes, of which at least the ports are there. Its
/// `l3` and `l4` are places in the frame, and its `ip_length` is what is quoted of it.
///
/// A call of its own in the kernel, as [`parse`] is.
///
/// # Errors
/// The reason why the error is passed to the host.
#[inline(never)]
pub fn parse_quoted<P: Packet>(packet: &P, error: &Parsed, quoted: &mut Parsed) -> Result<(), Reason> {
    if error.ip_length > ERROR_LENGTH {
        return Err(Reason::Malformed);
    }
    let l3 = error.l4 + size_of::<Icmp>();
    let end = error.l3 + error.ip_length as usize;
    let network =
        if error.is_v4 { parse_quoted_v4(packet, l3, end)? } else { parse_quoted_v6(packet, l3, end)? };
    // A later fragment has no ports; the first has.
    if network.piece.offset != 0 {
        return Err(Reason::Fragment);
    }
    if !matches!(network.protocol, Protocol::TCP | Protocol::UDP) {
        return Err(Reason::NotTcpOrUdp);
    }
    if network.payload < QUOTED_TRANSPORT {
        return Err(Reason::Malformed);
    }
    let [source_port, destination_port]: [Port; 2] = packet.read(network.l4).ok_or(Reason::Malformed)?;
    *quoted = Parsed {
        key: FlowKey::new(
            Endpoint::new(network.source, source_port, network.protocol),
            Endpoint::new(network.destination, destination_port, network.protocol),
        ),
        is_v4: error.is_v4,
        l3,
        l4: network.l4,
        ip_length: (end - l3) as u32,
        // As of a flow that is under way.
        tcp_flags: TCP_ACK,
        ..Parsed::default()
    };
    Ok(())
}

/// How much is quoted of a TCP or UDP packet at least, bytes: its ports and what identifies it (RFC 792).
const QUOTED_TRANSPORT: usize = 8;

/// The payload's length is what is there of it: the quote may be cut short, and says how long the packet was.
#[inline(always)]
fn parse_quoted_v4<P: Packet>(packet: &P, l3: usize, end: usize) -> Result<Network, Reason> {
    let ip: Ipv4 = packet.read(l3).ok_or(Reason::Malformed)?;
    let header = usize::from(ip.version_and_length & 0xf) * 4;
    let l4 = l3 + header;
    if ip.version_and_length >> 4 != 4 || header < size_of::<Ipv4>() || l4 > end {
        return Err(Reason::Malformed);
    }
    Ok(Network {
        source: Address::v4(ip.source),
        destination: Address::v4(ip.destination),
        protocol: ip.protocol,
        ttl: ip.ttl,
        l4,
        payload: end - l4,
        piece: Piece::v4(&ip),
    })
}

#[inline(always)]
fn parse_quoted_v6<P: Packet>(packet: &P, l3: usize, end: usize) -> Result<Network, Reason> {
    let ip: Ipv6 = packet.read(l3).ok_or(Reason::Malformed)?;
    let (protocol, l4, piece) = walk(packet, ip.next_header, l3 + size_of::<Ipv6>())?;
    let (source, destination) = (Address::v6(ip.source), Address::v6(ip.destination));
    if ip.version_and_flow.get() >> 28 != 6 || l4 > end || source.is_v4() || destination.is_v4() {
        return Err(Reason::Malformed);
    }
    Ok(Network { source, destination, protocol, ttl: ip.hop_limit, l4, payload: end - l4, piece })
}
