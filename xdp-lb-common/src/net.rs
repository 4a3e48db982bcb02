//! Addresses, ports and protocols as on the wire: types for values in network order.
//!
//! Each has the same size in memory as on the wire, and the alignment of the machine word of that size, so that the datapath
//! reads and compares it in one instruction.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{Layout, key, plain};

/// A 16-bit number in network order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// From the number in host order.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number, in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// Its bytes as a machine word.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0
    }

    /// From its bytes as a machine word.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A 32-bit number in network order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// From the number in host order.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Self(number.to_be())
    }

    /// The number, in host order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// Its bytes as a machine word.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// From its bytes as a machine word.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }
}

impl fmt::Debug for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// An IPv4 or IPv6 address in 16 bytes, in network order. IPv4 addresses are IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 section
/// 2.5.5.2), so that one table serves both families.
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Address(pub [Be32; 4]);

impl Layout for Address {}

/// Without a branch for each word: the verifier would follow them all.
impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        (a.0 ^ e.0) | (b.0 ^ f.0) | (c.0 ^ g.0) | (d.0 ^ h.0) == 0
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Address {
    /// From an IPv4 header.
    #[inline(always)]
    pub const fn v4(address: Be32) -> Self {
        Self([Be32::new(0), Be32::new(0), Be32::new(0xffff), address])
    }

    /// From an IPv6 header.
    #[inline(always)]
    pub const fn v6(address: [Be32; 4]) -> Self {
        Self(address)
    }

    /// The last 32 bits: the whole address if it is IPv4.
    #[inline(always)]
    pub const fn last(&self) -> Be32 {
        self.0[3]
    }

    /// Whether a packet from this address may be answered: it is not multicast, broadcast or unspecified (RFC 1122 section 3.2.2,
    /// RFC 4443 section 2.4 (e)).
    #[inline(always)]
    pub fn is_one_host(&self) -> bool {
        if self.is_v4() {
            // 0.0.0.0/8 is "this network"; multicast, reserved and broadcast begin at 224.0.0.0.
            matches!(self.last().get() >> 24, 1..=223)
        } else {
            self.0[0].get() >> 24 != 0xff && *self != Self::default()
        }
    }

    /// Whether this is invalid as the source of a received packet: not the address of [one host](Self::is_one_host), or
    /// loopback (RFC 1122 section 3.2.1.3, RFC 4291 sections 2.5.3 and 2.7).
    #[inline(always)]
    pub fn is_martian(&self) -> bool {
        if self.is_v4() {
            let first = self.last().get() >> 24;
            !matches!(first, 1..=223) || first == 127
        } else {
            let [a, b, c, d] = self.0;
            // The unspecified address and loopback differ in their last bit.
            let is_low = (a.0 | b.0 | c.0) == 0 && d.get() <= 1;
            a.get() >> 24 == 0xff || is_low
        }
    }

    /// The address with all but its first `bits` bits zeroed.
    #[inline(always)]
    pub fn first_bits(&self, bits: u8) -> Self {
        let [a, b, c, d] = self.0;
        let mask = |word: u32, place: u32| {
            let kept = u32::from(bits).saturating_sub(place * 32).min(32);
            Be32::new(word & (0xffff_ffff_0000_0000u64 >> kept) as u32)
        };
        Self([mask(a.get(), 0), mask(b.get(), 1), mask(c.get(), 2), mask(d.get(), 3)])
    }

    /// Its two halves as machine words, for hashes.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [(a.0 as u64) << 32 | b.0 as u64, (c.0 as u64) << 32 | d.0 as u64]
    }

    /// From these two halves.
    #[inline(always)]
    pub const fn from_words([first, second]: [u64; 2]) -> Self {
        Self([
            Be32((first >> 32) as u32),
            Be32(first as u32),
            Be32((second >> 32) as u32),
            Be32(second as u32),
        ])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.0[0].0 == 0 && self.0[1].0 == 0 && self.0[2] == Be32::new(0xffff)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let v6 = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let bits = v6.to_bits();
        Self([96, 64, 32, 0].map(|shift| Be32::new((bits >> shift) as u32)))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            return Self::V4(Ipv4Addr::from_bits(address.last().get()));
        }
        let bits = address.0.iter().fold(0, |bits, word| bits << 32 | u128::from(word.get()));
        Self::V6(Ipv6Addr::from_bits(bits))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// A TCP or UDP port in network order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Port(Be16);

impl Port {
    /// From its number in host order.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(Be16::new(number))
    }

    /// Its number in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Its two bytes as a machine word.
    #[inline(always)]
    pub const fn word(self) -> u16 {
        self.0.word()
    }

    /// From its two bytes as a machine word.
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(Be16::from_word(word))
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

plain! {
    /// A protocol's number in the IP header (IANA "Protocol Numbers").
    #[repr(transparent)]
    pub struct Protocol(pub u8);
}

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// An IPv4 packet (RFC 2003).
    pub const IPV4: Self = Self(4);
    /// An IPv6 packet (RFC 2473).
    pub const IPV6: Self = Self(41);
    /// IPv6 destination options (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
}

/// An Ethernet address (IEEE 802), in network order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct MacAddress([Be16; 3]);

impl MacAddress {
    /// From its bytes.
    #[inline(always)]
    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([
            Be16(u16::from_ne_bytes([a, b])),
            Be16(u16::from_ne_bytes([c, d])),
            Be16(u16::from_ne_bytes([e, f])),
        ])
    }

    /// Its bytes.
    pub const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] =
            [self.0[0].0.to_ne_bytes(), self.0[1].0.to_ne_bytes(), self.0[2].0.to_ne_bytes()];
        [a, b, c, d, e, f]
    }

    /// Whether it is a broadcast or multicast address (IEEE 802, the group bit).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0].get() & 0x0100 != 0
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

key! {
    /// An endpoint of a service or a backend: address, port and protocol. It is the key of the tables of services (by VIP) and
    /// backends (by their own address).
    pub struct Endpoint {
        /// The address.
        pub address: Address,
        /// The port.
        pub port: Port,
        /// The transport protocol.
        pub protocol: Protocol,
        /// 1: the key of a service on a range of ports, of which `port` is the first; else 0.
        is_range: u8,
    }
}

impl Endpoint {
    /// From its parts.
    #[inline(always)]
    pub const fn new(address: Address, port: Port, protocol: Protocol) -> Self {
        Self { address, port, protocol, is_range: 0 }
    }

    /// The key of the service on the port range that starts with this port. Never an endpoint of a packet.
    #[inline(always)]
    pub const fn range(self) -> Self {
        Self { is_range: 1, ..self }
    }

    /// The same with another port. 0 means all ports of an address.
    #[inline(always)]
    pub const fn with_port(self, port: Port) -> Self {
        Self { port, ..self }
    }

    /// Whether it is the key of a service on a port range.
    pub const fn is_range(&self) -> bool {
        self.is_range != 0
    }

    /// From a socket address.
    pub fn from_socket(socket: SocketAddr, protocol: Protocol) -> Self {
        Self::new(socket.ip().into(), Port::new(socket.port()), protocol)
    }

    /// Its machine words, for hashes: those of the address, then the rest.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 3] {
        let [high, low] = self.address.words();
        let rest = (self.port.word() as u64) << 16 | (self.protocol.0 as u64) << 8 | self.is_range as u64;
        [high, low, rest]
    }

    /// Whether both are equal. Without a branch for each field, like for addresses.
    #[inline(always)]
    pub fn is(&self, other: &Self) -> bool {
        let rest = |endpoint: &Self| endpoint.words()[2];
        (self.address == other.address) & (rest(self) == rest(other))
    }

    /// Address and port as a type of the standard library.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address.into(), self.port.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_host_has_is_martian() {
        let is_martian = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_martian();
        for martian in [
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff00::",
            "ff02::1",
            "ffff::1",
        ] {
            assert!(is_martian(martian), "{martian}");
        }
        for host in [
            "1.0.0.0",
            "10.0.0.1",
            "126.255.255.255",
            "128.0.0.0",
            "169.254.1.1",
            "192.0.2.1",
            "223.255.255.255",
            "::2",
            "::1:0:0:1",
            "1::",
            "2001:db8::1",
            "fe80::1",
            "fd00::1",
            "fe00::",
        ] {
            assert!(!is_martian(host), "{host}");
        }
    }

    #[test]
    fn the_first_bits_of_an_address_are_those_of_its_network() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        for (whole, bits, first) in [
            ("203.0.113.77", 128, "203.0.113.77"),
            ("203.0.113.77", 96 + 24, "203.0.113.0"),
            ("203.0.113.77", 96 + 26, "203.0.113.64"),
            ("203.0.113.77", 96 + 1, "128.0.0.0"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 65, "2001:db8:1:2::"),
            ("2001:db8:1:2:8003:4:5:6", 65, "2001:db8:1:2:8000::"),
            ("2001:db8:1:2:3:4:5:6", 0, "::"),
            ("2001:db8:1:2:3:4:5:6", 255, "2001:db8:1:2:3:4:5:6"),
        ] {
            assert_eq!(address(whole).first_bits(bits), address(first), "{whole}/{bits}");
        }
    }
}
