//! From a file's text to a [`Config`], or to every error in it with its line.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::errors::{ConfigError, Errors, Lines, syntax_errors};
use crate::file;
use crate::model::choices::XdpMode;
use crate::model::config::{Api, Attaching, Config, Limits, Metrics, Remote, Timeouts, Vips};
use crate::model::discovery::{DEFAULT_DRAIN, DRAIN};
use crate::model::place::{Place, Problems};
use crate::model::rules::{self, Subject};
use crate::model::section::{Node, Section, TOP_KEYS, Table};
use crate::model::service::Service;
use crate::model::text::{self, print_duration, quoted};
use crate::model::values::{self, within};

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
        Some(config) if problems.all.is_empty() => Ok(config),
        _ => {
            let mut errors: Vec<ConfigError> =
                problems.all.into_iter().map(|problem| lines.error(root.get_ref(), problem)).collect();
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
/// The size of a table that there was once, for flows of one packet.
const HALF_OPEN: &str = "half_open_flows";
const LIMITS_KEYS: &[&str] =
    &["services", "backends", "slots", "flows", HALF_OPEN, "source_ranges", "source_rates", "fragments"];

/// The config, where enough of it could be read to make one. It is valid if no problem was added.
fn read_config(root: &DeTable, problems: &mut Problems) -> Option<Config> {
    let root = table(root);
    let mut top = Section::new(&root, Place::Root, TOP_KEYS, problems);
    let interfaces = read_interfaces(&mut top);
    let attach = read_attach(&mut top, &interfaces);
    let state_file = top.path("state_file", "/var/lib/xdp-lb/state.json", values::absolute_path);
    let pin_path = top.path("pin_path", "/sys/fs/bpf/xdp-lb", values::absolute_path);
    let flow_hash_secret = top.parsed("flow_hash_secret", flow_hash_secret);
    let snat_ports = top.or_default("snat_ports", |top, key| top.parsed(key, str::parse));
    let vips = top.section("vips", &["interface", "withdraw"], read_vips).unwrap_or_default();
    let api = top.section("api", API_KEYS, read_api).unwrap_or_default();
    let metrics = top.section("metrics", &["listen"], read_metrics).unwrap_or_default();
    let limits = top.or_default("limits", |top, key| top.section(key, LIMITS_KEYS, read_limits).flatten());
    let obsolete = if has_half_open(&root) {
        vec![
            "limits.half_open_flows has no effect any more: limits.flows is the room for all flows; remove it",
        ]
    } else {
        Vec::new()
    };
    let timeouts = top.section("timeouts", &["tcp_idle", "udp_idle"], read_timeouts).unwrap_or_default();
    let drain_timeout = top.parsed("drain_timeout", drain_timeout).unwrap_or(DEFAULT_DRAIN);
    let asymmetric_replies = top.boolean("asymmetric_replies").unwrap_or_default();
    let allow_exec_checks = top.boolean("allow_exec_checks").unwrap_or_default();
    let icmp_time_exceeded = top.boolean("icmp_time_exceeded").unwrap_or(true);
    let services = top.sections("service", Service::KEYS, service_label, Service::read).unwrap_or_default();
    let subjects: Vec<Subject> = services.iter().map(Subject::of).collect();
    rules::check_all(&subjects, snat_ports, limits, allow_exec_checks, problems);

    Some(Config {
        interfaces,
        attach,
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
        services,
        obsolete,
    })
}

fn has_half_open(root: &Table) -> bool {
    matches!(root.get("limits"), Some(Node::Table(limits)) if limits.contains_key(HALF_OPEN))
}

fn read_interfaces(top: &mut Section<'_>) -> Vec<String> {
    const KEY: &str = "interfaces";
    const EXAMPLE: &str = "write the interfaces that packets arrive on, interfaces = [\"eth0\"]";
    if !top.has(KEY) {
        top.problem(KEY, format!("is missing; {EXAMPLE}"));
        return Vec::new();
    }
    let Some(names) = top.list(KEY, |name| values::interface_name(name).map(|()| name.to_owned())) else {
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

/// How the program is attached: one word, or one for each interface. `xdp_mode` is what there was before.
fn read_attach(top: &mut Section<'_>, interfaces: &[String]) -> Attaching {
    const KEY: &str = "attach";
    const FORMER: &str = "xdp_mode";
    const DEFAULT: &str = "default";
    if top.has(FORMER) && top.has(KEY) {
        top.problem(FORMER, "is the former name of `attach`, which is here, too; remove it");
    }
    if top.has(FORMER) {
        let mode: XdpMode = top.parsed(FORMER, str::parse).unwrap_or_default();
        return Attaching { default: mode.into(), ..Attaching::default() };
    }
    if !top.is_table(KEY) {
        let default = top.parsed(KEY, str::parse).unwrap_or_default();
        return Attaching { default, ..Attaching::default() };
    }
    let mut keys: Vec<&str> = interfaces.iter().map(String::as_str).collect();
    keys.push(DEFAULT);
    let read = |table: &mut Section<'_>| {
        let default = table.parsed(DEFAULT, str::parse).unwrap_or_default();
        let of = |name: &String| Some((name.clone(), table.parsed(name, str::parse)?));
        Attaching { default, interfaces: interfaces.iter().filter_map(of).collect() }
    };
    top.section(KEY, &keys, read).unwrap_or_default()
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

fn read_vips(vips: &mut Section<'_>) -> Vips {
    let interface = vips.parsed("interface", |name| values::interface_name(name).map(|()| name.to_owned()));
    let withdraw = vips.parsed("withdraw", str::parse);
    if withdraw.is_some() && !vips.has("interface") {
        vips.problem(
            "withdraw",
            "requires an interface for the VIPs; write interface = \"eth0\", or remove it",
        );
    }
    Vips { interface, withdraw: withdraw.unwrap_or_default() }
}

fn read_api(api: &mut Section<'_>) -> Api {
    let socket = Api::default().socket;
    let socket = api.path("socket", &socket.to_string_lossy(), values::socket_path);
    let mut groups = |key| {
        let names = api.list(key, |name| values::group_name(name).map(|()| name.to_owned()));
        names.unwrap_or_default()
    };
    let (admin_groups, read_groups) = (groups("admin_groups"), groups("read_groups"));
    refuse_twice(api, ["admin_groups", "read_groups"], [&admin_groups, &read_groups]);
    let remote = read_remote(api);
    let named = |groups: Vec<Option<String>>| groups.into_iter().flatten().collect();
    Api { socket, admin_groups: named(admin_groups), read_groups: named(read_groups), remote }
}

/// Refuses what is in both lists, of those who may change anything and of those who may look.
fn refuse_twice(api: &mut Section<'_>, [admins, readers]: [&str; 2], [admin, read]: [&[Option<String>]; 2]) {
    for (index, name) in read.iter().enumerate() {
        if let Some(name) = name
            && admin.iter().flatten().any(|admin| admin == name)
        {
            let what =
                format!("{} is also in {admins}, who can read as well; remove one of them", quoted(name));
            api.problem_of(readers, index, what);
        }
    }
}

fn read_remote(api: &mut Section<'_>) -> Option<Remote> {
    const FILES: [(&str, &str); 3] = [
        ("certificate", "certificate = \"/etc/xdp-lb/api.pem\""),
        ("key", "key = \"/etc/xdp-lb/api.key\""),
        ("client_ca", "client_ca = \"/etc/xdp-lb/clients.pem\""),
    ];
    let listen = api.parsed("listen", |text| listener(text, "clients"));
    let is_wanted = api.has("listen");
    let files = FILES.map(|(key, example)| {
        let rule = |path: &str| values::absolute_path(path).map(|()| path.into());
        if is_wanted { api.required(key, example, rule) } else { api.parsed(key, rule) }
    });
    let mut names = |key, rule: fn(&str) -> Result<(), String>| {
        api.list(key, |name| rule(name).map(|()| name.to_owned())).unwrap_or_default()
    };
    let admins = names("admin_certificates", values::admin_certificate);
    let readers = names("read_certificates", values::certificate_name);
    refuse_twice(api, ["admin_certificates", "read_certificates"], [&admins, &readers]);
    if !is_wanted {
        let lists = ["admin_certificates", "read_certificates"];
        for key in FILES.iter().map(|(key, _)| *key).chain(lists) {
            if api.has(key) {
                let words = "requires a listen address; write listen = \"192.0.2.1:7443\", or remove it";
                api.problem(key, words);
            }
        }
        return None;
    }
    if admins.is_empty() && readers.is_empty() {
        let words = "nobody could use it; list the certificates that may, as in admin_certificates = [\"alice\"], \
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

fn read_metrics(metrics: &mut Section<'_>) -> Metrics {
    let listen = |text: &str| {
        let listen = if text == "off" { None } else { Some(listener(text, "Prometheus")?) };
        Ok(Metrics { listen })
    };
    metrics.parsed("listen", listen).unwrap_or_default()
}

fn read_limits(limits: &mut Section<'_>) -> Option<Limits> {
    let default = Limits::default();
    let mut limit = |key, range, default| match limits.has(key) {
        true => limits.integer(key, &range),
        false => Some(default),
    };
    let services = limit("services", 1..=65_536, default.services);
    let backends = limit("backends", 1..=1_000_000, default.backends);
    let slots = limit("slots", 1024..=1 << 28, default.slots);
    let flows = limit("flows", 1024..=1 << 26, default.flows);
    let source_ranges = limit("source_ranges", 1..=1 << 24, default.source_ranges);
    let source_rates = limit("source_rates", 1024..=1 << 24, default.source_rates);
    let fragments = limit("fragments", 1024..=1 << 20, default.fragments);
    Some(Limits {
        services: services?,
        backends: backends?,
        slots: slots?,
        flows: flows?,
        source_ranges: source_ranges?,
        source_rates: source_rates?,
        fragments: fragments?,
    })
}

fn read_timeouts(timeouts: &mut Section<'_>) -> Timeouts {
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

/// What errors call the service of a table.
fn service_label(table: &Table, index: usize) -> String {
    let name = match table.get("name") {
        Some(Node::Text(name)) => Some(name.as_str()),
        _ => None,
    };
    rules::service_label(name, index)
}

/// A value of TOML, without its spans: those are looked up where a problem needs them.
fn node(value: &DeValue) -> Node {
    match value {
        DeValue::String(text) => Node::Text(text.to_string()),
        DeValue::Integer(number) => {
            Node::Number(u64::from_str_radix(number.as_str(), number.radix()).ok(), number.to_string())
        }
        DeValue::Float(_) => Node::Fraction,
        DeValue::Boolean(flag) => Node::Flag(*flag),
        DeValue::Datetime(_) => Node::Date,
        DeValue::Array(list) => Node::List(list.iter().map(|value| node(value.get_ref())).collect()),
        DeValue::Table(entries) => Node::Table(table(entries)),
    }
}

fn table(table: &DeTable) -> Table {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), node(value.get_ref()))).collect()
}

#[cfg(test)]
mod tests;
