//! The source addresses of this host's messages as a router: one for each interface (RFC 1812 section 4.3.2.4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::net::Address;
use xdp_lb_common::tables::{RouterAddresses, RouterInterface};

use super::RouterAddressesOf;

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HostAddress {
    /// The index of its interface.
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
    /// The length of its prefix, bits.
    pub(super) prefix: u8,
}

impl HostAddress {
    /// Whether the router may use it as a source: other networks can reply to it.
    fn is_global(&self) -> bool {
        match self.address {
            IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
            IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
        }
    }

    /// Whether its prefix is a network's. Host addresses (VIPs, those of loopback interfaces) come after these.
    fn is_in_network(&self) -> bool {
        self.prefix < if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// The router's source address for each of these interfaces, each with the index of its device: the interface's first address,
/// or the host's first address if it has none. A VIP is used only if there is no other address.
pub(super) fn addresses(
    interfaces: &BTreeMap<RouterInterface, u32>,
    all: &[HostAddress],
) -> RouterAddressesOf {
    let find = |device: u32, is_v4: bool| -> Address {
        let mut fit: Vec<_> =
            all.iter().filter(|it| it.address.is_ipv4() == is_v4 && it.is_global()).collect();
        // The interface's own first, networks before host addresses, then in the kernel's order.
        fit.sort_by_key(|it| (!it.is_in_network(), it.ifindex != device));
        fit.first().map_or_else(Address::default, |it| it.address.into())
    };
    let of = |(interface, device): (&RouterInterface, &u32)| {
        let addresses = RouterAddresses { v4: find(*device, true), v6: find(*device, false) };
        (addresses != RouterAddresses::default()).then_some((*interface, addresses))
    };
    interfaces.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, written: &str) -> HostAddress {
        let (address, prefix) = written.split_once('/').unwrap();
        HostAddress { ifindex, address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }

    /// The source address for the interface with this index, of these addresses.
    fn speaks(all: &[HostAddress], ifindex: u32) -> (IpAddr, IpAddr) {
        let interface = RouterInterface { ifindex, vlan: 0 };
        let found = addresses(&BTreeMap::from([(interface, ifindex)]), all);
        let found = found.get(&interface).copied().unwrap_or_default();
        let v4 = if found.v4 == Address::default() { [0; 4].into() } else { found.v4.into() };
        (v4, found.v6.into())
    }

    #[test]
    fn an_interface_speaks_as_its_first_address_that_is_no_single_one_and_else_as_another_s() {
        let all = [
            address(1, "127.0.0.1/8"),
            address(1, "::1/128"),
            address(2, "192.0.2.10/32"),
            address(2, "192.0.2.2/24"),
            address(2, "192.0.2.3/24"),
            address(2, "fe80::2/64"),
            address(3, "2001:db8:3::10/128"),
            address(3, "2001:db8:3::1/64"),
        ];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(speaks(&all, 2), (ip("192.0.2.2"), ip("2001:db8:3::1")));
        assert_eq!(speaks(&all, 3), (ip("192.0.2.2"), ip("2001:db8:3::1")));
        assert_eq!(speaks(&all[..3], 2), (ip("192.0.2.10"), ip("::")), "better than nothing");
        assert_eq!(speaks(&all[..2], 2), (ip("0.0.0.0"), ip("::")));
    }
}
