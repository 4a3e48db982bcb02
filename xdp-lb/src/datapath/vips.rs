//! The addresses of services, for packets without a port.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::tables::SolePorts;

use super::plain::Plain;

/// `VIPS`, which has an entry for each address of a service.
pub struct Vips {
    map: HashMap<MapData, Plain<Address>, Plain<SolePorts>>,
    /// The services. Those of one address are adjacent.
    services: BTreeSet<Endpoint>,
}

impl Vips {
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self { map: map.try_into()?, services: BTreeSet::new() })
    }

    /// Takes over a table that an earlier daemon wrote, which may have ended between two writes.
    pub fn adopt(&mut self, services: BTreeSet<Endpoint>) -> Result<()> {
        let present: Result<Vec<_>, _> = self.map.keys().collect();
        for Plain(address) in present.context("cannot read the VIPs' addresses")? {
            if of_address(&services, &address).next().is_none() {
                self.map.remove(&Plain(address)).context("cannot remove a VIP's address")?;
            }
        }
        for vip in services {
            self.add(vip)?;
        }
        Ok(())
    }

    /// Restores the table from the services. Returns whether it was wrong.
    pub fn restore(&mut self) -> Result<bool> {
        let present: Result<BTreeMap<_, _>, _> = self
            .map
            .iter()
            .map(|entry| entry.map(|(Plain(address), Plain(ports))| (address, ports)))
            .collect();
        let present = present.context("cannot read the VIPs' addresses")?;
        let ports = |address: &Address| SolePorts::of(of_address(&self.services, address));
        let wanted: BTreeMap<_, _> =
            self.services.iter().map(|vip| (vip.address, ports(&vip.address))).collect();
        // Surplus entries first: they may take the room of missing ones.
        for address in present.keys().filter(|address| !wanted.contains_key(address)) {
            self.map.remove(&Plain(*address)).context("cannot remove a VIP's address")?;
        }
        for (address, ports) in wanted.iter().filter(|(address, ports)| present.get(address) != Some(ports)) {
            self.map.insert(Plain(*address), Plain(*ports), 0).context("cannot write a VIP's address")?;
        }
        Ok(wanted != present)
    }

    /// Adds a service's address, before the service exists.
    pub fn add(&mut self, vip: Endpoint) -> Result<()> {
        self.services.insert(vip);
        self.write(&vip.address)
    }

    /// Removes a service's address after the service, unless another service has it.
    pub fn remove(&mut self, vip: &Endpoint) -> Result<()> {
        self.services.remove(vip);
        self.write(&vip.address)
    }

    /// Writes the address's entry, from its services.
    fn write(&mut self, address: &Address) -> Result<()> {
        let mut its = of_address(&self.services, address).peekable();
        if its.peek().is_none() {
            return self.map.remove(&Plain(*address)).context("cannot remove a VIP's address");
        }
        let ports = SolePorts::of(its);
        if self.map.get(&Plain(*address), 0).is_ok_and(|Plain(present)| present == ports) {
            return Ok(());
        }
        self.map.insert(Plain(*address), Plain(ports), 0).context("cannot write a VIP's address")
    }
}

/// The services of an address.
fn of_address(services: &BTreeSet<Endpoint>, address: &Address) -> impl Iterator<Item = Endpoint> + Clone {
    let address = *address;
    let first = Endpoint::new(address, Port::new(0), Protocol(0));
    services.range(first..).copied().take_while(move |vip| vip.address == address)
}
