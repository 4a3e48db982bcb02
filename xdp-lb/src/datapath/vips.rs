//! The addresses that services have, for packets that name no port.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};

use super::maps::Plain;

/// `VIPS`, which has an entry for each address that any service has.
pub struct Vips {
    map: HashMap<MapData, Plain<Address>, u32>,
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
            if !has(&services, &address) {
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
        let present: Result<BTreeSet<_>, _> =
            self.map.keys().map(|key| key.map(|Plain(address)| address)).collect();
        let present = present.context("cannot read the VIPs' addresses")?;
        let wanted: BTreeSet<_> = self.services.iter().map(|vip| vip.address).collect();
        // First: what is too much may take the room of what is missing.
        for address in present.difference(&wanted) {
            self.map.remove(&Plain(*address)).context("cannot remove a VIP's address")?;
        }
        for address in wanted.difference(&present) {
            self.map.insert(Plain(*address), 0, 0).context("cannot write a VIP's address")?;
        }
        Ok(wanted != present)
    }

    /// Adds a service's address, before the service is there.
    pub fn add(&mut self, vip: Endpoint) -> Result<()> {
        if !has(&self.services, &vip.address) {
            self.map.insert(Plain(vip.address), 0, 0).context("cannot write a VIP's address")?;
        }
        self.services.insert(vip);
        Ok(())
    }

    /// Removes a service's address, after the service, unless another service has it.
    pub fn remove(&mut self, vip: &Endpoint) -> Result<()> {
        self.services.remove(vip);
        if !has(&self.services, &vip.address) {
            self.map.remove(&Plain(vip.address)).context("cannot remove a VIP's address")?;
        }
        Ok(())
    }
}

fn has(services: &BTreeSet<Endpoint>, address: &Address) -> bool {
    let first = Endpoint::new(*address, Port::new(0), Protocol(0));
    services.range(first..).next().is_some_and(|vip| vip.address == *address)
}
