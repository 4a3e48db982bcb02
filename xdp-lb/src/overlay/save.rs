//! Writing the runtime changes into the config file, whose comments and order stay.

use std::net::SocketAddr;

use serde_json::Value;
use toml_edit::{
    ArrayOfTables, Decor, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value as TomlValue,
    value,
};

use super::diff::diff;
use super::effective::effective;
use super::inline_list::{self, value_of};
use super::kept::{BackendChange, Overlay};
use super::settings::changed_settings;
use super::show::runtime_lines;
use crate::config::parse;
use crate::model::change::ServiceChange;
use crate::model::config::Config;
use crate::model::options::Options;
use crate::model::patch::written;
use crate::model::service::Service;
use crate::model::state::Origin;

/// A config file with the runtime changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Its text.
    pub text: String,
    /// Its changes, a line each.
    pub lines: Vec<String>,
    /// The changes that stay runtime changes, because no key stands for them, a line each.
    pub stays: Vec<String>,
}

/// Writes the changes into a config file's text.
///
/// # Errors
/// Why not, as text: the result would not be valid, or would not match what runs.
pub fn save(text: &str, overlay: &Overlay) -> Result<Saved, String> {
    let config = parse(text).map_err(|errors| format!("the config file is not valid:\n{errors}"))?;
    let present = effective(&config, overlay).map_err(|lines| lines.join("\n"))?;
    let before = runtime_lines(&config, overlay).map_err(|lines| lines.join("\n"))?;
    let has_crlf = 2 * text.matches("\r\n").count() > text.matches('\n').count();
    let mut document: DocumentMut = text
        .replace("\r\n", "\n")
        .parse()
        .map_err(|error| format!("the config file is not TOML: {error}"))?;
    write_changes(&mut document, &config, overlay, &present)?;
    let text = match has_crlf {
        true => document.to_string().replace('\n', "\r\n"),
        false => document.to_string(),
    };
    let saved = parse(&text)
        .map_err(|errors| format!("with the runtime changes the file would not be valid:\n{errors}"))?;
    let mut left = overlay.clone();
    left.prune(&saved);
    let after = effective(&saved, &left).map_err(|lines| lines.join("\n"))?;
    let mut differs: Vec<String> = diff(&present, &after).iter().flat_map(ServiceChange::lines).collect();
    differs.extend(changed_settings(&config, &saved).iter().map(ToString::to_string));
    if !differs.is_empty() {
        return Err(format!("the file would not say what runs:\n{}", differs.join("\n")));
    }
    let stays = runtime_lines(&saved, &left).map_err(|lines| lines.join("\n"))?;
    let lines = before.into_iter().filter(|line| !stays.contains(line)).collect();
    Ok(Saved { text, lines, stays })
}

fn write_changes(
    document: &mut DocumentMut,
    config: &Config,
    overlay: &Overlay,
    present: &crate::model::Effective,
) -> Result<(), String> {
    let services = document.entry("service").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let Item::ArrayOfTables(services) = services else {
        return Err("the services are written as one list, service = [...]: head each with [[service]], and save again".into());
    };
    let is_named = |table: &Table, name: &str| table.get("name").and_then(Item::as_str) == Some(name);
    services.retain(|table| !overlay.removed_services.iter().any(|name| is_named(table, name)));
    for table in services.iter_mut() {
        let name = table.get("name").and_then(Item::as_str).unwrap_or_default().to_owned();
        let in_file = config.services.iter().find(|service| service.name == name);
        if let (Some(options), Some(in_file)) = (overlay.changed_services.get(&name), in_file) {
            options.for_document_of(in_file).keys().for_each(|(key, value)| set(table, key, value));
        }
        for (address, change) in overlay.backends.get(&name).into_iter().flatten() {
            change_backend(table, *address, change);
        }
    }
    for name in overlay.added_services.keys() {
        let is_there = services.iter().any(|table| is_named(table, name));
        let added = present.services.iter().find(|it| it.service.name == *name && !it.is_leaving);
        let Some(added) = added.filter(|_| !is_there) else { continue };
        let lists = |origin| matches!(origin, Origin::File | Origin::Runtime);
        let backends = added.backends.iter().filter(|it| !it.is_leaving && lists(it.origin));
        let service = Service { backends: backends.map(|it| it.backend).collect(), ..added.service.clone() };
        services.push(table_of_service(&service));
    }
    if services.is_empty() {
        document.remove("service");
    }
    Ok(())
}

fn change_backend(service: &mut Table, address: SocketAddr, change: &BackendChange) {
    let is_it = |table: &dyn TableLike| {
        let text = table.get("address").and_then(Item::as_str);
        text.and_then(|text| text.parse().ok()) == Some(address)
    };
    let list = service.entry("backend").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    match (list, change) {
        (Item::ArrayOfTables(list), BackendChange::Removed) => list.retain(|table| !is_it(table)),
        (Item::ArrayOfTables(list), BackendChange::Changed(changed)) => {
            for table in list.iter_mut().filter(|table| is_it(*table)) {
                changed.options.keys().for_each(|(key, value)| set(table, key, value));
            }
        }
        (Item::ArrayOfTables(list), BackendChange::Added(added)) => {
            let mut table = Table::new();
            table.insert("address", value(address.to_string()));
            added.options.keys().for_each(|(key, value)| set(&mut table, key, value));
            list.push(table);
        }
        (Item::Value(TomlValue::Array(list)), BackendChange::Removed) => {
            inline_list::retain(list, |item| !item.as_inline_table().is_some_and(|table| is_it(table)));
        }
        (Item::Value(TomlValue::Array(list)), BackendChange::Changed(changed)) => {
            for table in list.iter_mut().filter_map(TomlValue::as_inline_table_mut) {
                if is_it(table) {
                    changed.options.keys().for_each(|(key, value)| set(table, key, value));
                }
            }
        }
        (Item::Value(TomlValue::Array(list)), BackendChange::Added(added)) => {
            let mut table = InlineTable::new();
            table.insert("address", address.to_string().into());
            added.options.keys().for_each(|(key, value)| set(&mut table, key, value));
            inline_list::push(list, table.into());
        }
        _ => {}
    }
    // An empty list that was made above is not needed.
    if service.get("backend").and_then(Item::as_array_of_tables).is_some_and(ArrayOfTables::is_empty) {
        service.remove("backend");
    }
}

/// Sets a key and keeps its comments; `none` removes it.
fn set(table: &mut dyn TableLike, key: &str, new: &Value) {
    if new.as_str() == Some("none") && key != "affinity" {
        match key {
            // Without the key, the check would be the default one.
            "health_check" => set(table, key, &serde_json::json!({ "type": "none" })),
            _ => drop(table.remove(key)),
        }
        return;
    }
    if let Value::Object(keys) = new
        && !keys.contains_key("type")
        && let Some(present) = table.get_mut(key).and_then(Item::as_table_like_mut)
    {
        keys.iter().for_each(|(key, value)| set(present, key, value));
        return;
    }
    let mut item = value_of(new);
    match table.get_mut(key) {
        Some(Item::Value(TomlValue::Array(present))) if let Value::Array(new) = new => {
            inline_list::set(present, new)
        }
        Some(present) => {
            if let Some(present) = present.as_value() {
                *item.decor_mut() = present.decor().clone();
            }
            *present = Item::Value(item);
        }
        None => {
            let last = table.iter_mut().last().and_then(|(_, last)| last.as_value_mut());
            if let Some(space) = last.and_then(|last| space_behind(last.decor_mut())) {
                *item.decor_mut() = Decor::new(" ", space);
            }
            table.insert(key, Item::Value(item));
        }
    }
}

/// Takes the space before the closing brace of an inline table, which belongs to its last value.
fn space_behind(decor: &mut Decor) -> Option<String> {
    let space = decor
        .suffix()
        .and_then(RawString::as_str)
        .filter(|text| text.trim_matches(' ').is_empty())?
        .to_owned();
    decor.set_suffix("");
    Some(space)
}

/// A service as a table with its keys in the order of the documentation; tables in it have their own headers.
fn table_of_service(service: &Service) -> Table {
    let mut table = table_of(service);
    if !service.backends.is_empty() {
        let backends: ArrayOfTables = service.backends.iter().map(table_of).collect();
        table.insert("backend", Item::ArrayOfTables(backends));
    }
    table
}

fn table_of<T: Options>(of: &T) -> Table {
    let written = written(of);
    let mut table = Table::new();
    for (key, value) in T::OPTIONS.iter().filter_map(|row| written.get_key_value(row.key)) {
        let item = match value {
            Value::Object(within) => {
                let (kind, others): (Vec<_>, Vec<_>) = within.iter().partition(|(key, _)| *key == "type");
                // Without a check there are no intervals.
                let others = others.into_iter().filter(|_| within.get("type").is_none_or(|it| it != "none"));
                let keys = kind.into_iter().chain(others);
                Item::Table(keys.map(|(key, value)| (key, Item::Value(value_of(value)))).collect())
            }
            other => Item::Value(value_of(other)),
        };
        table.insert(key, item);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::request::{BackendPatch, ServicePatch};
    use crate::model::service::Backend;
    use crate::model::state::AdminState;

    const FILE: &str = r#"# What this host does.
interfaces = ["eth0"] # towards clients

[[service]] # the shop
name = "web"
vip = "192.0.2.10:80"
max_flows = 7 # as agreed
slow_start = "30s"

[service.health_check]
type = "http" # plain
path = "/x"

# The old server.
[[service.backend]]
address = "198.51.100.1:80"
weight = 9 # slow

[[service.backend]]
address = "198.51.100.2:80"

[[service]]
name = "gone"
vip = "192.0.2.11:80"
backend = [{ address = "198.51.100.1:80" }, { address = "198.51.100.3:80" }] # both
"#;

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    fn of(json: Value) -> ServicePatch {
        ServicePatch { options: serde_json::from_value(json).expect("a patch"), ..ServicePatch::default() }
    }

    #[test]
    fn changes_are_written_where_they_belong_and_comments_stay() {
        let config = parse(FILE).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        let patch = of(serde_json::json!({
            "max_flows": 100, "slow_start": "none", "affinity": "source", "health_check": { "interval": "2s", "headers": ["Authorization: Bearer x"] },
        }));
        overlay.patch_service(&config, "web", &patch, Duration::ZERO).expect("changed");
        overlay
            .patch_backend(&config, "web", at("198.51.100.1:80"), &BackendPatch::of("weight", 5))
            .expect("changed");
        overlay.remove_backend(&config, "web", at("198.51.100.2:80")).expect("removed");
        overlay.add_backend(&config, "gone", Backend::new(at("198.51.100.4:80"), 7)).expect("added");
        let patch = BackendPatch { admin: Some(AdminState::Draining), ..BackendPatch::of("backup", true) };
        overlay.patch_backend(&config, "gone", at("198.51.100.3:80"), &patch).expect("changed");
        let saved = save(FILE, &overlay).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(
            saved.text,
            FILE.replace("max_flows = 7 # as agreed\nslow_start = \"30s\"\n", "max_flows = 100 # as agreed\naffinity = \"source\"\n")
                .replace("path = \"/x\"\n", "path = \"/x\"\nheaders = [\"Authorization: Bearer x\"]\ninterval = \"2s\"\n")
                .replace("weight = 9 # slow", "weight = 5 # slow")
                .replace("\n[[service.backend]]\naddress = \"198.51.100.2:80\"\n", "")
                .replace(
                    "{ address = \"198.51.100.3:80\" }]",
                    "{ address = \"198.51.100.3:80\", backup = true }, { address = \"198.51.100.4:80\", weight = 7 }]"
                )
        );
        assert_eq!(saved.stays, ["service gone: backend 198.51.100.3:80 drained"]);
        assert!(
            saved.lines.iter().any(|line| line == "service web: max_flows 7 -> 100"),
            "{:?}",
            saved.lines
        );
        // What is in the file is not a change any more.
        let again = parse(&saved.text).expect("valid");
        overlay.prune(&again);
        assert!(overlay.changed_services.is_empty());
        assert_eq!(save(&saved.text, &overlay).expect("valid").lines, Vec::<String>::new());
    }

    #[test]
    fn services_that_were_added_or_removed_are_so_in_the_file() {
        let config = parse(FILE).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        overlay.remove_service(&config, "gone").expect("removed");
        let api = serde_json::json!({
            "name": "api", "vip": "192.0.2.12:80", "health_check": { "type": "tcp", "port": 81 },
            "backend": [{ "address": "198.51.100.9:80", "weight": 3 }],
        });
        overlay.add_service(&config, serde_json::from_value(api).expect("a service")).expect("added");
        overlay
            .patch_service(&config, "api", &ServicePatch::of("max_flows", 9), Duration::ZERO)
            .expect("changed");
        let saved = save(FILE, &overlay).unwrap_or_else(|why| panic!("{why}"));
        assert!(!saved.text.contains("gone"), "{}", saved.text);
        let config = parse(&saved.text).unwrap_or_else(|errors| panic!("{errors}"));
        let api = config.services.iter().find(|service| service.name == "api").expect("it is there");
        assert_eq!((api.max_flows, api.backends[0].weight), (9, 3));
        let mut overlay = overlay;
        overlay.prune(&config);
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn a_service_without_a_check_is_written_without_intervals() {
        let config = parse(FILE).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        let api = serde_json::json!({
            "name": "api", "vip": "192.0.2.12:80", "health_check": { "type": "none" },
            "backend": [{ "address": "198.51.100.9:80" }],
        });
        overlay.add_service(&config, serde_json::from_value(api).expect("a service")).expect("added");
        let saved = save(FILE, &overlay).unwrap_or_else(|why| panic!("{why}"));
        let (_, added) = saved.text.split_once("name = \"api\"").expect("it is written");
        let keys: Vec<&str> = added.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
        assert_eq!(keys, ["vip", "protocol", "mode", "type", "address", "weight"], "{added}");
    }

    #[test]
    fn a_file_keeps_its_line_endings_and_its_order() {
        let file = FILE.replace("interfaces = ", "drain_timeout = \"5m\"\ninterfaces = ")
            + "\n[timeouts] # short\nudp_idle = \"9s\"\n";
        let file = file.replace('\n', "\r\n");
        let config = parse(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let mut overlay = Overlay::default();
        let api = serde_json::json!({
            "name": "api", "vip": "192.0.2.12:80", "health_check": { "type": "tcp", "port": 81 },
            "backend": [{ "address": "198.51.100.9:80", "weight": 3 }],
        });
        overlay.add_service(&config, serde_json::from_value(api).expect("a service")).expect("added");
        overlay
            .patch_service(&config, "web", &ServicePatch::of("max_flows", 8), Duration::ZERO)
            .expect("changed");
        let saved = save(&file, &overlay).unwrap_or_else(|why| panic!("{why}"));
        let api = "\n[[service]]\nname = \"api\"\nvip = \"192.0.2.12:80\"\nprotocol = \"tcp\"\nmode = \"full-nat\"\n\n\
                   [service.health_check]\ntype = \"tcp\"\nfall = 3\ninterval = \"1s\"\nport = 81\nrise = 2\n\
                   timeout = \"500ms\"\n\n[[service.backend]]\naddress = \"198.51.100.9:80\"\nweight = 3\n";
        let timeouts = "\r\n[timeouts] # short\r\n";
        let wanted = file
            .replace("max_flows = 7 ", "max_flows = 8 ")
            .replace(timeouts, &(api.replace('\n', "\r\n") + timeouts));
        assert_eq!(saved.text, wanted);
    }

    #[test]
    fn a_file_that_is_not_valid_is_not_written_to() {
        let why = save("interfaces = []\n", &Overlay::default()).expect_err("refused");
        assert!(why.contains("the config file is not valid") && why.contains("is empty"), "{why}");
    }
}
