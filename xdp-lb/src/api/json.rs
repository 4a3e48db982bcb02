//! JSON documents whose objects have each key once. Serde takes the last one of a map, so that the first would be lost unnoticed.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::text::quoted;

/// Reads a document.
///
/// # Errors
/// That it is not JSON, not a `T`, or has a key twice, and where.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<UniqueKeys>(body)?;
    serde_json::from_slice(body)
}

/// A value in which each object has each key once.
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
    fn a_key_that_is_given_twice_is_named_with_its_place() {
        for (document, key) in [
            (r#"{"weight": 1, "weight": 2}"#, "weight"),
            (r#"{"a": {"open": "1s", "open": "1s"}}"#, "open"),
            (r#"{"list": [1, {"x": null, "\u0078": true}]}"#, "x"),
        ] {
            let wrong = read::<Value>(document.as_bytes()).expect_err("refused").to_string();
            assert!(
                wrong.starts_with(&format!("the key \"{key}\" is given twice; give it once at line 1 ")),
                "{wrong}"
            );
        }
        let document = r#"{"a": {"x": 1}, "b": {"x": -2.5}, "c": ["x", "x", true, null]}"#;
        assert!(read::<Value>(document.as_bytes()).is_ok());
    }
}
