//! The ranges of ports that VIP addresses have, for packets to a port without a service of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::net::{Endpoint, Port};
use xdp_lb_common::tables::filter::VIP;
use xdp_lb_common::tables::{PortRanges, Service};

use super::addresses::Addresses;
use super::memory::Words;
use super::plain::Plain;

/// `PORT_RANGES`, which follows the services whose keys are those of ranges, and `RANGED_ADDRESSES`, which spares
/// packets to the other addresses the look into it.
pub struct Ranges {
    map: HashMap<MapData, Plain<Endpoint>, Plain<PortRanges>>,
    addresses: Addresses,
    /// The services, and the last port of each.
    services: BTreeMap<Endpoint, Port>,
}

impl Ranges {
    /// The tables in these maps, where these services are.
    pub fn new(map: Map, addresses: Words, services: &[(Endpoint, Service)]) -> Result<Self> {
        let services: BTreeMap<_, _> = ranges(services).collect();
        let addresses = Addresses::new(addresses, services.keys().map(|vip| (vip.address, VIP)));
        Ok(Self { map: map.try_into()?, addresses, services })
    }

    /// Makes the tables what the services say, whatever an earlier daemon, which may have ended between two writes, or somebody
    /// else has left; returns whether they were not.
    pub fn restore(&mut self) -> Result<bool> {
        let mut differs = self.addresses.restore();
        let wanted: BTreeSet<_> = self.services.keys().map(all_ports).collect();
        // First: what is too much may take the room of what is missing.
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

    /// Adds the ranges of services that are there already.
    pub fn put(&mut self, services: &[(Endpoint, Service)]) -> Result<()> {
        for (vip, last) in ranges(services) {
            if self.services.insert(vip, last).is_none() {
                self.addresses.add(&vip.address, VIP);
            }
            self.write(&all_ports(&vip))?;
        }
        Ok(())
    }

    /// Forgets the ranges of services that are still there.
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

/// Those of these services that are on ranges, each with its last port.
fn ranges(services: &[(Endpoint, Service)]) -> impl Iterator<Item = (Endpoint, Port)> {
    services.iter().filter(|(vip, _)| vip.is_range()).map(|(vip, service)| (*vip, service.last_port))
}

/// The key of a VIP's address and protocol.
fn all_ports(vip: &Endpoint) -> Endpoint {
    Endpoint::new(vip.address, Port::new(0), vip.protocol)
}

/// The ranges that these services, each with its last port, have on the address and protocol of `key`.
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
