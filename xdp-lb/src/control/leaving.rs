//! What leaves, whoever took it away: it drains, and goes when its flows have ended or its time is over.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_common::process::records_flows;
use xdp_lb_common::tables::{self as datapath, BackendIndex};

use super::kernel::Kernel;
use super::owner::{Owner, Persist};
use crate::model::change::{BackendChange, ChangeKind, FlowsLeft, ServiceChange};
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::{BackendState, Origin};
use crate::model::{self, Backend, Config, Effective, EffectiveBackend, EffectiveService};
use crate::overlay::{self, Leave, Moment, Overlay};
use crate::plan::places::{Identity, identities, identity};
use crate::pool::fleet::{target_id, vip};
use crate::tables::Tables;
use crate::uptime;

/// Backends that are not used, in the log and in a view of a service.
const MOST_UNUSED: usize = 10;

/// What a daemon before this one had in effect, by the tables that it left: of the services of `wanted`, the backends that
/// may have flows. What leaves is in `wanted`, too.
pub(super) fn left_in(tables: &Tables, wanted: Effective) -> Effective {
    let services = wanted.services.into_iter().filter_map(|service| {
        let present = tables.services.get(&vip(&service))?;
        let is_its = |backend: &&datapath::Backend| {
            backend.service == present.index && backend.state != datapath::BackendState::Down as u8
        };
        let backend = |it: &datapath::Backend| {
            let address = SocketAddr::new(it.address.into(), it.port.get());
            let listed = service.backends.iter().find(|listed| listed.backend.address == address);
            listed.copied().unwrap_or(EffectiveBackend {
                backend: Backend {
                    max_flows: it.max_flows,
                    ..Backend::new(address, model::default_weight())
                },
                admin: model::state::AdminState::Enabled,
                origin: Origin::File,
                is_leaving: service.is_leaving,
            })
        };
        let backends = tables.backends.values().filter(is_its).map(backend).collect();
        Some(EffectiveService { backends, ..service })
    });
    Effective { services: services.collect() }
}

impl<K: Kernel> Owner<K> {
    /// What is in effect by this config and these changes, where what is in effect now, and would not be any more, leaves.
    ///
    /// # Errors
    /// As of [`overlay::effective`].
    pub(super) fn effective_by(
        &self,
        config: &Config,
        overlay: &mut Overlay,
        leave: Leave,
    ) -> Result<Effective, Vec<String>> {
        let before = self.fleet.effective();
        overlay.depart(config, before, leave, &Moment::now());
        let room = self.config.limits;
        overlay::effective_beside(config, overlay, room, |service, address| before.has(service, address))
    }

    /// What becomes of the services, with what is known of the flows of those that are removed.
    pub(super) fn changes_to(&self, effective: &Effective) -> Vec<ServiceChange> {
        let before = self.fleet.effective();
        // Only where something is removed, and then for all of it.
        let indices = LazyCell::new(|| identities(self.planner.tables()));
        let mut changes = overlay::diff(before, effective);
        for change in &mut changes {
            let Some(service) = before.services.iter().find(|it| it.service.name == change.old_name()) else {
                continue;
            };
            for BackendChange { address, kind, flows, .. } in &mut change.backends {
                if *kind == ChangeKind::Removed {
                    let left = self.flows_left(service, *address, &indices);
                    // One that has drained goes by itself, and ends nothing.
                    let has_drained = service.backend(*address).is_some_and(|it| it.is_leaving)
                        && left.is_some_and(|left| left.recorded == 0);
                    *flows = left.filter(|_| !has_drained);
                }
            }
        }
        changes
    }

    /// What is known of a backend's flows; `None` where it has no place in the tables.
    fn flows_left(
        &self,
        service: &EffectiveService,
        address: SocketAddr,
        indices: &HashMap<Identity, BackendIndex>,
    ) -> Option<FlowsLeft> {
        let present = self.planner.tables().services.get(&vip(service))?;
        let index = *indices.get(&identity(present.index, address))?;
        Some(FlowsLeft {
            recorded: self.census.live.get(&index).copied().unwrap_or(0),
            packets_per_second: self.rates.backends.get(&index).map_or(0.0, |rates| rates.packets),
        })
    }

    pub(super) fn remove_backend(
        &mut self,
        service: &str,
        address: SocketAddr,
        leave: Leave,
    ) -> Answer<Outcome> {
        if leave == Leave::Drain && self.overlay.is_leaving(service, address) {
            let message = format!(
                "service {service}: backend {address} was removed already, and drains; --now removes it with its flows"
            );
            return Ok(Outcome { message, changed: false, trouble: self.trouble() });
        }
        let indices = identities(self.planner.tables());
        let mut services = self.fleet.effective().services.iter();
        let ends = services
            .find(|it| it.service.name == service)
            .and_then(|it| self.flows_left(it, address, &indices));
        let outcome =
            self.change_with(leave, |overlay, config| overlay.remove_backend(config, service, address))?;
        Ok(self.told(outcome, ends, service, Some(address)))
    }

    pub(super) fn remove_service(&mut self, name: &str, leave: Leave) -> Answer<Outcome> {
        let mut services = self.fleet.effective().services.iter();
        let service = services.find(|it| it.service.name == name);
        if leave == Leave::Drain && service.is_some_and(|it| it.is_leaving) {
            let message =
                format!("service {name} was removed already, and drains; --now removes it with its flows");
            return Ok(Outcome { message, changed: false, trouble: self.trouble() });
        }
        let indices = identities(self.planner.tables());
        let ends = service.and_then(|service| {
            let backends = service.backends.iter();
            let flows = backends.filter_map(|it| self.flows_left(service, it.backend.address, &indices));
            flows.reduce(FlowsLeft::plus)
        });
        let outcome = self.change_with(leave, |overlay, config| overlay.remove_service(config, name))?;
        Ok(self.told(outcome, ends, name, None))
    }

    /// Says of something that was removed whether it drains, or which flows it ended.
    fn told(
        &self,
        outcome: Outcome,
        ends: Option<FlowsLeft>,
        service: &str,
        address: Option<SocketAddr>,
    ) -> Outcome {
        if !outcome.changed {
            return outcome;
        }
        let drains = |it: &EffectiveService| {
            it.service.name == service
                && match address {
                    None => it.is_leaving,
                    Some(address) => {
                        it.backends.iter().any(|it| it.backend.address == address && it.is_leaving)
                    }
                }
        };
        let is_there = |it: &EffectiveService| {
            it.service.name == service
                && address.is_some_and(|address| it.backends.iter().any(|it| it.backend.address == address))
        };
        let services = &self.fleet.effective().services;
        let how = if services.iter().any(drains) {
            let longest = humantime::format_duration(self.config.drain_timeout);
            let flows = ends.unwrap_or_default();
            format!("; it drains, with {flows}: it goes when they have ended, after {longest} at the latest")
        } else if services.iter().any(is_there) {
            // It is left to discovery.
            String::new()
        } else {
            ends.map_or(String::new(), |flows| format!("; this ended {flows}"))
        };
        Outcome { message: outcome.message + &how, ..outcome }
    }

    /// Removes what leaves and has no flows left, or has had time enough.
    pub(super) fn release_left(&mut self) {
        if !self.overlay.is_any_leaving() {
            return;
        }
        let indices = identities(self.planner.tables());
        let mut overlay = self.overlay.clone();
        let now = uptime::now().as_secs();
        for service in &self.fleet.effective().services {
            let name = &service.service.name;
            for (address, since) in self.overlay.leaving(name) {
                let longest = self.longest_drain(service, address);
                let why = if now.saturating_sub(since) >= longest.as_secs() {
                    format!("its flows had {}", humantime::format_duration(longest))
                } else if let Some(why) = self.is_over(service, address, &indices) {
                    why.to_owned()
                } else {
                    continue;
                };
                tracing::info!("service {name}: backend {address}, which leaves, is gone: {why}");
                overlay.release(name, address);
            }
        }
        self.put_in_effect(overlay);
    }

    /// How long a backend that leaves may keep its flows.
    fn longest_drain(&self, service: &EffectiveService, address: SocketAddr) -> Duration {
        let origin = service.backends.iter().find(|it| it.backend.address == address).map(|it| it.origin);
        match (&service.service.discovery, origin) {
            (Some(discovery), Some(Origin::Dns | Origin::WatchedFile)) => discovery.drain_timeout,
            _ => self.config.drain_timeout,
        }
    }

    /// Seconds until a backend that leaves is removed, whatever flows it has.
    pub(super) fn leaves_in(&self, service: &EffectiveService, address: SocketAddr) -> Option<u64> {
        let (_, since) = self.overlay.leaving(&service.service.name).find(|(it, _)| *it == address)?;
        let end = since.saturating_add(self.longest_drain(service, address).as_secs());
        Some(end.saturating_sub(uptime::now().as_secs()))
    }

    /// Why nothing is lost with a backend that leaves; `None` while flows may be.
    fn is_over(
        &self,
        service: &EffectiveService,
        address: SocketAddr,
        indices: &HashMap<Identity, BackendIndex>,
    ) -> Option<&'static str> {
        let Some(backend) = service.backends.iter().find(|it| it.backend.address == address) else {
            return Some("the config refuses it");
        };
        let tables = self.planner.tables();
        let present = tables.services.get(&vip(service))?;
        let index = *indices.get(&identity(present.index, address))?;
        let state = self.fleet.known(&target_id(service, backend)).map(|known| known.condition.state);
        let is_cut =
            tables.backends.get(&index).is_some_and(|it| !datapath::BackendState::keeps_flows(it.state));
        if is_cut && state != Some(BackendState::Draining) {
            return Some("it gets no packets");
        }
        // Before that, a flow from before its slots moved may have no record yet.
        let is_known = records_flows(present)
            || !self
                .settling
                .known_at(present, vip(service).protocol, tables, &self.config.timeouts)
                .contains_key(&index);
        let flows = self.census.live.get(&index).copied().unwrap_or(0);
        (self.is_census_fresh() && is_known && flows == 0).then_some("its flows have ended")
    }

    /// Puts changes into effect that nobody asked for, but time or an answer brought.
    pub(super) fn put_in_effect(&mut self, mut overlay: Overlay) {
        if overlay == self.overlay {
            return;
        }
        let adopted = self
            .effective_by(&self.config, &mut overlay, Leave::Drain)
            .map_err(|lines| Refusal::Conflict(lines.join("\n")))
            .and_then(|effective| {
                self.adopt(self.config.clone(), overlay, effective, Refusal::Conflict, Persist::IfItCan)
            });
        if let Err(refusal) = adopted {
            tracing::error!("what was found, or has left, cannot be put into effect: {refusal}");
        }
    }

    /// Tells the log and those who watch which backends are not used, once for each.
    pub(super) fn tell_of_unused(&mut self) {
        let mut before = std::mem::take(&mut self.unused);
        for service in &self.fleet.effective().services {
            if service.refused.is_empty() {
                continue;
            }
            let name = service.service.name.clone();
            let lines = unused(service);
            let told = before.remove(&name).unwrap_or_default();
            let news: Vec<String> = lines.iter().filter(|line| !told.contains(line)).cloned().collect();
            for line in news.iter().take(MOST_UNUSED) {
                tracing::warn!("service {name}: {line}");
            }
            if !news.is_empty() {
                let changes = news.into_iter().map(|line| format!("service {name}: {line}"));
                self.events.add(WatchEvent::Service {
                    service: name.clone(),
                    kind: ChangeKind::Changed,
                    changes: changes.take(WatchEvent::MOST_CHANGES).collect(),
                });
            }
            self.unused.insert(name, lines);
        }
    }
}

/// A line for each backend that is not used.
pub(super) fn unused(service: &EffectiveService) -> Vec<String> {
    service.refused.iter().map(|it| format!("backend {}: {}", it.address, it.why)).collect()
}

/// Some of these lines, and how many more there are.
pub(super) fn some(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_UNUSED);
    lines.truncate(MOST_UNUSED);
    lines.extend((more > 0).then(|| format!("and {more} more")));
    lines
}
