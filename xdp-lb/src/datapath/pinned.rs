//! What a daemon that has ended has left pinned, and the program goes on with: to be read, not changed.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{BackendIndex, Settings, Traffic};

use super::clock::monotonic_seconds;
use super::load::{OBJECT, Options, all_pinned, open};
use super::maps::{Maps, Sizes};
use super::plain::Plain;
use super::settings::Policy;
use super::{link, links, pins};
use crate::model::{Limits, PortRange, Timeouts};
use crate::tables::Tables;

/// The tables that are pinned.
pub struct Pinned {
    maps: Maps,
    sizes: Sizes,
    /// The names of the interfaces that the program is on.
    pub interfaces: Vec<String>,
    /// Since when no daemon has kept the tables up to date, seconds.
    pub unattended_seconds: u64,
    /// Seconds of the clock that records have.
    pub now: u32,
}

impl Pinned {
    /// Those under this path; nothing where nothing is pinned, or by another layout's daemon.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn open(pin_path: &Path) -> Result<Option<Self>> {
        let directory = pins::directory(pin_path);
        let Ok(pinned) = all_pinned(&directory) else { return Ok(None) };
        // What holds for every service is pinned, too.
        let policy = Policy {
            flow_hash_secret: None,
            snat_ports: PortRange { first: 1, last: 1 },
            timeouts: Timeouts::default(),
            asymmetric_replies: false,
        };
        let options = Options { pin_path: None, limits: Limits::default(), policy };
        let (maps, sizes) = Maps::take(&mut open(&options, OBJECT, &pinned)?)?;
        let interfaces = interfaces(&directory)?.into_iter().map(links::name).collect();
        let now = monotonic_seconds()?;
        let unattended_seconds = unattended(pin_path)?.unwrap_or_default();
        Ok(Some(Self { maps, sizes, interfaces, unattended_seconds, now }))
    }

    /// The services, rings and backends.
    ///
    /// # Errors
    /// If they cannot be read, or somebody changes them meanwhile.
    pub fn tables(&self) -> Result<Tables> {
        self.maps.read(&self.sizes)
    }

    /// How many packets had each reason.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>> {
        Reason::ALL.iter().map(|reason| Ok((*reason, self.maps.reason(*reason)?))).collect()
    }

    /// The counters of a backend.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn traffic(&self, backend: BackendIndex) -> Result<Traffic> {
        self.maps.backend_traffic(backend.0)
    }

    /// Shows every flow record to `visit`.
    pub fn flows(&self, visit: impl FnMut(&Record)) {
        self.maps.flow_records().read(visit);
    }
}

/// The indices of the interfaces that the program is on, whether by XDP or at TC ingress.
fn interfaces(directory: &Path) -> Result<BTreeSet<u32>> {
    let on_interface = |path: &PathBuf| {
        if pins::is_link(path) { pins::interface(path) } else { pins::filter_interface(path) }
    };
    Ok(pins::list(directory)?.iter().filter_map(on_interface).collect())
}

/// Since when no daemon keeps the pinned tables up to date, seconds, where they are of this layout and the program is attached. A daemon
/// writes each second that it does.
///
/// # Errors
/// If they cannot be read.
pub fn unattended(pin_path: &Path) -> Result<Option<u64>> {
    let directory = pins::directory(pin_path);
    if !directory.exists() || interfaces(&directory)?.is_empty() {
        return Ok(None);
    }
    let settings = link::open(&directory.join("SETTINGS")).context("cannot open the pinned settings")?;
    let settings: Array<_, Plain<Settings>> = Map::Array(MapData::from_fd(settings)?).try_into()?;
    let Plain(settings) = settings.get(&0, 0).context("cannot read the settings")?;
    let since = monotonic_seconds()?.saturating_sub(settings.heartbeat);
    Ok((settings.heartbeat != 0).then_some(since.into()))
}
