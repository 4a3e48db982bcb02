//! The owner task's dependencies, inputs and listeners.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use super::kernel::Kernel;
use super::upgrades::Upgrades;
use super::vips::Vips;
use crate::discovery::Update;
use crate::health::{AgentReport, Health, Report, Target, TargetId, VipTarget};
use crate::model::{self, Config, Effective, Via};
use crate::net::{Event, OwnMacs};
use crate::pool::pool::Pool;

/// Replaces the checked targets: [`Checker::set_targets`](crate::health::Checker::set_targets).
pub type SetTargets = Box<dyn FnMut(Vec<(Target, Health)>) + Send>;

/// Sets whether this host can reach an address, or why not: [`Checker::set_reach`](crate::health::Checker::set_reach).
pub type SetReach = Box<dyn FnMut(IpAddr, Option<String>) + Send>;

/// Replaces the backends that are checked through their VIP; or the reason why the daemon cannot do that:
/// [`VipChecks::set_vip_targets`](crate::health::VipChecks::set_vip_targets).
pub type SetVipTargets = Result<SetVipTarget, String>;

/// See [`SetVipTargets`].
pub type SetVipTarget = Box<dyn FnMut(HashMap<TargetId, VipTarget>) + Send>;

/// Replaces the services with discovery: [`Discoverer::set_services`](crate::discovery::Discoverer::set_services).
pub type SetDiscoveries = Box<dyn FnMut(Vec<model::Service>) + Send>;

/// Replaces the addresses whose next hop is resolved: [`Resolver::watch`](crate::net::Resolver::watch).
pub type Watch = Box<dyn FnMut(BTreeSet<IpAddr>) + Send>;

/// The owner task's dependencies.
pub struct Parts {
    /// The config file, for `reload`.
    pub config_file: PathBuf,
    /// Its content.
    pub config: Config,
    /// The datapath, loaded.
    pub kernel: Box<dyn Kernel>,
    /// The listeners.
    pub listeners: Listeners,
    /// Adds and removes the VIPs.
    pub vips: Box<dyn Vips>,
    /// Starts upgrades.
    pub upgrades: Upgrades,
    /// The MACs of the host's interfaces, until an event changes them.
    pub own_macs: OwnMacs,
    /// State learned while another daemon had the tables.
    pub learned: Option<Learned>,
    /// Why the metrics are not served, if they should be.
    pub metrics: watch::Receiver<Option<String>>,
}

/// The listeners that the owner task notifies of changes.
pub struct Listeners {
    /// The checks.
    pub set_targets: SetTargets,
    /// Called for backends that are unreachable from this host.
    pub set_reach: SetReach,
    /// The resolver.
    pub watch: Watch,
    /// Discovery.
    pub set_discoveries: SetDiscoveries,
    /// The checks through VIPs.
    pub set_vip_targets: SetVipTargets,
}

/// State that a daemon learns while another one has the tables.
#[derive(Debug)]
pub struct Learned {
    /// The state of the backends.
    pub pool: Pool,
    /// Events to handle: the latest about MACs, addresses, VLANs and each interface.
    pub news: Vec<Event>,
}

/// The owner task's inputs, besides requests.
pub struct Inputs {
    /// Results of health checks.
    pub reports: mpsc::Receiver<Report>,
    /// Replies of agents.
    pub agents: mpsc::Receiver<AgentReport>,
    /// Network events.
    pub events: mpsc::Receiver<Event>,
    /// Updates of discovery.
    pub found: mpsc::Receiver<Update>,
}

/// Why the owner task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// No request can arrive any more. The datapath keeps running.
    Closed,
    /// The datapath was unloaded on request.
    Unloaded,
    /// No network event can arrive any more. The datapath keeps running.
    NetworkLost,
}

/// The reason why checks through VIPs are impossible, if one of these services needs them.
pub(crate) fn refuse_vip_checks<'a>(
    why: &str,
    mut services: impl Iterator<Item = &'a model::Service>,
) -> Option<String> {
    let service = services.find(|service| service.check().via == Via::Vip)?;
    Some(format!(
        "service \"{}\": health_check.via: this daemon cannot check through VIPs: {why}",
        service.name
    ))
}

impl Listeners {
    /// Why these services cannot be in effect: they need checks through VIPs, which are impossible.
    pub(super) fn refuse(&self, effective: &Effective) -> Option<String> {
        let services = effective.services.iter().map(|service| &service.service);
        refuse_vip_checks(self.set_vip_targets.as_ref().err()?, services)
    }

    /// Notifies listeners of the current services and backends.
    pub(super) fn tell(&mut self, pool: &Pool) {
        (self.watch)(pool.addresses());
        (self.set_targets)(pool.targets());
        let services = &pool.effective().services;
        (self.set_discoveries)(services.iter().map(|service| service.service.clone()).collect());
    }
}
