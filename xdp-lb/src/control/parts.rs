//! What the owner task works with, what it hears, and whom it tells.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use super::kernel::Kernel;
use super::upgrades::Upgrades;
use super::vips::Vips;
use crate::discovery::Update;
use crate::health::{AgentReport, Course, Health, Report, Target, TargetId};
use crate::model::{self, Config, Effective, Via};
use crate::net::{Event, OwnMacs};
use crate::pool::pool::Pool;

/// Replaces what is checked: [`Checker::set_targets`](crate::health::Checker::set_targets).
pub type SetTargets = Box<dyn FnMut(Vec<(Target, Health)>) + Send>;

/// Says of an address whether this host has a way to it; or in words why not:
/// [`Checker::set_reach`](crate::health::Checker::set_reach).
pub type SetReach = Box<dyn FnMut(IpAddr, Option<String>) + Send>;

/// Replaces where the datapath has the backends that are checked at VIPs; or why the daemon has no way to check so:
/// [`VipChecks::set_courses`](crate::health::VipChecks::set_courses).
pub type SetCourses = Result<SetCourse, String>;

/// See [`SetCourses`].
pub type SetCourse = Box<dyn FnMut(HashMap<TargetId, Course>) + Send>;

/// Replaces the services whose backends are looked for:
/// [`Discoverer::set_services`](crate::discovery::Discoverer::set_services).
pub type SetDiscoveries = Box<dyn FnMut(Vec<model::Service>) + Send>;

/// Replaces the addresses whose next hop is wanted: [`Resolver::watch`](crate::net::Resolver::watch).
pub type Watch = Box<dyn FnMut(BTreeSet<IpAddr>) + Send>;

/// What the owner task works with.
pub struct Parts {
    /// The config file, for `reload`.
    pub config_file: PathBuf,
    /// What stood in it.
    pub config: Config,
    /// The datapath, loaded.
    pub kernel: Box<dyn Kernel>,
    /// Who is told what follows.
    pub listeners: Listeners,
    /// Who keeps the VIPs.
    pub vips: Box<dyn Vips>,
    /// Whom to ask for an upgrade.
    pub upgrades: Upgrades,
    /// The MACs of the host's interfaces, until an event tells of others.
    pub own_macs: OwnMacs,
    /// What was learnt while another daemon had the tables.
    pub learnt: Option<Learnt>,
    /// Why the metrics are not served, where they should be.
    pub metrics: watch::Receiver<Option<String>>,
}

/// Those that the owner task tells what follows from its state.
pub struct Listeners {
    /// The checks.
    pub set_targets: SetTargets,
    /// Who is told which backends this host has no way to.
    pub set_reach: SetReach,
    /// The resolver.
    pub watch: Watch,
    /// Discovery.
    pub set_discoveries: SetDiscoveries,
    /// The checks at VIPs.
    pub set_courses: SetCourses,
}

/// What a daemon has learnt while another one had the tables.
#[derive(Debug)]
pub struct Learnt {
    /// What is known of the backends.
    pub pool: Pool,
    /// What is still to be taken in: the last news of MACs, addresses and VLANs, and of each interface.
    pub news: Vec<Event>,
}

/// What the owner task hears, beside requests.
pub struct Ears {
    /// Ends of health checks.
    pub reports: mpsc::Receiver<Report>,
    /// News of agents.
    pub agents: mpsc::Receiver<AgentReport>,
    /// The network.
    pub events: mpsc::Receiver<Event>,
    /// What discovery finds.
    pub found: mpsc::Receiver<Update>,
}

/// Why the owner task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Nobody can send a request any more. The datapath goes on.
    Closed,
    /// The datapath was unloaded, as somebody asked.
    Unloaded,
    /// Nothing is heard of the network any more. The datapath goes on.
    NetworkLost,
}

/// Says that checks cannot go to VIPs, and why not, where one of these services wants it.
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
    /// Why this cannot be in effect: checks are to go to VIPs, and there is no way to check so.
    pub(super) fn refuse(&self, effective: &Effective) -> Option<String> {
        let services = effective.services.iter().map(|service| &service.service);
        refuse_vip_checks(self.set_courses.as_ref().err()?, services)
    }

    /// Tells whom it concerns which services and backends there are.
    pub(super) fn tell(&mut self, pool: &Pool) {
        (self.watch)(pool.addresses());
        (self.set_targets)(pool.targets());
        let services = &pool.effective().services;
        (self.set_discoveries)(services.iter().map(|service| service.service.clone()).collect());
    }
}
