//! The headers of Ethernet, IP, TCP, UDP and ICMP. Each field is at a multiple of its own width from the header's start.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::{Address, Be16, Be32, MacAddress, Port, Protocol};
use crate::packet::checksum::Sum;

/// EtherType of IPv4 (IEEE 802 Numbers, IANA).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Whether a VLAN tag follows an EtherType.
#[inline(always)]
pub const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// TCP FIN (RFC 9293 section 3.1).
pub const TCP_FIN: u8 = 0x01;
/// TCP SYN.
pub const TCP_SYN: u8 = 0x02;
/// TCP RST.
pub const TCP_RST: u8 = 0x04;
/// TCP ACK.
pub const TCP_ACK: u8 = 0x10;

/// ICMP echo request (RFC 792).
pub const ICMP_ECHO: u8 = 8;
/// ICMP echo reply.
pub const ICMP_ECHO_REPLY: u8 = 0;
/// ICMP destination unreachable, which includes "fragmentation needed".
pub const ICMP_UNREACHABLE: u8 = 3;
/// "Fragmentation needed and DF set", a code of ICMP "destination unreachable" (RFC 792).
pub const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
/// ICMP time exceeded.
pub const ICMP_TIME_EXCEEDED: u8 = 11;
/// ICMP parameter problem.
pub const ICMP_PARAMETER_PROBLEM: u8 = 12;
/// ICMPv6 destination unreachable (RFC 4443 section 3).
pub const ICMPV6_UNREACHABLE: u8 = 1;
/// ICMPv6 packet too big.
pub const ICMPV6_PACKET_TOO_BIG: u8 = 2;
/// ICMPv6 time exceeded.
pub const ICMPV6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 parameter problem.
pub const ICMPV6_PARAMETER_PROBLEM: u8 = 4;
/// ICMPv6 echo request (RFC 4443 section 4.1).
pub const ICMPV6_ECHO: u8 = 128;
/// ICMPv6 echo reply.
pub const ICMPV6_ECHO_REPLY: u8 = 129;

/// The offset of the checksum in a TCP header (RFC 9293 section 3.1) or a UDP header (RFC 768), in bytes.
#[inline(always)]
pub const fn checksum_offset(is_tcp: bool) -> usize {
    if is_tcp { 16 } else { 6 }
}

macro_rules! header {
    ($(#[$doc:meta])* $name:ident, $bytes:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

header! {
    /// Ethernet II (IEEE 802.3).
    Ethernet, 14 {
        /// Destination MAC.
        destination: MacAddress,
        /// Source MAC.
        source: MacAddress,
        /// The EtherType of the payload.
        ethertype: Be16,
    }
}

header! {
    /// A VLAN tag, after its own EtherType (IEEE 802.1Q).
    VlanTag, 4 {
        /// Priority (3 bits), drop eligible (1), VLAN id (12).
        control: Be16,
        /// The EtherType of the payload.
        ethertype: Be16,
    }
}

header! {
    /// IPv4 without its options (RFC 791 section 3.1).
    Ipv4, 20 {
        /// 4, and the header's length in 32-bit words.
        version_and_length: u8,
        /// Differentiated services and ECN.
        traffic_class: u8,
        /// The length of header and payload, in bytes.
        total_length: Be16,
        /// The id shared by a packet's fragments.
        identification: Be16,
        /// Flags (3 bits) and the fragment's offset in units of 8 bytes (13).
        fragment: Be16,
        /// Hops left.
        ttl: u8,
        /// The payload's protocol.
        protocol: Protocol,
        /// The header's checksum.
        checksum: Be16,
        /// Source address.
        source: Be32,
        /// Destination address.
        destination: Be32,
    }
}

header! {
    /// IPv6 (RFC 8200 section 3).
    Ipv6, 40 {
        /// 6, traffic class and flow label.
        version_and_flow: Be32,
        /// The number of bytes after this header.
        payload_length: Be16,
        /// The protocol of the next header.
        next_header: Protocol,
        /// Hops left.
        hop_limit: u8,
        /// Source address.
        source: [Be32; 4],
        /// Destination address.
        destination: [Be32; 4],
    }
}

/// The hop count of packets that originate here (IANA "IP Parameters", the default TTL).
const HOPS: u8 = 64;

/// "Don't fragment", in the word of flags and fragment offset (RFC 791 section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;

impl Ipv4 {
    /// The header of a packet that originates here, with this many bytes of payload: without options, never fragmented, and
    /// therefore without identification (RFC 6864 section 4.1).
    #[inline(always)]
    pub fn new(
        source: &Address,
        destination: &Address,
        protocol: Protocol,
        payload: u16,
        traffic_class: u8,
    ) -> Self {
        let mut ip = Self {
            version_and_length: 0x45,
            traffic_class,
            total_length: Be16::new(payload.wrapping_add(size_of::<Self>() as u16)),
            identification: Be16::new(0),
            fragment: Be16::new(DONT_FRAGMENT),
            ttl: HOPS,
            protocol,
            checksum: Be16::new(0),
            source: source.last(),
            destination: destination.last(),
        };
        let mut sum = Sum::default();
        sum.number(u16::from_be_bytes([ip.version_and_length, ip.traffic_class]));
        sum.number(ip.total_length.get());
        sum.number(DONT_FRAGMENT);
        sum.number(u16::from_be_bytes([ip.ttl, ip.protocol.0]));
        sum.v4(ip.source);
        sum.v4(ip.destination);
        ip.checksum = sum.finish();
        ip
    }
}

impl Ipv6 {
    /// The header of a packet that originates here, with this many bytes of payload. `flow_label`: 20 bits.
    #[inline(always)]
    pub fn new(
        source: &Address,
        destination: &Address,
        next_header: Protocol,
        payload: u16,
        traffic_class: u8,
        flow_label: u32,
    ) -> Self {
        Self {
            version_and_flow: Be32::new(6 << 28 | u32::from(traffic_class) << 20 | flow_label),
            payload_length: Be16::new(payload),
            next_header,
            hop_limit: HOPS,
            source: source.0,
            destination: destination.0,
        }
    }

    /// Differentiated services and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_and_flow.get() >> 20) as u8
    }
}

header! {
    /// The start of an IPv6 extension header with a length field (RFC 6564 section 4).
    ExtensionHeader, 4 {
        /// The protocol of the next header.
        next_header: Protocol,
        /// The length in units of 8 bytes, without the first 8.
        length: u8,
        /// A routing header's type; in others, an option's type.
        kind: u8,
        /// A routing header's segments left; in others, an option's length.
        segments_left: u8,
    }
}

header! {
    /// IPv6's fragment header (RFC 8200 section 4.5).
    Ipv6Fragment, 8 {
        /// The protocol of the next header, in the first fragment.
        next_header: Protocol,
        /// Reserved.
        reserved: u8,
        /// The fragment's offset in units of 8 bytes (13 bits), 2 reserved bits, and whether more fragments follow.
        fragment: Be16,
        /// The id shared by a packet's fragments.
        identification: Be32,
    }
}

header! {
    /// TCP without its options (RFC 9293 section 3.1).
    Tcp, 20 {
        /// Source port.
        source: Port,
        /// Destination port.
        destination: Port,
        /// Sequence number.
        sequence: Be32,
        /// Acknowledgment number.
        acknowledgment: Be32,
        /// The header's length in 32-bit words, in the upper four bits.
        data_offset: u8,
        /// The control bits.
        flags: u8,
        /// Window.
        window: Be16,
        /// Checksum over pseudo-header, header and payload.
        checksum: Be16,
        /// Urgent pointer.
        urgent: Be16,
    }
}

header! {
    /// UDP (RFC 768).
    Udp, 8 {
        /// Source port.
        source: Port,
        /// Destination port.
        destination: Port,
        /// The length of header and payload, in bytes.
        length: Be16,
        /// Checksum over pseudo-header, header and payload; 0 over IPv4: none.
        checksum: Be16,
    }
}

header! {
    /// Generic UDP Encapsulation, variant 0 (draft-ietf-intarea-gue section 3.1); variant 1 has no header.
    Gue, 4 {
        /// Variant (2 bits), control (1), and the length of the optional fields, in 32-bit words (5).
        variant_and_length: u8,
        /// The protocol of the payload; of a control message, its type.
        protocol: Protocol,
        /// The optional fields, a bit each.
        flags: Be16,
    }
}

header! {
    /// ICMP (RFC 792) and ICMPv6 (RFC 4443 section 2.1), the part common to all messages.
    Icmp, 8 {
        /// The type, such as [`ICMP_ECHO`].
        kind: u8,
        /// The code.
        code: u8,
        /// Checksum over header and payload; for ICMPv6 also over a pseudo-header.
        checksum: Be16,
        /// Depends on the type: an echo's identifier and sequence number, an MTU, or unused.
        rest: Be32,
    }
}
