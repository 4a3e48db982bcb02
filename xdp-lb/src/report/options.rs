//! The options of a service or backend within larger documents.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serializer};
use serde_json::{Map, Value};

use crate::model::{Backend, Options, Row, Service, patch};

/// Documents contain more than the options.
const TOLD_OTHERWISE: &[&str] = &["discovery", "backend"];

fn told<T: Options>() -> impl Iterator<Item = &'static Row<T>> {
    T::OPTIONS.iter().filter(|row| !TOLD_OTHERWISE.contains(&row.key))
}

/// Writes all of them, including defaults.
pub(super) fn serialize<T: Options, S: Serializer>(of: &T, to: S) -> Result<S::Ok, S::Error> {
    let mut written = patch::written(of);
    to.collect_map(told::<T>().map(|row| (row.key, written.remove(row.key).unwrap_or_else(row.absent))))
}

/// Reads the form of [`serialize`], and of other versions of the daemon.
pub(super) fn deserialize<'de, T: Options + DeserializeOwned, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    let mut all = Map::deserialize(from)?;
    let written = told::<T>().filter_map(|row| Some((row, all.remove(row.key)?)));
    let given = written.filter(|(row, value)| *value != (row.absent)());
    let given: Map<String, Value> = given.map(|(row, value)| (row.key.to_owned(), value)).collect();
    serde_json::from_value(given.into()).map_err(serde::de::Error::custom)
}

/// The schema of a service's options in a document.
pub(super) const OF_SERVICE: fn(&mut SchemaGenerator) -> Schema = schema::<Service>;
/// The schema of a backend's.
pub(super) const OF_BACKEND: fn(&mut SchemaGenerator) -> Schema = schema::<Backend>;

fn schema<T: Options + JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let whole = T::json_schema(generator);
    let property = |row: &Row<T>| {
        let mut property = whole.get("properties")?.get(row.key)?.clone();
        // Effective values are always present.
        if let (Some(_), Some(Value::Array(any))) = (row.in_effect, property.get_mut("anyOf")) {
            any.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
        }
        Some((row.key.to_owned(), property))
    };
    let properties: Map<String, Value> = told().filter_map(property).collect();
    let required: Vec<&String> = properties.keys().collect();
    schemars::json_schema!({ "type": "object", "required": required, "properties": properties })
}
