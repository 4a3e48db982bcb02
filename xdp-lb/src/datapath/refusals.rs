//! Packets that were not forwarded, by service and backend, as long as this program is loaded.

#![forbid(unsafe_code)]

use std::os::fd::AsFd as _;

use anyhow::{Context, Result};
use aya::maps::{IterableMap as _, Map, MapData, PerCpuHashMap};
use xdp_lb_common::tables::refusal::RefusalKey;

use super::plain::Plain;

/// Their counts.
pub struct Refusals(PerCpuHashMap<MapData, Plain<RefusalKey>, u64>);

impl Refusals {
    /// Those of this table.
    ///
    /// # Errors
    /// If the map is of another kind.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self(map.try_into()?))
    }

    /// A second handle to the same counts.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn share(&self) -> Result<Self> {
        let descriptor = self.0.map().fd().as_fd().try_clone_to_owned().context("cannot share a table")?;
        Self::new(Map::PerCpuHashMap(MapData::from_fd(descriptor)?))
    }

    /// The counts, summed over all CPUs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn read(&self) -> Result<Vec<(RefusalKey, u64)>> {
        let entries = self.0.iter().map(|entry| {
            let (Plain(key), packets) = entry?;
            Ok((key, packets.iter().sum()))
        });
        let mut all: Vec<_> = entries
            .collect::<Result<_, aya::maps::MapError>>()
            .context("cannot read what was not forwarded")?;
        all.sort_unstable();
        Ok(all)
    }

    /// Removes counts whose index another service or backend gets.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget(&mut self, is_one: impl Fn(&RefusalKey) -> bool) -> Result<()> {
        for (key, _) in self.read()?.into_iter().filter(|(key, _)| is_one(key)) {
            self.0.remove(&Plain(key)).context("cannot forget what was not forwarded")?;
        }
        Ok(())
    }
}
