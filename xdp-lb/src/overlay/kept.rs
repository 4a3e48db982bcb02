//! What was changed at runtime, as the state file keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::effective::EffectiveBackend;
use crate::model::patch::Patch;
use crate::model::place::{Place, Problems};
use crate::model::service::{Backend, Service, is_default};
use crate::model::state::{AdminState, Origin};
use crate::store::Kept;

/// The changes that were made at runtime, which survive a restart.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// What the operator wants of the node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) node: AdminState,
    /// Services that were drained.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) drained_services: BTreeSet<String>,
    /// Services of the file that were removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) removed_services: BTreeSet<String>,
    /// Services that were added, by name. One of the file that was removed may be here with another
    /// definition. Their backends are in `backends`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) added_services: BTreeMap<String, Service>,
    /// Options of services that were changed, by the services' names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) changed_services: BTreeMap<String, Patch<Service>>,
    /// Changes to backends, by the name of their service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) backends: BTreeMap<String, BTreeMap<SocketAddr, BackendChange>>,
    /// What discovery found last, so that it is known while there is no answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) discovered: AllDiscovered,
    /// What nobody defines or finds any more and keeps its flows until those end.
    #[serde(default, skip_serializing_if = "Leaving::is_empty")]
    pub(crate) leaving: Leaving,
}

impl Kept for Overlay {
    const NAME: &str = "state file";
    const LOSS: &str = "the changes made at runtime are not in effect until you make them again, or repair that \
                        file and put it back";

    fn version(&self) -> u32 {
        // Version 3 brought what leaves, version 4 the options of services.
        match (self.changed_services.is_empty(), self.leaving.is_empty()) {
            (false, _) => 4,
            (true, false) => 3,
            (true, true) => 2,
        }
    }
}

impl Overlay {
    /// What the operator wants of the node.
    pub fn node_admin(&self) -> AdminState {
        self.node
    }

    /// What the operator wants of a service.
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
    /// It is there beside those that the service is defined with.
    Added(ChangedBackend),
    /// The service is defined with it, and it is not to be used.
    Removed,
    /// The service is defined with it, and these of its options are others.
    Changed(ChangedBackend),
}

/// What was changed of a backend.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ChangedBackend {
    /// Its options.
    #[serde(flatten)]
    pub options: Patch<Backend>,
    /// What the operator wants of it.
    #[serde(default)]
    pub admin: AdminState,
}

impl ChangedBackend {
    /// A backend with these changes.
    pub(crate) fn over(&self, backend: &Backend) -> Backend {
        self.options.over(backend, &Place::Root, &mut Problems::default())
    }
}

/// A backend that discovery found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discovered {
    /// As it was found last.
    pub backend: Backend,
    /// Written by earlier versions: since when it is not found any more, by the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving_since: Option<u64>,
}

/// What discovery found, by service and address.
pub(crate) type AllDiscovered = BTreeMap<String, BTreeMap<SocketAddr, Discovered>>;

/// All that leaves.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaving {
    /// The boot that the times are of.
    pub boot: String,
    /// The services, by the name that they have now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, LeavingService>,
    /// The backends, by the name of their service and their address: all of the services above, and some of those that stay.
    pub backends: BTreeMap<String, BTreeMap<SocketAddr, LeavingBackend>>,
}

/// A service that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeavingService {
    pub service: Service,
    pub origin: Origin,
    #[serde(default)]
    pub admin: AdminState,
}

/// A backend that leaves.
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

    /// The backends of a service that leave.
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

    /// Forgets a service that leaves, with its backends.
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
