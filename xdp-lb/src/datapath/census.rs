//! Counting the flows that live, by backend, and removing the records of those that are over.

use std::collections::HashMap;

use anyhow::Result;
use xdp_lb_common::tables::{BackendIndex, FlowKey, FlowRecord, Settings};

use super::maps::Flows;

/// The flow table at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many flows live, by their backend.
    pub live: HashMap<BackendIndex, u64>,
    /// How many records are in use; a flow that is recorded in both directions has two.
    pub records: u64,
}

/// Walks the table once: about 100 ns a record.
pub fn take(flows: &mut Flows, settings: &Settings, now: u32) -> Result<Census> {
    let mut census = Census::default();
    flows.sweep(|key: &FlowKey, record: &FlowRecord| {
        if record.life.is_over(key.protocol, now, settings) {
            return true;
        }
        census.records += 1;
        if !record.life.is_reply() && record.life.is_live(key.protocol, now, settings) {
            *census.live.entry(record.backend).or_default() += 1;
        }
        false
    })?;
    Ok(census)
}
