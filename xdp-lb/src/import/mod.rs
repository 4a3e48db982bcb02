//! Configurations of other load balancers as ours: what can be translated, and a note for each thing that cannot.

#![forbid(unsafe_code)]

mod haproxy;
mod ipvs;

pub use haproxy::haproxy;
pub use ipvs::ipvs;

use std::fmt::Write as _;

use toml_edit::Value;

/// What was read.
#[derive(Debug, Default)]
pub struct Imported {
    services: Vec<Service>,
    /// What has no counterpart here, in the order of the lines.
    pub notes: Vec<Note>,
}

/// Something that was not translated.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    /// The line of the file, from 1.
    pub line: usize,
    /// What it is, and what to do instead.
    pub what: String,
}

/// A service as TOML, with its keys in order.
#[derive(Clone, Debug, Default)]
struct Service {
    keys: Vec<(&'static str, Value)>,
    check: Vec<(&'static str, Value)>,
    backends: Vec<Vec<(&'static str, Value)>>,
}

impl Service {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        set(&mut self.keys, key, value);
    }
}

/// Sets a key, which then has its last value.
fn set(keys: &mut Vec<(&'static str, Value)>, key: &'static str, value: impl Into<Value>) {
    keys.retain(|(present, _)| *present != key);
    keys.push((key, value.into()));
}

impl Imported {
    fn note(&mut self, line: usize, what: impl Into<String>) {
        self.notes.push(Note { line, what: what.into() });
    }

    /// How many services there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.services.len()
    }

    /// The config file, for these interfaces.
    #[must_use]
    pub fn toml(&self, interfaces: &[String]) -> String {
        let mut text = format!("interfaces = {}\n", interfaces.iter().collect::<toml_edit::Array>());
        for service in &self.services {
            text += "\n[[service]]\n";
            write_keys(&mut text, &service.keys);
            if !service.check.is_empty() {
                text += "\n[service.health_check]\n";
                write_keys(&mut text, &service.check);
            }
            for backend in &service.backends {
                text += "\n[[service.backend]]\n";
                write_keys(&mut text, backend);
            }
        }
        text
    }
}

fn write_keys(text: &mut String, keys: &[(&'static str, Value)]) {
    for (key, value) in keys {
        let _ = writeln!(text, "{key} = {value}");
    }
}
