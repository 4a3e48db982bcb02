//! Reading one table of the file: every value by its key and type, every problem with its place.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::Reader;
use crate::model::place::{Place, Problems};
use crate::model::rules::within;
use crate::model::text::{grouped, listed, nearest, quoted};

pub(super) const TOP_KEYS: &[&str] = &[
    "interfaces",
    "xdp_mode",
    "state_file",
    "pin_path",
    "flow_hash_secret",
    "snat_ports",
    "vips",
    "api",
    "metrics",
    "limits",
    "timeouts",
    "drain_timeout",
    "asymmetric_replies",
    "allow_exec_checks",
    "icmp_time_exceeded",
    "service",
];

/// A table of the file, its place, and where problems are put. What is absent is `None` and no
/// problem; what is there and wrong is `None` and a problem.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    place: Place<'a>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        table: &'a DeTable<'a>,
        place: Place<'a>,
        keys: &[&str],
        problems: &'a mut Problems,
    ) -> Self {
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

    fn get(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    /// A problem of one element of a list.
    pub(super) fn problem_of(&mut self, key: &str, index: usize, what: impl Into<String>) {
        self.problems.add(&self.place.item(key, index, key), what);
    }

    /// What `read` makes of the key, or the default where it is absent.
    pub(super) fn or_default<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if self.has(key) { read(self, key) } else { Some(T::default()) }
    }

    /// The path of a file or a directory.
    pub(super) fn path(&mut self, key: &str, default: &str, rule: fn(&str) -> Result<(), String>) -> PathBuf {
        self.parsed(key, |path| rule(path).map(|()| path.into())).unwrap_or_else(|| default.into())
    }

    /// A list of tables under a key.
    pub(super) fn sections<T>(
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

impl Reader for Section<'_> {
    type Table<'t> = Section<'t>;

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn problem(&mut self, key: &str, what: impl Into<String>) {
        self.problems.add(&self.place.key(key), what);
    }

    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = string(self.get(key)?).and_then(parse);
        self.problems.take(&self.place.key(key), value)
    }

    fn integer<T: TryFrom<u64> + Into<u64> + Copy>(
        &mut self,
        key: &str,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
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

    fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        let read = value.as_bool().ok_or_else(|| wrong_type(value, "true or false, without quotes"));
        self.problems.take(&self.place.key(key), read)
    }

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

    fn section<T>(
        &mut self,
        key: &str,
        keys: &[&str],
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        let Some(table) = self.get(key)?.as_table() else {
            let what = format!("{}, as [{key}]", wrong_type(self.get(key)?, "a table"));
            self.problem(key, what);
            return None;
        };
        Some(read(&mut Section::new(table, self.place.key(key), keys, self.problems)))
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
