//! What the CLI changed on top of the file.
//!
//! Every change is checked against the file with all earlier changes applied, and leaves the overlay
//! as it was where it is refused. What a change undoes is taken out of the overlay again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::discovered::AllDiscovered;
use super::effective::{Merge, definition, effective};
use super::leaving::Leaving;
use crate::model::effective::EffectiveBackend;
use crate::model::policy::ServerId;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{BackendPatch, Outcome};
use crate::model::rules::{validate_backend, validate_service};
use crate::model::schema::{Backend, Config, Service, is_default};
use crate::model::state::{AdminState, Origin};
use crate::model::text::counted;
use crate::model::unknown::{unknown_backend, unknown_service};
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
        // Version 3 brought what leaves.
        if self.leaving.is_empty() { 2 } else { 3 }
    }
}

/// A change to one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum BackendChange {
    /// It is there beside those that the service is defined with.
    Added {
        weight: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_id: Option<ServerId>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        backup: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        max_flows: u32,
        #[serde(default)]
        admin: AdminState,
    },
    /// The service is defined with it, and it is not to be used.
    Removed,
    /// The service is defined with it; its weight, its server id, whether it is a backup and its limit of flows, where
    /// they are given here, and its administrative state are these.
    Changed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_id: Option<ServerId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backup: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_flows: Option<u32>,
        #[serde(default)]
        admin: AdminState,
    },
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

    /// Drains the node, or takes it back into service. What is so already is left, and said.
    ///
    /// # Errors
    /// None.
    pub fn patch_node(&mut self, config: &Config, admin: AdminState) -> Answer<Outcome> {
        let is_changed = std::mem::replace(&mut self.node, admin) != admin;
        let what = match (admin, is_changed) {
            (AdminState::Enabled, false) => return unchanged("this node is already in service".into()),
            (AdminState::Draining, false) => "this node is already drained",
            (AdminState::Enabled, true) => "this node is back in service",
            (AdminState::Draining, true) => "this node is draining",
        };
        let merge = Merge::new(config, self);
        let vips: BTreeSet<_> =
            merge.names().into_iter().filter_map(|name| Some(merge.base(name)?.0.vip.ip())).collect();
        let vips: Vec<String> = vips.iter().map(ToString::to_string).collect();
        let vips = if vips.is_empty() { "no VIPs".to_owned() } else { vips.join(", ") };
        let message = match (&config.vips.interface, admin) {
            (Some(_), AdminState::Draining) => {
                format!("{what}: its VIPs are withdrawn; flows whose packets still arrive continue")
            }
            (Some(_), AdminState::Enabled) => format!("{what}, with its VIPs"),
            (None, AdminState::Draining) => format!(
                "{what}, but the daemon does not manage VIP addresses (no vips.interface): remove their addresses \
                 or routes yourself: {vips}"
            ),
            (None, AdminState::Enabled) => {
                format!("{what}: restore the VIPs' addresses or routes yourself: {vips}")
            }
        };
        Ok(Outcome { message, changed: is_changed, trouble: None })
    }

    /// Drains a service with all of its backends, or lets it take new flows again. What is so already is left, and
    /// said.
    ///
    /// # Errors
    /// `NotFound`, with the services that there are.
    pub fn patch_service(&mut self, config: &Config, name: &str, admin: AdminState) -> Answer<Outcome> {
        service(&Merge::new(config, self), name)?;
        let is_changed = match admin {
            AdminState::Draining => self.drained_services.insert(name.into()),
            AdminState::Enabled => self.drained_services.remove(name),
        };
        match (admin, is_changed) {
            (AdminState::Enabled, false) => unchanged(format!("service {name} is already enabled")),
            (AdminState::Draining, false) => unchanged(format!("service {name} is already draining")),
            (AdminState::Enabled, true) => done(format!("service {name} enabled")),
            (AdminState::Draining, true) => {
                done(format!("service {name} is draining: it keeps its flows and gets no new ones"))
            }
        }
    }

    /// Adds a service. One that the file defines just so, and that was removed, is the file's again.
    ///
    /// # Errors
    /// `Invalid` where the service is wrong in itself; `Conflict` where its name, its VIP or a
    /// backend stands against what there is, or there is no room for it.
    pub fn add_service(&mut self, config: &Config, service: Service) -> Answer<Outcome> {
        validate_service(&service).map_err(invalid)?;
        let name = service.name.as_str();
        let merge = Merge::new(config, self);
        if let Some((present, _)) = merge.base(name) {
            let wanted: BTreeMap<SocketAddr, (Backend, AdminState)> = service
                .backends
                .iter()
                .map(|backend| (backend.address, (*backend, AdminState::Enabled)))
                .collect();
            let there: BTreeMap<SocketAddr, (Backend, AdminState)> = merge
                .backends(name)
                .into_iter()
                .map(|(address, there)| (address, (there.backend, there.admin)))
                .collect();
            if definition(present) == definition(&service) && there == wanted {
                return unchanged(format!(
                    "service {name} already exists with this definition; nothing changed"
                ));
            }
            return Err(Refusal::Conflict(format!(
                "service {name} already exists, at {} {}; remove it first (xdp-lb service remove {name}), or choose \
                 another name",
                present.vip, present.protocol
            )));
        }

        let file = merge.in_file(name).filter(|file| definition(file) == definition(&service));
        let known = file.map_or(&[][..], |file| &file.backends);
        let removed = known.iter().map(|backend| (backend.address, BackendChange::Removed));
        let mut changes: BTreeMap<SocketAddr, BackendChange> = removed.collect();
        for backend in &service.backends {
            changes.remove(&backend.address);
            let change = change_to(known, *backend, AdminState::Enabled);
            changes.extend(change.map(|change| (backend.address, change)));
        }
        let mut next = self.clone();
        next.set_changes(name, changes);
        if file.is_some() {
            next.removed_services.remove(name);
        } else {
            next.added_services.insert(name.into(), definition(&service));
        }
        self.replace(config, next)?;
        done(format!(
            "service {name} added at {} {}, with {}",
            service.vip,
            service.protocol,
            counted(service.backends.len(), "backend")
        ))
    }

    /// Removes a service with its backends.
    ///
    /// # Errors
    /// `NotFound`, with the services that there are.
    pub fn remove_service(&mut self, config: &Config, name: &str) -> Answer<Outcome> {
        if self.leaving.has_service(name) {
            self.leaving.remove_service(name);
            return done(format!("service {name} was draining and is now removed"));
        }
        let merge = Merge::new(config, self);
        service(&merge, name)?;
        let backends = counted(merge.backends(name).len(), "backend");
        let in_file = merge.in_file(name).is_some();
        self.added_services.remove(name);
        self.backends.remove(name);
        self.drained_services.remove(name);
        self.discovered.remove(name);
        if in_file {
            self.removed_services.insert(name.into());
        }
        done(format!("service {name} removed, with {backends}{}", removal_note(in_file)))
    }

    /// Adds a backend to a service. One of the file's that was removed is the file's again.
    ///
    /// # Errors
    /// `NotFound` where there is no such service, `Invalid` where the backend is wrong in itself,
    /// `Conflict` where it is there already with another weight or state, stands against a VIP, or
    /// there is no room for it.
    pub fn add_backend(&mut self, config: &Config, name: &str, backend: Backend) -> Answer<Outcome> {
        let Backend { address, weight, server_id, backup, max_flows } = backend;
        let merge = Merge::new(config, self);
        let base = service(&merge, name)?;
        validate_backend(base, &backend).map_err(invalid)?;
        if let Some(there) = merge.backends(name).get(&address).filter(|there| !there.is_leaving) {
            let hint = match (there.backend.weight == weight, there.admin) {
                _ if there.backend.server_id != server_id => {
                    "with another server ID; remove it first".to_owned()
                }
                _ if there.backend.backup != backup => {
                    let kind = if backup { "not a backup" } else { "a backup" };
                    format!("but is {kind}; remove it first")
                }
                _ if there.backend.max_flows != max_flows => {
                    format!("with max_flows {}; remove it first", there.backend.max_flows)
                }
                (true, AdminState::Enabled) => {
                    return unchanged(format!(
                        "service {name}: backend {address} already exists with weight {weight}"
                    ));
                }
                (true, AdminState::Draining) => {
                    format!("but is draining; enable it with: xdp-lb backend enable {name} {address}")
                }
                (false, _) => format!(
                    "with weight {}; change it with: xdp-lb backend set-weight {name} {address} {weight}",
                    there.backend.weight
                ),
            };
            return Err(Refusal::Conflict(format!(
                "service {name}: backend {address} already exists {hint}"
            )));
        }
        let change = change_to(&base.backends, backend, AdminState::Enabled);
        let mut next = self.clone();
        next.set_change(name, address, change);
        self.replace(config, next)?;
        let kind = if backup { ", backup" } else { "" };
        done(format!("service {name}: backend {address} added, weight {weight}{kind}"))
    }

    /// Changes a backend's weight or its administrative state. What is so already is left, and said.
    ///
    /// # Errors
    /// `NotFound` where there is no such service or backend, with those that there are; `Invalid`
    /// where the patch names nothing.
    pub fn patch_backend(
        &mut self,
        config: &Config,
        name: &str,
        address: SocketAddr,
        patch: BackendPatch,
    ) -> Answer<Outcome> {
        let merge = Merge::new(config, self);
        service(&merge, name)?;
        let old = backend(&merge, name, address)?;
        if old.is_leaving {
            if patch == (BackendPatch { admin: Some(AdminState::Draining), weight: None }) {
                return unchanged(format!(
                    "service {name}: backend {address} was removed and is already draining"
                ));
            }
            return Err(Refusal::Conflict(format!(
                "service {name}: backend {address} was removed and is draining; add it again with: xdp-lb backend \
                 add {name} {address}"
            )));
        }
        let weight = patch.weight.unwrap_or(old.backend.weight);
        let admin = patch.admin.unwrap_or(old.admin);
        let mut words = Vec::new();
        if patch.weight.is_some() {
            words.push(match old.backend.weight {
                same if same == weight => format!("already has weight {weight}"),
                other => format!("weight {other} -> {weight}"),
            });
        }
        if patch.admin.is_some() {
            words.push(String::from(match (admin, admin == old.admin) {
                (AdminState::Enabled, true) => "is already enabled",
                (AdminState::Enabled, false) => "enabled",
                (AdminState::Draining, true) => "is already draining",
                (AdminState::Draining, false) => "is draining: it keeps its flows and gets no new ones",
            }));
        }
        if words.is_empty() {
            return Err(Refusal::Invalid(format!(
                "service {name}: backend {address}: nothing to change; give a weight or a state"
            )));
        }
        let message = format!("service {name}: backend {address} {}", words.join(", "));
        if (weight, admin) == (old.backend.weight, old.admin) {
            return unchanged(message);
        }
        let change = change_to(&merge.defined(name), Backend { weight, ..old.backend }, admin);
        self.set_change(name, address, change);
        done(message)
    }

    /// Removes a backend.
    ///
    /// # Errors
    /// `NotFound` where there is no such service or backend, with those that there are.
    pub fn remove_backend(&mut self, config: &Config, name: &str, address: SocketAddr) -> Answer<Outcome> {
        let merge = Merge::new(config, self);
        let base = service(&merge, name)?;
        let there = backend(&merge, name, address)?;
        let is_found = self.discovered.get(name).is_some_and(|found| found.contains_key(&address));
        if there.is_leaving {
            self.release(name, address);
            return done(format!("service {name}: backend {address} was draining and is now removed"));
        }
        if let (Origin::Dns | Origin::WatchedFile, Some(discovery)) = (there.origin, &base.discovery) {
            return Err(Refusal::Conflict(format!(
                "service {name}: backend {address} comes from discovery ({discovery}), which would find it again: \
                 remove it at the source, or drain it: xdp-lb backend drain {name} {address}"
            )));
        }
        let defined = find(&base.backends, address).is_some();
        if is_found && !defined {
            self.set_change(name, address, None);
            return done(format!(
                "service {name}: backend {address} is now managed by the service's discovery"
            ));
        }
        self.set_change(name, address, defined.then_some(BackendChange::Removed));
        done(format!("service {name}: backend {address} removed{}", removal_note(defined)))
    }

    /// Forgets the changes that mean nothing beside this file, and those that it has taken over.
    /// What is effective stays the same. Returns a line for each that an operator should know of.
    pub fn prune(&mut self, config: &Config) -> Vec<String> {
        let mut lines = Vec::new();
        let merge = Merge::new(config, self);
        let mut next = Self { node: self.node, leaving: self.leaving.clone(), ..Self::default() };

        for name in &self.drained_services {
            if merge.base(name).is_some() {
                next.drained_services.insert(name.clone());
            } else {
                lines.push(format!("service {name}: no longer in the config file, so its drain is dropped"));
            }
        }
        for (name, added) in &self.added_services {
            if merge.file_takes_over(name) {
                lines.push(format!(
                    "service {name}: now in the config file, whose definition takes precedence"
                ));
            } else {
                next.added_services.insert(name.clone(), added.clone());
            }
        }
        for name in &self.removed_services {
            if merge.in_file(name).is_none() {
                lines
                    .push(format!("service {name}: no longer in the config file, so its removal is dropped"));
            } else if !merge.file_takes_over(name) {
                next.removed_services.insert(name.clone());
            }
        }
        for (name, changes) in &self.backends {
            let Some((base, _)) = merge.base(name) else {
                lines.push(format!(
                    "service {name}: no longer in the config file, so the changes to {} are dropped",
                    counted(changes.len(), "backend")
                ));
                continue;
            };
            let mut kept = BTreeMap::new();
            let defined = merge.defined(name);
            for (&address, &change) in changes {
                // What leaves may come back, and is as it was then.
                if matches!(change, BackendChange::Changed { .. }) && self.is_leaving(name, address) {
                    kept.insert(address, change);
                    continue;
                }
                // One that discovery finds may be added all the same.
                let defined = match change {
                    BackendChange::Added { .. } => find(&base.backends, address),
                    _ => find(&defined, address),
                };
                let (change, line) = prune_change(change, defined);
                kept.extend(change.map(|change| (address, change)));
                lines.extend(line.map(|line| format!("service {name}: backend {address}: {line}")));
            }
            next.set_changes(name, kept);
        }
        for (name, found) in &self.discovered {
            if merge.base(name).is_some_and(|(base, _)| base.discovery.is_some()) {
                next.discovered.insert(name.clone(), found.clone());
            } else {
                lines.push(format!(
                    "service {name}: no longer has discovery, so what it found is dropped: {}",
                    counted(found.len(), "backend")
                ));
            }
        }
        *self = next;
        lines
    }

    pub(crate) fn set_change(&mut self, service: &str, address: SocketAddr, change: Option<BackendChange>) {
        let mut changes = self.backends.remove(service).unwrap_or_default();
        changes.remove(&address);
        changes.extend(change.map(|change| (address, change)));
        self.set_changes(service, changes);
    }

    fn set_changes(&mut self, service: &str, changes: BTreeMap<SocketAddr, BackendChange>) {
        if changes.is_empty() {
            self.backends.remove(service);
        } else {
            self.backends.insert(service.into(), changes);
        }
    }

    /// Becomes `next`, where that goes with the file.
    fn replace(&mut self, config: &Config, next: Self) -> Answer<()> {
        effective(config, &next).map_err(|lines| Refusal::Conflict(lines.join("\n")))?;
        *self = next;
        Ok(())
    }
}

/// The least change that makes a backend so, given those that its service is defined with.
fn change_to(defined: &[Backend], wanted: Backend, admin: AdminState) -> Option<BackendChange> {
    let Some(defined) = find(defined, wanted.address) else {
        let Backend { weight, server_id, backup, max_flows, .. } = wanted;
        return Some(BackendChange::Added { weight, server_id, backup, max_flows, admin });
    };
    let weight = (wanted.weight != defined.weight).then_some(wanted.weight);
    // A service has ids for all of its backends or for none, so none is never put over one.
    let server_id = wanted.server_id.filter(|_| wanted.server_id != defined.server_id);
    let max_flows = (wanted.max_flows != defined.max_flows).then_some(wanted.max_flows);
    let backup = (wanted.backup != defined.backup).then_some(wanted.backup);
    let is_changed = weight.is_some()
        || server_id.is_some()
        || backup.is_some()
        || max_flows.is_some()
        || admin != AdminState::default();
    is_changed.then_some(BackendChange::Changed { weight, server_id, backup, max_flows, admin })
}

/// What is left of a change beside a backend's present definition, and what to say of it.
fn prune_change(change: BackendChange, defined: Option<Backend>) -> (Option<BackendChange>, Option<String>) {
    match (change, defined) {
        (BackendChange::Added { admin, .. }, Some(defined)) => (
            change_to(&[defined], defined, admin),
            Some(format!("now in the config file, whose weight of {} takes precedence", defined.weight)),
        ),
        (BackendChange::Changed { weight, server_id, backup, max_flows, admin }, Some(defined)) => {
            let wanted = Backend {
                weight: weight.unwrap_or(defined.weight),
                server_id: server_id.or(defined.server_id),
                backup: backup.unwrap_or(defined.backup),
                max_flows: max_flows.unwrap_or(defined.max_flows),
                ..defined
            };
            (change_to(&[defined], wanted, admin), None)
        }
        (BackendChange::Added { .. }, None) | (BackendChange::Removed, Some(_)) => (Some(change), None),
        (BackendChange::Changed { .. }, None) => {
            (None, Some("no longer in the config file, so its changes are dropped".into()))
        }
        (BackendChange::Removed, None) => {
            (None, Some("no longer in the config file, so its removal is dropped".into()))
        }
    }
}

fn find(backends: &[Backend], address: SocketAddr) -> Option<Backend> {
    backends.iter().copied().find(|backend| backend.address == address)
}

/// The definition of a service that there is.
fn service<'a>(merge: &Merge<'a>, name: &str) -> Answer<&'a Service> {
    merge
        .base(name)
        .map(|(base, _)| base)
        .ok_or_else(|| unknown_service(name, merge.names().into_iter().map(str::to_owned).collect()))
}

/// A backend that there is.
fn backend(merge: &Merge, service: &str, address: SocketAddr) -> Answer<EffectiveBackend> {
    let backends = merge.backends(service);
    backends
        .get(&address)
        .copied()
        .ok_or_else(|| unknown_backend(service, address, backends.keys().map(ToString::to_string).collect()))
}

fn removal_note(in_file: bool) -> &'static str {
    if in_file { "; it is still in the config file, but stays removed until it is added again" } else { "" }
}

fn done(message: String) -> Answer<Outcome> {
    Ok(Outcome { message, changed: true, trouble: None })
}

fn unchanged(message: String) -> Answer<Outcome> {
    Ok(Outcome { message, changed: false, trouble: None })
}

fn invalid(lines: Vec<String>) -> Refusal {
    Refusal::Invalid(lines.join("\n"))
}

#[cfg(test)]
mod tests;
