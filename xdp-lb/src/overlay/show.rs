//! The running configuration as TOML, each value with its origin; and the runtime changes.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::diff::diff;
use super::effective::effective;
use super::kept::{BackendChange, Overlay};
use super::merge::Merge;
use super::settings::settings;
use crate::config::parse;
use crate::model::change::ServiceChange;
use crate::model::check::HealthCheck;
use crate::model::config::Config;
use crate::model::options::{Options, Row};
use crate::model::patch::written;
use crate::model::state::{AdminState, Origin};
use crate::model::{Effective, EffectiveBackend, EffectiveService, Service};

/// The running configuration as a config file, without secrets. Each value has its origin as a comment: `file`, `default`,
/// `runtime` or `discovered`. Default values are left out, unless `with_defaults`.
pub fn running(config: &Config, overlay: &Overlay, effective: &Effective, with_defaults: bool) -> String {
    let mut toml = Toml { text: String::new(), with_defaults };
    toml.settings(config);
    let merge = Merge::new(config, overlay);
    for service in &effective.services {
        if service.is_leaving {
            let _ = writeln!(toml.text, "\n# service {}: removed, draining", service.service.name);
            continue;
        }
        let defined = merge.unchanged(&service.service.name).map(|(defined, _)| written(defined));
        toml.service(service, &defined.unwrap_or_default(), overlay);
    }
    toml.text
}

/// The runtime changes, service by service, including drains, without discovered backends.
///
/// # Errors
/// If file and changes conflict.
pub fn runtime_changes(config: &Config, overlay: &Overlay) -> Result<Vec<ServiceChange>, Vec<String>> {
    let without = Overlay {
        discovered: overlay.discovered.clone(),
        leaving: overlay.leaving.clone(),
        ..Overlay::default()
    };
    Ok(diff(&effective(config, &without)?, &effective(config, overlay)?))
}

/// The same as text, with the node's drain.
///
/// # Errors
/// As for [`runtime_changes`].
pub fn runtime_lines(config: &Config, overlay: &Overlay) -> Result<Vec<String>, Vec<String>> {
    let node = match overlay.node_admin() {
        AdminState::Draining => Some("node: drained".to_owned()),
        AdminState::Enabled => None,
    };
    let services = runtime_changes(config, overlay)?;
    Ok(node.into_iter().chain(services.iter().flat_map(ServiceChange::lines)).collect())
}

/// A config file that is being written.
struct Toml {
    text: String,
    with_defaults: bool,
}

impl Toml {
    fn settings(&mut self, config: &Config) {
        let plain = parse("interfaces = [\"lo\"]").ok();
        let defaults = plain.as_ref().map(settings).unwrap_or_default();
        let mut table = "";
        // After the first table header, a key would belong to that table.
        let (tables, top): (Vec<_>, Vec<_>) =
            settings(config).into_iter().enumerate().partition(|(_, (key, ..))| key.contains('.'));
        for (number, (key, value, _)) in top.into_iter().chain(tables) {
            let origin = match defaults.get(number) {
                Some((_, default, _)) if *default == value => DEFAULT,
                _ => "file",
            };
            let (within, key) = key.split_once('.').unwrap_or(("", key));
            // `withdraw` has no meaning without an interface for the VIPs.
            let means_nothing = key == "withdraw" && config.vips.interface.is_none();
            if means_nothing || !self.shows(origin) {
                continue;
            }
            if within != table {
                table = within;
                let _ = writeln!(self.text, "\n[{table}]");
            }
            if key == super::settings::SECRET && !value.is_null() {
                let _ = writeln!(self.text, "# {key} = \"...\"  # {origin}, not shown");
            } else {
                self.line(key, &value, origin);
            }
        }
    }

    fn service(&mut self, service: &EffectiveService, defined: &Map<String, Value>, overlay: &Overlay) {
        let EffectiveService { service: definition, origin, admin, .. } = service;
        let shown = Service {
            health_check: match self.with_defaults {
                true => Some(definition.check().shown()),
                false => definition.health_check.as_ref().map(HealthCheck::shown),
            },
            ..definition.clone()
        };
        let _ = writeln!(self.text, "\n[[service]]  # {}", name(*origin));
        self.drained(*admin);
        let changed = overlay.changed_services.get(&definition.name);
        let changed =
            |key: &str| changed.and_then(|patch| patch.keys().find(|it| it.0 == key)).map(|it| it.1);
        let (tables, values): (Vec<_>, Vec<_>) =
            options(&shown).into_iter().partition(|(_, value)| value.is_object());
        for (row, value) in values {
            self.option(row, &value, changed(row.key).is_some(), *origin);
        }
        for (row, table) in tables {
            let Value::Object(table) = table else { continue };
            let _ = writeln!(self.text, "\n[service.{}]", row.key);
            let (kind, others): (Vec<_>, Vec<_>) = table.iter().partition(|(key, _)| *key == "type");
            for (within, value) in kind.into_iter().chain(others) {
                let is_changed = match changed(row.key) {
                    Some(Value::Object(patch)) => patch.contains_key("type") || patch.contains_key(within),
                    other => other.is_some(),
                };
                let is_default = !defined.contains_key(row.key) || row.is_default(&shown, &table, within);
                let whence = match (is_changed, is_default) {
                    (true, _) => "runtime",
                    (false, true) => DEFAULT,
                    (false, false) => name(*origin),
                };
                // The meaning of the other keys depends on the type.
                if within == "type" || self.shows(whence) {
                    self.line(within, value, whence);
                }
            }
        }
        for backend in &service.backends {
            self.backend(&definition.name, backend, overlay);
        }
    }

    fn backend(&mut self, service: &str, backend: &EffectiveBackend, overlay: &Overlay) {
        if backend.is_leaving {
            let _ = writeln!(self.text, "\n# backend {}: removed, draining", backend.backend.address);
            return;
        }
        let _ = writeln!(self.text, "\n[[service.backend]]  # {}", name(backend.origin));
        self.drained(backend.admin);
        let changes = overlay.backends.get(service).and_then(|all| all.get(&backend.backend.address));
        let is_changed = |key: &str| match changes {
            Some(BackendChange::Changed(changed)) => changed.options.keys().any(|it| it.0 == key),
            _ => false,
        };
        for (row, value) in options(&backend.backend) {
            self.option(row, &value, is_changed(row.key), backend.origin);
        }
    }

    fn option<T: Options>(&mut self, row: &Row<T>, value: &Value, is_changed: bool, origin: Origin) {
        let whence = match is_changed {
            true => "runtime",
            false if *value == (row.absent)() => DEFAULT,
            false => name(origin),
        };
        if self.shows(whence) {
            self.line(row.key, value, whence);
        }
    }

    fn drained(&mut self, admin: AdminState) {
        if admin == AdminState::Draining {
            let _ = writeln!(self.text, "# drained  # runtime");
        }
    }

    fn shows(&self, origin: &str) -> bool {
        self.with_defaults || origin != DEFAULT
    }

    /// A key with its value, or a comment if it has none.
    fn line(&mut self, key: &str, value: &Value, origin: &str) {
        // Writing to a string does not fail.
        let _ = match value {
            Value::Null => writeln!(self.text, "# {key} is not set  # {origin}"),
            Value::Array(list) if list.is_empty() => writeln!(self.text, "# {key} is not set  # {origin}"),
            value => writeln!(self.text, "{key} = {}  # {origin}", in_toml(value)),
        };
    }
}

const DEFAULT: &str = "default";

/// The options with their values, in the order of the documentation, without the backends, which have their own headers.
fn options<T: Options>(of: &T) -> Vec<(&'static Row<T>, Value)> {
    let mut written = written(of);
    let rows = T::OPTIONS.iter().filter(|row| row.key != "backend");
    rows.map(|row| (row, written.remove(row.key).unwrap_or_else(row.absent))).collect()
}

const fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "file",
        Origin::Runtime => "runtime",
        Origin::Dns => "discovered by DNS",
        Origin::WatchedFile => "discovered in a watched file",
    }
}

/// A value in TOML.
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
    use crate::overlay::{BootTime, Leave};

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
    fn what_leaves_is_marked_and_vips_are_shown() {
        let file = FILE.replace("[timeouts]", "vips.interface = \"lo\"\n[timeouts]");
        let config = parse(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        let before = effective(&config, &overlay).expect("valid");
        overlay
            .remove_backend(&config, "web", "198.51.100.1:80".parse().expect("an address"))
            .expect("removed");
        let api = "198.51.100.2:80".parse().expect("an address");
        overlay.add_backend(&config, "api", Backend::new(api, 7)).expect("added");
        let with_backend = effective(&config, &overlay).expect("valid");
        overlay.remove_service(&config, "api").expect("removed");
        let now = BootTime { boot: "this".into(), seconds: 0 };
        overlay.depart(&config, &with_backend, Leave::Drain, &now);
        overlay.depart(
            &config,
            &Effective { services: [before.services, with_backend.services].concat() },
            Leave::Drain,
            &now,
        );
        let effective = effective(&config, &overlay).expect("valid");
        let text = running(&config, &overlay, &effective, false);
        for line in [
            "[vips]",
            "interface = \"lo\"  # file",
            "# backend 198.51.100.1:80: removed, draining",
            "# service api: removed, draining",
        ] {
            assert!(text.lines().any(|it| it == line), "{line:?} is not in:\n{text}");
        }
        assert!(
            parse(&text).expect("valid").services.iter().all(|service| service.backends.is_empty()),
            "{text}"
        );
    }

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
        let text = running(&config, &overlay, &effective, true);
        for line in [
            "interfaces = [\"eth0\"]  # file",
            "attach = \"auto\"  # default",
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
            "# interface is not set  # default",
            "fall = 3  # default",
            "# slow_start is not set  # default",
            "backup = false  # default",
        ] {
            assert!(text.lines().any(|it| it == line), "{line:?} is not in:\n{text}");
        }
        let short = running(&config, &overlay, &effective, false);
        assert!(!short.contains("  # default\n") || short.matches("  # default\n").count() == 1, "{short}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(short.lines().all(|line| lines.contains(&line)), "{short}");
        assert_eq!(
            parse(&short).map_err(|errors| errors.to_string()),
            parse(&text).map_err(|errors| errors.to_string())
        );
        assert!(!text.contains("0001"), "{text}");
        let read = parse(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_eq!(read.timeouts, config.timeouts);
        assert_eq!(read.services.iter().map(|service| service.backends.len()).sum::<usize>(), 2);
        assert_eq!(
            runtime_lines(&config, &overlay).expect("valid"),
            [
                "service api: drained",
                "service api: health_check.rise 2 -> 7",
                "service web: affinity none -> source",
                "service web: health_check.interval 1s -> 2s",
                "service web: backend 198.51.100.1:80 max_flows 0 -> 5",
            ]
        );
    }
}
