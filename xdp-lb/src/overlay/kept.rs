//! The runtime changes, as in the state file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::effective::EffectiveBackend;
use crate::model::patch::Patch;
use crate::model::place::{Place, Problems};
use crate::model::service::{Backend, Service, is_default};
use crate::model::state::{AdminState, Origin};
use crate::store::Kept;

/// The runtime changes, which survive a restart.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The node's administrative state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) node: AdminState,
    /// Services that were drained.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) drained_services: BTreeSet<String>,
    /// Services of the file that were removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) removed_services: BTreeSet<String>,
    /// Added services, by name; also with the name of a removed one of the file. Their backends are in `backends`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) added_services: BTreeMap<String, Service>,
    /// Options of services that were changed, by the services' names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) changed_services: BTreeMap<String, Patch<Service>>,
    /// Changes to backends, by the name of their service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) backends: BTreeMap<String, BTreeMap<SocketAddr, BackendChange>>,
    /// What discovery found last, for the time until the next answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) discovered: AllDiscovered,
    /// What is leaving.
    #[serde(default, skip_serializing_if = "Leaving::is_empty")]
    pub(crate) leaving: Leaving,
}

impl Kept for Overlay {
    const NAME: &str = "state file";
    const LOSS: &str = "the changes made at runtime are not in effect until you make them again, or repair that \
                        file and put it back";

    fn version(&self) -> u32 {
        // Version 3 added `leaving`, version 4 the options of services.
        match (self.changed_services.is_empty(), self.leaving.is_empty()) {
            (false, _) => 4,
            (true, false) => 3,
            (true, true) => 2,
        }
    }
}

impl Overlay {
    /// The node's administrative state.
    pub fn node_admin(&self) -> AdminState {
        self.node
    }

    /// A service's administrative state.
    pub(crate) fn service_admin(&self, name: &str) -> AdminState {
        if self.drained_services.contains(name) { AdminState::Draining } else { AdminState::Enabled }
    }

    pub(crate) fn set_change(&mut self, service: &str, address: SocketAddr, change: Option<BackendChange>) {
        let mut changes = self.backends.remove(service).unwrap_or_default();
        changes.remove(&address);
        changes.extend(change.map(|change| (address, change)));
        self.set_changes(service, changes);
    }

    pub(crate) fn set_changes(&mut self, service: &str, changes: BTreeMap<SocketAddr, BackendChange>) {
        if changes.is_empty() {
            self.backends.remove(service);
        } else {
            self.backends.insert(service.into(), changes);
        }
    }
}

/// A change to one backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BackendChange {
    /// It is added to those that the service is defined with.
    Added(ChangedBackend),
    /// The service is defined with it, and it is removed.
    Removed,
    /// The service is defined with it, and these options are changed.
    Changed(ChangedBackend),
}

/// A backend's changes.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ChangedBackend {
    /// Its options.
    #[serde(flatten)]
    pub options: Patch<Backend>,
    /// Its administrative state.
    #[serde(default)]
    pub admin: AdminState,
}

impl ChangedBackend {
    /// A backend with these changes.
    pub(crate) fn over(&self, backend: &Backend) -> Backend {
        self.options.over(backend, &Place::Root, &mut Problems::default())
    }
}

/// A discovered backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discovered {
    /// As it was found last.
    pub backend: Backend,
    /// Written by earlier versions: since when it is no longer found, by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving_since: Option<u64>,
}

/// What discovery found, by service and address.
pub(crate) type AllDiscovered = BTreeMap<String, BTreeMap<SocketAddr, Discovered>>;

/// All leaving services and backends.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaving {
    /// The boot in which the times are measured.
    pub boot: String,
    /// The services, by their present names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, LeavingService>,
    /// The backends, by the name of their service and their address: all of the services above, and some of others.
    pub backends: BTreeMap<String, BTreeMap<SocketAddr, LeavingBackend>>,
}

/// A leaving service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeavingService {
    pub service: Service,
    pub origin: Origin,
    #[serde(default)]
    pub admin: AdminState,
}

/// A leaving backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeavingBackend {
    pub backend: Backend,
    pub origin: Origin,
    /// Since when, seconds of the boot.
    pub since: u64,
}

impl Leaving {
    pub(crate) fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }

    /// A service's leaving backends.
    pub(crate) fn of(&self, service: &str) -> impl Iterator<Item = EffectiveBackend> {
        let all = self.backends.get(service).into_iter().flatten();
        all.map(|(_, LeavingBackend { backend, origin, .. })| EffectiveBackend {
            backend: *backend,
            admin: AdminState::Enabled,
            origin: *origin,
            is_leaving: true,
        })
    }

    pub(crate) fn since(&self, service: &str, address: SocketAddr) -> Option<u64> {
        Some(self.backends.get(service)?.get(&address)?.since)
    }

    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }

    /// Drops a leaving service, with its backends.
    pub(crate) fn remove_service(&mut self, name: &str) {
        if self.services.remove(name).is_some() {
            self.backends.remove(name);
        }
    }

    pub(crate) fn remove_backend(&mut self, service: &str, address: SocketAddr) {
        if let Some(backends) = self.backends.get_mut(service) {
            backends.remove(&address);
            if backends.is_empty() {
                self.backends.remove(service);
                self.services.remove(service);
            }
        }
    }
}
