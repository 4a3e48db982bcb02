//! Options on the command line: `KEY=VALUE`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value};

use crate::model::change::in_words;
use crate::model::options::find;
use crate::model::patch::values;
use crate::model::place::{Place, Problems};
use crate::model::request::{BackendOptions, ServicePatch};
use crate::model::text::{parse_endpoint, quoted};
use crate::model::{Options, Patch, Row};

/// New values of options: `max_flows=1000`, `health_check.interval=2s`, `affinity=default`.
///
/// # Errors
/// All that is wrong, a line each.
pub(super) fn patch_of<T: Options>(assignments: &[String]) -> Result<Patch<T>, String> {
    let mut all = Map::new();
    let add = |assignment: &String| read::<T>(assignment).and_then(|(key, value)| add(&mut all, key, value));
    let wrong: Vec<String> = assignments.iter().map(add).filter_map(Result::err).collect();
    if wrong.is_empty() { Ok(all.into_iter().collect()) } else { Err(wrong.join("\n")) }
}

/// The same of a service, with options of its backends: `backend.198.51.100.11:443.server_id=0a01`.
///
/// # Errors
/// All that is wrong, a line each.
pub(super) fn service_patch(assignments: &[String]) -> Result<ServicePatch, String> {
    let (of_backends, own): (Vec<_>, Vec<_>) =
        assignments.iter().cloned().partition(|assignment| assignment.starts_with(OF_BACKEND));
    let mut by_address: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for assignment in &of_backends {
        match backend_option(assignment) {
            Ok((address, option)) => by_address.entry(address).or_default().push(option),
            Err(why) => wrong.push(why),
        }
    }
    let mut take = |why| wrong.push(why);
    let options = patch_of(&own).map_err(&mut take).unwrap_or_default();
    let mut backends = Vec::new();
    for (address, options) in by_address {
        let options = patch_of(&options).map_err(|why| take(format!("backend {address}: {why}")));
        backends.extend(options.map(|options| BackendOptions { address, options }));
    }
    if wrong.is_empty() { Ok(ServicePatch { admin: None, backends, options }) } else { Err(wrong.join("\n")) }
}

const OF_BACKEND: &str = "backend.";

/// Splits `backend.ADDR:PORT.KEY=VALUE`.
fn backend_option(assignment: &str) -> Result<(SocketAddr, String), String> {
    let parts = assignment.strip_prefix(OF_BACKEND).and_then(|rest| rest.split_once('='));
    let split = parts.and_then(|(path, value)| Some((path.rsplit_once('.')?, value)));
    let ((address, key), value) = split.ok_or_else(|| {
        format!(
            "{} is not backend.ADDR:PORT.KEY=VALUE; write backend.198.51.100.11:443.server_id=0a01",
            quoted(assignment)
        )
    })?;
    Ok((parse_endpoint(address)?, format!("{key}={value}")))
}

/// Adds the value of a key, or of a table's.
fn add(all: &mut Map<String, Value>, key: String, value: Value) -> Result<(), String> {
    let (key, value) = match key.split_once('.') {
        None => (key, value),
        Some((table, key)) => {
            let mut keys = match all.remove(table) {
                Some(Value::Object(keys)) => keys,
                Some(_) => return Err(format!("{table} is given twice; give it as a whole, or its keys")),
                None => Map::new(),
            };
            if keys.insert(key.into(), value).is_some() {
                return Err(format!("{table}.{key} is given twice; give it once"));
            }
            (table.to_owned(), Value::Object(keys))
        }
    };
    match all.insert(key.clone(), value) {
        Some(_) => Err(format!("{key} is given twice; give it once")),
        None => Ok(()),
    }
}

/// A definition with options given by their keys.
pub(super) fn over<T: Options>(definition: &T, assignments: &[String]) -> Result<T, String> {
    let mut problems = Problems::default();
    let whole = patch_of(assignments)?.over(definition, &Place::Root, &mut problems);
    problems.into_result().map(|()| whole).map_err(|lines| lines.join("\n"))
}

/// Reads `KEY=VALUE`, or `TABLE.KEY=VALUE`.
fn read<T: Options>(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or_else(|| {
        format!("{} is not KEY=VALUE; write max_flows=1000, or max_flows=default", quoted(text))
    })?;
    let (key, within) = path.split_once('.').map_or((path, None), |(key, within)| (key, Some(within)));
    let row = find::<T>(&spelled(key, T::OPTIONS.iter().map(|row| row.key)))?;
    if let Some(why) = row.fixed {
        return Err(format!("{} cannot change at runtime: {why}", row.key));
    }
    let within = within.map(|key| spelled(key, row.keys.into_iter().flatten().copied()));
    let value = match (value, &within) {
        ("default", Some(within)) => row.check_key(within).map(|()| Value::Null)?,
        ("default", None) => Value::Null,
        (value, None) => row.value(value)?,
        (value, Some(within)) => row.value_of_key(within, value)?,
    };
    Ok((within.map_or(row.key.to_owned(), |within| format!("{}.{within}", row.key)), value))
}

/// A key as the config file has it: on a command line, it may be written with hyphens. An unknown one stays as it is.
fn spelled<'a>(key: &'a str, mut known: impl Iterator<Item = &'static str>) -> Cow<'a, str> {
    let other = key.replace('-', "_");
    if known.any(|known| known == other) { other.into() } else { key.into() }
}

/// The help of a command: each option with its range and default.
pub(super) fn help<T: Options>(example: &str) -> String {
    let mut help = String::from(
        "Write values as in the config file, without quotes; \"none\" removes a value, \"default\" takes a change back. \
         TABLE.KEY=VALUE changes one key of a table; commas separate the items of a list.",
    );
    if T::OPTIONS.iter().any(|row| row.key == "backend") {
        help +=
            " backend.ADDR:PORT.KEY=VALUE changes an option of a backend together with those of the service.";
    }
    help + "\n\nOptions:\n" + &options::<T>(None) + "\nExample:\n  " + example
}

/// The options that can be set, two lines each, with the values of `of` that are not the defaults.
fn options<T: Options>(of: Option<&T>) -> String {
    let present = of.map(values).unwrap_or_default();
    let line = |row: &Row<T>| {
        let range = match row.keys {
            Some(keys) => format!("a table: {}", keys.join(", ")),
            None => plain(row.range),
        };
        let (key, sentence, default) = (row.key, plain(row.sentence), plain(row.default));
        let value = present.get(key).filter(|it| !it.is_null() && row.default_value().as_ref() != Some(it));
        let value = value.map(in_words).filter(|value| *value != default);
        let value = value.map(|value| format!(" [now: {value}]")).unwrap_or_default();
        format!("  {key:<16} {sentence}\n  {:16} {range} [default: {default}]{value}\n", "")
    };
    T::OPTIONS.iter().filter(|row| row.fixed.is_none()).map(line).collect()
}

/// The error of a command without options for this service or backend.
pub(super) fn nothing_to_set<T: Options>(of: &T, command: &str) -> String {
    let options = options(Some(of));
    format!("no option given: write KEY=VALUE. The options are:\n{options}For more, see {command} --help")
}

/// Text of the documentation without markup.
pub(super) fn plain(text: &str) -> String {
    let unquoted = |part: &str| part.trim_matches('"').to_owned();
    let is_quoted = |part: &str| part.len() > 1 && part.starts_with('"') && part.ends_with('"');
    text.split('`').map(|part| if is_quoted(part) { unquoted(part) } else { part.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Backend, Service};

    fn service(assignments: &[&str]) -> Result<Value, String> {
        let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        patch_of::<Service>(&assignments).map(|patch| serde_json::to_value(patch).expect("JSON"))
    }

    #[test]
    fn assignments_are_read_by_their_options() {
        assert_eq!(
            service(&[
                "affinity=source",
                "max-flows=100000",
                "slow_start=default",
                "health_check.interval=2s",
                "health_check.rise=3"
            ]),
            Ok(json!({
                "affinity": "source", "max_flows": 100_000, "slow_start": null,
                "health_check": { "interval": "2s", "rise": 3 },
            }))
        );
        let backend = patch_of::<Backend>(&["weight=50".into(), "backup=true".into()]).expect("valid");
        assert_eq!(serde_json::to_value(backend).expect("JSON"), json!({ "weight": 50, "backup": true }));
    }

    #[test]
    fn a_key_of_a_table_is_read_as_it_wants_its_value() {
        assert_eq!(
            service(&[
                "discovery.resolvers=192.0.2.53, 192.0.2.54",
                "health_check.headers=X: y",
                "health_check.status=200-299,401",
                "health_check.path=/a,b=c",
                "health_check.body=7",
                "agent.send=8",
                "agent.port=8081",
                "feedback.latency=true",
                "circuit_breaker.failure_percent=none",
                "circuit_breaker.open=default",
            ]),
            Ok(json!({
                "discovery": { "resolvers": ["192.0.2.53", "192.0.2.54"] },
                "health_check": {
                    "headers": ["X: y"], "status": "200-299,401", "path": "/a,b=c", "body": "7",
                },
                "agent": { "send": "8", "port": 8081 },
                "feedback": { "latency": true },
                "circuit_breaker": { "failure_percent": "none", "open": null },
            }))
        );
        assert_eq!(
            service(&["health_check=type=http,headers=X: y,status=401", "agent=interval=3s,send=8"]),
            Ok(json!({
                "health_check": { "type": "http", "headers": ["X: y"], "status": "401" },
                "agent": { "interval": "3s", "send": "8" },
            }))
        );
    }

    #[test]
    fn an_option_of_a_backend_is_given_with_its_address() {
        let patch = |assignments: &[&str]| {
            let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
            service_patch(&assignments).map(|patch| serde_json::to_value(patch).expect("JSON"))
        };
        assert_eq!(
            patch(&[
                "quic.server_id_length=2",
                "backend.[2001:db8::1]:443.server-id=0a01",
                "backend.198.51.100.1:443.server_id=0a02",
                "backend.198.51.100.1:443.weight=7",
            ]),
            Ok(json!({
                "quic": { "server_id_length": 2 },
                "backend": [
                    { "address": "198.51.100.1:443", "server_id": "0a02", "weight": 7 },
                    { "address": "[2001:db8::1]:443", "server_id": "0a01" },
                ],
            }))
        );
        for (assignment, words) in [
            ("backend.198.51.100.1:443=7", "\"198.51.100\" is not an address and port"),
            ("backend.198.51.100.1:443.weight", "is not backend.ADDR:PORT.KEY=VALUE"),
            ("backend.198.51.100.1.weight=7", "\"198.51.100.1\" has no port"),
            (
                "backend.198.51.100.1:443.wieght=7",
                "backend 198.51.100.1:443: unknown option \"wieght\"; did you mean",
            ),
            ("backend=198.51.100.1:443", "xdp-lb backend add"),
        ] {
            let wrong = patch(&[assignment]).expect_err("refused");
            assert!(wrong.contains(words), "{assignment}: {wrong}");
        }
    }

    #[test]
    fn the_options_are_listed_with_what_may_be_written_and_their_defaults() {
        let listed = options::<Backend>(None);
        let weight = "  weight           Its share of new flows relative to the service's other backends.\n                   \
                      0 to 65,535 [default: 100]\n";
        assert!(listed.contains(weight), "{listed}");
        assert!(!listed.contains("address"), "what cannot be set is not listed: {listed}");
        let listed = options::<Service>(None);
        assert!(
            listed.contains("a table: server_id_length, config_id [default: connection IDs are ignored]"),
            "{listed}"
        );
        for row in Service::OPTIONS.iter().filter(|row| row.fixed.is_none()) {
            assert!(
                listed.contains(&format!("\n  {} ", row.key))
                    || listed.starts_with(&format!("  {} ", row.key)),
                "{}",
                row.key
            );
        }
    }

    #[test]
    fn the_options_of_a_service_are_listed_with_their_present_values() {
        let web = Service::new("web", "192.0.2.10:80".parse().expect("a VIP"));
        let web = Service { max_flows: 7, slow_start: Some(std::time::Duration::from_secs(30)), ..web };
        let listed = nothing_to_set(&web, "xdp-lb service set");
        assert!(listed.contains("0 to 67,108,864 [default: 0: unlimited] [now: 7]\n"), "{listed}");
        assert!(listed.contains("1 s to 1 h [default: none: at once] [now: 30s]\n"), "{listed}");
        assert_eq!(listed.matches("[now: ").count(), 2, "{listed}");
    }

    #[test]
    fn a_definition_gets_options_that_no_flag_is_for() {
        let web = Service::new("web", "192.0.2.10:80".parse().expect("a VIP"));
        let changed = over(&web, &["max_flows=5".into(), "health_check=type=tcp".into()]).expect("valid");
        assert_eq!((changed.max_flows, changed.name.as_str()), (5, "web"));
        assert!(over(&web, &["max_flows=many".into()]).is_err());
        let changed = over(&web, &["health_check.interval=2s".into()]).expect("valid");
        assert_eq!(changed.check().to_string(), "tcp, every 2s, timeout 500ms, rise 2, fall 3");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        for (assignments, words) in [
            (&["max_flow=1"][..], "unknown option \"max_flow\"; did you mean \"max_flows\"?"),
            (&["max-flowz=1"], "unknown option \"max-flowz\"; did you mean \"max_flows\"?"),
            (&["health_check.X-Auth=a"], "health_check: unknown key \"X-Auth\""),
            (&["x=1"], "unknown option \"x\"; the options are \"description\", \"snat_addresses\""),
            (
                &["max_flows=none"],
                "max_flows: cannot be \"none\"; write 0 to 67,108,864 [default: 0, unlimited]",
            ),
            (&["max_flows"], "\"max_flows\" is not KEY=VALUE; write max_flows=1000"),
            (&["max_flows=1", "max_flows=2"], "max_flows is given twice"),
            (&["affinity=sorce"], "affinity: \"sorce\" is not an affinity; write \"none\""),
            (&["max_flows=abc"], "max_flows: \"abc\" is not a whole number"),
            (
                &["max_flows=-1"],
                "max_flows: \"-1\" is not a whole number; write 0 to 67,108,864, such as 100",
            ),
            (&["max_flows=abc", "slow_start=soon"], "slow_start: "),
            (&["max_flows=abc", "slow_start=soon"], "max_flows: "),
            (&["allow.x=default"], "allow is not a table, so it has no keys"),
            (&["max_flows.x=1"], "max_flows is not a table, so it has no keys"),
            (&["health_check.fal=default"], "health_check: unknown key \"fal\"; did you mean \"fall\"?"),
            (
                &["health_check.rise=often"],
                "health_check.rise: \"often\" is not a whole number; write 1 to 100, such as 10",
            ),
            (&["health_check=type=http,path=/a,b"], "a value with a comma as health_check.KEY=VALUE"),
            (&["mode=nat"], "mode cannot change at runtime: established flows would break"),
            (
                &["vip=192.0.2.1:80"],
                "vip cannot change at runtime: another address, port or protocol is another service",
            ),
        ] {
            let wrong = service(assignments).expect_err("refused");
            assert!(wrong.contains(words), "{wrong}");
        }
    }
}
