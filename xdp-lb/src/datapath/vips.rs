//! The addresses that services have, for packets that name no port.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::tables::SolePorts;

use super::plain::Plain;

/// `VIPS`, which has an entry for each address that any service has.
pub struct Vips {
    map: HashMap<MapData, Plain<Address>, Plain<SolePorts>>,
    /// The services; those of one address stand side by side.
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

    /// Makes the table what the services say; returns whether it was not.
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
        // First: what is too much may take the room of what is missing.
        for address in present.keys().filter(|address| !wanted.contains_key(address)) {
            self.map.remove(&Plain(*address)).context("cannot remove a VIP's address")?;
        }
        for (address, ports) in wanted.iter().filter(|(address, ports)| present.get(address) != Some(ports)) {
            self.map.insert(Plain(*address), Plain(*ports), 0).context("cannot write a VIP's address")?;
        }
        Ok(wanted != present)
    }

    /// Adds a service's address, before the service is there.
    pub fn add(&mut self, vip: Endpoint) -> Result<()> {
        self.services.insert(vip);
        self.write(&vip.address)
    }

    /// Removes a service's address, after the service, unless another service has it.
    pub fn remove(&mut self, vip: &Endpoint) -> Result<()> {
        self.services.remove(vip);
        self.write(&vip.address)
    }

    /// Writes what the address's services make of its entry.
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
