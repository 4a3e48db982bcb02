//! From a file's text to a [`Config`], or to every error in it with its line.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::errors::{ConfigError, Errors, Lines, syntax_errors};
use super::section::{Section, TOP_KEYS};
use crate::file;
use crate::model::Reader;
use crate::model::check::HealthCheck;
use crate::model::discovery::{DEFAULT_DRAIN, DRAIN, Discovery, MAX_BACKENDS};
use crate::model::feedback::FeedbackDraft;
use crate::model::place::{Place, Problems};
use crate::model::policy::{EMPTY_RANGES, GuardsDraft, MAX_FLOWS, Quic, RATE};
use crate::model::recovery::RecoveryDraft;
use crate::model::rules::{self, BackendDraft, ServiceDraft, within};
use crate::model::schema::{Api, Config, Limits, Metrics, Remote, Timeouts, Vips, default_weight};
use crate::model::state::Origin;
use crate::model::text::{self, print_duration, quoted};
use crate::model::written_check::{self, WrittenCheck};
use crate::model::written_discovery::WrittenDiscovery;

/// Reads and validates a config file.
///
/// # Errors
/// Every error that is in it, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let named = |errors: Errors| Errors { file: Some(path.into()), ..errors };
    let text = file::within_patience(path, read).unwrap_or_else(|error| Err(unreadable(&error)));
    parse(&text.map_err(named)?).map_err(named)
}

/// Validates a config file's text.
///
/// # Errors
/// Every error that is in it.
pub fn parse(text: &str) -> Result<Config, Errors> {
    let lines = Lines::of(text);
    let (root, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(Errors { file: None, errors: syntax_errors(&lines, syntax) });
    }
    let mut problems = Problems::default();
    let config = read_config(root.get_ref(), &mut problems);
    match config {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => {
            let mut errors: Vec<ConfigError> =
                problems.0.into_iter().map(|problem| lines.error(root.get_ref(), problem)).collect();
            errors.sort_by_key(|error| error.line);
            Err(Errors { file: None, errors })
        }
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, Errors> {
    const LARGEST: u64 = 64 << 20;
    let bytes = file::read(path, LARGEST)
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| whole(format!("is larger than {} MiB; is it a config file?", LARGEST >> 20)))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        let what = "is not UTF-8 here; save the file as UTF-8".into();
        Errors {
            file: None,
            errors: vec![ConfigError { line: Some(line), column: None, field: String::new(), what }],
        }
    })
}

fn unreadable(error: &io::Error) -> Errors {
    whole(format!("cannot be read: {error}; check the path and its permissions"))
}

/// An error of the file as a whole.
fn whole(what: String) -> Errors {
    Errors { file: None, errors: vec![ConfigError { line: None, column: None, field: String::new(), what }] }
}

const SERVICE_KEYS: &[&str] = &[
    "name",
    "vip",
    "protocol",
    "mode",
    "snat_addresses",
    "affinity",
    "flow_tracking",
    "on_no_backends",
    "hairpin",
    "quic",
    "allow",
    "deny",
    "new_flow_rate",
    "new_flow_burst",
    "panic_threshold",
    "slow_start",
    "on_down",
    "down_grace",
    "down_timeout",
    "agent",
    "feedback",
    "circuit_breaker",
    "max_flows",
    "health_check",
    "discovery",
    "backend",
];
const API_KEYS: &[&str] = &[
    "socket",
    "admin_groups",
    "read_groups",
    "listen",
    "certificate",
    "key",
    "client_ca",
    "admin_certificates",
    "read_certificates",
];
const LIMITS_KEYS: &[&str] = &[
    "services",
    "backends",
    "slots",
    "flows",
    "half_open_flows",
    "source_ranges",
    "source_rates",
    "fragments",
];

const DISCOVERY_KEYS: &[&str] = &[
    "type",
    "name",
    "record",
    "port",
    "weight",
    "resolvers",
    "timeout",
    "min_ttl",
    "max_ttl",
    "hold",
    "on_empty",
    "priorities",
    "path",
    "max_backends",
    "drain_timeout",
];

/// The config, where enough of it could be read to make one. It is valid if no problem was added.
fn read_config(root: &DeTable, problems: &mut Problems) -> Option<Config> {
    let mut top = Section::new(root, Place::Root, TOP_KEYS, problems);
    let interfaces = read_interfaces(&mut top);
    let xdp_mode = top.parsed("xdp_mode", str::parse).unwrap_or_default();
    let state_file = top.path("state_file", "/var/lib/xdp-lb/state.json", rules::absolute_path);
    let pin_path = top.path("pin_path", "/sys/fs/bpf/xdp-lb", rules::absolute_path);
    let flow_hash_secret = top.parsed("flow_hash_secret", flow_hash_secret);
    let snat_ports = top.or_default("snat_ports", |top, key| top.parsed(key, str::parse));
    let vips = top.section("vips", &["interface", "withdraw"], read_vips).unwrap_or_default();
    let api = top.section("api", API_KEYS, read_api).unwrap_or_default();
    let metrics = top.section("metrics", &["listen"], read_metrics).unwrap_or_default();
    let limits = top.or_default("limits", |top, key| top.section(key, LIMITS_KEYS, read_limits).flatten());
    let timeouts = top.section("timeouts", &["tcp_idle", "udp_idle"], read_timeouts).unwrap_or_default();
    let drain_timeout = top.parsed("drain_timeout", drain_timeout).unwrap_or(DEFAULT_DRAIN);
    let asymmetric_replies = top.boolean("asymmetric_replies").unwrap_or_default();
    let allow_exec_checks = top.boolean("allow_exec_checks").unwrap_or_default();
    let icmp_time_exceeded = top.boolean("icmp_time_exceeded").unwrap_or(true);
    let services = top.sections("service", SERVICE_KEYS, service_label, read_service);
    rules::check_all(&services, snat_ports, limits, allow_exec_checks, problems);

    Some(Config {
        interfaces,
        xdp_mode,
        state_file,
        pin_path,
        flow_hash_secret,
        snat_ports: snat_ports?,
        vips,
        api,
        metrics,
        limits: limits?,
        timeouts,
        drain_timeout,
        asymmetric_replies,
        allow_exec_checks,
        icmp_time_exceeded,
        services: services.into_iter().map(ServiceDraft::finish).collect::<Option<_>>()?,
    })
}

fn read_interfaces(top: &mut Section) -> Vec<String> {
    const KEY: &str = "interfaces";
    const EXAMPLE: &str = "write the interfaces that packets arrive on, interfaces = [\"eth0\"]";
    if !top.has(KEY) {
        top.problem(KEY, format!("is missing; {EXAMPLE}"));
        return Vec::new();
    }
    let Some(names) = top.list(KEY, |name| rules::interface_name(name).map(|()| name.to_owned())) else {
        return Vec::new();
    };
    if names.is_empty() {
        top.problem(KEY, format!("is empty; {EXAMPLE}"));
    }
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(name) = name
            && !seen.insert(name)
        {
            let what = format!("{} is listed twice; remove one of them", quoted(name));
            top.problem_of(KEY, index, what);
        }
    }
    names.into_iter().flatten().collect()
}

fn flow_hash_secret(text: &str) -> Result<[u8; 32], String> {
    let mut secret = [0; 32];
    // The value is a secret: no error repeats it.
    hex::decode_to_slice(text, &mut secret).map_err(|_| {
        "is not 64 hex digits; write the output of \"openssl rand -hex 32\", the same on every node"
            .to_owned()
    })?;
    Ok(secret)
}

fn read_vips(vips: &mut Section) -> Vips {
    let interface = vips.parsed("interface", |name| rules::interface_name(name).map(|()| name.to_owned()));
    let withdraw = vips.parsed("withdraw", str::parse);
    if withdraw.is_some() && !vips.has("interface") {
        vips.problem(
            "withdraw",
            "means nothing without an interface that the daemon puts VIPs on; write interface = \"eth0\", or remove it",
        );
    }
    Vips { interface, withdraw: withdraw.unwrap_or_default() }
}

fn read_api(api: &mut Section) -> Api {
    let socket = Api::default().socket;
    let socket = api.path("socket", &socket.to_string_lossy(), rules::socket_path);
    let mut groups = |key| {
        let names = api.list(key, |name| rules::group_name(name).map(|()| name.to_owned()));
        names.unwrap_or_default()
    };
    let (admin_groups, read_groups) = (groups("admin_groups"), groups("read_groups"));
    refuse_twice(api, ["admin_groups", "read_groups"], [&admin_groups, &read_groups]);
    let remote = read_remote(api);
    let named = |groups: Vec<Option<String>>| groups.into_iter().flatten().collect();
    Api { socket, admin_groups: named(admin_groups), read_groups: named(read_groups), remote }
}

/// Refuses what is in both lists, of those who may change anything and of those who may look.
fn refuse_twice(api: &mut Section, [admins, readers]: [&str; 2], [admin, read]: [&[Option<String>]; 2]) {
    for (index, name) in read.iter().enumerate() {
        if let Some(name) = name
            && admin.iter().flatten().any(|admin| admin == name)
        {
            let what = format!("{} is in {admins}, too, which may read; remove one of them", quoted(name));
            api.problem_of(readers, index, what);
        }
    }
}

fn read_remote(api: &mut Section) -> Option<Remote> {
    const FILES: [(&str, &str); 3] = [
        ("certificate", "certificate = \"/etc/xdp-lb/api.pem\""),
        ("key", "key = \"/etc/xdp-lb/api.key\""),
        ("client_ca", "client_ca = \"/etc/xdp-lb/clients.pem\""),
    ];
    let listen = api.parsed("listen", |text| listener(text, "clients"));
    let is_wanted = api.has("listen");
    let files = FILES.map(|(key, example)| {
        let rule = |path: &str| rules::absolute_path(path).map(|()| path.into());
        if is_wanted { api.required(key, example, rule) } else { api.parsed(key, rule) }
    });
    let mut names = |key, rule: fn(&str) -> Result<(), String>| {
        api.list(key, |name| rule(name).map(|()| name.to_owned())).unwrap_or_default()
    };
    let admins = names("admin_certificates", rules::admin_certificate);
    let readers = names("read_certificates", rules::certificate_name);
    refuse_twice(api, ["admin_certificates", "read_certificates"], [&admins, &readers]);
    if !is_wanted {
        let lists = ["admin_certificates", "read_certificates"];
        for key in FILES.iter().map(|(key, _)| *key).chain(lists) {
            if api.has(key) {
                let words = "means nothing without an address that the API listens on; write listen = \"192.0.2.1:7443\", \
                             or remove it";
                api.problem(key, words);
            }
        }
        return None;
    }
    if admins.is_empty() && readers.is_empty() {
        let words = "nobody could use it; name the certificates of those who may, as in admin_certificates = [\"alice\"], \
                     read_certificates = [\"*\"]";
        api.problem("listen", words);
    }
    let [certificate, key, client_ca] = files;
    Some(Remote {
        listen: listen?,
        certificate: certificate?,
        key: key?,
        client_ca: client_ca?,
        admin_certificates: admins.into_iter().flatten().collect(),
        read_certificates: readers.into_iter().flatten().collect(),
    })
}

/// An address to listen on, with a port that those who connect can know.
fn listener(text: &str, who: &str) -> Result<SocketAddr, String> {
    match text::parse_endpoint(text)? {
        address if address.port() == 0 => {
            Err(format!("\"{address}\" has port 0, which {who} cannot know; write 1 to 65535"))
        }
        address => Ok(address),
    }
}

fn read_metrics(metrics: &mut Section) -> Metrics {
    let listen = |text: &str| {
        let listen = if text == "off" { None } else { Some(listener(text, "Prometheus")?) };
        Ok(Metrics { listen })
    };
    metrics.parsed("listen", listen).unwrap_or_default()
}

fn read_limits(limits: &mut Section) -> Option<Limits> {
    let default = Limits::default();
    let mut limit = |key, range, default| match limits.has(key) {
        true => limits.integer(key, &range),
        false => Some(default),
    };
    let services = limit("services", 1..=65_536, default.services);
    let backends = limit("backends", 1..=1_000_000, default.backends);
    let slots = limit("slots", 1024..=1 << 28, default.slots);
    let flows = limit("flows", 1024..=1 << 26, default.flows);
    let half_open_flows = limit("half_open_flows", 1024..=1 << 26, default.half_open_flows);
    let source_ranges = limit("source_ranges", 1..=1 << 24, default.source_ranges);
    let source_rates = limit("source_rates", 1024..=1 << 24, default.source_rates);
    let fragments = limit("fragments", 1024..=1 << 20, default.fragments);
    Some(Limits {
        services: services?,
        backends: backends?,
        slots: slots?,
        flows: flows?,
        half_open_flows: half_open_flows?,
        source_ranges: source_ranges?,
        source_rates: source_rates?,
        fragments: fragments?,
    })
}

fn read_timeouts(timeouts: &mut Section) -> Timeouts {
    let idle = |text: &str| {
        const RANGE: RangeInclusive<Duration> =
            Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);
        let idle = within(text::duration(text)?, &RANGE, print_duration)?;
        match idle.subsec_nanos() {
            0 => Ok(idle),
            _ => Err(format!("{} is not in whole seconds; write \"15m\" or \"90s\"", quoted(text))),
        }
    };
    let default = Timeouts::default();
    Timeouts {
        tcp_idle: timeouts.parsed("tcp_idle", idle).unwrap_or(default.tcp_idle),
        udp_idle: timeouts.parsed("udp_idle", idle).unwrap_or(default.udp_idle),
    }
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    within(text::duration(text)?, &DRAIN, print_duration)
}

fn read_service(service: &mut Section) -> ServiceDraft {
    ServiceDraft {
        name: service.required("name", "name = \"web\"", |name| Ok(name.to_owned())),
        vip: service.required("vip", "vip = \"192.0.2.10:80\"", str::parse),
        protocol: service.or_default("protocol", |service, key| service.parsed(key, str::parse)),
        mode: service.or_default("mode", |service, key| service.parsed(key, str::parse)),
        snat_addresses: service.list("snat_addresses", text::address).unwrap_or_default(),
        affinity: service.parsed("affinity", str::parse).unwrap_or_default(),
        flow_tracking: service.or_default("flow_tracking", |service, key| service.parsed(key, str::parse)),
        on_no_backends: service.or_default("on_no_backends", |service, key| service.parsed(key, str::parse)),
        hairpin: service.or_default("hairpin", |service, key| service.parsed(key, str::parse)),
        quic: match service.has("quic") {
            true => {
                service.section("quic", &["server_id_length", "config_id"], read_quic).flatten().map(Some)
            }
            false => Some(None),
        },
        guards: read_guards(service),
        recovery: RecoveryDraft::read(service),
        feedback: FeedbackDraft::read(service),
        health_check: service.section("health_check", written_check::KEYS, read_check).flatten(),
        discovery: service.section("discovery", DISCOVERY_KEYS, read_discovery).flatten(),
        backends: service.sections(
            "backend",
            &["address", "weight", "server_id", "backup", "max_flows"],
            backend_label,
            read_backend,
        ),
        origin: Origin::File,
    }
}

fn read_quic(quic: &mut Section) -> Option<Quic> {
    const KEY: &str = "server_id_length";
    if !quic.has(KEY) {
        quic.problem(KEY, "is missing; write server_id_length = 4, as the servers are set up");
    }
    let config_id = match quic.has("config_id") {
        true => quic.integer("config_id", &Quic::CONFIGS),
        false => Some(0),
    };
    Some(Quic { server_id_length: quic.integer(KEY, &Quic::LENGTHS)?, config_id: config_id? })
}

fn read_guards(service: &mut Section) -> GuardsDraft {
    let mut list = |key| {
        let list = service.list(key, str::parse);
        if list.as_ref().is_some_and(Vec::is_empty) {
            service.problem(key, EMPTY_RANGES);
        }
        list.unwrap_or_default()
    };
    let (allow, deny) = (list("allow"), list("deny"));
    let mut number = |key| service.integer(key, &RATE).unwrap_or_default();
    GuardsDraft {
        allow,
        deny,
        new_flow_rate: number("new_flow_rate"),
        new_flow_burst: number("new_flow_burst"),
        max_flows: service.integer("max_flows", &MAX_FLOWS).unwrap_or_default(),
    }
}

fn read_check(check: &mut Section) -> Option<HealthCheck> {
    let written = WrittenCheck::read(check)?;
    match HealthCheck::try_from(written) {
        Ok(check) => Some(check),
        Err(errors) => {
            for (key, what) in errors.0 {
                check.problem(key, what);
            }
            None
        }
    }
}

fn read_discovery(discovery: &mut Section) -> Option<Discovery> {
    let mut text = |key| discovery.parsed(key, |text| Ok(text.to_owned()));
    let (name, record, path) = (text("name"), text("record"), text("path"));
    let (timeout, min_ttl, max_ttl) = (text("timeout"), text("min_ttl"), text("max_ttl"));
    let hold = text("hold");
    let (on_empty, priorities, drain_timeout) = (text("on_empty"), text("priorities"), text("drain_timeout"));
    let resolvers = discovery.list("resolvers", |text| Ok(text.to_owned()));
    let port = discovery.integer("port", &(1..=u16::MAX));
    let weight = discovery.integer("weight", &(0..=u16::MAX));
    let max_backends = discovery.integer("max_backends", &MAX_BACKENDS);
    let r#type = discovery.required("type", "type = \"dns\"", |text| Ok(text.to_owned()))?;
    let written = WrittenDiscovery {
        r#type,
        name,
        record,
        port,
        weight,
        resolvers: resolvers.map(|resolvers| resolvers.into_iter().flatten().collect()),
        timeout,
        min_ttl,
        max_ttl,
        hold,
        on_empty,
        priorities,
        path,
        max_backends,
        drain_timeout,
    };
    match Discovery::try_from(written) {
        Ok(it) => Some(it),
        Err(errors) => {
            for (key, what) in errors.0 {
                discovery.problem(key, what);
            }
            None
        }
    }
}

fn read_backend(backend: &mut Section) -> BackendDraft {
    let weight = match backend.has("weight") {
        true => backend.integer("weight", &(0..=u16::MAX)),
        false => Some(default_weight()),
    };
    BackendDraft {
        address: backend.required("address", "address = \"198.51.100.11:8080\"", text::parse_endpoint),
        weight,
        server_id: match backend.has("server_id") {
            true => backend.parsed("server_id", str::parse).map(Some),
            false => Some(None),
        },
        backup: backend.boolean("backup").unwrap_or_default(),
        max_flows: backend.integer("max_flows", &MAX_FLOWS).unwrap_or_default(),
        origin: Origin::File,
    }
}

fn service_label(table: &DeTable, index: usize) -> String {
    rules::service_label(table.get("name").and_then(|name| name.get_ref().as_str()), index)
}

fn backend_label(table: &DeTable, index: usize) -> String {
    let address = table.get("address").and_then(|address| address.get_ref().as_str()?.parse().ok());
    rules::backend_label(address, index)
}

#[cfg(test)]
mod tests;
