//! The port ranges of VIP addresses, for packets to a port without a service of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::net::{Endpoint, Port};
use xdp_lb_common::tables::filter::VIP;
use xdp_lb_common::tables::{PortRanges, Service};

use super::addresses::Addresses;
use super::memory::Words;
use super::plain::Plain;

/// `PORT_RANGES`, which follows the services on ranges, and `RANGED_ADDRESSES`, which saves packets to other addresses the lookup
/// in it.
pub struct Ranges {
    map: HashMap<MapData, Plain<Endpoint>, Plain<PortRanges>>,
    addresses: Addresses,
    /// The services, each with its last port.
    services: BTreeMap<Endpoint, Port>,
}

impl Ranges {
    /// The tables in these maps, for these services.
    pub fn new(map: Map, addresses: Words, services: &[(Endpoint, Service)]) -> Result<Self> {
        let services: BTreeMap<_, _> = ranges(services).collect();
        let addresses = Addresses::new(addresses, services.keys().map(|vip| (vip.address, VIP)));
        Ok(Self { map: map.try_into()?, addresses, services })
    }

    /// Restores the tables from the services, whatever else they contain: an earlier daemon may have ended between two writes, or
    /// others may have changed them. Returns whether they were wrong.
    pub fn restore(&mut self) -> Result<bool> {
        let mut differs = self.addresses.restore();
        let wanted: BTreeSet<_> = self.services.keys().map(all_ports).collect();
        // Surplus entries first: they may take the room of missing ones.
        let present: Result<Vec<_>, _> = self.map.keys().collect();
        for key in present.context("cannot read the VIPs' ranges of ports")? {
            if !wanted.contains(&key.0) {
                self.map.remove(&key).context("cannot remove a VIP's ranges of ports")?;
                differs = true;
            }
        }
        for key in &wanted {
            let ranges = port_ranges(key, self.services.iter().map(|(vip, last)| (*vip, *last)));
            if self.map.get(&Plain(*key), 0).is_ok_and(|Plain(present)| present == ranges) {
                continue;
            }
            self.write(key)?;
            differs = true;
        }
        Ok(differs)
    }

    /// Adds the ranges of services that already exist.
    pub fn put(&mut self, services: &[(Endpoint, Service)]) -> Result<()> {
        for (vip, last) in ranges(services) {
            if self.services.insert(vip, last).is_none() {
                self.addresses.add(&vip.address, VIP);
            }
            self.write(&all_ports(&vip))?;
        }
        Ok(())
    }

    /// Removes the ranges of services that still exist.
    pub fn remove(&mut self, vips: &[Endpoint]) -> Result<()> {
        for vip in vips {
            if self.services.remove(vip).is_some() {
                self.write(&all_ports(vip))?;
                self.addresses.remove(&vip.address, VIP);
            }
        }
        Ok(())
    }

    fn write(&mut self, key: &Endpoint) -> Result<()> {
        let ranges = port_ranges(key, self.services.iter().map(|(vip, last)| (*vip, *last)));
        match ranges == PortRanges::default() {
            true => self.map.remove(&Plain(*key)),
            false => self.map.insert(Plain(*key), Plain(ranges), 0),
        }
        .context("cannot write a VIP's ranges of ports")
    }
}

/// The services on ranges, each with its last port.
fn ranges(services: &[(Endpoint, Service)]) -> impl Iterator<Item = (Endpoint, Port)> {
    services.iter().filter(|(vip, _)| vip.is_range()).map(|(vip, service)| (*vip, service.last_port))
}

/// The key of a VIP's address and protocol.
fn all_ports(vip: &Endpoint) -> Endpoint {
    Endpoint::new(vip.address, Port::new(0), vip.protocol)
}

/// The ranges of these services, each with its last port, on the address and protocol of `key`.
pub fn port_ranges(key: &Endpoint, services: impl Iterator<Item = (Endpoint, Port)>) -> PortRanges {
    let mut ranges: Vec<_> = services
        .filter(|(vip, _)| vip.is_range() && all_ports(vip) == *key)
        .map(|(vip, last)| [vip.port.get(), last.get()])
        .collect();
    ranges.sort_unstable_by(|one, other| other.cmp(one));
    let mut table = PortRanges::default();
    table.ranges.iter_mut().zip(ranges).for_each(|(place, range)| *place = range);
    table
}
