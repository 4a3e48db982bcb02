//! Addresses, ports and protocols as they stand on the wire: values in network order, as types.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 or IPv6 address in 16 bytes, network order; IPv4 is held IPv4-mapped (`::ffff:a.b.c.d`,
/// RFC 4291 section 2.5.5.2), so that one table serves both families.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(4))]
pub struct Address(pub [u8; 16]);

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Address {
    /// The address of an IPv4 header's four bytes.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The address of an IPv6 header's sixteen bytes.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The last four bytes: the whole address where it is an IPv4 one.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.0[..12] == MAPPED
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(Ipv4Addr::from(address.v4_octets()))
        } else {
            Self::V6(Ipv6Addr::from(address.0))
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// A TCP or UDP port in network order.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Port(U16);

impl Port {
    /// The port of this number (host order).
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(U16::new(number))
    }

    /// The number (host order).
    #[inline(always)]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The two bytes as they stand in a header.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 2] {
        self.0.to_bytes()
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A transport protocol's IP protocol number (IANA "Protocol Numbers").
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
}

/// An Ethernet address (IEEE 802).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One end of a service or of a backend: address, port and protocol; the key of the tables that
/// know a service by its VIP, and a backend by its own address.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: Port,
    /// The transport protocol.
    pub protocol: Protocol,
    padding: u8,
}

impl Endpoint {
    /// The endpoint of these three.
    #[inline(always)]
    pub const fn new(address: Address, port: Port, protocol: Protocol) -> Self {
        Self { address, port, protocol, padding: 0 }
    }

    /// The endpoint of a socket address.
    pub fn from_socket(socket: SocketAddr, protocol: Protocol) -> Self {
        Self::new(socket.ip().into(), Port::new(socket.port()), protocol)
    }

    /// Address and port, as the standard library knows them.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address.into(), self.port.get())
    }
}
