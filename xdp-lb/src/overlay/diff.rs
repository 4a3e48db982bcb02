//! The differences between two states of the services, key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::change::{ADMIN, BackendChange, ChangeKind, KeyChange, ServiceChange};
use crate::model::check::HIDDEN;
use crate::model::effective::{Effective, EffectiveBackend, EffectiveService};
use crate::model::options::{Options, Row};
use crate::model::patch::{filled, written};
use crate::model::service::Service;
use crate::model::state::AdminState;

/// The changes of services, by name.
///
/// The keys are those of the serialized definition, so new options are included. A service with another name on the same VIP and
/// protocol is the same one, renamed.
pub fn diff(old: &Effective, new: &Effective) -> Vec<ServiceChange> {
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let change = |name| match (old.get(name).copied(), new.get(name).copied()) {
        (Some(gone), None) if under_another_name(gone, &new, &old).is_some() => None,
        // It had another name, and keeps its flows until they end.
        (None, Some(present)) if present.is_leaving => None,
        (None, Some(present)) => service_change(name, under_another_name(present, &old, &new), Some(present)),
        (old, new) => service_change(name, old, new),
    };
    names.into_iter().filter_map(change).collect()
}

fn by_name(effective: &Effective) -> BTreeMap<&str, &EffectiveService> {
    effective.services.iter().map(|service| (service.service.name.as_str(), service)).collect()
}

/// The service among `services` with the same VIP and protocol and a new name, which is not among `others`. A leaving service is
/// not renamed: it keeps its name until it is gone.
fn under_another_name<'a>(
    service: &EffectiveService,
    services: &BTreeMap<&str, &'a EffectiveService>,
    others: &BTreeMap<&str, &EffectiveService>,
) -> Option<&'a EffectiveService> {
    let key = |it: &EffectiveService| (it.service.vip, it.service.protocol);
    let is_it = |it: &EffectiveService| key(it) == key(service) && !it.is_leaving && !service.is_leaving;
    let renamed = services.iter().find(|(name, it)| is_it(it) && !others.contains_key(*name));
    renamed.map(|(_, service)| *service)
}

fn service_change(
    name: &str,
    old: Option<&EffectiveService>,
    new: Option<&EffectiveService>,
) -> Option<ServiceChange> {
    if old == new {
        return None;
    }
    let present = |service: Option<&EffectiveService>| service.is_some_and(|it| !it.is_leaving);
    let kind = kind(present(old), present(new), new.is_some());
    // The default check follows from the protocol.
    let names_check = [old, new].into_iter().flatten().any(|it| it.service.health_check.is_some());
    let definition_keys = |service| definition_keys(service, names_check);
    let mut keys = match kind {
        ChangeKind::Removed => keys(&definition_keys(old), &BTreeMap::new()),
        _ => keys(&definition_keys(old.filter(|it| !it.is_leaving)), &definition_keys(new)),
    };
    if let Some(old) = old.filter(|it| kind == ChangeKind::Changed && it.service.name != name) {
        let [old, new] = [old.service.name.as_str(), name].map(Value::from);
        keys.insert(0, KeyChange { key: "name".into(), old, new });
    }
    let backends = backend_changes(old, new);
    let is_same = kind == ChangeKind::Changed && keys.is_empty() && backends.is_empty();
    let drains = kind == ChangeKind::Removed && new.is_some();
    (!is_same).then(|| ServiceChange {
        service: name.into(),
        kind,
        keys,
        backends,
        drains,
        former: None,
        slots: None,
    })
}

fn backend_changes(old: Option<&EffectiveService>, new: Option<&EffectiveService>) -> Vec<BackendChange> {
    let (old, new) = (by_address(old), by_address(new));
    let addresses: BTreeSet<SocketAddr> = old.keys().chain(new.keys()).copied().collect();
    let change = |address| {
        let (old, new) = (old.get(&address).copied(), new.get(&address).copied());
        let present = |backend: Option<&EffectiveBackend>| backend.is_some_and(|it| !it.is_leaving);
        let kind = kind(present(old), present(new), new.is_some());
        let keys = match kind {
            _ if old == new => Vec::new(),
            ChangeKind::Removed => keys(&backend_keys(old), &BTreeMap::new()),
            _ => keys(&backend_keys(old.filter(|it| !it.is_leaving)), &backend_keys(new)),
        };
        let is_same = kind == ChangeKind::Changed && keys.is_empty();
        let drains = kind == ChangeKind::Removed && new.is_some();
        (!is_same).then_some(BackendChange { address, kind, keys, drains, flows: None })
    };
    addresses.into_iter().filter_map(change).collect()
}

fn by_address(service: Option<&EffectiveService>) -> BTreeMap<SocketAddr, &EffectiveBackend> {
    let backends = service.into_iter().flat_map(|service| &service.backends);
    backends.map(|backend| (backend.backend.address, backend)).collect()
}

/// The kind of a change, by whether something was present, is present, and still exists because it is leaving.
fn kind(was: bool, is: bool, is_there: bool) -> ChangeKind {
    match (was, is, is_there) {
        (false, true, _) => ChangeKind::Added,
        (true, false, _) | (false, false, false) => ChangeKind::Removed,
        (true, true, _) | (false, false, true) => ChangeKind::Changed,
    }
}

/// The keys of a service, its administrative state if it is not enabled, and, `with_check`, its health check even if that is the
/// default.
fn definition_keys(service: Option<&EffectiveService>, with_check: bool) -> BTreeMap<String, Value> {
    let written = service.map(|EffectiveService { service, admin, .. }| {
        let mut keys =
            flat(&Service { health_check: with_check.then(|| service.check()), ..service.clone() });
        keys.remove("name");
        insert_admin(&mut keys, *admin);
        keys
    });
    written.unwrap_or_default()
}

/// The keys of a backend, and its administrative state if it is not enabled.
fn backend_keys(backend: Option<&EffectiveBackend>) -> BTreeMap<String, Value> {
    let written = backend.map(|EffectiveBackend { backend, admin, .. }| {
        let mut keys = flat(backend);
        keys.remove("address");
        insert_admin(&mut keys, *admin);
        keys
    });
    written.unwrap_or_default()
}

fn insert_admin(keys: &mut BTreeMap<String, Value>, admin: AdminState) {
    if admin != AdminState::default() {
        keys.insert(ADMIN.into(), serde_json::to_value(admin).unwrap_or_default());
    }
}

/// The keys of a document, those of its tables with a dot.
fn flat(document: &impl Serialize) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    flatten("", written(document), &mut keys);
    keys
}

/// The changed options of a service or backend.
pub(crate) fn option_changes<T: Options>(old: &T, new: &T) -> Vec<KeyChange> {
    keys(&flat(&filled(old)), &flat(&filled(new)))
}

/// A key's value as it is shown. The values of a check's headers may be secrets.
pub(super) fn without_secrets(key: &str, value: Value) -> Value {
    match (key, value) {
        ("health_check.headers", Value::Array(headers)) => {
            let hide = |header: Value| header.as_str().map_or(Value::Null, |it| hidden(it).into());
            headers.into_iter().map(hide).collect()
        }
        ("health_check", Value::Object(keys)) => {
            let shown = |(key, value): (String, Value)| {
                let value = without_secrets(&format!("health_check.{key}"), value);
                (key, value)
            };
            Value::Object(keys.into_iter().map(shown).collect())
        }
        (_, value) => value,
    }
}

/// A header without its value.
fn hidden(header: &str) -> String {
    let name = header.split_once(':').map_or(header, |(name, _)| name);
    format!("{name}: {HIDDEN}")
}

/// The value of an option, or its default.
pub(crate) fn option_value<T: Options>(of: &T, key: &str) -> Value {
    let row = T::OPTIONS.iter().find(|row| row.key == key);
    let written = serde_json::to_value(filled(of)).unwrap_or_default();
    let value = written.get(key).cloned();
    value.or_else(|| row.and_then(Row::default_value)).unwrap_or_default()
}

fn flatten(within: &str, document: Map<String, Value>, keys: &mut BTreeMap<String, Value>) {
    for (key, value) in document {
        let key = format!("{within}{key}");
        match value {
            Value::Object(table) => flatten(&format!("{key}."), table, keys),
            value => drop(keys.insert(key, value)),
        }
    }
}

fn keys(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<KeyChange> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |name: &String| {
        let value = |keys: &BTreeMap<String, Value>| keys.get(name).cloned().unwrap_or_default();
        let (old, new) = (value(old), value(new));
        (old != new).then(|| {
            let [old, new] = [old, new].map(|value| without_secrets(name, value));
            KeyChange { key: name.clone(), old, new }
        })
    };
    names.into_iter().filter_map(change).collect()
}
