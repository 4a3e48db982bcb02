//! The places of values in a config, and problems there.

use std::collections::HashSet;
use std::fmt;

/// A place in a config: a chain of keys back to the root. Costs nothing until an error needs it.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The whole config.
    Root,
    /// A key of a table.
    Key(&'a Place<'a>, &'a str),
    /// An element of a list under a key, with its label: `service "web"`.
    Item { parent: &'a Place<'a>, key: &'a str, index: usize, label: &'a str },
}

impl<'a> Place<'a> {
    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    pub(crate) fn item(&'a self, key: &'a str, index: usize, label: &'a str) -> Self {
        Self::Item { parent: self, key, index, label }
    }

    /// The path from the root.
    pub(crate) fn path(&self) -> Vec<Step> {
        match self {
            Self::Root => Vec::new(),
            Self::Key(parent, key) => {
                let mut path = parent.path();
                path.push(Step::Key((*key).into()));
                path
            }
            Self::Item { parent, key, index, .. } => {
                let mut path = parent.path();
                path.extend([Step::Key((*key).into()), Step::Index(*index)]);
                path
            }
        }
    }
}

/// The place as text: `service "web": health_check.interval`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, separator, name) = match *self {
            Self::Root => return Ok(()),
            Self::Key(parent @ Self::Key(..), key) => (parent, ".", key),
            Self::Key(parent, key) => (parent, ": ", key),
            Self::Item { parent, label, .. } => (parent, ": ", label),
        };
        match parent {
            Self::Root => f.write_str(name),
            _ => write!(f, "{parent}{separator}{name}"),
        }
    }
}

/// A step of a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// A problem and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    /// The path from the root.
    pub path: Vec<Step>,
    /// The place as text; empty for the root.
    pub place: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)
    }
}

/// The problems found so far.
#[derive(Default, Debug)]
pub(crate) struct Problems {
    pub all: Vec<Problem>,
    /// Places that could not be read, and the places that contain them.
    unreadable: HashSet<Vec<Step>>,
}

impl Problems {
    pub(crate) fn add(&mut self, place: &Place, what: impl Into<String>) {
        self.all.push(Problem { path: place.path(), place: place.to_string(), what: what.into() });
    }

    /// A problem of a key itself, reported at its table.
    pub(crate) fn add_key(&mut self, table: &Place, key: &str, what: impl Into<String>) {
        self.all.push(Problem { path: table.key(key).path(), place: table.to_string(), what: what.into() });
    }

    /// A problem of a value that cannot be read: its default is used meanwhile, and rules skip it.
    pub(crate) fn unreadable(&mut self, place: &Place, what: impl Into<String>) {
        self.add(place, what);
        let path = place.path();
        self.unreadable.extend((1..=path.len()).map(|length| path[..length].to_vec()));
    }

    /// Whether this place, or something in it, could not be read.
    pub(crate) fn is_unreadable(&self, place: &Place) -> bool {
        !self.unreadable.is_empty() && self.unreadable.contains(&place.path())
    }

    /// The value of a key, if it could be read.
    pub(crate) fn known<T>(&self, place: &Place, key: &str, value: T) -> Option<T> {
        (!self.is_unreadable(&place.key(key))).then_some(value)
    }

    /// The value, or `None` and the problem.
    pub(crate) fn take<T>(&mut self, place: &Place, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.add(place, what)).ok()
    }

    /// `Ok` if there is no problem, else all problems as text.
    pub(crate) fn into_result(self) -> Result<(), Vec<String>> {
        if self.all.is_empty() { Ok(()) } else { Err(self.all.iter().map(Problem::to_string).collect()) }
    }
}
