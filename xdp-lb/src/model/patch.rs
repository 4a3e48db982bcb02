//! Changes to options at runtime: requested, kept, and applied to a definition.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::options::{Options, Row, find};
use super::place::{Place, Problems};
use super::section::{Node, Section, Table};
use super::text::quoted;
use super::values::is_not;

/// New values of some options of a `T`, by key, as JSON.
///
/// A table is merged into the one in effect, key by key; one with a `type` replaces it. `none` removes the value of an optional
/// option, or a key of a table. In a table with a `type`, `none` is an ordinary value. In a request, null takes a change back;
/// it is never kept.
pub struct Patch<T> {
    keys: BTreeMap<String, Value>,
    of: PhantomData<fn() -> T>,
}

/// The word for no value.
const NONE: &str = "none";

impl<T: Options> Patch<T> {
    /// One new value.
    pub fn of(key: impl Into<String>, value: impl Into<Value>) -> Self {
        [(key.into(), value.into())].into_iter().collect()
    }

    /// A patch that turns any definition into this one: every option that can change at runtime.
    pub(crate) fn whole(wanted: &T) -> Self {
        let written = written(wanted);
        let changes = T::OPTIONS.iter().filter(|row| row.fixed.is_none());
        let value = |row: &Row<T>| written.get(row.key).cloned().or_else(|| row.default_value());
        changes.filter_map(|row| Some((row.key.to_owned(), value(row)?))).collect()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys with their values.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets or removes a key.
    pub fn set(&mut self, key: &str, value: Option<Value>) {
        match value {
            Some(value) => self.keys.insert(key.into(), value),
            None => self.keys.remove(key),
        };
    }

    /// Merges newer changes; null takes a change back.
    pub fn merge(&mut self, newer: &Self) {
        for (key, value) in &newer.keys {
            let merged = match (self.keys.remove(key), value) {
                (_, Value::Null) => None,
                // There is no change of a key to take back.
                (Some(old), Value::Object(new)) if !old.is_object() && takes_back(new) => Some(old),
                (old, Value::Object(new)) => {
                    let old = match old {
                        Some(Value::Object(old)) if !replaces(new) => old,
                        _ => Map::new(),
                    };
                    let is_whole = replaces(&old);
                    let merged = over(old, new, is_whole);
                    // If all changes are taken back, nothing is left; {} requests a table of defaults.
                    (!merged.is_empty() || new.is_empty()).then_some(Value::Object(merged))
                }
                (_, value) => Some(value.clone()),
            };
            self.set(key, merged);
        }
    }

    /// Drops keys that do not change this definition.
    pub fn prune(&mut self, base: &T) {
        let is_same = |key: &String, value: &mut Value| {
            let one = Self::of(key, value.clone());
            let next = one.over(base, &Place::Root, &mut Problems::default());
            let has_effect = |row: &&Row<T>| row.key == key && row.in_effect.is_some();
            next == *base || T::OPTIONS.iter().any(|row| has_effect(&row)) && filled(&next) == filled(base)
        };
        self.keys.extract_if(.., is_same).for_each(drop);
    }

    /// The definition with these changes. Invalid changes are reported as problems, and have no effect.
    pub(crate) fn over(&self, base: &T, place: &Place, problems: &mut Problems) -> T {
        let mut next = base.clone();
        let has_tables = self.keys.values().any(Value::is_object);
        let present = if has_tables { written(base) } else { Map::new() };
        for (key, value) in &self.keys {
            let row = match find::<T>(key) {
                Ok(row) => row,
                Err(why) => {
                    problems.add(place, why);
                    continue;
                }
            };
            if let Some(why) = row.fixed {
                problems.add(&place.key(key), format!("cannot change at runtime: {why}"));
                continue;
            }
            if let (Some(none), Some(NONE)) = (row.none, value.as_str()) {
                none(&mut next);
                continue;
            }
            let node = match value {
                Value::Object(new) if row.keys.is_some() && !replaces(new) => {
                    let old = match present.get(key) {
                        Some(Value::Object(old)) => Some(old.clone()),
                        _ => row.kind_in_effect(base),
                    };
                    // There is no table from which to remove a key.
                    if old.is_none() && removes(new) {
                        continue;
                    }
                    Node::from(&Value::Object(over(old.unwrap_or_default(), new, true)))
                }
                value => Node::from(value),
            };
            let table = Table::from([(key.clone(), node)]);
            let before = problems.all.len();
            (row.read)(&mut Section::new(&table, *place, &[row.key], problems), &mut next);
            if let (Some(problem), Some(NONE)) = (problems.all.get_mut(before), value.as_str()) {
                problem.what = row.has_no_none();
            }
        }
        next
    }

    /// The same for a document with exactly `base`: tables that it lacks are complete.
    pub(crate) fn for_document_of(&self, base: &T) -> Self {
        let present = written(base);
        let whole = |(key, value): (&String, &Value)| {
            let row = T::OPTIONS.iter().find(|row| row.key == key);
            let value = match (value, row) {
                (Value::Object(new), Some(row)) if !present.contains_key(key) && !replaces(new) => {
                    over(row.kind_in_effect(base).unwrap_or_default(), new, true).into()
                }
                (value, _) => value.clone(),
            };
            (key.clone(), value)
        };
        self.keys.iter().map(whole).collect()
    }
}

/// Whether a table replaces the present one.
pub(crate) fn replaces(table: &Map<String, Value>) -> bool {
    table.get("type").is_some_and(|kind| !kind.is_null())
}

/// Whether a table only takes changes back.
fn takes_back(table: &Map<String, Value>) -> bool {
    !table.is_empty() && table.values().all(Value::is_null)
}

/// Whether a table only removes keys.
fn removes(table: &Map<String, Value>) -> bool {
    !table.is_empty() && table.iter().all(|(key, value)| is_removal(key, value))
}

/// Whether a key's value removes the key. `type` may have this value itself.
fn is_removal(key: &str, value: &Value) -> bool {
    key != "type" && value.as_str() == Some(NONE)
}

/// A definition with the tables that are in effect by default.
pub(crate) fn filled<T: Options>(of: &T) -> T {
    let mut filled = of.clone();
    T::OPTIONS.iter().filter_map(|row| row.in_effect).for_each(|fill| fill(&mut filled));
    filled
}

/// A document as JSON.
pub(crate) fn written<T: Serialize>(document: &T) -> Map<String, Value> {
    match serde_json::to_value(document) {
        Ok(Value::Object(written)) => written,
        // It can always be written as JSON.
        _ => Map::new(),
    }
}

/// Every option with its value or default; null if it has neither.
pub fn values<T: Options>(of: &T) -> BTreeMap<String, Value> {
    let mut written = written(of);
    let value = |row: &Row<T>| written.remove(row.key).or_else(|| row.default_value()).unwrap_or_default();
    T::OPTIONS.iter().map(value).zip(T::OPTIONS).map(|(value, row)| (row.key.to_owned(), value)).collect()
}

/// Merges a table's keys into another; null removes a key, and so does `none` if the other table is complete.
fn over(mut old: Map<String, Value>, new: &Map<String, Value>, is_whole: bool) -> Map<String, Value> {
    for (key, value) in new {
        match value {
            Value::Null => drop(old.remove(key)),
            value if is_whole && is_removal(key, value) => drop(old.remove(key)),
            value => drop(old.insert(key.clone(), value.clone())),
        }
    }
    old
}

impl<T: Options> Row<T> {
    /// Its default, if that can be written.
    pub(crate) fn default_value(&self) -> Option<Value> {
        let text = self.default.split(": ").next().unwrap_or_default().trim_matches('`');
        match self.none {
            Some(_) => Some(NONE.into()),
            None => serde_json::from_str(text).ok(),
        }
    }

    /// Whether a key of its table has its default value.
    pub(crate) fn is_default(&self, of: &T, table: &Map<String, Value>, key: &str) -> bool {
        let mut rest = table.clone();
        rest.remove(key);
        let document = Table::from([(self.key.to_owned(), Node::from(&Value::Object(rest)))]);
        let (mut problems, mut without) = (Problems::default(), of.clone());
        (self.read)(&mut Section::new(&document, Place::Root, &[self.key], &mut problems), &mut without);
        problems.all.is_empty() && without == *of
    }

    /// The type of the table that is in effect by default, whose other keys have defaults.
    fn kind_in_effect(&self, of: &T) -> Option<Map<String, Value>> {
        let mut filled = of.clone();
        self.in_effect?(&mut filled);
        let kind = written(&filled).get(self.key)?.get("type")?.clone();
        Some([("type".to_owned(), kind)].into_iter().collect())
    }

    /// Checks that this is a key of its table.
    ///
    /// # Errors
    /// If it is not a table, or has no such key.
    pub fn check_key(&self, key: &str) -> Result<(), String> {
        let keys = self.keys.ok_or_else(|| self.no_table())?;
        let table = Table::from([(key.to_owned(), Node::Nothing)]);
        let mut problems = Problems::default();
        Section::new(&table, Place::Root, keys, &mut problems);
        problems
            .all
            .into_iter()
            .next()
            .map_or(Ok(()), |problem| Err(format!("{}: {}", self.key, problem.what)))
    }

    fn no_table(&self) -> String {
        format!("{} is not a table, so it has no keys; give its value as a whole", self.key)
    }

    /// Parses the value of a key of its table from a command line. Commas separate the items of a list.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn value_of_key(&self, key: &str, text: &str) -> Result<Value, String> {
        self.read_key(key, text, text.split(',').map(|item| Value::from(item.trim())).collect())
    }

    /// The same, with the list to use for a key that needs one.
    pub(crate) fn read_key(&self, key: &str, text: &str, list: Vec<Value>) -> Result<Value, String> {
        self.check_key(key)?;
        if is_removal(key, &NONE.into()) && text == NONE {
            return Ok(NONE.into());
        }
        let path = Place::Root.key(self.key);
        let path = path.key(key).path();
        let mut wanted = None;
        for value in plain(text).into_iter().chain([Value::from(text), list.into()]) {
            let table = Node::Table([(key.to_owned(), Node::from(&value))].into_iter().collect());
            let table = Table::from([(self.key.to_owned(), table)]);
            let mut problems = Problems::default();
            let mut section = Section::new(&table, Place::Root, &[self.key], &mut problems);
            (self.read)(&mut section, &mut T::example());
            let mut of_key = problems.all.iter().filter(|problem| problem.path == path);
            match of_key.find_map(|problem| wanted_type(&problem.what)) {
                None => return Ok(value),
                Some(other) => wanted = Some(other.to_owned()),
            }
        }
        Err(format!("{}.{key}: {}", self.key, is_not(text, &wanted.unwrap_or_default())))
    }

    /// Parses the keys of its table, `KEY=VALUE,...`: a list has one item.
    fn table(&self, text: &str) -> Result<Value, String> {
        let key = |pair: &str| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                format!(
                    "{}: {} is not KEY=VALUE; write {0}=KEY=VALUE,..., and a value with a comma as {0}.KEY=VALUE",
                    self.key,
                    quoted(pair)
                )
            })?;
            let key = key.trim();
            Ok((key.to_owned(), self.read_key(key, value, vec![value.into()])?))
        };
        text.split(',').map(key).collect::<Result<Map<String, Value>, String>>().map(Value::Object)
    }

    /// The error for `none` if it is not optional.
    fn has_no_none(&self) -> String {
        let (range, default) = (self.range.replace('`', ""), self.default.replacen(": ", ", ", 1));
        format!("cannot be \"{NONE}\"; write {range} [default: {}]", default.replace('`', ""))
    }

    /// Parses a value from a command line, which may be `none`.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn value(&self, text: &str) -> Result<Value, String> {
        match self.none {
            Some(_) if text == NONE => Ok(NONE.into()),
            _ => self.literal(text),
        }
    }

    /// Parses a value from a command line.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn literal(&self, text: &str) -> Result<Value, String> {
        if self.keys.is_some() {
            return self.table(text);
        }
        let mut all_wrong = Vec::new();
        for value in readings(text) {
            let table = Table::from([(self.key.to_owned(), Node::from(&value))]);
            let mut problems = Problems::default();
            (self.read)(
                &mut Section::new(&table, Place::Root, &[self.key], &mut problems),
                &mut T::example(),
            );
            match problems.all.into_iter().next() {
                None => return Ok(value),
                Some(problem) => all_wrong.push(problem.what),
            }
        }
        if text == NONE {
            return Err(format!("{}: {}", self.key, self.has_no_none()));
        }
        // An error about a value of the right type is more helpful.
        let wrong = all_wrong.iter().find(|wrong| wanted_type(wrong).is_none()).or(all_wrong.first());
        let wrong = wrong.map_or("", |wrong| wrong);
        let wrong = match wanted_type(wrong).map(|wanted| is_not(text, wanted)) {
            None => wrong.to_owned(),
            Some(wrong) if wrong.contains("; write ") => wrong,
            Some(wrong) => format!("{wrong}; write {}", self.range.replace('`', "")),
        };
        Err(format!("{}: {wrong}", self.key))
    }
}

/// The expected type, if an error is about the type.
fn wanted_type(wrong: &str) -> Option<&str> {
    let (found, wanted) = wrong.split_once("; write ")?;
    (found.starts_with("is ") || found.ends_with(" is in quotes")).then_some(wanted)
}

/// Possible values of a text, the likeliest first.
fn readings(text: &str) -> Vec<Value> {
    let list = text.split(',').map(|item| Value::from(item.trim())).collect::<Vec<_>>();
    plain(text).into_iter().chain([Value::from(text), list.into()]).collect()
}

/// A text as a number or boolean.
fn plain(text: &str) -> Option<Value> {
    text.parse::<u64>().map(Value::from).ok().or(text.parse::<bool>().map(Value::from).ok())
}

impl<T> FromIterator<(String, Value)> for Patch<T> {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(keys: I) -> Self {
        Self { keys: keys.into_iter().collect(), of: PhantomData }
    }
}

impl<T> Default for Patch<T> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), of: PhantomData }
    }
}

impl<T> Clone for Patch<T> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Patch<T> {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl<T> Eq for Patch<T> {}

impl<T> std::fmt::Debug for Patch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.keys.fmt(f)
    }
}

impl<T> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.keys.serialize(to)
    }
}

/// Options that can change, with valid values. Single keys of tables are validated when they are merged.
impl<'de, T: Options> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let keys = BTreeMap::deserialize(from)?;
        if let Some(why) = keys.keys().find_map(|key: &String| find::<T>(key).err()) {
            return Err(serde::de::Error::custom(why));
        }
        let patch = Self { keys, of: PhantomData };
        let whole = patch.keys.iter().filter(|(_, value)| !value.is_null() && !value.is_object());
        let whole: Self = whole.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut problems = Problems::default();
        whole.over(&T::example(), &Place::Root, &mut problems);
        for (key, value) in &patch.keys {
            let row = T::OPTIONS.iter().find(|row| row.key == key && row.fixed.is_none());
            let (Some(row), Value::Object(table)) = (row, value) else { continue };
            match row.keys {
                None => problems.add(&Place::Root, row.no_table()),
                // The other keys are read with their values.
                Some(keys) => {
                    let unread =
                        table.iter().filter(|(key, value)| value.is_null() || is_removal(key, value));
                    let unread: Table = unread.map(|(key, _)| (key.clone(), Node::Nothing)).collect();
                    Section::new(&unread, Place::Root.key(key), keys, &mut problems);
                }
            }
        }
        match problems.into_result() {
            Ok(()) => Ok(patch),
            Err(lines) => Err(serde::de::Error::custom(lines.join("\n"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::service::{Backend, Service};

    fn web() -> Service {
        serde_json::from_value(json!({
            "name": "web", "vip": "192.0.2.10:80", "max_flows": 7, "slow_start": "30s",
            "health_check": { "type": "http", "path": "/x" },
            "circuit_breaker": { "open": "20s", "window": "5s" },
        }))
        .expect("a service")
    }

    fn patch(json: Value) -> Patch<Service> {
        serde_json::from_value(json).expect("a patch")
    }

    /// The service with a patch, and what is wrong with that.
    fn over(json: Value) -> Result<Service, String> {
        let mut problems = Problems::default();
        let changed = patch(json).over(&web(), &Place::Root, &mut problems);
        problems.into_result().map(|()| changed).map_err(|lines| lines.join("\n"))
    }

    #[test]
    fn the_default_that_is_documented_is_the_one_that_holds() {
        fn check<T: Options + std::fmt::Debug>() {
            for row in T::OPTIONS.iter().filter(|row| row.none.is_none() && row.fixed.is_none()) {
                let is_none = row.default.starts_with("as many") || row.key == "health_check";
                let Some(default) = row.default_value().filter(|_| !is_none) else {
                    assert!(is_none, "{} has no default to write", row.key);
                    continue;
                };
                let mut problems = Problems::default();
                let same = Patch::of(row.key, default).over(&T::example(), &Place::Root, &mut problems);
                assert!(problems.all.is_empty(), "{}: {problems:?}", row.key);
                assert!(same == T::example(), "{}", row.key);
            }
        }
        check::<Service>();
        check::<Backend>();
    }

    #[test]
    fn options_get_new_values_and_a_table_is_merged_into_the_present_one() {
        let changed = over(json!({
            "affinity": "source", "max_flows": 0, "slow_start": "none",
            "circuit_breaker": { "open": "1m" }, "health_check": { "interval": "2s" },
        }));
        let wanted = json!({
            "name": "web", "vip": "192.0.2.10:80", "affinity": "source",
            "health_check": { "type": "http", "path": "/x", "interval": "2s" },
            "circuit_breaker": { "open": "1m", "window": "5s" },
        });
        assert_eq!(changed, Ok(serde_json::from_value(wanted).expect("a service")));
        let other = over(json!({ "health_check": { "type": "tcp" } })).expect("valid");
        assert_eq!(other.check().to_string(), "tcp, every 1s, timeout 500ms, rise 2, fall 3");
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let all = json!({
            "affinity": "sorce", "max_flows": "many", "mode": "nat", "new_flow_rate": "none", "new_flow_burst": 1e30,
        });
        let wrong = serde_json::from_value::<Patch<Service>>(all).expect_err("refused").to_string();
        for words in [
            "affinity: \"sorce\" is not an affinity; write \"none\"",
            "max_flows: is a string; write a whole number",
            "new_flow_rate: cannot be \"none\"; write 0 to 1,000,000 [default: 0, unlimited]",
            "new_flow_burst: 1e+30 is out of range; write 0 to 1,000,000",
            "mode: cannot change at runtime: established flows would break",
        ] {
            assert!(wrong.contains(words), "{words:?} is not in:\n{wrong}");
        }
        let wrong = over(json!({ "health_check": { "rise": 0.5, "fal": 1 } })).expect_err("refused");
        assert!(wrong.contains("health_check.rise: is a fraction; write a whole number"), "{wrong}");
        assert!(wrong.contains("did you mean \"fall\"?"), "{wrong}");
        let unknown =
            serde_json::from_value::<Patch<Service>>(json!({ "max_flow": 1 })).expect_err("refused");
        assert!(
            unknown.to_string().contains("unknown option \"max_flow\"; did you mean \"max_flows\"?"),
            "{unknown}"
        );
    }

    #[test]
    fn null_takes_a_change_back_and_a_change_without_effect_is_not_kept() {
        let mut kept = patch(json!({ "max_flows": 9, "circuit_breaker": { "open": "1m", "window": "9s" } }));
        kept.merge(&patch(json!({ "max_flows": null, "circuit_breaker": { "window": null } })));
        assert_eq!(kept, patch(json!({ "circuit_breaker": { "open": "1m" } })));
        kept.merge(&patch(json!({ "circuit_breaker": { "open": null } })));
        assert!(kept.is_empty(), "{kept:?}");
        let mut same =
            patch(json!({ "max_flows": 7, "slow_start": "30s", "deny": "none", "affinity": "source" }));
        same.prune(&web());
        assert_eq!(same, patch(json!({ "affinity": "source" })));
    }

    #[test]
    fn only_a_table_is_given_key_by_key() {
        let refused =
            |json: Value| serde_json::from_value::<Patch<Service>>(json).expect_err("refused").to_string();
        for (json, key) in [
            (json!({ "allow": { "x": null } }), "allow"),
            (json!({ "max_flows": { "x": null } }), "max_flows"),
            (json!({ "slow_start": { "x": "none" } }), "slow_start"),
            (json!({ "deny": {} }), "deny"),
        ] {
            let wrong = refused(json);
            assert_eq!(wrong, format!("{key} is not a table, so it has no keys; give its value as a whole"));
        }
        let weight = serde_json::from_value::<Patch<Backend>>(json!({ "weight": { "x": null } }));
        assert!(weight.expect_err("refused").to_string().starts_with("weight is not a table"));
        let wrong = refused(json!({ "health_check": { "fal": null } }));
        assert_eq!(wrong, "health_check: unknown key \"fal\"; did you mean \"fall\"?");
        for row in Service::OPTIONS.iter().filter(|row| row.fixed.is_none()) {
            let table = Table::from([(row.key.to_owned(), Node::Table(Table::new()))]);
            let mut problems = Problems::default();
            let mut section = Section::new(&table, Place::Root, &[row.key], &mut problems);
            (row.read)(&mut section, &mut Service::example());
            let is_refused = problems.all.iter().any(|problem| problem.what.starts_with("is a table; "));
            assert_eq!(row.keys.is_some(), !is_refused, "{}", row.key);
        }
    }

    #[test]
    fn no_key_is_taken_back_of_what_is_removed() {
        let mut kept = patch(json!({ "circuit_breaker": "none" }));
        kept.merge(&patch(json!({ "circuit_breaker": { "open": null } })));
        assert_eq!(kept, patch(json!({ "circuit_breaker": "none" })));
        let mut kept = patch(json!({ "health_check": { "interval": "2s" } }));
        kept.merge(&patch(json!({ "health_check": { "type": null } })));
        assert_eq!(kept, patch(json!({ "health_check": { "interval": "2s" } })));
    }

    #[test]
    fn a_key_of_a_table_is_removed_where_it_may_be_absent() {
        let mut wanted = web();
        wanted.circuit_breaker.as_mut().expect("it has one").open = std::time::Duration::from_secs(30);
        assert_eq!(over(json!({ "circuit_breaker": { "open": "none" } })), Ok(wanted));
        let wrong = over(json!({ "agent": { "interval": "1s", "port": "none" } })).expect_err("refused");
        assert!(wrong.contains("agent.port: is missing"), "{wrong}");
        // There is no table to remove it from.
        assert_eq!(over(json!({ "feedback": { "floor": "none" } })), Ok(web()));
        // In a table with a type, it is an ordinary value.
        let literal = over(json!({ "health_check": { "type": "http", "host": "none" } })).expect("valid");
        assert!(literal.check().to_string().contains(" of none"), "{}", literal.check());
        let mut kept = patch(json!({ "health_check": { "type": "http", "host": "a.example" } }));
        kept.merge(&patch(json!({ "health_check": { "host": "none" } })));
        assert_eq!(kept, patch(json!({ "health_check": { "type": "http" } })));
    }

    #[test]
    fn text_on_the_command_line_is_parsed_by_the_type_of_the_option() {
        let value = |key: &str, text: &str| {
            let row = Service::OPTIONS.iter().find(|row| row.key == key).expect("an option");
            row.value(text)
        };
        for (key, text, read) in [
            ("affinity", "source", json!("source")),
            ("max_flows", "100000", json!(100_000)),
            ("slow_start", "30s", json!("30s")),
            ("slow_start", "none", json!("none")),
            ("deny", "203.0.113.0/24,198.51.100.0/24", json!(["203.0.113.0/24", "198.51.100.0/24"])),
            (
                "circuit_breaker",
                "open=1m,half_open_portion=5",
                json!({ "open": "1m", "half_open_portion": 5 }),
            ),
        ] {
            assert_eq!(value(key, text), Ok(read), "{key}={text}");
        }
        for (key, text, words) in [
            ("affinity", "sorce", "\"sorce\" is not an affinity; write \"none\""),
            ("max_flows", "100000000", "100,000,000 is out of range; write 0 to 67,108,864"),
            ("max_flows", "many", "\"many\" is not a whole number"),
            ("slow_start", "soon", "\"soon\" is not a duration"),
        ] {
            let wrong = value(key, text).expect_err("refused");
            assert!(wrong.contains(words), "{key}={text}: {wrong}");
        }
    }
}
