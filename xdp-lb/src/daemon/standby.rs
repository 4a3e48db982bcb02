//! A daemon that prepares to take over from another: it runs its own checks and reads the network's state from the kernel, while
//! the other one still owns the tables.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::mpsc;

use super::upgrade::Predecessor;
use crate::control::parts::Learned;
use crate::health::{AgentReport, Checker, Report};
use crate::model::{Config, Via};
use crate::net::{Event, Resolver};
use crate::overlay::{self, Overlay};
use crate::pool::pool::Pool;
use crate::store;
use crate::tables::Tables;

/// After this time, a daemon is ready even if its first checks have not ended.
pub(crate) const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// How often to test whether they have ended.
const LOOK: Duration = Duration::from_millis(50);

/// What is known before the take-over.
#[derive(Debug)]
pub struct Standby {
    pool: Pool,
    /// The events for the owner task once it has the datapath: the latest about MACs, addresses and VLANs, and about each
    /// interface.
    own_macs: Option<Event>,
    addresses: Option<Event>,
    router_addresses: Option<Event>,
    vlans: Option<Event>,
    interfaces: BTreeMap<String, Event>,
}

/// The sources of events.
pub(crate) struct Inputs<'a> {
    pub(crate) reports: &'a mut mpsc::Receiver<Report>,
    pub(crate) agents: &'a mut mpsc::Receiver<AgentReport>,
    pub(crate) events: &'a mut mpsc::Receiver<Event>,
}

impl Standby {
    /// Starts from these tables, the config, and the state file, which is only read.
    ///
    /// # Errors
    /// If the state file does not fit the config, or cannot be read.
    pub(crate) fn new(config: &Config, tables: &Tables) -> Result<Self> {
        // A damaged one is set aside at the take-over.
        let mut overlay: Overlay = store::look(&config.state_file)?.unwrap_or_default();
        overlay.prune(config);
        let effective = overlay::effective(config, &overlay).map_err(|lines| {
            anyhow!("the config file conflicts with the changes made at runtime:\n{}", lines.join("\n"))
        })?;
        let mut pool = Pool::new(tables);
        pool.set_effective(effective, tables, Instant::now());
        Ok(Self {
            pool,
            own_macs: None,
            addresses: None,
            router_addresses: None,
            vlans: None,
            interfaces: BTreeMap::new(),
        })
    }

    /// Checks the backends, and waits until the former daemon has released everything. Returns its lock on the state file, like
    /// [`Predecessor::go`].
    ///
    /// # Errors
    /// If that daemon goes on instead, or the network's state cannot be read.
    pub(crate) async fn learn(
        &mut self,
        checker: &Checker,
        resolver: &Resolver,
        mut inputs: Inputs<'_>,
        predecessor: &mut Predecessor,
    ) -> Result<Option<OwnedFd>> {
        resolver.watch(self.pool.addresses());
        // Checks through VIPs need the program to be attached.
        let mut targets = self.pool.targets();
        targets.retain(|(target, _)| target.check.via != Via::Vip);
        checker.set_targets(targets);
        let deadline = Instant::now() + FIRST_CHECKS;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = look.tick() => if !self.is_pending() || Instant::now() >= deadline {
                    break;
                },
                heard = self.hear(&mut inputs) => heard?,
            }
        }
        predecessor.ready()?;
        loop {
            tokio::select! {
                go = predecessor.go() => return go,
                heard = self.hear(&mut inputs) => heard?,
            }
        }
    }

    /// Handles the next event. Cancel safe.
    async fn hear(&mut self, inputs: &mut Inputs<'_>) -> Result<()> {
        tokio::select! {
            Some(report) = inputs.reports.recv() => drop(self.pool.report(report, Instant::now())),
            Some(report) = inputs.agents.recv() => drop(self.pool.on_agent_report(report, Instant::now())),
            event = inputs.events.recv() => {
                let event = event.context("the kernel sends no notifications of network changes")?;
                match event {
                    Event::NextHop { address, next_hop } => self.pool.set_next_hop(address, next_hop),
                    Event::Interface { ref name, .. } => {
                        drop(self.interfaces.insert(name.clone(), event));
                    }
                    Event::Vlans(_) => self.vlans = Some(event),
                    Event::OwnMacs(_) => self.own_macs = Some(event),
                    Event::Addresses(_) => self.addresses = Some(event),
                    Event::RouterAddresses(_) => self.router_addresses = Some(event),
                }
            }
        }
        Ok(())
    }

    /// Whether a first check or a next hop is pending.
    fn is_pending(&self) -> bool {
        let mut pool = self.pool.clone();
        pool.decide(Instant::now(), &mut rand::random);
        pool.is_pending()
    }

    /// The owner task's initial state.
    pub(crate) fn into_learnt(self) -> Learned {
        let news =
            self.own_macs.into_iter().chain(self.addresses).chain(self.router_addresses).chain(self.vlans);
        Learned { pool: self.pool, news: news.chain(self.interfaces.into_values()).collect() }
    }
}
