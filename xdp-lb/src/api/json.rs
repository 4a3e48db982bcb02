//! JSON documents whose objects have no duplicate keys. Serde would silently use a map's last one.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::text::quoted;

/// Reads a document.
///
/// # Errors
/// If it is not JSON, not a `T`, or has a duplicate key, with the position.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice::<UniqueKeys>(body).map_err(|error| error.to_string())?;
    serde_json::from_slice(body).map_err(|error| in_words(&error.to_string()))
}

/// The types that serde expects, by their Rust names, and in words. A name follows `struct`.
const TYPES: &[(&str, &str)] = &[
    ("struct", "an object"),
    ("a map", "an object"),
    ("a sequence", "a list"),
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65,535"),
    ("u32", "a whole number from 0 to 4,294,967,295"),
    ("u64", "a whole number from 0"),
];

/// A serde error without names of Rust types.
fn in_words(error: &str) -> String {
    // The syntax is valid, so this is a type other than a string where one of several strings is expected.
    if let Some(place) = error.strip_prefix("expected value") {
        return format!("expected a string{place}");
    }
    let Some((found, rest)) = error.rsplit_once(", expected ") else { return error.to_owned() };
    let (wanted, place) = rest
        .split_once(" at line ")
        .map_or((rest, String::new()), |(wanted, place)| (wanted, format!(" at line {place}")));
    let named = |(rust, _): &&(&str, &str)| wanted == *rust || wanted.starts_with(&format!("{rust} "));
    match TYPES.iter().find(named) {
        Some((_, words)) => format!("{found}, expected {words}{place}"),
        None => error.to_owned(),
    }
}

/// A value whose objects have no duplicate keys.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!(
                    "the key {} is given twice; give it once",
                    quoted(&key)
                )));
            }
            seen.insert(key);
            map.next_value::<UniqueKeys>()?;
        }
        Ok(UniqueKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<UniqueKeys, A::Error> {
        while list.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }

    fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_refused_in_words() {
        use crate::model::Backend;
        use crate::model::request::{AdminPatch, ServicePatch};
        for (wrong, words) in [
            (read::<AdminPatch>(br#"{"admin": true}"#).map(drop), "expected a string at line 1 column 11"),
            (
                read::<ServicePatch>(b"[1]").map(drop),
                "invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                read::<AdminPatch>(b"7").map(drop),
                "invalid type: integer `7`, expected an object at line 1 column 1",
            ),
            (
                read::<Backend>(br#"{"address": "198.51.100.1:80", "weight": -1}"#).map(drop),
                "invalid value: integer `-1`, expected a whole number from 0 to 65,535 at line 1 column 43",
            ),
        ] {
            assert_eq!(wrong, Err(words.to_owned()));
        }
    }

    #[test]
    fn a_key_that_is_given_twice_is_named_with_its_place() {
        for (document, key) in [
            (r#"{"weight": 1, "weight": 2}"#, "weight"),
            (r#"{"a": {"open": "1s", "open": "1s"}}"#, "open"),
            (r#"{"list": [1, {"x": null, "\u0078": true}]}"#, "x"),
        ] {
            let wrong = read::<Value>(document.as_bytes()).expect_err("refused");
            assert!(
                wrong.starts_with(&format!("the key \"{key}\" is given twice; give it once at line 1 ")),
                "{wrong}"
            );
        }
        let document = r#"{"a": {"x": 1}, "b": {"x": -2.5}, "c": ["x", "x", true, null]}"#;
        assert!(read::<Value>(document.as_bytes()).is_ok());
    }
}
