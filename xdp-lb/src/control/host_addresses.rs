//! This host's addresses in the BPF tables: MACs of received frames, source addresses of ICMP errors, and addresses that are
//! invalid as sources of received packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use xdp_lb_common::net::Address;
use xdp_lb_common::own_mac::OwnMac;

use super::journal::Journal;
use super::kernel::Kernel;
use crate::model::state::TroubleKind;
use crate::net::{OwnMacs, RouterAddressesOf};
use crate::tables::Tables;

/// This host's addresses.
pub(super) struct HostAddresses {
    macs: OwnMacs,
    /// The addresses on each interface.
    of_router: RouterAddressesOf,
    /// All of them, once known.
    all: Option<BTreeSet<IpAddr>>,
    /// The addresses in the tables.
    told: Option<BTreeSet<Address>>,
}

impl HostAddresses {
    /// With the MACs only.
    pub(super) fn new(macs: OwnMacs) -> Self {
        Self { macs, of_router: RouterAddressesOf::new(), all: None, told: None }
    }

    /// Updates the MACs of the interfaces.
    pub(super) fn set_macs(&mut self, macs: OwnMacs) {
        self.macs = macs;
    }

    /// Updates the addresses of each interface.
    pub(super) fn set_of_router(&mut self, addresses: RouterAddressesOf) {
        self.of_router = addresses;
    }

    /// Updates all addresses.
    pub(super) fn set_all(&mut self, addresses: BTreeSet<IpAddr>) {
        self.all = Some(addresses);
    }

    /// Writes the MACs of the interfaces that have the program (under any name), and of those that should have it.
    pub(super) fn write_macs<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
    ) {
        let named = names.filter_map(|name| Some(self.macs.get(name)?.index));
        let indices = named.chain(kernel.attached_interfaces()).collect();
        let written = kernel.set_own_macs(&macs_of(&self.macs, indices));
        journal.note_error(TroubleKind::OwnMacs, written.err());
    }

    /// Writes the source addresses of ICMP errors, if they are enabled.
    pub(super) fn write_router(&self, answers: bool, kernel: &mut dyn Kernel) {
        let none = RouterAddressesOf::new();
        if let Err(error) = kernel.set_router_addresses(if answers { &self.of_router } else { &none }) {
            tracing::error!("cannot write this host's addresses to the datapath: {error:#}");
        }
    }

    /// Writes the addresses that are invalid as sources of received packets: this host's, and those that backends see. Until the
    /// former are known, an earlier daemon's stay.
    pub(super) fn write_own(&mut self, tables: &Tables, kernel: &mut dyn Kernel) {
        let Some(all) = &self.all else { return };
        let all = all.iter().map(|address| Address::from(*address));
        let own: BTreeSet<_> = all.chain(tables.snat_addresses.values().copied()).collect();
        if self.told.as_ref() == Some(&own) {
            return;
        }
        match kernel.set_own_addresses(&own) {
            Ok(()) => self.told = Some(own),
            Err(error) => tracing::error!("cannot write this host's addresses to the datapath: {error:#}"),
        }
    }
}

/// The MACs of the interfaces with these indices, and of their ports: a bond's program runs on each port.
fn macs_of(own_macs: &OwnMacs, mut indices: BTreeSet<u32>) -> BTreeSet<OwnMac> {
    loop {
        let is_port = |port: Option<u32>| port.is_some_and(|master| indices.contains(&master));
        let ports = own_macs.values().filter(|interface| is_port(interface.master));
        let ports: BTreeSet<u32> = ports.map(|interface| interface.index).collect();
        if ports.is_subset(&indices) {
            break;
        }
        indices.extend(ports);
    }
    let interfaces = own_macs.values().filter(|interface| indices.contains(&interface.index));
    interfaces
        .flat_map(|interface| interface.macs.iter().map(|mac| OwnMac::new(interface.index, *mac)))
        .collect()
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::net::MacAddress;

    use super::*;
    use crate::net::InterfaceMacs;

    #[test]
    fn the_macs_are_those_of_the_interfaces_and_of_their_ports() {
        let mac = |last| MacAddress::new([2, 0, 0, 0, 0, last]);
        let interface = |name: &str, index, master, macs: &[u8]| {
            (
                name.to_owned(),
                InterfaceMacs { index, master, macs: macs.iter().map(|last| mac(*last)).collect() },
            )
        };
        let own_macs = OwnMacs::from([
            interface("bond0", 5, None, &[1, 9]),
            interface("eth0", 3, Some(5), &[1, 2, 9]),
            interface("eth1", 4, None, &[4]),
            interface("eth2", 6, None, &[6]),
        ]);
        let expected = [(5, 1), (5, 9), (3, 1), (3, 2), (3, 9), (4, 4)];
        let expected = expected.map(|(index, last)| OwnMac::new(index, mac(last)));
        assert_eq!(macs_of(&own_macs, BTreeSet::from([5, 4, 77])), BTreeSet::from(expected));

        // A renamed interface keeps its index and the program.
        let mut renamed = own_macs;
        let eth1 = renamed.remove("eth1").unwrap();
        renamed.insert("back0".into(), eth1);
        assert_eq!(macs_of(&renamed, BTreeSet::from([5, 4, 77])), BTreeSet::from(expected));
        renamed.remove("back0");
        assert_eq!(macs_of(&renamed, BTreeSet::from([4])), BTreeSet::new(), "one that is gone is forgotten");
    }
}
