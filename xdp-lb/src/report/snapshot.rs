//! What the owner task knows, as it publishes it: after each change, after each decision, and each second. Whoever reads it
//! waits for nothing and delays nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use xdp_lb_common::tables::{ServiceIndex, Traffic};

use super::documents::{DiscoveryView, InterfaceView, TroubleView, UpgradeView};
use super::records::FlowRecords;
use super::traffic::{Counters, TrafficRates};
use crate::datapath::Census;
use crate::model::state::{AdminState, TroubleKind};
use crate::model::{Config, EffectiveService, Limits};
use crate::net::vips::Standings;
use crate::overlay::Overlay;
use crate::plan::settling::Settling;
use crate::pool::pool::Pool;
use crate::tables::Tables;

/// All that is told of the daemon but the packets' counters, which are read from the kernel as they are now.
#[derive(Clone)]
pub struct Snapshot {
    /// The config file.
    pub config_file: PathBuf,
    /// What it said when it was read last.
    pub config: Arc<Config>,
    /// What was changed at runtime.
    pub overlay: Arc<Overlay>,
    /// The services and backends, and what is known of them.
    pub pool: Arc<Pool>,
    /// What stands in the tables.
    pub tables: Arc<Tables>,
    /// How large they are.
    pub limits: Limits,
    /// How much memory they take, bytes; `None` where the kernel does not tell.
    pub memory: Option<u64>,
    /// Which of their slots are not at rest.
    pub settling: Arc<Settling>,
    /// What services and backends carry a second.
    pub rates: Arc<TrafficRates>,
    /// What each service's former backends counted.
    pub former: Arc<HashMap<ServiceIndex, Traffic>>,
    /// The last count of the flows.
    pub census: Arc<Census>,
    /// Whether that says how it is since the last change.
    pub is_census_of_now: bool,
    /// What is wrong.
    pub troubles: Vec<TroubleView>,
    /// How many things were restored since the daemon started.
    pub restored: u64,
    /// The interfaces of the config.
    pub interfaces: Vec<InterfaceView>,
    /// How discovery goes, by service.
    pub discoveries: BTreeMap<String, DiscoveryView>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether it found tables that it went on with.
    pub is_adopted: bool,
    /// How the VIPs stand now.
    pub vips: watch::Receiver<Standings>,
    /// What became of the last upgrade, as of now.
    pub upgrade: watch::Receiver<Option<UpgradeView>>,
    /// The counters of packets, as of now.
    pub counters: Arc<dyn Counters>,
    /// The flow records, as of now.
    pub flows: Arc<dyn FlowRecords>,
}

/// What the clocks say when a snapshot is read.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time.
    pub now: Instant,
    /// Seconds since this host was started.
    pub seconds_of_boot: u64,
}

impl Snapshot {
    /// Whether somebody may wait for a backend to lose its last flow.
    pub fn drains(&self) -> bool {
        let drains = |service: &EffectiveService| {
            let backends =
                || service.backends.iter().any(|it| it.admin == AdminState::Draining || it.is_leaving);
            service.admin == AdminState::Draining || backends()
        };
        self.overlay.node_admin() == AdminState::Draining || self.pool.effective().services.iter().any(drains)
    }

    /// What is wrong of this kind, in words.
    pub fn trouble_of(&self, kind: TroubleKind) -> Option<&str> {
        self.troubles.iter().find(|it| it.kind == kind).map(|it| it.message.as_str())
    }
}
