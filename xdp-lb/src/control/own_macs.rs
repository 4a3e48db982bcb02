//! Which frames the datapath takes as addressed to this host.

use std::collections::BTreeSet;

use xdp_lb_common::own_mac::OwnMac;

use super::kernel::Kernel;
use super::owner::Owner;
use crate::model::state::TroubleKind;
use crate::net::OwnMacs;

impl<K: Kernel> Owner<K> {
    /// Takes in what MACs the interfaces have now.
    pub(super) fn take_in_own_macs(&mut self, own_macs: OwnMacs) {
        self.own_macs = own_macs;
        self.write_own_macs(&[]);
    }

    /// Tells the datapath the MACs of the interfaces that it is attached to, whatever their names are by now, and of those it
    /// is to be attached to.
    pub(super) fn write_own_macs(&mut self, more: &[String]) {
        let names = self.config.interfaces.iter().chain(self.interfaces.keys()).chain(more);
        let named = names.filter_map(|name| Some(self.own_macs.get(name)?.index));
        let indices = named.chain(self.kernel.attached_interfaces()).collect();
        let written = self.kernel.set_own_macs(&macs_of(&self.own_macs, indices));
        self.note_error(TroubleKind::OwnMacs, written.err());
    }
}

/// The MACs of the interfaces with these indices. Those of their ports, too: a bond's program runs on each of its ports.
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

        // Renamed, an interface keeps its index and the program.
        let mut renamed = own_macs;
        let eth1 = renamed.remove("eth1").unwrap();
        renamed.insert("back0".into(), eth1);
        assert_eq!(macs_of(&renamed, BTreeSet::from([5, 4, 77])), BTreeSet::from(expected));
        renamed.remove("back0");
        assert_eq!(macs_of(&renamed, BTreeSet::from([4])), BTreeSet::new(), "one that is gone is forgotten");
    }
}
