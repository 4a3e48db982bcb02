//! The keys outside of the services: which of them a reload can change, and what the others need.

use std::path::Path;

use serde_json::{Value, json};

use crate::model::change::SettingChange;
use crate::model::config::{Api, Attaching, Config, Limits, Metrics, Remote, Timeouts, Vips};
use crate::model::text::print_duration;

const RESTART: &str = "a restart of the daemon";
const UNLOAD: &str = "`xdp-lb unload` and a new start, because a restart keeps the pinned tables";
const MOVE: &str = "to stop the daemon, move the file there and start the daemon, or the changes made at runtime are not found";

/// A key, its value, and what a change needs if a reload cannot make it.
type Setting = (&'static str, Value, Option<&'static str>);

pub(super) const SECRET: &str = "flow_hash_secret";

/// The changed keys, in the file's order.
pub fn changed_settings(old: &Config, new: &Config) -> Vec<SettingChange> {
    let shown = |key, value: Value| match value {
        Value::String(_) if key == SECRET => "(secret)".into(),
        value => value,
    };
    let changes =
        settings(old).into_iter().zip(settings(new)).filter(|((_, old, _), (_, new, _))| old != new);
    changes
        .map(|((key, old, _), (_, new, takes))| SettingChange {
            key: key.into(),
            old: shown(key, old),
            new: shown(key, new),
            takes: takes.map(str::to_owned),
        })
        .collect()
}

/// The new config, with the present values of what cannot change while the daemon runs.
pub fn reloadable(new: Config, present: &Config) -> Config {
    Config {
        interfaces: new.interfaces,
        snat_ports: new.snat_ports,
        vips: new.vips,
        timeouts: new.timeouts,
        drain_timeout: new.drain_timeout,
        asymmetric_replies: new.asymmetric_replies,
        allow_exec_checks: new.allow_exec_checks && present.allow_exec_checks,
        icmp_time_exceeded: new.icmp_time_exceeded,
        services: new.services,
        obsolete: new.obsolete,
        ..present.clone()
    }
}

/// Every key. A new key of the schema does not compile until it is here.
pub(super) fn settings(config: &Config) -> Vec<Setting> {
    let Config {
        interfaces,
        attach,
        state_file,
        pin_path,
        flow_hash_secret,
        snat_ports,
        vips,
        api,
        metrics,
        limits,
        timeouts,
        drain_timeout,
        asymmetric_replies,
        allow_exec_checks,
        icmp_time_exceeded,
        services: _,
        obsolete: _,
    } = config;
    let Vips { interface, withdraw } = vips;
    let Api { socket, admin_groups, read_groups, remote } = api;
    let Metrics { listen } = metrics;
    let Timeouts { tcp_idle, udp_idle } = timeouts;
    let Limits { services, backends, slots, flows, source_ranges, source_rates, fragments } = limits;
    let path = |path: &Path| json!(path.display().to_string());
    let of_remote =
        |key, value: fn(&Remote) -> Value| (key, json!(remote.as_ref().map(value)), Some(RESTART));
    let remote_file = |key, file: fn(&Remote) -> &Path| {
        (key, json!(remote.as_ref().map(|remote| path(file(remote)))), Some(RESTART))
    };
    let limit = |key, value: &u32| (key, json!(value), Some(UNLOAD));
    vec![
        ("interfaces", json!(interfaces), None),
        ("attach", attaching(attach), Some(RESTART)),
        ("state_file", path(state_file), Some(MOVE)),
        ("pin_path", path(pin_path), Some(UNLOAD)),
        (SECRET, flow_hash_secret.map(hex::encode).into(), Some(RESTART)),
        ("snat_ports", json!(snat_ports.to_string()), None),
        ("vips.interface", json!(interface), None),
        ("vips.withdraw", json!(withdraw), None),
        ("api.socket", path(socket), Some(RESTART)),
        ("api.admin_groups", json!(admin_groups), Some(RESTART)),
        ("api.read_groups", json!(read_groups), Some(RESTART)),
        of_remote("api.listen", |it| json!(it.listen)),
        remote_file("api.certificate", |it| &it.certificate),
        remote_file("api.key", |it| &it.key),
        remote_file("api.client_ca", |it| &it.client_ca),
        of_remote("api.admin_certificates", |it| json!(it.admin_certificates)),
        of_remote("api.read_certificates", |it| json!(it.read_certificates)),
        ("metrics.listen", listen.map_or("off".into(), |listen| json!(listen)), Some(RESTART)),
        limit("limits.services", services),
        limit("limits.backends", backends),
        limit("limits.slots", slots),
        limit("limits.flows", flows),
        limit("limits.source_ranges", source_ranges),
        limit("limits.source_rates", source_rates),
        limit("limits.fragments", fragments),
        ("timeouts.tcp_idle", json!(print_duration(*tcp_idle)), None),
        ("timeouts.udp_idle", json!(print_duration(*udp_idle)), None),
        ("drain_timeout", json!(print_duration(*drain_timeout)), None),
        ("asymmetric_replies", json!(asymmetric_replies), None),
        // A daemon that starts without it drops the capabilities to run programs as another user.
        ("allow_exec_checks", json!(allow_exec_checks), allow_exec_checks.then_some(RESTART)),
        ("icmp_time_exceeded", json!(icmp_time_exceeded), None),
    ]
}

fn attaching(attach: &Attaching) -> Value {
    let Attaching { default, interfaces } = attach;
    if interfaces.is_empty() {
        return json!(default);
    }
    let mut of_each = json!(interfaces);
    of_each["default"] = json!(default);
    of_each
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const EVERY_KEY: &str = r#"
        interfaces = ["eth1"]
        attach = { default = "tc", eth1 = "xdp-generic" }
        state_file = "/state"
        pin_path = "/pins"
        flow_hash_secret = "0000000000000000000000000000000000000000000000000000000000000001"
        snat_ports = "2000-3000"
        vips = { interface = "lo", withdraw = "no-backends" }
        api = { socket = "/socket", admin_groups = ["netops"], read_groups = ["users"], listen = "192.0.2.1:7443", certificate = "/c", key = "/k", client_ca = "/ca", admin_certificates = ["alice"], read_certificates = ["*"] }
        metrics.listen = "off"
        limits = { services = 5, backends = 6, slots = 1025, flows = 1026, source_ranges = 8, source_rates = 1028, fragments = 1029 }
        timeouts = { tcp_idle = "3s", udp_idle = "4s" }
        drain_timeout = "5s"
        asymmetric_replies = true
        allow_exec_checks = true
        icmp_time_exceeded = false
    "#;

    #[test]
    fn a_key_either_changes_with_a_reload_or_says_what_it_takes() {
        let (old, new) = (parse("interfaces = [\"eth0\"]").unwrap(), parse(EVERY_KEY).unwrap());
        let all = changed_settings(&old, &new);
        assert_eq!(all.len(), settings(&old).len(), "the file above changes every key");
        let kept = changed_settings(&old, &reloadable(new, &old));
        let of_a_reload: Vec<_> = all.into_iter().filter(|change| change.takes.is_none()).collect();
        assert_eq!(kept, of_a_reload);
    }

    #[test]
    fn leave_for_programs_is_withdrawn_by_a_reload_and_given_by_a_restart_alone() {
        let (without, with) = (parse("interfaces = [\"eth0\"]").unwrap(), parse(EVERY_KEY).unwrap());
        let of_programs = |old: &Config, new: &Config| {
            let mut changes = changed_settings(old, new).into_iter();
            changes.find(|change| change.key == "allow_exec_checks").unwrap()
        };
        assert_eq!(of_programs(&without, &with).takes.as_deref(), Some(RESTART));
        assert_eq!(of_programs(&with, &without).takes, None);
        assert!(!reloadable(with.clone(), &without).allow_exec_checks);
        assert!(!reloadable(without, &with).allow_exec_checks);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let (old, new) = (parse("interfaces = [\"eth0\"]").unwrap(), parse(EVERY_KEY).unwrap());
        let other = Config { flow_hash_secret: Some([7; 32]), ..new.clone() };
        let changes = changed_settings(&new, &other);
        assert_eq!(changes[0].to_string(), "flow_hash_secret (secret) -> (secret)");
        assert!(!format!("{:?}", changed_settings(&old, &new)).contains("0001"));
    }
}
