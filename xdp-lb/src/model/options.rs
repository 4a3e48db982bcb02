//! Options of services and backends, a row each: the field with its key in TOML and JSON, the schema, the flag of the CLI, the
//! change at runtime and the row of the documentation follow from it.

use serde::Serialize;
use serde_json::Value;

use super::section::Section;
use super::text::{listed, nearest, quoted};

/// A type with options.
pub trait Options: Clone + PartialEq + Serialize + Sized + 'static {
    /// All of them, in the order of the documentation.
    const OPTIONS: &'static [Row<Self>];

    /// A value with all defaults.
    fn example() -> Self;
}

/// An option of `T`.
#[derive(Debug)]
pub struct Row<T: 'static> {
    /// Its key, in the config file and in JSON.
    pub key: &'static str,
    /// Its purpose in one sentence.
    pub sentence: &'static str,
    /// Its default, as the documentation prints it.
    pub default: &'static str,
    /// Its range, as the documentation prints it.
    pub range: &'static str,
    /// The name of its value in usage messages, if that is not N or the key's last word.
    pub value_name: Option<&'static str>,
    /// The range in the help of its flag, if that is more detailed.
    pub help: Option<&'static str>,
    /// The JSON of its default, or null.
    pub(crate) absent: fn() -> Value,
    /// Why it cannot change at runtime, and what to do instead; `None`: it can.
    pub fixed: Option<&'static str>,
    /// Reads it; an absent or invalid value leaves it unchanged.
    pub(crate) read: fn(&mut Section<'_>, &mut T),
    /// Applies `none`, if it is optional.
    pub(crate) none: Option<fn(&mut T)>,
    /// The keys of its table, if it is one.
    pub(crate) keys: Option<&'static [&'static str]>,
    /// For a table: sets the value that is in effect by default.
    pub(crate) in_effect: Option<fn(&mut T)>,
}

/// The option with this key.
///
/// # Errors
/// That there is none, with the one that may be meant, or those that can be set.
pub fn find<T: Options>(key: &str) -> Result<&'static Row<T>, String> {
    let rows = || T::OPTIONS.iter();
    rows().find(|row| row.key == key).ok_or_else(|| {
        let known: Vec<&str> = rows().map(|row| row.key).collect();
        let hint = nearest(key, &known).map(|near| format!("did you mean \"{near}\"?"));
        let settable = || rows().filter(|row| row.fixed.is_none()).map(|row| row.key).collect::<Vec<_>>();
        let hint = hint.unwrap_or_else(|| format!("the options are {}", listed(&settable())));
        format!("unknown option {}; {hint}", quoted(key))
    })
}

/// A struct of options: a row each, with the field's attributes, name, type and default, and the columns of [`Row`]. A row
/// without `read` is read by its type ([`Value`](super::section::Value)).
macro_rules! options {
    (
        $(#[$outer:meta])*
        pub struct $name:ident {
            $(
                $(#[$meta:meta])*
                $field:ident $(as $key:literal)?: $type:ty = $default:expr => {
                    sentence: $sentence:tt,
                    default: $written:literal,
                    range: $range:literal
                    $(, value_name: $value_name:literal)?
                    $(, help: $help:literal)?
                    $(, read: $read:expr)?
                    $(, keys: $keys:expr)?
                    $(, none: $none:expr)?
                    $(, in_effect: $in_effect:expr)?
                    $(, fixed: $fixed:expr)?
                    $(,)?
                }
            )+
        }
    ) => {
        $(#[$outer])*
        pub struct $name {
            $(
                #[doc = $sentence]
                $(#[$meta])*
                pub $field: $type,
            )+
        }

        impl $crate::model::options::Options for $name {
            const OPTIONS: &'static [$crate::model::options::Row<Self>] = &[$(
                $crate::model::options::Row {
                    key: options!(@first $($key,)? stringify!($field),),
                    sentence: $sentence,
                    default: $written,
                    range: $range,
                    value_name: options!(@some $($value_name)?),
                    help: options!(@some $($help)?),
                    absent: || {
                        let absent: $type = $default;
                        serde_json::to_value(absent).unwrap_or_default()
                    },
                    fixed: options!(@some $($fixed)?),
                    read: |section, to| {
                        let read: fn(&mut $crate::model::section::Section<'_>, &str) -> Option<$type> =
                            options!(@first $($read,)? <$type as $crate::model::section::Value>::read,);
                        if let Some(value) = read(section, options!(@first $($key,)? stringify!($field),)) {
                            to.$field = value;
                        }
                    },
                    none: options!(@some $($none)?),
                    keys: options!(@some $($keys)?),
                    in_effect: options!(@some $($in_effect)?),
                },
            )+];

            fn example() -> Self {
                Self::blank()
            }
        }

        impl $name {
            /// The keys of its options.
            pub(crate) const KEYS: &[&str] = &[$(options!(@first $($key,)? stringify!($field),)),+];

            /// Each option with its default; those that have none are unspecified.
            const fn blank() -> Self {
                Self { $($field: $default),+ }
            }

            /// Reads a table.
            pub(crate) fn read(section: &mut $crate::model::section::Section<'_>) -> Self {
                let mut it = Self::blank();
                <Self as $crate::model::options::Options>::OPTIONS.iter().for_each(|row| (row.read)(section, &mut it));
                it
            }
        }
    };
    (@first $first:expr, $($rest:expr,)?) => { $first };
    (@some) => { None };
    (@some $value:expr) => { Some($value) };
}

pub(crate) use options;
