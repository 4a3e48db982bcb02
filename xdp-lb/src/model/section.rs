//! Reading one table of a document: every value by its key and type, every problem with its place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::place::{Place, Problems};
use super::text::{self, grouped, listed, nearest, quoted};
use super::values::{whole_number, within};

/// A value of a document in any format.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Node {
    Text(String),
    /// A whole number: its value, if it fits, and its text.
    Number(Option<u64>, String),
    Fraction,
    Flag(bool),
    Date,
    /// JSON's null.
    Nothing,
    List(Vec<Node>),
    Table(Table),
}

/// A table of a document.
pub(crate) type Table = BTreeMap<String, Node>;

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(flag) => Self::Flag(*flag),
            // A whole number of more than 64 bits is parsed as a floating-point one.
            Value::Number(number) if number.as_f64().is_some_and(|it| it.abs() >= 2f64.powi(63)) => {
                Self::Number(number.as_u64(), number.to_string())
            }
            Value::Number(number) if number.is_f64() => Self::Fraction,
            Value::Number(number) => Self::Number(number.as_u64(), number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(table) => {
                Self::Table(table.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        }
    }
}

/// The keys at the top of a config file, before its first table.
pub(crate) const TOP_KEYS: &[&str] = &[
    "interfaces",
    "attach",
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

/// A table of a document, its place, and where problems are put. What is absent is `None` and not a problem; what is there and
/// wrong is `None`, a problem, and unreadable to the rules.
pub(crate) struct Section<'a> {
    table: &'a Table,
    place: Place<'a>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    /// A table that has these keys.
    pub(crate) fn new(table: &'a Table, place: Place<'a>, keys: &[&str], problems: &'a mut Problems) -> Self {
        for key in table.keys().map(String::as_str) {
            if !keys.contains(&key) {
                let hint = match nearest(key, keys) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None if !matches!(place, Place::Root) && TOP_KEYS.contains(&key) => {
                        "it belongs at the top of the file, before the first table".into()
                    }
                    None => format!("the keys here are {}", listed(keys)),
                };
                problems.add_key(&place, key, format!("unknown key {}; {hint}", quoted(key)));
            }
        }
        Self { table, place, problems }
    }

    fn get(&self, key: &str) -> Option<&'a Node> {
        self.table.get(key)
    }

    /// Whether the key is present.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key's value is a table.
    pub(crate) fn is_table(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Node::Table(_)))
    }

    /// Reports a problem with a key.
    pub(crate) fn problem(&mut self, key: &str, what: impl Into<String>) {
        self.problems.unreadable(&self.place.key(key), what);
    }

    /// A problem of one element of a list.
    pub(crate) fn problem_of(&mut self, key: &str, index: usize, what: impl Into<String>) {
        self.problems.unreadable(&self.place.item(key, index, key), what);
    }

    fn take<T>(&mut self, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.problem(key, what)).ok()
    }

    /// Reads the key, or returns the default if it is absent.
    pub(crate) fn or_default<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if self.has(key) { read(self, key) } else { Some(T::default()) }
    }

    /// A parsed string.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = string(self.get(key)?).and_then(parse);
        self.take(key, value)
    }

    /// A parsed string that is required.
    pub(crate) fn required<T>(
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

    /// The path of a file or a directory.
    pub(crate) fn path(&mut self, key: &str, default: &str, rule: fn(&str) -> Result<(), String>) -> PathBuf {
        self.parsed(key, |path| rule(path).map(|()| path.into())).unwrap_or_else(|| default.into())
    }

    /// A whole number in a range.
    pub(crate) fn integer<T: TryFrom<u64> + Into<u64> + Copy>(
        &mut self,
        key: &str,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
        let range: RangeInclusive<u64> = (*range.start()).into()..=(*range.end()).into();
        let value = match self.get(key)? {
            Node::Number(Some(number), _) => within(*number, &range, grouped),
            Node::Number(None, written) => Err(format!(
                "{written} is out of range; write {} to {}",
                grouped(*range.start()),
                grouped(*range.end())
            )),
            Node::Text(text) if text.parse::<u64>().is_ok() => {
                Err(format!("{} is in quotes; write the number without them", quoted(text)))
            }
            other => Err(wrong_type(other, &whole_number(&range))),
        };
        self.take(key, value).and_then(|number| T::try_from(number).ok())
    }

    /// True or false.
    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        let read = match self.get(key)? {
            Node::Flag(flag) => Ok(*flag),
            other => Err(wrong_type(other, "true or false, without quotes")),
        };
        self.take(key, read)
    }

    /// A list of parsed strings; invalid ones are `None`.
    pub(crate) fn list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Option<T>>> {
        let list = match self.get(key)? {
            Node::List(list) => list,
            other => {
                self.problem(key, wrong_type(other, "a list of strings"));
                return None;
            }
        };
        let mut read = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let value = string(value).and_then(&parse);
            read.push(value.map_err(|what| self.problem_of(key, index, what)).ok());
        }
        Some(read)
    }

    /// A table under a key, with these keys.
    pub(crate) fn section<T>(
        &mut self,
        key: &str,
        keys: &[&str],
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        match self.get(key)? {
            Node::Table(table) => {
                Some(read(&mut Section::new(table, self.place.key(key), keys, self.problems)))
            }
            other => {
                self.problem(key, format!("{}, as [{key}]", wrong_type(other, "a table")));
                None
            }
        }
    }

    /// A list of tables under a key.
    pub(crate) fn sections<T>(
        &mut self,
        key: &str,
        keys: &[&str],
        label: fn(&Table, usize) -> String,
        read: fn(&mut Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        let value = self.get(key)?;
        let heading =
            if matches!(self.place, Place::Root) { key.to_owned() } else { format!("service.{key}") };
        let wanted =
            |value| wrong_type(value, &format!("a list of tables, each with the header [[{heading}]]"));
        let Node::List(list) = value else {
            self.problem(key, wanted(value));
            return None;
        };
        let mut all = Vec::new();
        for (index, value) in list.iter().enumerate() {
            match value {
                Node::Table(table) => {
                    let label = label(table, index);
                    let place = self.place.item(key, index, &label);
                    all.push(read(&mut Section::new(table, place, keys, self.problems)));
                }
                other => self.problem_of(key, index, wanted(other)),
            }
        }
        Some(all)
    }
}

fn string(value: &Node) -> Result<&str, String> {
    match value {
        Node::Text(text) => Ok(text),
        other => Err(wrong_type(other, "a string, in quotes")),
    }
}

fn wrong_type(value: &Node, wanted: &str) -> String {
    let found = match value {
        Node::Text(_) => "a string",
        Node::Number(..) => "a whole number",
        Node::Fraction => "a fraction",
        Node::Flag(_) => "true or false",
        Node::Date => "a date or time",
        Node::Nothing => "null",
        Node::List(_) => "a list",
        Node::Table(_) => "a table",
    };
    format!("is {found}; write {wanted}")
}

/// A type of values.
pub(crate) trait Value: Sized {
    /// Reads a key of this table, if it is present and valid.
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self>;
}

impl Value for String {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.parsed(key, |text| Ok(text.to_owned()))
    }
}

impl Value for Vec<String> {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.list(key, |text| Ok(text.to_owned())).map(|list| list.into_iter().flatten().collect())
    }
}

impl Value for bool {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.boolean(key)
    }
}

impl Value for u8 {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.integer(key, &(0..=Self::MAX))
    }
}

impl Value for u16 {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.integer(key, &(0..=Self::MAX))
    }
}

impl Value for u32 {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.integer(key, &(0..=Self::MAX))
    }
}

impl Value for Option<Duration> {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        section.parsed(key, text::duration).map(Some)
    }
}

/// Addresses without a port. An unspecified one stands for each invalid one, so that the others keep their positions.
impl Value for Vec<IpAddr> {
    fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
        let list = section.list(key, text::address)?;
        Some(list.into_iter().map(|it| it.unwrap_or(Ipv4Addr::UNSPECIFIED.into())).collect())
    }
}
