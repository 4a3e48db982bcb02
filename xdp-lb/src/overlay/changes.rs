//! Changes at runtime, on top of the file.
//!
//! Every change is checked against the file with all earlier changes applied. A refused change leaves the overlay as it was. A
//! change that undoes an earlier one removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::diff::{option_changes, option_value, without_secrets};
use super::effective::effective;
use super::kept::{BackendChange, ChangedBackend, Overlay};
use super::merge::Merge;
use crate::model::change::{KeyChange, in_words};
use crate::model::choices::{FlowTracking, Mode, Protocol};
use crate::model::config::Config;
use crate::model::effective::EffectiveBackend;
use crate::model::options::Options;
use crate::model::patch::{Patch, replaces};
use crate::model::place::{Place, Problems};
use crate::model::policy::Quic;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{BackendOptions, BackendPatch, Outcome, ServicePatch};
use crate::model::rules::{check_service, service_label, validate_backend, validate_service};
use crate::model::service::{Backend, Service, default_weight};
use crate::model::state::{AdminState, Origin};
use crate::model::text::{counted, print_duration, quoted};
use crate::model::unknown::{unknown_backend, unknown_service};

impl Overlay {
    /// Drains the node, or puts it back into service. If it is so already, the answer says so.
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

    /// Changes options of a service and of its backends, drains it with all of its backends, or lets it take new flows again. If it
    /// is so already, the answer says so. `all_recorded_in`: the time until every live flow of the service has a record, if it has
    /// `flow_tracking = "always"`; zero: they all have.
    ///
    /// # Errors
    /// `NotFound`, with the known services or backends; `Invalid` if nothing is requested, or an option cannot have the value or
    /// cannot change.
    pub fn patch_service(
        &mut self,
        config: &Config,
        name: &str,
        patch: &ServicePatch,
        all_recorded_in: Duration,
    ) -> Answer<Outcome> {
        if self.leaving.has_service(name) && patch == &ServicePatch::admin(AdminState::Draining) {
            return unchanged(format!("service {name} was removed and is already draining"));
        }
        if patch.is_empty() {
            return Err(Refusal::Invalid(format!(
                "service {name}: nothing to change; give an option or a state"
            )));
        }
        let mut named = BTreeSet::new();
        if let Some(twice) = patch.backends.iter().find(|it| !named.insert(it.address)) {
            let message =
                format!("service {name}: backend {} is listed twice; remove one of them", twice.address);
            return Err(Refusal::Invalid(message));
        }
        let mut next = self.clone();
        let mut outcomes = Vec::new();
        if patch.admin.is_some() || !patch.options.is_empty() {
            outcomes.push(next.patch_service_alone(config, name, patch, all_recorded_in)?);
        }
        for BackendOptions { address, options } in &patch.backends {
            let patch = BackendPatch { options: options.clone(), ..BackendPatch::default() };
            outcomes.push(next.patch_backend(config, name, *address, &patch)?);
        }
        if patch.options.keys().any(|(key, _)| key == QUIC) {
            next.check_server_ids(config, name)?;
        }
        *self = next;
        let prefix = format!("service {name}: ");
        let messages: Vec<&str> = outcomes
            .iter()
            .enumerate()
            .map(|(place, it)| it.message.strip_prefix(&prefix).filter(|_| place > 0).unwrap_or(&it.message))
            .collect();
        let changed = outcomes.iter().any(|it| it.changed);
        Ok(Outcome { message: messages.join("; "), changed, trouble: None })
    }

    /// Refuses server IDs that do not fit the service's `quic`.
    fn check_server_ids(&self, config: &Config, name: &str) -> Answer<()> {
        let merge = Merge::new(config, self);
        let quic = service(&merge, name)?.quic;
        let misfit = |backend: EffectiveBackend| {
            let Backend { address, server_id, .. } = backend.backend;
            let what = Quic::check_server_id(quic, server_id).err()?;
            Some(format!("service {}: backend {address}: {SERVER_ID}: {what}", quoted(name)))
        };
        let mut wrong: Vec<String> = merge.listed(name).into_values().filter_map(misfit).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.push(together(&merge, name, quic.is_some()));
        Err(invalid(wrong))
    }

    fn patch_service_alone(
        &mut self,
        config: &Config,
        name: &str,
        patch: &ServicePatch,
        all_recorded_in: Duration,
    ) -> Answer<Outcome> {
        let merge = Merge::new(config, self);
        let old = &service(&merge, name)?.without_backends();
        let mut words = Vec::new();
        let mut is_changed = false;
        let mut has_discovery = old.discovery.is_some();
        let mut options = self.changed_services.get(name).cloned().unwrap_or_default();
        if !patch.options.is_empty() {
            options.merge(&patch.options);
            let base = merge.unchanged(name).map_or(old, |(base, _)| base);
            let new = changed_service(base, old, &options, all_recorded_in).map_err(invalid)?;
            is_changed = options_in_words(old, &new, &patch.options, &mut words);
            has_discovery = new.discovery.is_some();
            options.prune(base);
        }
        let is_drained = self.drained_services.contains(name);
        if let Some(admin) = patch.admin {
            let drains = admin == AdminState::Draining;
            words.push(String::from(match (drains, drains != is_drained) {
                (false, false) => "is already enabled",
                (true, false) => "is already draining",
                (false, true) => "enabled",
                (true, true) => "is draining: it keeps its flows and gets no new ones",
            }));
            is_changed |= drains != is_drained;
            match drains {
                true => self.drained_services.insert(name.into()),
                false => self.drained_services.remove(name),
            };
        }
        if !has_discovery {
            self.discovered.remove(name);
        }
        if options.is_empty() {
            self.changed_services.remove(name);
        } else {
            self.changed_services.insert(name.into(), options);
        }
        let message = format!("service {name} {}", words.join(", "));
        Ok(Outcome { message, changed: is_changed, trouble: None })
    }

    /// Adds a service. If the file defines exactly this one and it was removed, the removal is undone.
    ///
    /// # Errors
    /// `Invalid` if the service is invalid by itself; `Conflict` if its name, its VIP or a backend conflicts with others, or there
    /// is no room for it.
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
            if present.without_backends() == service.without_backends() && there == wanted {
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

        let file = merge.in_file(name).filter(|file| file.without_backends() == service.without_backends());
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
            next.added_services.insert(name.into(), service.without_backends());
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
    /// `NotFound`, with the known services.
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
        self.changed_services.remove(name);
        self.discovered.remove(name);
        if in_file {
            self.removed_services.insert(name.into());
        }
        done(format!("service {name} removed, with {backends}{}", removal_note(in_file)))
    }

    /// Adds a backend to a service. If it is in the file and was removed, the removal is undone.
    ///
    /// # Errors
    /// `NotFound` if the service does not exist, `Invalid` if the backend is invalid by itself, `Conflict` if it exists with another
    /// weight or state, conflicts with a VIP, or there is no room for it.
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

    /// Changes a backend's options or its administrative state. If it is so already, the answer says so.
    ///
    /// # Errors
    /// `NotFound` if the service or backend does not exist, with the known ones; `Invalid` if nothing is requested, or an option
    /// cannot have the value or cannot change.
    pub fn patch_backend(
        &mut self,
        config: &Config,
        name: &str,
        address: SocketAddr,
        patch: &BackendPatch,
    ) -> Answer<Outcome> {
        let merge = Merge::new(config, self);
        service(&merge, name)?;
        let old = backend(&merge, name, address)?;
        if old.is_leaving {
            if patch == &BackendPatch::admin(AdminState::Draining) {
                return unchanged(format!(
                    "service {name}: backend {address} was removed and is already draining"
                ));
            }
            return Err(Refusal::Conflict(format!(
                "service {name}: backend {address} was removed and is draining; add it again with: xdp-lb backend \
                 add {name} {address}"
            )));
        }
        if !patch.backends.is_empty() {
            return Err(Refusal::Invalid("a backend has no backends: remove \"backend\"".into()));
        }
        if patch.is_empty() {
            return Err(Refusal::Invalid(format!(
                "service {name}: backend {address}: nothing to change; give an option or a state"
            )));
        }
        let defined = find(&merge.defined(name), address);
        let mut options = match self.backends.get(name).and_then(|changes| changes.get(&address)) {
            Some(BackendChange::Added(changed) | BackendChange::Changed(changed)) => changed.options.clone(),
            _ => Patch::default(),
        };
        options.merge(&patch.options);
        let mut problems = Problems::default();
        let label = format!("service {}: backend {address}", quoted(name));
        let base = defined.unwrap_or(Backend::new(address, default_weight()));
        let new = options.over(&base, &Place::Root.item("service", 0, &label), &mut problems);
        problems.into_result().map_err(invalid)?;
        let base = service(&merge, name)?;
        validate_backend(base, &new).map_err(|mut lines| {
            if patch.options.keys().any(|(key, _)| key == SERVER_ID)
                && Quic::check_server_id(base.quic, new.server_id).is_err()
            {
                lines.push(together(&merge, name, new.server_id.is_some()));
            }
            invalid(lines)
        })?;
        let mut words = Vec::new();
        let mut is_changed = options_in_words(&old.backend, &new, &patch.options, &mut words);
        let admin = patch.admin.unwrap_or(old.admin);
        if patch.admin.is_some() {
            words.push(String::from(match (admin, admin == old.admin) {
                (AdminState::Enabled, true) => "is already enabled",
                (AdminState::Enabled, false) => "enabled",
                (AdminState::Draining, true) => "is already draining",
                (AdminState::Draining, false) => "is draining: it keeps its flows and gets no new ones",
            }));
            is_changed |= admin != old.admin;
        }
        let change = match defined {
            Some(defined) => {
                options.prune(&defined);
                changed(options, admin)
            }
            None => Some(BackendChange::Added(ChangedBackend { options, admin })),
        };
        self.set_change(name, address, change);
        let message = format!("service {name}: backend {address} {}", words.join(", "));
        Ok(Outcome { message, changed: is_changed, trouble: None })
    }

    /// Removes a backend.
    ///
    /// # Errors
    /// `NotFound` if the service or backend does not exist, with the known ones.
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

    /// Drops the changes that have no meaning with this file, and those that it now contains. The effective services stay the same.
    /// Returns a line for each that an operator should know about.
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
        for (name, options) in &self.changed_services {
            match merge.unchanged(name) {
                // The file now defines what was added and changed at runtime.
                Some((_, Origin::File)) if self.added_services.contains_key(name) => {}
                Some((base, _)) => {
                    let mut options = options.clone();
                    options.prune(base);
                    if !options.is_empty() {
                        next.changed_services.insert(name.clone(), options);
                    }
                }
                None => lines.push(format!(
                    "service {name}: no longer in the config file, so the changes to its options are dropped"
                )),
            }
        }
        self.prune_backends(&merge, &mut next, &mut lines);
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

    /// Keeps the changes to backends that still have a meaning.
    fn prune_backends(&self, merge: &Merge<'_>, next: &mut Self, lines: &mut Vec<String>) {
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
            for (&address, change) in changes {
                // A leaving backend may return with its changes.
                if matches!(change, BackendChange::Changed(_)) && self.is_leaving(name, address) {
                    kept.insert(address, change.clone());
                    continue;
                }
                // A backend may be both added and discovered.
                let defined = match change {
                    BackendChange::Added(_) => find(&base.backends, address),
                    _ => find(&defined, address),
                };
                let (change, line) = prune_change(change.clone(), defined);
                kept.extend(change.map(|change| (address, change)));
                lines.extend(line.map(|line| format!("service {name}: backend {address}: {line}")));
            }
            next.set_changes(name, kept);
        }
    }

    /// Becomes `next`, if that does not conflict with the file.
    fn replace(&mut self, config: &Config, next: Self) -> Answer<()> {
        effective(config, &next).map_err(|lines| Refusal::Conflict(lines.join("\n")))?;
        *self = next;
        Ok(())
    }
}

/// A service with other options, if it is valid by itself.
fn changed_service(
    base: &Service,
    old: &Service,
    options: &Patch<Service>,
    all_recorded_in: Duration,
) -> Result<Service, Vec<String>> {
    let mut problems = Problems::default();
    let label = service_label(Some(&base.name), 0);
    let place = Place::Root.item("service", 0, &label);
    let new = options.over(&base.without_backends(), &place, &mut problems);
    if new.affinity != old.affinity
        && let Some(why) = moves_flows(old, all_recorded_in)
    {
        problems.add(&place.key("affinity"), why);
    }
    check_service(&new, &mut problems);
    problems.into_result().map(|()| new)
}

/// Why flows of the service would move, and what to do: a flow without a record follows its slot.
fn moves_flows(service: &Service, all_recorded_in: Duration) -> Option<String> {
    let idle = match service.protocol {
        Protocol::Udp => "timeouts.udp_idle",
        Protocol::Tcp => "timeouts.tcp_idle",
    };
    match (service.mode, service.flow_tracking) {
        (Mode::FullNat, _) => None,
        (mode, FlowTracking::Auto) => Some(format!(
            "cannot change while established flows are not recorded (mode \"{mode}\", flow_tracking = \"auto\"): they \
             would go to other backends and break. Set flow_tracking = \"always\", wait for {idle} until older flows \
             are recorded or have ended, then change it"
        )),
        (_, FlowTracking::Always) if all_recorded_in.is_zero() => None,
        (_, FlowTracking::Always) => {
            let seconds = all_recorded_in.as_secs() + u64::from(all_recorded_in.subsec_nanos() > 0);
            let wait = print_duration(Duration::from_secs(seconds));
            Some(format!(
                "cannot change yet: flows from before flow_tracking = \"always\" (or before the daemon's start) that have \
                 been idle since are not recorded, and would go to other backends and break. Wait {wait} ({idle}), then \
                 change it"
            ))
        }
    }
}

/// The changes of options as text, the requested ones first. Returns whether anything changes.
fn options_in_words<T: Options>(old: &T, new: &T, asked: &Patch<T>, words: &mut Vec<String>) -> bool {
    let mut changes = option_changes(old, new);
    let mut already = "already has ";
    let mut is_changed = false;
    for (key, value) in asked.keys().flat_map(|(key, value)| asked_keys(new, key, value)) {
        let is_of_key = |change: &mut KeyChange| {
            let rest = change.key.strip_prefix(&key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let of_key: Vec<String> =
            changes.extract_if(.., is_of_key).map(|change| change.in_words::<T>()).collect();
        if of_key.is_empty() {
            let value = without_secrets(&key, value);
            words.push(format!("{already}{key} {}", in_words(&value)));
        }
        already = if of_key.is_empty() { "" } else { "already has " };
        is_changed |= !of_key.is_empty();
        words.extend(of_key);
    }
    // The other keys of a table that is added or removed.
    words.extend(changes.iter().map(KeyChange::in_words::<T>));
    is_changed || !changes.is_empty()
}

/// The requested keys with their new values: of a table that is given key by key, each key.
fn asked_keys<T: Options>(new: &T, key: &str, asked: &Value) -> Vec<(String, Value)> {
    let value = option_value(new, key);
    match (asked, &value) {
        (Value::Object(asked), Value::Object(table)) if !asked.is_empty() && !replaces(asked) => {
            let value = |within: &String| table.get(within).cloned().unwrap_or_default();
            asked.keys().map(|within| (format!("{key}.{within}"), value(within))).collect()
        }
        _ => vec![(key.to_owned(), value)],
    }
}

/// The smallest change that results in this backend, given those that its service is defined with.
fn change_to(defined: &[Backend], wanted: Backend, admin: AdminState) -> Option<BackendChange> {
    let mut options = Patch::whole(&wanted);
    let Some(defined) = find(defined, wanted.address) else {
        options.prune(&Backend { weight: !wanted.weight, ..Backend::new(wanted.address, 0) });
        return Some(BackendChange::Added(ChangedBackend { options, admin }));
    };
    options.prune(&defined);
    changed(options, admin)
}

/// The change to a backend that the service is defined with, if there is any.
fn changed(options: Patch<Backend>, admin: AdminState) -> Option<BackendChange> {
    let is_changed = !options.is_empty() || admin != AdminState::default();
    is_changed.then_some(BackendChange::Changed(ChangedBackend { options, admin }))
}

/// The part of a change that still has a meaning with a backend's present definition, and a message about it.
fn prune_change(change: BackendChange, defined: Option<Backend>) -> (Option<BackendChange>, Option<String>) {
    match (change, defined) {
        (BackendChange::Added(added), Some(defined)) => (
            changed(Patch::default(), added.admin),
            Some(format!("now in the config file, whose weight of {} takes precedence", defined.weight)),
        ),
        (BackendChange::Changed(mut change), Some(defined)) => {
            change.options.prune(&defined);
            (changed(change.options, change.admin), None)
        }
        (change @ BackendChange::Added(_), None) | (change @ BackendChange::Removed, Some(_)) => {
            (Some(change), None)
        }
        (BackendChange::Changed(_), None) => {
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

/// How to give a service and all of its backends what must fit together, or take it from them.
fn together(merge: &Merge<'_>, service: &str, gives: bool) -> String {
    const SHOWN: usize = 8;
    let backends = merge.listed(service).into_keys();
    let id = if gives { "HEX" } else { "none" };
    let each = backends.map(|address| format!("backend.{address}.{SERVER_ID}={id}"));
    let each = each.take(SHOWN).collect::<Vec<_>>().join(" ");
    let quic = if gives { ".server_id_length=N" } else { "=none" };
    format!(
        "{QUIC} and the {SERVER_ID} of all backends change together: xdp-lb service set {service} {QUIC}{quic} {each}"
    )
}

const QUIC: &str = "quic";
const SERVER_ID: &str = "server_id";

/// The definition of an existing service.
fn service<'a>(merge: &'a Merge<'_>, name: &str) -> Answer<&'a Service> {
    match merge.base(name) {
        Some((base, _)) => Ok(base),
        None if merge.overlay().leaving.has_service(name) => Err(Refusal::Conflict(format!(
            "service {name} was removed and is draining; add it again with: xdp-lb service add {name}"
        ))),
        None => Err(unknown_service(name, merge.names().into_iter().map(str::to_owned).collect())),
    }
}

/// An existing backend.
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
