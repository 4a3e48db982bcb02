//! Differences between two states of the services, key by key, as a document and as text.

use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::choices::Protocol;
use super::options::{Options, Row};
use super::service::{Backend, Service};
use super::text::grouped;
use super::vip::Vip;

/// How a service or a backend changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Some of its keys or backends change.
    Changed,
}

/// A key's value before and after, as in the config file; null if the key is not set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyChange {
    /// The key, with a dot for each table that it is in: `health_check.interval`.
    pub key: String,
    /// The value before.
    pub old: Value,
    /// The value after.
    pub new: Value,
}

/// A changed key outside of the services.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SettingChange {
    /// The key, with a dot for each table that it is in: `timeouts.udp_idle`.
    pub key: String,
    /// The value before. A secret is not shown.
    pub old: Value,
    /// The value after.
    pub new: Value,
    /// What a change needs if a reload cannot make it; else null.
    pub takes: Option<String>,
}

/// How a backend changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendChange {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it changes.
    pub kind: ChangeKind,
    /// Its changed keys, by name.
    pub keys: Vec<KeyChange>,
    /// Whether a removed one drains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drains: bool,
    /// The flows of a removed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowsLeft>,
}

/// A backend's flows.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FlowsLeft {
    /// Recorded flows.
    pub recorded: u64,
    /// Packets per second, in both directions, over the last few seconds: the only trace of flows without a record.
    pub packets_per_second: f64,
}

impl FlowsLeft {
    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self {
            recorded: self.recorded + other.recorded,
            packets_per_second: self.packets_per_second + other.packets_per_second,
        }
    }
}

/// As text: `46 recorded flows, 120 packets/s`.
impl fmt::Display for FlowsLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows = if self.recorded == 1 { "flow" } else { "flows" };
        let packets = grouped(self.packets_per_second.round() as u64);
        write!(f, "{} recorded {flows}, {packets} packets/s", grouped(self.recorded))
    }
}

/// How a service changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceChange {
    /// Its name.
    pub service: String,
    /// How it changes.
    pub kind: ChangeKind,
    /// Its changed keys, by name.
    pub keys: Vec<KeyChange>,
    /// How its backends change, by address.
    pub backends: Vec<BackendChange>,
    /// Whether a removed one drains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drains: bool,
    /// What becomes of its flows at its VIP and protocol before, if one of them changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
    /// How many slots of its ring move, in a plan; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<SlotsChange>,
}

/// A service as it was before its VIP or protocol changed. Its flows stay there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Former {
    /// Its VIP.
    pub vip: Vip,
    /// Its protocol.
    pub protocol: Protocol,
    /// The name under which it drains; absent: its flows end at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drains_as: Option<String>,
    /// Its flows.
    pub flows: FlowsLeft,
}

/// As text: `192.0.2.10:80 tcp drains as service web-leaving, with 46 recorded flows, 120 packets/s`.
impl fmt::Display for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, protocol, drains_as, flows } = self;
        match drains_as {
            Some(name) => write!(f, "{vip} {protocol} drains as service {name}, with {flows}"),
            None => write!(f, "{vip} {protocol} removed at once: this ends {flows}"),
        }
    }
}

/// How many slots of a ring move if every new backend passes its first check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SlotsChange {
    /// Those that move: new flows there go to another backend, established ones stay.
    pub moving: u32,
    /// All of the ring's.
    pub of: u32,
}

impl ServiceChange {
    /// Its name before.
    pub fn old_name(&self) -> &str {
        let renamed = self.keys.iter().find(|it| self.kind == ChangeKind::Changed && it.key == "name");
        renamed.and_then(|it| it.old.as_str()).unwrap_or(&self.service)
    }

    /// The part of it that other changes make, too.
    pub fn overridden_by(mut self, others: &[Self]) -> Option<Self> {
        let others = others.iter().find(|it| it.service == self.service)?;
        if self.kind != ChangeKind::Changed || others.kind != ChangeKind::Changed {
            return Some(self);
        }
        retain_keys(&mut self.keys, &others.keys);
        self.backends.retain_mut(|backend| {
            let Some(other) = others.backends.iter().find(|it| it.address == backend.address) else {
                return false;
            };
            if backend.kind == ChangeKind::Changed && other.kind == ChangeKind::Changed {
                retain_keys(&mut backend.keys, &other.keys);
            }
            backend.kind != ChangeKind::Changed || !backend.keys.is_empty()
        });
        Some(self)
    }

    /// Whether flows end at once.
    pub fn ends_flows(&self) -> bool {
        self.former.as_ref().is_some_and(|former| former.drains_as.is_none())
            || self.backends.iter().any(|backend| !backend.drains && backend.flows.is_some())
    }

    /// A line for each difference: `service web: backend 198.51.100.11:8080 weight 100 -> 50`.
    pub fn lines(&self) -> Vec<String> {
        let named = |what: String| format!("service {}: {what}", self.service);
        let backends = match self.backends.len() {
            0 => "no backends".to_owned(),
            1 => "1 backend".to_owned(),
            some => format!("{} backends", grouped(some as u64)),
        };
        match self.kind {
            ChangeKind::Added => vec![named(format!("added, {}, with {backends}", definition(&self.keys)))],
            ChangeKind::Removed => {
                let flows = self.backends.iter().filter_map(|backend| backend.flows).reduce(FlowsLeft::plus);
                vec![named(format!("removed, with {backends}{}", leaves(self.drains, flows)))]
            }
            ChangeKind::Changed => {
                let keys = self.keys.iter().map(|key| named(key.in_words::<Service>()));
                let former = self.former.iter().map(|former| named(former.to_string()));
                let backends = self.backends.iter().flat_map(BackendChange::lines).map(named);
                keys.chain(former).chain(backends).collect()
            }
        }
    }
}

fn retain_keys(keys: &mut Vec<KeyChange>, others: &[KeyChange]) {
    keys.retain(|key| others.iter().any(|other| other.key == key.key));
}

/// The keys of what is added, each table in parentheses: `mode nat, health_check (interval 2s, type http)`.
fn definition(keys: &[KeyChange]) -> String {
    let mut words: Vec<String> = Vec::new();
    for of_table in keys.chunk_by(|one, next| one.table().is_some() && one.table() == next.table()) {
        match of_table[0].table() {
            None => words.push(of_table[0].set()),
            Some(table) => {
                let keys: Vec<String> =
                    of_table.iter().map(|it| it.set().split_off(table.len() + 1)).collect();
                words.push(format!("{table} ({})", keys.join(", ")));
            }
        }
    }
    words.join(", ")
}

/// How something that is removed leaves.
fn leaves(drains: bool, flows: Option<FlowsLeft>) -> String {
    match (drains, flows) {
        (true, Some(flows)) => format!(": draining, with {flows}"),
        (true, None) => ": draining".into(),
        (false, Some(flows)) => format!(" at once: this ends {flows}"),
        (false, None) => String::new(),
    }
}

impl BackendChange {
    fn lines(&self) -> Vec<String> {
        let named = |what: String| format!("backend {} {what}", self.address);
        match self.kind {
            ChangeKind::Added => vec![named(format!("added, {}", definition(&self.keys)))],
            ChangeKind::Removed => vec![named(format!("removed{}", leaves(self.drains, self.flows)))],
            ChangeKind::Changed => self.keys.iter().map(|key| named(key.in_words::<Backend>())).collect(),
        }
    }
}

impl KeyChange {
    /// The table that its key is in.
    fn table(&self) -> Option<&str> {
        self.key.split_once('.').map(|(table, _)| table)
    }

    /// The key with its new value.
    fn set(&self) -> String {
        match is_drained(&self.key, &self.new) {
            true => "drained".into(),
            false => format!("{} {}", self.key, Words(&self.new)),
        }
    }

    /// `max_flows 0 -> 5`: an option of a `T` that is not set has its default.
    pub(crate) fn in_words<T: Options>(&self) -> String {
        if self.key == ADMIN {
            let text = if is_drained(&self.key, &self.new) { "drained" } else { "no longer drained" };
            return text.into();
        }
        let row = T::OPTIONS.iter().find(|row| row.key == self.key);
        let shown = |value: &Value| match row.and_then(Row::default_value) {
            Some(default) if value.is_null() => in_words(&default),
            _ => in_words(value),
        };
        format!("{} {} -> {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// The key of the administrative state, which is not set for "enabled".
pub(crate) const ADMIN: &str = "admin";

fn is_drained(key: &str, value: &Value) -> bool {
    key == ADMIN && value == "draining"
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.key, Words(&self.old), Words(&self.new))
    }
}

/// A key's value as text.
pub fn in_words(value: &Value) -> String {
    Words(value).to_string()
}

/// A key's value as text: strings without quotes, and long lists shortened.
struct Words<'a>(&'a Value);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        match self.0 {
            Value::Null => f.write_str("not set"),
            Value::String(text) => f.write_str(text),
            Value::Array(list) if list.is_empty() => f.write_str("none"),
            Value::Array(list) => {
                for (place, item) in list.iter().take(SHOWN).enumerate() {
                    let comma = if place > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", Words(item))?;
                }
                match list.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {} more", grouped(more as u64)),
                }
            }
            Value::Object(table) => {
                for (place, (key, value)) in table.iter().enumerate() {
                    let comma = if place > 0 { ", " } else { "" };
                    write!(f, "{comma}{key} {}", Words(value))?;
                }
                Ok(())
            }
            other => other.fmt(f),
        }
    }
}
