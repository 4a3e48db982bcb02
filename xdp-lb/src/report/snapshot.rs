//! The owner task's state, published after each change, after each decision, and each second. Readers do not wait for the owner
//! or delay it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;
use xdp_lb_common::tables::{ServiceIndex, Traffic};

use super::documents::{DiscoveryView, InterfaceView, LastReloadView, TroubleView, UpgradeView};
use super::explain::LiveTables;
use super::history::History;
use super::records::FlowRecords;
use super::traffic::{Counters, TrafficRates};
use crate::datapath::Census;
use crate::fleet;
use crate::model::state::{AdminState, TroubleKind};
use crate::model::{Config, EffectiveService, Limits};
use crate::net::vips::Standings;
use crate::overlay::Overlay;
use crate::plan::settling::Settling;
use crate::pool::pool::Pool;
use crate::tables::Tables;

/// The daemon's state, except for packet counters, which are read from the kernel live.
#[derive(Clone)]
pub struct Snapshot {
    /// The config file.
    pub config_file: PathBuf,
    /// Its content when it was last read.
    pub config: Arc<Config>,
    /// What was changed at runtime.
    pub overlay: Arc<Overlay>,
    /// The services and backends, and their state.
    pub pool: Arc<Pool>,
    /// The present tables.
    pub tables: Arc<Tables>,
    /// Their sizes.
    pub limits: Limits,
    /// How much memory they take, in bytes; `None` if the kernel does not report it.
    pub memory: Option<u64>,
    /// The slots that are not settled.
    pub settling: Arc<Settling>,
    /// The rates of services and backends.
    pub rates: Arc<TrafficRates>,
    /// The rates of the recent past, live.
    pub history: Arc<Mutex<History>>,
    /// The counters of each service's former backends.
    pub former: Arc<HashMap<ServiceIndex, Traffic>>,
    /// The last count of the flows.
    pub census: Arc<Census>,
    /// Whether that is newer than the last change.
    pub is_census_of_now: bool,
    /// The current troubles.
    pub troubles: Vec<TroubleView>,
    /// How many things were restored since the daemon started.
    pub restored: u64,
    /// The interfaces of the config.
    pub interfaces: Vec<InterfaceView>,
    /// The state of discovery, by service.
    pub discoveries: BTreeMap<String, DiscoveryView>,
    /// The last reload.
    pub reload: LastReloadView,
    /// When the daemon started.
    pub started: Instant,
    /// Whether it adopted existing tables.
    pub is_adopted: bool,
    /// The status of the VIPs, live.
    pub vips: watch::Receiver<Standings>,
    /// The exchange of flows with other load balancers, live.
    pub fleet: Option<watch::Receiver<fleet::Status>>,
    /// The state of the last upgrade, live.
    pub upgrade: watch::Receiver<Option<UpgradeView>>,
    /// The packet counters, live.
    pub counters: Arc<dyn Counters>,
    /// The flow records, live.
    pub flows: Arc<dyn FlowRecords>,
    /// The tables, live, for packets that are processed in this process.
    pub live: Arc<dyn LiveTables>,
}

/// The time at which a snapshot is read.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time.
    pub now: Instant,
    /// Seconds since this host was started.
    pub seconds_of_boot: u64,
}

impl Snapshot {
    /// Whether a caller may be waiting for a backend to drain.
    pub fn drains(&self) -> bool {
        let drains = |service: &EffectiveService| {
            let backends =
                || service.backends.iter().any(|it| it.admin == AdminState::Draining || it.is_leaving);
            service.admin == AdminState::Draining || backends()
        };
        self.overlay.node_admin() == AdminState::Draining || self.pool.effective().services.iter().any(drains)
    }

    /// The trouble of this kind.
    pub fn trouble_of(&self, kind: TroubleKind) -> Option<&str> {
        self.troubles.iter().find(|it| it.kind == kind).map(|it| it.message.as_str())
    }
}
