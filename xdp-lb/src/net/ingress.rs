//! The interface on which a host's packets arrive, if they take the same path as packets to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;
use nix::sys::socket::SockaddrStorage;

/// The interface through which this host sends to an address. Nothing is sent: the kernel looks up the route when a UDP socket is
/// connected, and with it the address that this host would send from.
pub fn towards(address: IpAddr) -> Option<String> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Any port will do. This is the discard service's (RFC 863), in case anything is ever sent.
    socket.connect((address, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let mut interfaces = getifaddrs().ok()?;
    interfaces.find(|it| it.address.as_ref().and_then(ip) == Some(own)).map(|it| it.interface_name)
}

/// The Ethernet address of an interface.
pub fn mac(interface: &str) -> Option<[u8; 6]> {
    let mut all = getifaddrs().ok()?.filter(|it| it.interface_name == interface);
    all.find_map(|it| it.address?.as_link_addr()?.addr())
}

/// An address of this host on an interface, of the family of another one: the first that other hosts can use.
pub fn address(interface: &str, like: IpAddr) -> Option<IpAddr> {
    let its = getifaddrs().ok()?.filter(|it| it.interface_name == interface);
    let mut addresses = its.filter_map(|it| ip(it.address.as_ref()?));
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    addresses.find(|it| it.is_ipv4() == like.is_ipv4() && !is_local(it))
}

/// Whether an interface of this host has this Ethernet address.
pub fn is_own_mac(mac: [u8; 6]) -> bool {
    let Ok(mut all) = getifaddrs() else { return false };
    all.any(|it| {
        it.address.is_some_and(|address| address.as_link_addr().and_then(|it| it.addr()) == Some(mac))
    })
}

/// The name of the interface with this index.
pub fn name(index: u32) -> String {
    if_indextoname(index)
        .map_or_else(|_| format!("interface {index}"), |name| name.to_string_lossy().into_owned())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| SocketAddr::from(*it).ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_through_lo_which_has_a_mac_of_zeroes() {
        assert_eq!(towards(IpAddr::from([127, 0, 0, 1])).as_deref(), Some("lo"));
        assert_eq!(mac("lo"), Some([0; 6]));
        assert_eq!(mac("nope0"), None);
    }
}
