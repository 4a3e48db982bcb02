//! The file and the runtime changes, merged: the services that there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use super::overlay::{BackendChange, Overlay};
use super::{discovered, leaving};
use crate::model::place::{Place, Problems};
use crate::model::rules::{self, BackendDraft, ServiceDraft};
use crate::model::schema::{Backend, Config, Limits, Service};
use crate::model::state::{AdminState, Origin};
use crate::model::{Effective, EffectiveBackend, EffectiveService};

/// Merges the file and the runtime changes.
///
/// A change for what the file no longer has is passed over. Where a service or a backend that was
/// added at runtime stands in the file by now, under the same VIP and protocol, the file's
/// definition holds.
///
/// # Errors
/// Where the two contradict each other, or exceed the limits together: every reason, a line each.
pub fn effective(config: &Config, overlay: &Overlay) -> Result<Effective, Vec<String>> {
    effective_beside(config, overlay, config.limits, |_, _| false)
}

/// Merges the file and the runtime changes, where some backends are in use already and the tables have this room: new ones
/// wait where what leaves has it.
///
/// # Errors
/// As of [`effective`].
pub fn effective_beside(
    config: &Config,
    overlay: &Overlay,
    room: Limits,
    is_present: impl Fn(&Service, SocketAddr) -> bool,
) -> Result<Effective, Vec<String>> {
    let merge = Merge::new(config, overlay);
    let mut problems = Problems::default();
    let mut services = Vec::new();
    for name in merge.names() {
        if let Some(what) = merge.contradiction(name) {
            problems.add(&Place::Root.item("service", 0, &rules::service_label(Some(name), 0)), what);
        }
        services.extend(merge.base(name).map(|(base, origin)| EffectiveService {
            // The name that the rest goes by, also where a hand-edited state file says two.
            service: Service { name: name.into(), ..definition(base) },
            admin: overlay.service_admin(name),
            origin,
            backends: merge.listed(name).into_values().collect(),
            refused: Vec::new(),
            is_leaving: false,
        }));
    }
    // What stands in the file was there first: a service that is added stands against that, and not that against it.
    let (listed, added): (Vec<_>, Vec<_>) =
        services.iter().partition(|service| service.origin == Origin::File);
    let drafts: Vec<ServiceDraft> = listed.into_iter().chain(added).map(draft_of).collect();
    rules::check_all(
        &drafts,
        Some(config.snat_ports),
        Some(config.limits),
        config.allow_exec_checks,
        &mut problems,
    );
    problems.into_result()?;
    leaving::add(&mut services, &overlay.leaving, config.allow_exec_checks);
    discovered::add(&mut services, &merge, room);
    leaving::wait_for_room(&mut services, room, is_present);
    Ok(Effective { services })
}

/// A service as the rules look at it.
fn draft_of(service: &EffectiveService) -> ServiceDraft {
    let backends = service.backends.iter().map(|it| BackendDraft::of(&it.backend, it.origin)).collect();
    ServiceDraft { backends, ..ServiceDraft::of(&service.service, service.origin) }
}

/// The file's services by name, under the runtime changes.
pub(crate) struct Merge<'a> {
    file: HashMap<&'a str, &'a Service>,
    state_file: &'a Path,
    overlay: &'a Overlay,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(config: &'a Config, overlay: &'a Overlay) -> Self {
        let file = config.services.iter().map(|service| (service.name.as_str(), service)).collect();
        Self { file, state_file: &config.state_file, overlay }
    }

    /// The names of the services that there are.
    pub(crate) fn names(&self) -> BTreeSet<&'a str> {
        let file = self.file.keys().copied().filter(|name| !self.overlay.removed_services.contains(*name));
        file.chain(self.overlay.added_services.keys().map(String::as_str)).collect()
    }

    /// The service as the file defines it, removed or not.
    pub(crate) fn in_file(&self, name: &str) -> Option<&'a Service> {
        self.file.get(name).copied()
    }

    /// The definition that a service's backend changes apply to: the file's, or the one added.
    pub(crate) fn base(&self, name: &str) -> Option<(&'a Service, Origin)> {
        match (self.in_file(name), self.overlay.added_services.get(name)) {
            (Some(file), Some(_)) if self.file_takes_over(name) => Some((file, Origin::File)),
            (_, Some(added)) => Some((added, Origin::Runtime)),
            (Some(file), None) if !self.overlay.removed_services.contains(name) => Some((file, Origin::File)),
            _ => None,
        }
    }

    /// Whether a service that was added at runtime stands in the file by now. Where it was added
    /// after the file's was removed, the two have to be the same to the letter.
    pub(crate) fn file_takes_over(&self, name: &str) -> bool {
        let (Some(file), Some(added)) = (self.in_file(name), self.overlay.added_services.get(name)) else {
            return false;
        };
        if self.overlay.removed_services.contains(name) {
            definition(file) == definition(added)
        } else {
            (file.vip, file.protocol) == (added.vip, added.protocol)
        }
    }

    /// Where the file has a service of the name of one that was added at runtime, and is not the same.
    fn contradiction(&self, name: &str) -> Option<String> {
        let file = self.in_file(name)?;
        let added = self.overlay.added_services.get(name)?;
        if self.overlay.removed_services.contains(name) || self.file_takes_over(name) {
            return None;
        }
        Some(format!(
            "the config file defines it at {} {}, but it was added at runtime at {} {}; rename the one in the file, \
             or remove the added one: with \"xdp-lb service remove {name}\" if the daemon runs, else by removing \"{name}\" from the state file {}",
            file.vip,
            file.protocol,
            added.vip,
            added.protocol,
            self.state_file.display()
        ))
    }

    /// The runtime changes.
    pub(crate) fn overlay(&self) -> &'a Overlay {
        self.overlay
    }

    /// The backends that a service has, those that were discovered or leave as well.
    pub(crate) fn backends(&self, name: &str) -> BTreeMap<SocketAddr, EffectiveBackend> {
        let mut backends = self.listed(name);
        let origin = self
            .base(name)
            .and_then(|(base, _)| base.discovery.as_ref())
            .map_or(Origin::Dns, |discovery| discovery.origin());
        for discovered in self.discovered(name) {
            let backend = self.with_changes(name, discovered, origin);
            backends.entry(discovered.backend.address).or_insert(backend);
        }
        for leaving in self.overlay.leaving.of(name) {
            backends.entry(leaving.backend.address).or_insert(leaving);
        }
        backends
    }

    /// The backends that a service is defined with, and those that were found for it.
    pub(crate) fn defined(&self, name: &str) -> Vec<Backend> {
        let base = self.base(name).map_or(&[][..], |(base, _)| &base.backends);
        base.iter().copied().chain(self.discovered(name).map(|it| it.backend)).collect()
    }

    /// The backends that the file lists or the CLI added.
    pub(crate) fn listed(&self, name: &str) -> BTreeMap<SocketAddr, EffectiveBackend> {
        let mut backends = BTreeMap::new();
        if let Some((base, origin)) = self.base(name) {
            for &backend in &base.backends {
                let enabled =
                    EffectiveBackend { backend, admin: AdminState::Enabled, origin, is_leaving: false };
                backends.insert(backend.address, enabled);
            }
        }
        for (&address, &change) in self.overlay.backends.get(name).into_iter().flatten() {
            match change {
                BackendChange::Added { weight, server_id, backup, max_flows, admin } => {
                    let added = EffectiveBackend {
                        backend: Backend { address, weight, server_id, backup, max_flows },
                        admin,
                        origin: Origin::Runtime,
                        is_leaving: false,
                    };
                    backends.entry(address).and_modify(|file| file.admin = admin).or_insert(added);
                }
                BackendChange::Removed => {
                    backends.remove(&address);
                }
                BackendChange::Changed { weight, server_id, backup, max_flows, admin } => {
                    if let Some(backend) = backends.get_mut(&address) {
                        backend.backend.max_flows = max_flows.unwrap_or(backend.backend.max_flows);
                        backend.backend.server_id = server_id.or(backend.backend.server_id);
                        backend.backend.backup = backup.unwrap_or(backend.backend.backup);
                        backend.backend.weight = weight.unwrap_or(backend.backend.weight);
                        backend.admin = admin;
                    }
                }
            }
        }
        backends
    }
}

/// A service without its backends.
pub(crate) fn definition(service: &Service) -> Service {
    Service {
        backends: Vec::new(),
        name: service.name.clone(),
        snat_addresses: service.snat_addresses.clone(),
        agent: service.agent.clone(),
        allow: service.allow.clone(),
        deny: service.deny.clone(),
        health_check: service.health_check.clone(),
        discovery: service.discovery.clone(),
        ..*service
    }
}
