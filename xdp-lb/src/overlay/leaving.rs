//! Leaving services and backends, which are no longer defined or found: they keep their flows and get no new ones until those have
//! ended or their time is over. It does not matter whether the config file, the CLI or discovery removed them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::kept::{BackendChange, Leaving, LeavingBackend, LeavingService, Overlay};
use super::merge::Merge;
use crate::model::check::{HealthCheck, Probe};
use crate::model::config::{Config, Limits};
use crate::model::effective::{Effective, EffectiveBackend, EffectiveService, Refused};
use crate::model::rules;
use crate::model::service::Service;
use crate::model::state::Origin;
use crate::model::text::grouped;
use crate::model::vip::Vip;

/// How a removed service or backend leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leave {
    /// It keeps its flows until they have ended, or its time is over.
    #[default]
    Drain,
    /// At once, with its flows.
    Now,
}

/// A time in this boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootTime {
    /// The boot's id.
    pub boot: String,
    /// Seconds since it began.
    pub seconds: u64,
}

/// A name for a leaving service: its own, unless another one has it.
fn free_name(leaving: &Leaving, own: &str, wanted: &[Wanted]) -> String {
    let is_taken =
        |name: &str| leaving.services.contains_key(name) || wanted.iter().any(|it| it.name == name);
    let others = (1..).map(|number| match number {
        1 => format!("{own}-leaving"),
        _ => format!("{own}-leaving-{number}"),
    });
    let mut names = std::iter::once(own.to_owned()).chain(others);
    names.find(|name| !is_taken(name)).unwrap_or_default()
}

/// A wanted service, and its backends.
struct Wanted<'a> {
    name: &'a str,
    base: &'a Service,
    backends: BTreeSet<SocketAddr>,
}

impl Wanted<'_> {
    fn is_at_vip_of(&self, service: &Service) -> bool {
        (self.base.vip, self.base.protocol) == (service.vip, service.protocol)
    }

    /// Whether packets to that service would go to this one.
    fn takes_from(&self, service: &Service) -> bool {
        let (own, other) = (self.base.vip, service.vip);
        self.base.protocol == service.protocol
            && own.ip() == other.ip()
            && own.meets(other.port(), other.last_port())
            // A service of one port comes before a range, which keeps its other ports.
            && (own.is_range() || !other.is_range())
    }
}

impl Overlay {
    /// Makes everything leave that is in effect but no longer wanted by this config and these changes. What is leaving already
    /// continues to leave, and what is wanted again stays. A service is identified by VIP and protocol, so a renamed one keeps its
    /// backends.
    ///
    /// A service whose VIP now belongs to another one is removed at once, with its flows.
    pub fn depart(&mut self, config: &Config, before: &Effective, leave: Leave, now: &BootTime) {
        let merge = Merge::new(config, self);
        let wanted = |name| {
            let (base, _) = merge.base(name)?;
            let found = merge.discovered(name).map(|it| it.backend.address);
            Some(Wanted { name, base, backends: merge.listed(name).into_keys().chain(found).collect() })
        };
        let wanted: Vec<Wanted> = merge.names().into_iter().filter_map(wanted).collect();
        let mut next = Leaving { boot: now.boot.clone(), ..Leaving::default() };
        for service in &before.services {
            let stays = wanted.iter().find(|it| it.is_at_vip_of(&service.service));
            let leaves = |it: &EffectiveBackend| {
                let address = it.backend.address;
                if stays.is_some_and(|wanted| wanted.backends.contains(&address)) {
                    return None;
                }
                let since = match leave {
                    // A service that is removed now leaves nothing behind.
                    Leave::Now if stays.is_none() && !service.is_leaving => return None,
                    // One that is not in the list was released meanwhile.
                    _ if it.is_leaving => self.leaving.since(&service.service.name, address)?,
                    Leave::Now => return None,
                    Leave::Drain => now.seconds,
                };
                Some((address, LeavingBackend { backend: it.backend, origin: it.origin, since }))
            };
            let leaving: BTreeMap<_, _> = service.backends.iter().filter_map(leaves).collect();
            if leaving.is_empty() {
                continue;
            }
            let name = match stays {
                Some(wanted) => wanted.name.to_owned(),
                None if wanted.iter().any(|it| it.takes_from(&service.service)) => continue,
                None => {
                    let name = free_name(&next, &service.service.name, &wanted);
                    let definition =
                        Service { name: name.clone(), discovery: None, ..service.service.without_backends() };
                    let leaving =
                        LeavingService { service: definition, origin: service.origin, admin: service.admin };
                    next.services.insert(name.clone(), leaving);
                    name
                }
            };
            next.backends.entry(name).or_default().extend(leaving);
        }
        self.leaving = if next.is_empty() { Leaving::default() } else { next };
    }

    /// Drops what was leaving in an earlier boot, whose flows are gone. Restarts the time of those that an earlier version recorded
    /// by the wall clock.
    pub fn forget_other_boots(&mut self, now: &BootTime) {
        if self.leaving.boot != now.boot {
            self.leaving = Leaving::default();
        }
        for (name, found) in &mut self.discovered {
            for (address, it) in found.extract_if(.., |_, it| it.leaving_since.is_some()) {
                let origin = Origin::Dns;
                let leaving = LeavingBackend { backend: it.backend, origin, since: now.seconds };
                self.leaving.backends.entry(name.clone()).or_default().insert(address, leaving);
            }
        }
        self.discovered.retain(|_, found| !found.is_empty());
        if !self.leaving.is_empty() {
            self.leaving.boot.clone_from(&now.boot);
        }
    }

    /// Drops a leaving backend, with its changes at runtime.
    pub fn release(&mut self, name: &str, address: SocketAddr) {
        self.leaving.remove_backend(name, address);
        if let Some(BackendChange::Changed(_)) =
            self.backends.get(name).and_then(|changes| changes.get(&address))
        {
            self.set_change(name, address, None);
        }
    }

    /// A service's leaving backends, and since when, in seconds of this boot.
    pub fn leaving(&self, name: &str) -> impl Iterator<Item = (SocketAddr, u64)> {
        let all = self.leaving.backends.get(name).into_iter().flatten();
        all.map(|(address, it)| (*address, it.since))
    }

    /// When a leaving backend is removed even if it has flows, in seconds of this boot.
    pub fn leaves_at(&self, config: &Config, service: &EffectiveService, address: SocketAddr) -> Option<u64> {
        let (_, since) = self.leaving(&service.service.name).find(|(it, _)| *it == address)?;
        Some(since.saturating_add(longest_drain(config, service, address).as_secs()))
    }

    /// Whether any backend is leaving.
    pub fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether a backend is leaving.
    pub fn is_leaving(&self, service: &str, address: SocketAddr) -> bool {
        self.leaving.since(service, address).is_some()
    }
}

/// How long a leaving backend may keep its flows.
pub fn longest_drain(config: &Config, service: &EffectiveService, address: SocketAddr) -> Duration {
    let origin = service.backends.iter().find(|it| it.backend.address == address).map(|it| it.origin);
    match (&service.service.discovery, origin) {
        (Some(discovery), Some(Origin::Dns | Origin::WatchedFile)) => discovery.drain_timeout,
        _ => config.drain_timeout,
    }
}

/// Adds leaving services and backends to the others.
pub(crate) fn add(services: &mut Vec<EffectiveService>, leaving: &Leaving, allow_exec_checks: bool) {
    for (name, LeavingService { service, origin, admin }) in &leaving.services {
        if services.iter().any(|it| it.service.name == *name) {
            continue;
        }
        let mut service = Service { name: name.clone(), ..service.without_backends() };
        if !allow_exec_checks && matches!(service.check().probe, Probe::Exec { .. }) {
            service.health_check = Some(HealthCheck::new(Probe::None));
        }
        services.push(EffectiveService {
            service,
            admin: *admin,
            origin: *origin,
            backends: Vec::new(),
            refused: Vec::new(),
            is_leaving: true,
        });
    }
    services.sort_by(|one, other| one.service.name.cmp(&other.service.name));
    let vips: Vec<_> = services.iter().map(|it| (it.service.vip, it.service.protocol)).collect();
    for service in services.iter_mut() {
        let is_vip = |address: SocketAddr| {
            let at = |(vip, protocol): &(Vip, _)| {
                *protocol == service.service.protocol
                    && vip.ip() == address.ip()
                    && (address.port() == 0 || vip.meets(address.port(), address.port()))
            };
            vips.iter().any(at)
        };
        let mut ids: BTreeSet<_> =
            service.backends.iter().filter_map(|it| Some(it.backend.server_id?.to_string())).collect();
        for mut backend in leaving.of(&service.service.name) {
            let address = backend.backend.address;
            // The rules of the service may have changed.
            let is_listed = service.backends.iter().any(|it| it.backend.address == address);
            if is_listed || rules::refusal(&service.service, &backend.backend).is_some() || is_vip(address) {
                continue;
            }
            if backend.backend.server_id.is_some_and(|id| !ids.insert(id.to_string())) {
                backend.backend.server_id = None;
            }
            service.backends.push(backend);
        }
        service.backends.sort_by_key(|backend| backend.backend.address);
    }
}

/// Makes new backends wait for the room that leaving ones use.
pub(crate) fn wait_for_room(
    services: &mut [EffectiveService],
    limits: Limits,
    is_present: impl Fn(&Service, SocketAddr) -> bool,
) {
    let all = || services.iter().flat_map(|service| &service.backends);
    let leaving = all().filter(|it| it.is_leaving).count();
    // Not for more than the leaving ones use.
    let mut excess = all().count().saturating_sub(limits.backends as usize).min(leaving);
    for service in services.iter_mut().rev() {
        let EffectiveService { service: definition, backends, refused, .. } = service;
        for place in (0..backends.len()).rev() {
            let address = backends[place].backend.address;
            if excess > 0 && !backends[place].is_leaving && !is_present(definition, address) {
                excess -= 1;
                backends.remove(place);
                let (limit, leaving) = (grouped(limits.backends.into()), grouped(leaving as u64));
                let why =
                    format!("waiting for room: limits.backends = {limit}, of which {leaving} are draining");
                refused.push(Refused { address, why });
            }
        }
        refused.sort_by_key(|it| it.address);
    }
}

#[cfg(test)]
mod tests;
