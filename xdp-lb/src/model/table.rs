//! Tables with a row per key, from which follow the form in TOML and JSON, the schema, and the flags of the CLI.

use std::fmt;

use serde_json::Value;

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The types of the table that it belongs to; empty: all.
    pub owners: &'static [&'static str],
    /// The help of its flag; empty: it has none.
    pub help: &'static str,
    /// Its default, or an empty value of the same type.
    pub absent: fn() -> Value,
}

/// Errors in a table: keys and messages.
#[derive(Debug)]
pub(crate) struct TableErrors {
    table: &'static str,
    pub all: Vec<(&'static str, String)>,
}

impl TableErrors {
    pub(crate) const fn of(table: &'static str) -> Self {
        Self { table, all: Vec::new() }
    }

    /// The value, or `None` and the error.
    pub(crate) fn take<T>(&mut self, key: &'static str, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.all.push((key, what))).ok()
    }

    /// The parsed value, if it is present and valid.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        written: Option<String>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.take(key, read(&written?))
    }

    /// The value, or the error that it is missing.
    pub(crate) fn required<T: Default>(&mut self, key: &'static str, written: Option<T>, example: &str) -> T {
        let missing = || format!("is missing; write {example}");
        self.take(key, written.ok_or_else(missing)).unwrap_or_default()
    }
}

impl fmt::Display for TableErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            self.all.iter().map(|(key, what)| format!("{}.{key}: {what}", self.table)).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A table with a `type`: a row a key, with the type of its value, the range of a number, the default of a flag that is on or off, the types of the table
/// that it belongs to, and the help of its flag where it has one. `$of` is converted to and from it.
macro_rules! table {
    (
        $(#[$outer:meta])* $name:ident of $of:ident at $table:literal, type: $example:literal => $type_help:literal;
        $($key:ident: $type:ty $(as $range:path)? $(= $default:literal)? $(, of $($owner:literal)|+)? $(=> $help:literal)?;)+
    ) => {
        $(#[$outer])*
        #[derive(Clone, Default, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            pub r#type: String,
            $(
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )+
        }

        /// The names of its keys, `type` first.
        pub(crate) const KEYS: &[&str] = &["type", $(stringify!($key)),+];

        /// Its keys, `type` first.
        pub(crate) const TABLE: &[$crate::model::table::Key] = &[
            $crate::model::table::Key {
                name: "type",
                owners: &[],
                help: $type_help,
                absent: || serde_json::Value::from(""),
            },
            $($crate::model::table::Key {
                name: stringify!($key),
                owners: &[$($($owner),+)?],
                help: table!(@first $($help,)? "",),
                absent: || serde_json::Value::from(table!(@first $($default,)? <$type>::default(),)),
            },)+
        ];

        impl $name {
            /// Reads the table of a document.
            fn read(table: &mut $crate::model::section::Section<'_>) -> Option<Self> {
                $(let $key = table!(@read table, $key, $type $(, $range)?);)+
                let r#type =
                    table.required("type", concat!("type = \"", $example, "\""), |text| Ok(text.to_owned()))?;
                Some(Self { r#type, $($key),+ })
            }

            /// The given keys that belong to certain types only.
            fn owned(&self) -> impl Iterator<Item = &'static $crate::model::table::Key> {
                let is_given = [true, $(self.$key.is_some()),+];
                let keys = TABLE.iter().zip(is_given).filter(|(key, is_given)| *is_given && !key.owners.is_empty());
                keys.map(|(key, _)| key)
            }
        }

        impl serde::Serialize for $of {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                $name::from(self.clone()).serialize(to)
            }
        }

        impl<'de> serde::Deserialize<'de> for $of {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $name::deserialize(from)?.try_into().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $of {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($of).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $name::json_schema(generator)
            }
        }

        impl $of {
            /// No errors yet.
            const fn no_errors() -> $crate::model::table::TableErrors {
                $crate::model::table::TableErrors::of($table)
            }

            /// Reads the table of a document.
            pub(crate) fn read(table: &mut $crate::model::section::Section<'_>) -> Option<Self> {
                let errors = match Self::try_from($name::read(table)?) {
                    Ok(read) => return Some(read),
                    Err(errors) => errors,
                };
                errors.all.into_iter().for_each(|(key, what)| table.problem(key, what));
                None
            }
        }
    };
    (@first $first:expr, $($rest:expr,)?) => { $first };
    (@read $table:ident, $key:ident, $type:ty) => {
        <$type as $crate::model::section::Value>::read($table, stringify!($key))
    };
    (@read $table:ident, $key:ident, $type:ty, $range:path) => { $table.integer(stringify!($key), &$range) };
}

pub(crate) use table;
