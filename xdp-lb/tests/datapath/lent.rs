//! Datapaths in the kernel, lent to one test after the other: having the programs verified takes longer than most tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use xdp_lb::datapath::{Checks, Datapath, Options};
use xdp_lb::model::Limits;
use xdp_lb::tables::{Tables, Write};
use xdp_lb_common::tables::{ServiceIndex, Settings, Traffic};

use crate::kept::Kept;

/// The tables that packets write to, but for the events.
const OF_PACKETS: [&str; 12] = [
    "SETTINGS",
    "FLOW_TAGS",
    "FLOW_LINES",
    "FLOW_PORTS",
    "FLOW_LOCKS",
    "SOURCE_RATES",
    "FRAGMENTS",
    "REASON_COUNTERS",
    "SERVICE_FLOWS",
    "BACKEND_FLOWS",
    "BACKEND_COUNTERS",
    "ANSWERS",
];

/// Those that tests write to, and in which nothing is removed but by writing over it.
const OF_TESTS: [&str; 4] = ["BACKENDS", "SLOTS", "SNAT_ADDRESSES", "CHECKS"];

/// Those that are not lent now.
static IDLE: Mutex<Vec<Rig>> = Mutex::new(Vec::new());

/// A datapath, with empty tables. What is in them when it is dropped is removed.
pub struct Lent(Option<Rig>);

/// A datapath, and what belongs to it.
pub struct Rig {
    kernel: Datapath,
    limits: Limits,
    pub checks: Checks,
    /// What packets change.
    pub of_packets: Kept,
    /// The same, and what tests change, as it was in the beginning.
    beginning: Kept,
    settings: Settings,
}

impl Lent {
    /// One with these options, whose policy is the same for all.
    pub fn new(options: &Options) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let present = idle.iter().position(|rig| rig.limits == options.limits);
        let present = present.map(|place| idle.swap_remove(place));
        drop(idle);
        Self(Some(present.unwrap_or_else(|| Rig::new(options).unwrap_or_else(|error| panic!("{error:#}")))))
    }

    /// All of it.
    pub fn rig(&mut self) -> &mut Rig {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl Deref for Lent {
    type Target = Datapath;

    fn deref(&self) -> &Datapath {
        &self.0.as_ref().expect("it is there until it is dropped").kernel
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Datapath {
        &mut self.rig().kernel
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What a test leaves that fails, nobody knows.
        let Some(mut rig) = self.0.take().filter(|_| !std::thread::panicking()) else { return };
        rig.clear().unwrap_or_else(|error| panic!("{error:#}"));
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(rig);
    }
}

impl Rig {
    fn new(options: &Options) -> Result<Self> {
        let mut kernel = Datapath::load(options)?;
        let checks = kernel.take_checks()?;
        let program: &SchedClassifier =
            kernel.object().program("tc_lb").context("no program")?.try_into()?;
        let ids = program.info()?.map_ids()?.context("kernel 4.15 or later tells")?;
        let settings = kernel.settings();
        let all = [&OF_PACKETS[..], &OF_TESTS].concat();
        let (of_packets, beginning) = (Kept::new(&ids, &OF_PACKETS), Kept::new(&ids, &all));
        Ok(Self { kernel, limits: options.limits, checks, of_packets, beginning, settings })
    }

    /// Makes it what it was in the beginning.
    fn clear(&mut self) -> Result<()> {
        let kernel = &mut self.kernel;
        for index in kernel.attached_interfaces() {
            kernel.detach(index)?;
        }
        kernel.restore(&[])?;
        let Tables { services, replies, quic_servers, sources, .. } = kernel.read()?;
        let mut writes: Vec<Write> = services.into_keys().map(Write::RemoveService).collect();
        writes.extend(replies.into_keys().map(Write::RemoveReply));
        writes.extend(quic_servers.into_keys().map(Write::RemoveQuicServer));
        writes.extend(sources.into_keys().map(Write::RemoveSource));
        kernel.apply(&writes)?;
        kernel.restore_whole(&Tables::default())?;
        kernel.set_own_addresses(&BTreeSet::new())?;
        kernel.set_own_macs(&BTreeSet::new())?;
        kernel.set_vlans(&BTreeMap::new())?;
        kernel.set_router_addresses(&BTreeMap::new())?;
        for service in 0..self.limits.services {
            kernel.set_former_traffic(ServiceIndex(service), Traffic::default())?;
        }
        kernel.write_settings(self.settings)?;
        self.beginning.restore();
        Ok(())
    }
}
