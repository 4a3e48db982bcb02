//! From a file's text to a [`Config`], or to every error in it with its line.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::place::{Place, Problem, Problems, Step};
use super::rules::{self, BackendDraft, RISE_FALL, ServiceDraft, within};
use super::schema::{Api, Config, HealthCheck, Limits, Metrics, Timeouts, default_weight};
use super::text::{self, grouped, listed, nearest, print_duration, quoted};
use super::written_check::WrittenCheck;
use crate::api::types::Origin;

/// Reads and validates a config file.
///
/// # Errors
/// Every error that is in it, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let named = |errors: Errors| Errors { file: Some(path.into()), ..errors };
    parse(&read(path).map_err(named)?).map_err(named)
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

/// Everything that is wrong with a config file. Prints a line for each error:
/// `xdp-lb.toml:14: service "web": vip: "192.0.2.10" has no port; write "192.0.2.10:80"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors {
    /// The file, where it is one.
    pub file: Option<PathBuf>,
    /// The errors, by line; at least one.
    pub errors: Vec<ConfigError>,
}

/// One thing that is wrong with a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The line, from 1 on; `None` where it is about the whole file.
    pub line: Option<usize>,
    /// The column in characters, from 1 on, for an error of TOML's syntax.
    pub column: Option<usize>,
    /// The field in words, `service "web": vip`; empty where it is about none.
    pub field: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.errors.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            match (&self.file, error.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}", file.display())?,
                (Some(file), None) => write!(f, "{}", file.display())?,
                (None, Some(line)) => write!(f, "line {line}")?,
                (None, None) => f.write_str("config")?,
            }
            if let Some(column) = error.column {
                write!(f, ":{column}")?;
            }
            if !error.field.is_empty() {
                write!(f, ": {}", error.field)?;
            }
            write!(f, ": {}", error.what)?;
        }
        Ok(())
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, Errors> {
    const LARGEST: u64 = 64 << 20;
    let whole = |what: String| Errors {
        file: None,
        errors: vec![ConfigError { line: None, column: None, field: String::new(), what }],
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| whole(format!("cannot be read: {error}; check the path and its permissions")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(whole(format!("is larger than {} MiB; is it a config file?", LARGEST >> 20)));
    }
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

const TOP_KEYS: &[&str] = &[
    "interfaces",
    "xdp_mode",
    "state_file",
    "pin_path",
    "flow_hash_secret",
    "snat_ports",
    "api",
    "metrics",
    "limits",
    "timeouts",
    "service",
];
const SERVICE_KEYS: &[&str] =
    &["name", "vip", "protocol", "mode", "snat_addresses", "health_check", "backend"];
const CHECK_KEYS: &[&str] =
    &["type", "path", "host", "status", "name", "record", "interval", "timeout", "rise", "fall"];

/// The config, where enough of it could be read to make one. It is valid if no problem was added.
fn read_config(root: &DeTable, problems: &mut Problems) -> Option<Config> {
    let mut top = Section::new(root, Place::Root, TOP_KEYS, problems);
    let interfaces = read_interfaces(&mut top);
    let xdp_mode = top.parsed("xdp_mode", str::parse).unwrap_or_default();
    let state_file = top.path("state_file", "/var/lib/xdp-lb/state.json", rules::absolute_path);
    let pin_path = top.path("pin_path", "/sys/fs/bpf/xdp-lb", rules::absolute_path);
    let flow_hash_secret = top.parsed("flow_hash_secret", flow_hash_secret);
    let snat_ports = top.or_default("snat_ports", |top, key| top.parsed(key, str::parse));
    let api = top.section("api", &["socket"], read_api).unwrap_or_default();
    let metrics = top.section("metrics", &["listen"], read_metrics).unwrap_or_default();
    let limits = top.or_default("limits", |top, key| {
        top.section(key, &["services", "backends", "slots", "flows"], read_limits).flatten()
    });
    let timeouts = top.section("timeouts", &["tcp_idle", "udp_idle"], read_timeouts).unwrap_or_default();
    let services = top.sections("service", SERVICE_KEYS, service_label, read_service);
    rules::check_all(&services, snat_ports, limits, problems);

    Some(Config {
        interfaces,
        xdp_mode,
        state_file,
        pin_path,
        flow_hash_secret,
        snat_ports: snat_ports?,
        api,
        metrics,
        limits: limits?,
        timeouts,
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
    let mut unique: Vec<String> = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        match name {
            Some(name) if unique.contains(&name) => {
                let what = format!("{} is listed twice; remove one of them", quoted(&name));
                top.problems.add(&top.place.item(KEY, index, KEY), what);
            }
            Some(name) => unique.push(name),
            None => {}
        }
    }
    unique
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

fn read_api(api: &mut Section) -> Api {
    let socket = Api::default().socket;
    Api { socket: api.path("socket", &socket.to_string_lossy(), rules::socket_path) }
}

fn read_metrics(metrics: &mut Section) -> Metrics {
    let listen = |text: &str| {
        if text == "off" {
            return Ok(Metrics { listen: None });
        }
        match text::parse_endpoint(text)? {
            address if address.port() == 0 => {
                Err(format!("\"{address}\" has port 0, which Prometheus cannot know; write 1 to 65535"))
            }
            address => Ok(Metrics { listen: Some(address) }),
        }
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
    Some(Limits { services: services?, backends: backends?, slots: slots?, flows: flows? })
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

fn read_service(service: &mut Section) -> ServiceDraft {
    ServiceDraft {
        name: service.required("name", "name = \"web\"", |name| Ok(name.to_owned())),
        vip: service.required("vip", "vip = \"192.0.2.10:80\"", text::parse_endpoint),
        protocol: service.or_default("protocol", |service, key| service.parsed(key, str::parse)),
        mode: service.or_default("mode", |service, key| service.parsed(key, str::parse)),
        snat_addresses: service.list("snat_addresses", text::address).unwrap_or_default(),
        health_check: service.section("health_check", CHECK_KEYS, read_check).flatten(),
        backends: service.sections("backend", &["address", "weight"], backend_label, read_backend),
        origin: Origin::File,
    }
}

fn read_check(check: &mut Section) -> Option<HealthCheck> {
    let mut text = |key| check.parsed(key, |text| Ok(text.to_owned()));
    let (path, host, status) = (text("path"), text("host"), text("status"));
    let (name, record) = (text("name"), text("record"));
    let (interval, timeout) = (text("interval"), text("timeout"));
    let rise = check.integer("rise", &RISE_FALL);
    let fall = check.integer("fall", &RISE_FALL);
    let r#type = check.required("type", "type = \"tcp\"", |text| Ok(text.to_owned()))?;
    let written = WrittenCheck { r#type, path, host, status, name, record, interval, timeout, rise, fall };
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

fn read_backend(backend: &mut Section) -> BackendDraft {
    let weight = match backend.has("weight") {
        true => backend.integer("weight", &(0..=u16::MAX)),
        false => Some(default_weight()),
    };
    BackendDraft {
        address: backend.required("address", "address = \"198.51.100.11:8080\"", text::parse_endpoint),
        weight,
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

/// A table of the file, its place, and where problems are put. What is absent is `None` and no
/// problem; what is there and wrong is `None` and a problem.
struct Section<'a> {
    table: &'a DeTable<'a>,
    place: Place<'a>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    fn new(table: &'a DeTable<'a>, place: Place<'a>, keys: &[&str], problems: &'a mut Problems) -> Self {
        for key in table.keys().map(|key| key.get_ref().as_ref()) {
            if !keys.contains(&key) {
                let hint = match nearest(key, keys) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None if !matches!(place, Place::Root) && TOP_KEYS.contains(&key) => {
                        "it belongs to the top of the file, before the first table".into()
                    }
                    None => format!("the keys here are {}", listed(keys)),
                };
                problems.add_key(&place, key, format!("unknown key {}; {hint}", quoted(key)));
            }
        }
        Self { table, place, problems }
    }

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    fn problem(&mut self, key: &str, what: impl Into<String>) {
        self.problems.add(&self.place.key(key), what);
    }

    /// What `read` makes of the key, or the default where it is absent.
    fn or_default<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if self.has(key) { read(self, key) } else { Some(T::default()) }
    }

    /// A string, read.
    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = string(self.get(key)?).and_then(parse);
        self.problems.take(&self.place.key(key), value)
    }

    /// A string that has to be there, read.
    fn required<T>(
        &mut self,
        key: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problem(key, format!("is missing; write {example}"));
        }
        self.parsed(key, parse)
    }

    /// A whole number in a range.
    fn integer<T>(&mut self, key: &str, range: &RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + Into<u64> + Copy,
    {
        let range: RangeInclusive<u64> = (*range.start()).into()..=(*range.end()).into();
        let value = match self.get(key)? {
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => within(number, &range, grouped),
                Err(_) => Err(format!(
                    "{number} is out of range; write {} to {}",
                    grouped(*range.start()),
                    grouped(*range.end())
                )),
            },
            DeValue::String(text) if text.parse::<u64>().is_ok() => {
                Err(format!("{} is in quotes; write the number without them", quoted(text)))
            }
            other => Err(wrong_type(other, "a whole number")),
        };
        self.problems.take(&self.place.key(key), value).and_then(|number| T::try_from(number).ok())
    }

    /// The path of a file or a directory.
    fn path(&mut self, key: &str, default: &str, rule: fn(&str) -> Result<(), String>) -> PathBuf {
        self.parsed(key, |path| rule(path).map(|()| path.into())).unwrap_or_else(|| default.into())
    }

    /// A list of strings, each read.
    fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<Option<T>>> {
        let Some(list) = self.get(key)?.as_array() else {
            let what = wrong_type(self.get(key)?, "a list of strings");
            self.problem(key, what);
            return None;
        };
        let read = list.iter().enumerate().map(|(index, value)| {
            let value = string(value.get_ref()).and_then(&parse);
            self.problems.take(&self.place.item(key, index, key), value)
        });
        Some(read.collect())
    }

    /// A table under a key.
    fn section<T>(&mut self, key: &str, keys: &[&str], read: impl FnOnce(&mut Section) -> T) -> Option<T> {
        let Some(table) = self.get(key)?.as_table() else {
            let what = format!("{}, as [{key}]", wrong_type(self.get(key)?, "a table"));
            self.problem(key, what);
            return None;
        };
        Some(read(&mut Section::new(table, self.place.key(key), keys, self.problems)))
    }

    /// A list of tables under a key.
    fn sections<T>(
        &mut self,
        key: &str,
        keys: &[&str],
        label: fn(&DeTable, usize) -> String,
        read: fn(&mut Section) -> T,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let wanted = |value| {
            wrong_type(
                value,
                &format!(
                    "a list of tables, each headed [[{}]]",
                    match self.place {
                        Place::Root => key.to_owned(),
                        _ => format!("service.{key}"),
                    }
                ),
            )
        };
        let Some(list) = value.as_array() else {
            let what = wanted(value);
            self.problem(key, what);
            return Vec::new();
        };
        let mut all = Vec::new();
        for (index, value) in list.iter().enumerate() {
            match value.get_ref().as_table() {
                Some(table) => {
                    let label = label(table, index);
                    let place = self.place.item(key, index, &label);
                    all.push(read(&mut Section::new(table, place, keys, self.problems)));
                }
                None => self.problems.add(&self.place.item(key, index, key), wanted(value.get_ref())),
            }
        }
        all
    }
}

fn string<'a>(value: &'a DeValue) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| wrong_type(value, "a string, in quotes"))
}

fn wrong_type(value: &DeValue, wanted: &str) -> String {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("is {found}; write {wanted}")
}

/// Where each line of a text begins.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line and the column of a byte, both from 1 on.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    fn error(&self, root: &DeTable, problem: Problem) -> ConfigError {
        let line = offset(root, &problem.path).map(|offset| self.position(offset).0);
        ConfigError { line, column: None, field: problem.place, what: problem.what }
    }
}

/// Where the last step of a path that exists begins in the text; `None` where not even the first does.
fn offset(root: &DeTable, path: &[Step]) -> Option<usize> {
    let mut found = None;
    let mut table = Some(root);
    let mut list = None;
    for step in path {
        let (start, value) = match step {
            Step::Key(key) => {
                let Some((key, value)) = table.and_then(|table| table.get_key_value(key.as_str())) else {
                    break;
                };
                (key.span().start, value)
            }
            Step::Index(index) => {
                let Some(value) = list.and_then(|list: &toml::de::DeArray| list.get(*index)) else { break };
                (value.span().start, value)
            }
        };
        found = Some(start);
        table = value.get_ref().as_table();
        list = value.get_ref().as_array();
    }
    found
}

/// TOML's own errors: the first of each line, since the others mostly follow from it.
fn syntax_errors(lines: &Lines, errors: Vec<toml::de::Error>) -> Vec<ConfigError> {
    let mut errors: Vec<(usize, toml::de::Error)> =
        errors.into_iter().map(|error| (error.span().map_or(0, |span| span.start), error)).collect();
    errors.sort_by_key(|(offset, _)| *offset);
    let mut told: Vec<ConfigError> = errors
        .into_iter()
        .map(|(offset, error)| {
            let (line, column) = lines.position(offset);
            let subject = error.span().and_then(|span| lines.text.get(span)).unwrap_or_default();
            let what = match error.message() {
                "duplicate key" => format!("{} is written twice; keep one of them", quoted(subject)),
                message => format!("{message}; mend TOML's syntax here"),
            };
            ConfigError { line: Some(line), column: Some(column), field: String::new(), what }
        })
        .collect();
    told.dedup_by_key(|error| error.line);
    told
}
