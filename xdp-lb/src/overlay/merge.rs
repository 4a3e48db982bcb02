//! The file's services by name, with the runtime changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use super::kept::{BackendChange, Discovered, Overlay};
use crate::model::config::Config;
use crate::model::effective::EffectiveBackend;
use crate::model::place::{Place, Problem, Problems};
use crate::model::service::{Backend, Service, default_weight};
use crate::model::state::{AdminState, Origin};
use crate::model::text::quoted;

/// The file's services by name, with the runtime changes.
pub(crate) struct Merge<'a> {
    file: HashMap<&'a str, &'a Service>,
    state_file: &'a Path,
    overlay: &'a Overlay,
    /// The definitions of services whose options were changed.
    changed: HashMap<&'a str, Service>,
    /// What is wrong with those changes.
    problems: Problems,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(config: &'a Config, overlay: &'a Overlay) -> Self {
        let file = config.services.iter().map(|service| (service.name.as_str(), service)).collect();
        let mut merge = Self {
            file,
            state_file: &config.state_file,
            overlay,
            changed: HashMap::new(),
            problems: Problems::default(),
        };
        for (name, patch) in &overlay.changed_services {
            let Some((base, _)) = merge.unchanged(name) else { continue };
            let label = format!("service {} (changed at runtime)", quoted(name));
            let place = Place::Root.item("service", 0, &label);
            let changed = patch.over(base, &place, &mut merge.problems);
            merge.changed.insert(name, changed);
        }
        merge
    }

    /// What is wrong with changes to options.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems.all
    }

    /// The names of the services.
    pub(crate) fn names(&self) -> BTreeSet<&'a str> {
        let file = self.file.keys().copied().filter(|name| !self.overlay.removed_services.contains(*name));
        file.chain(self.overlay.added_services.keys().map(String::as_str)).collect()
    }

    /// The service as the file defines it, removed or not.
    pub(crate) fn in_file(&self, name: &str) -> Option<&'a Service> {
        self.file.get(name).copied()
    }

    /// The definition to which changes of a service's backends apply: the file's or the added one, with changed options.
    pub(crate) fn base(&self, name: &str) -> Option<(&Service, Origin)> {
        let (base, origin) = self.unchanged(name)?;
        Some((self.changed.get(name).unwrap_or(base), origin))
    }

    /// The file's definition, or the added one.
    pub(crate) fn unchanged(&self, name: &str) -> Option<(&'a Service, Origin)> {
        match (self.in_file(name), self.overlay.added_services.get(name)) {
            (Some(file), Some(_)) if self.file_takes_over(name) => Some((file, Origin::File)),
            (_, Some(added)) => Some((added, Origin::Runtime)),
            (Some(file), None) if !self.overlay.removed_services.contains(name) => Some((file, Origin::File)),
            _ => None,
        }
    }

    /// Whether a service that was added at runtime is now in the file. If it was added after the file's was removed, the two must be
    /// equal.
    pub(crate) fn file_takes_over(&self, name: &str) -> bool {
        let (Some(file), Some(added)) = (self.in_file(name), self.overlay.added_services.get(name)) else {
            return false;
        };
        if self.overlay.removed_services.contains(name) {
            file.without_backends() == added.without_backends()
        } else {
            (file.vip, file.protocol) == (added.vip, added.protocol)
        }
    }

    /// The error if the file has another service with the name of one that was added at runtime.
    pub(crate) fn contradiction(&self, name: &str) -> Option<String> {
        let file = self.in_file(name)?;
        let added = self.overlay.added_services.get(name)?;
        if self.overlay.removed_services.contains(name) || self.file_takes_over(name) {
            return None;
        }
        Some(format!(
            "the config file defines it at {} {}, but it was added at runtime at {} {}; rename the one in the file, \
             or remove the added one: with \"xdp-lb service remove {name}\" if the daemon runs, else by removing \
             \"{name}\" from the state file {}",
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

    /// A service's backends, including discovered and leaving ones.
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

    /// The backends that a service is defined with, and the discovered ones.
    pub(crate) fn defined(&self, name: &str) -> Vec<Backend> {
        let base = self.base(name).map_or(&[][..], |(base, _)| &base.backends);
        base.iter().copied().chain(self.discovered(name).map(|it| it.backend)).collect()
    }

    /// The backends that are in the file or were added at runtime.
    pub(crate) fn listed(&self, name: &str) -> BTreeMap<SocketAddr, EffectiveBackend> {
        let mut backends = BTreeMap::new();
        if let Some((base, origin)) = self.base(name) {
            for &backend in &base.backends {
                let enabled =
                    EffectiveBackend { backend, admin: AdminState::Enabled, origin, is_leaving: false };
                backends.insert(backend.address, enabled);
            }
        }
        for (&address, change) in self.overlay.backends.get(name).into_iter().flatten() {
            match change {
                BackendChange::Added(added) => {
                    let admin = added.admin;
                    let added = || EffectiveBackend {
                        backend: added.over(&Backend::new(address, default_weight())),
                        admin,
                        origin: Origin::Runtime,
                        is_leaving: false,
                    };
                    backends.entry(address).and_modify(|file| file.admin = admin).or_insert_with(added);
                }
                BackendChange::Removed => {
                    backends.remove(&address);
                }
                BackendChange::Changed(changed) => {
                    if let Some(backend) = backends.get_mut(&address) {
                        backend.backend = changed.over(&backend.backend);
                        backend.admin = changed.admin;
                    }
                }
            }
        }
        backends
    }

    /// A service's discovered backends that are not listed, as they were found.
    pub(crate) fn discovered(&self, name: &str) -> impl Iterator<Item = Discovered> {
        let listed = self.base(name).map_or(&[][..], |(base, _)| &base.backends);
        let listed: BTreeSet<SocketAddr> = listed.iter().map(|backend| backend.address).collect();
        let changes = self.overlay().backends.get(name);
        let is_listed = move |address: &SocketAddr| {
            let change = changes.and_then(|changes| changes.get(address));
            listed.contains(address) || matches!(change, Some(BackendChange::Added(_)))
        };
        let discovers = self.base(name).is_some_and(|(base, _)| base.discovery.is_some());
        let all = self.overlay().discovered.get(name).filter(|_| discovers);
        all.into_iter().flatten().filter(move |(address, _)| !is_listed(address)).map(|(_, it)| *it)
    }

    /// A discovered backend with its runtime changes.
    pub(crate) fn with_changes(&self, name: &str, found: Discovered, origin: Origin) -> EffectiveBackend {
        let mut backend = EffectiveBackend {
            backend: found.backend,
            admin: AdminState::Enabled,
            origin,
            is_leaving: false,
        };
        let changes = self.overlay().backends.get(name);
        if let Some(BackendChange::Changed(changed)) =
            changes.and_then(|changes| changes.get(&found.backend.address))
        {
            backend.backend = changed.over(&found.backend);
            backend.admin = changed.admin;
        }
        backend
    }
}
