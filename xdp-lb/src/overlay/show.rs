//! The running configuration as TOML, each value with where it comes from; and what was changed at runtime.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::diff::{diff, written};
use super::effective::effective;
use super::kept::{BackendChange, Overlay};
use super::merge::Merge;
use super::settings::settings;
use crate::config::parse;
use crate::model::change::ServiceChange;
use crate::model::check::HealthCheck;
use crate::model::config::Config;
use crate::model::options::{Options, Row};
use crate::model::state::{AdminState, Origin};
use crate::model::{Backend, Effective, EffectiveBackend, EffectiveService, Service};

/// What holds now, as a config file would say it; secrets are left out. Behind each value stands where it comes from: `file`,
/// `default`, `runtime` or `discovered`.
pub fn running(config: &Config, overlay: &Overlay, effective: &Effective) -> String {
    let mut text = settings_in_toml(config);
    let merge = Merge::new(config, overlay);
    for service in effective.services.iter().filter(|service| !service.is_leaving) {
        let defined = merge.unchanged(&service.service.name).map(|(defined, _)| written(defined));
        text += "\n";
        text += &service_in_toml(service, &defined.unwrap_or_default(), overlay);
    }
    text
}

/// What was changed at runtime, service by service: what is drained, too, and not what discovery found.
///
/// # Errors
/// Where file and changes contradict each other.
pub fn runtime_changes(config: &Config, overlay: &Overlay) -> Result<Vec<ServiceChange>, Vec<String>> {
    let without = Overlay {
        discovered: overlay.discovered.clone(),
        leaving: overlay.leaving.clone(),
        ..Overlay::default()
    };
    Ok(diff(&effective(config, &without)?, &effective(config, overlay)?))
}

/// The same in words, with what the node does.
///
/// # Errors
/// As of [`runtime_changes`].
pub fn runtime_lines(config: &Config, overlay: &Overlay) -> Result<Vec<String>, Vec<String>> {
    let node = match overlay.node_admin() {
        AdminState::Draining => Some("node: admin not set -> draining".to_owned()),
        AdminState::Enabled => None,
    };
    let services = runtime_changes(config, overlay)?;
    Ok(node.into_iter().chain(services.iter().flat_map(ServiceChange::lines)).collect())
}

fn settings_in_toml(config: &Config) -> String {
    let plain = parse("interfaces = [\"lo\"]").ok();
    let defaults = plain.as_ref().map(settings).unwrap_or_default();
    let mut text = String::new();
    let mut table = "";
    // Behind the first table, a key would be one of its own.
    let (tables, top): (Vec<_>, Vec<_>) =
        settings(config).into_iter().enumerate().partition(|(_, (key, ..))| key.contains('.'));
    for (number, (key, value, _)) in top.into_iter().chain(tables) {
        let origin = match defaults.get(number) {
            Some((_, default, _)) if *default == value => "default",
            _ => "file",
        };
        let (within, key) = key.split_once('.').unwrap_or(("", key));
        // Without an interface for the VIPs, when they are withdrawn means nothing.
        if value.is_null() || within == "vips" && config.vips.interface.is_none() {
            continue;
        }
        if within != table {
            table = within;
            let _ = writeln!(text, "\n[{table}]");
        }
        if key == super::settings::SECRET {
            let _ = writeln!(text, "# {key} = \"...\"  # {origin}, not shown");
        } else {
            line(&mut text, key, &value, origin);
        }
    }
    text
}

fn service_in_toml(service: &EffectiveService, defined: &Map<String, Value>, overlay: &Overlay) -> String {
    let EffectiveService { service: definition, origin, admin, .. } = service;
    let shown = Service {
        health_check: definition.health_check.as_ref().map(HealthCheck::shown),
        ..definition.clone()
    };
    let mut text = format!("[[service]]  # {}\n", name(*origin));
    if *admin == AdminState::Draining {
        let _ = writeln!(text, "# drained  # runtime");
    }
    let changed = overlay.changed_services.get(&definition.name);
    let changed = |key: &str| changed.and_then(|patch| patch.keys().find(|it| it.0 == key)).map(|it| it.1);
    let (tables, values): (Vec<_>, Vec<_>) =
        in_order(&shown).into_iter().partition(|(_, value)| value.is_object());
    for (key, value) in values {
        line(&mut text, &key, &value, whence::<Service>(&key, &value, changed(&key).is_some(), *origin));
    }
    for (key, table) in tables {
        let Value::Object(table) = table else { continue };
        let _ = writeln!(text, "\n[service.{key}]");
        let (kind, others): (Vec<_>, Vec<_>) = table.into_iter().partition(|(key, _)| key == "type");
        for (within, value) in kind.into_iter().chain(others) {
            let is_changed = match changed(&key) {
                Some(Value::Object(patch)) => patch.contains_key("type") || patch.contains_key(&within),
                other => other.is_some(),
            };
            let whence = match (is_changed, defined.contains_key(&key)) {
                (true, _) => "runtime",
                (false, true) => name(*origin),
                (false, false) => "default",
            };
            line(&mut text, &within, &value, whence);
        }
    }
    for backend in service.backends.iter().filter(|backend| !backend.is_leaving) {
        text += &backend_in_toml(&definition.name, backend, overlay);
    }
    text
}

fn backend_in_toml(service: &str, backend: &EffectiveBackend, overlay: &Overlay) -> String {
    let mut text = format!("\n[[service.backend]]  # {}\n", name(backend.origin));
    if backend.admin == AdminState::Draining {
        let _ = writeln!(text, "# drained  # runtime");
    }
    let changes = overlay.backends.get(service).and_then(|all| all.get(&backend.backend.address));
    let is_changed = |key: &str| match changes {
        Some(BackendChange::Changed(changed)) => changed.options.keys().any(|it| it.0 == key),
        _ => false,
    };
    for (key, value) in in_order(&backend.backend) {
        line(&mut text, &key, &value, whence::<Backend>(&key, &value, is_changed(&key), backend.origin));
    }
    text
}

/// The options that are written, in the order of the documentation.
fn in_order<T: Options>(of: &T) -> Vec<(String, Value)> {
    let mut written = written(of);
    let keys = T::OPTIONS.iter().map(|row| row.key);
    keys.filter_map(|key| Some((key.to_owned(), written.remove(key)?))).collect()
}

/// Where an option's value comes from, in what comes from `origin`.
fn whence<T: Options>(key: &str, value: &Value, is_changed: bool, origin: Origin) -> &'static str {
    let row = T::OPTIONS.iter().find(|row| row.key == key);
    match row.and_then(Row::default_value) {
        _ if is_changed => "runtime",
        Some(default) if default == *value => "default",
        _ => name(origin),
    }
}

const fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "file",
        Origin::Runtime => "runtime",
        Origin::Dns => "discovered by DNS",
        Origin::WatchedFile => "discovered in a watched file",
    }
}

fn line(text: &mut String, key: &str, value: &Value, origin: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{key} = {}  # {origin}", in_toml(value));
}

/// A value as TOML writes it.
fn in_toml(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        Value::Array(list) => format!("[{}]", list.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => format!("{{ {} }}", pairs(table)),
        other => other.to_string(),
    }
}

fn pairs(table: &Map<String, Value>) -> String {
    let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", in_toml(value))).collect();
    pairs.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::request::{BackendPatch, ServicePatch};
    use crate::model::service::Backend;

    const FILE: &str = r#"
interfaces = ["eth0"]
flow_hash_secret = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
drain_timeout = "5m"
[timeouts]
udp_idle = "90s"
[[service]]
name = "web"
vip = "192.0.2.10:80"
max_flows = 7
health_check = { type = "http", path = "/x", headers = ["Authorization: Bearer 0001"] }
discovery = { type = "dns", name = "web.example.com" }
backend = [{ address = "198.51.100.1:80", weight = 9 }]
[[service]]
name = "api"
vip = "192.0.2.11:80"
"#;

    #[test]
    fn what_runs_is_printed_as_a_config_file_with_the_origin_of_each_value_and_no_secret() {
        let config = parse(FILE).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        let one = "198.51.100.1:80".parse().expect("an address");
        let found = Backend::new("198.51.100.7:80".parse().expect("an address"), 100);
        overlay.discover(&config, "web", &[found]);
        overlay
            .patch_service(&config, "web", &ServicePatch::of("affinity", "source"), Duration::ZERO)
            .expect("changed");
        let interval = serde_json::json!({ "interval": "2s" });
        overlay
            .patch_service(&config, "web", &ServicePatch::of("health_check", interval), Duration::ZERO)
            .expect("changed");
        overlay.patch_backend(&config, "web", one, &BackendPatch::of("max_flows", 5)).expect("changed");
        overlay
            .patch_service(&config, "api", &ServicePatch::admin(AdminState::Draining), Duration::ZERO)
            .expect("drained");
        let rise = serde_json::json!({ "rise": 7 });
        overlay
            .patch_service(&config, "api", &ServicePatch::of("health_check", rise), Duration::ZERO)
            .expect("changed");
        let effective = effective(&config, &overlay).expect("valid");
        let text = running(&config, &overlay, &effective);
        for line in [
            "interfaces = [\"eth0\"]  # file",
            "xdp_mode = \"auto\"  # default",
            "# flow_hash_secret = \"...\"  # file, not shown",
            "udp_idle = \"1m 30s\"  # file",
            "tcp_idle = \"15m\"  # default",
            "max_flows = 7  # file",
            "affinity = \"source\"  # runtime",
            "path = \"/x\"  # file",
            "headers = [\"Authorization: (secret)\"]  # file",
            "interval = \"2s\"  # runtime",
            "rise = 7  # runtime",
            "type = \"tcp\"  # default",
            "[[service.backend]]  # discovered by DNS",
            "weight = 9  # file",
            "max_flows = 5  # runtime",
            "# drained  # runtime",
        ] {
            assert!(text.lines().any(|it| it == line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("0001"), "{text}");
        let read = parse(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_eq!(read.timeouts, config.timeouts);
        assert_eq!(read.services.iter().map(|service| service.backends.len()).sum::<usize>(), 2);
        assert_eq!(
            runtime_lines(&config, &overlay).expect("valid"),
            [
                "service api: admin not set -> draining",
                "service api: health_check.rise 2 -> 7",
                "service web: affinity not set -> source",
                "service web: health_check.interval 1s -> 2s",
                "service web: backend 198.51.100.1:80 max_flows not set -> 5",
            ]
        );
    }
}
