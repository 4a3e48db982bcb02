//! What is wrong with a config file, told by its lines.

use std::fmt;
use std::path::PathBuf;

use toml::de::DeTable;

use crate::model::place::{Problem, Step};
use crate::model::text::quoted;

/// Everything that is wrong with a config file. Prints a line for each error:
/// `xdp-lb.toml:14: service "web": vip: "192.0.2.10" has no port; write "192.0.2.10:80"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors {
    /// The file, where it is one.
    pub file: Option<PathBuf>,
    /// The errors, by line; at least one.
    pub errors: Vec<ConfigError>,
}

/// One thing that is wrong with a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The line, from 1 on; `None` where it is about the whole file.
    pub line: Option<usize>,
    /// The column in characters, from 1 on, for an error of TOML's syntax.
    pub column: Option<usize>,
    /// The field in words, `service "web": vip`; empty where it is about none.
    pub field: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.errors.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            match (&self.file, error.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}", file.display())?,
                (Some(file), None) => write!(f, "{}", file.display())?,
                (None, Some(line)) => write!(f, "line {line}")?,
                (None, None) => f.write_str("config")?,
            }
            if let Some(column) = error.column {
                write!(f, ":{column}")?;
            }
            if !error.field.is_empty() {
                write!(f, ": {}", error.field)?;
            }
            write!(f, ": {}", error.what)?;
        }
        Ok(())
    }
}

/// Where each line of a text begins.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line and the column of a byte, both from 1 on.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.starts[line - 1]..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    pub(super) fn error(&self, root: &DeTable, problem: Problem) -> ConfigError {
        let line = offset(root, &problem.path).map(|offset| self.position(offset).0);
        ConfigError { line, column: None, field: problem.place, what: problem.what }
    }
}

/// Where the last step of a path that exists begins in the text; `None` where not even the first does.
fn offset(root: &DeTable, path: &[Step]) -> Option<usize> {
    let mut found = None;
    let mut table = Some(root);
    let mut list = None;
    for step in path {
        let (start, value) = match step {
            Step::Key(key) => {
                let Some((key, value)) = table.and_then(|table| table.get_key_value(key.as_str())) else {
                    break;
                };
                (key.span().start, value)
            }
            Step::Index(index) => {
                let Some(value) = list.and_then(|list: &toml::de::DeArray| list.get(*index)) else { break };
                (value.span().start, value)
            }
        };
        found = Some(start);
        table = value.get_ref().as_table();
        list = value.get_ref().as_array();
    }
    found
}

/// TOML's own errors: the first of each line, since the others mostly follow from it.
pub(super) fn syntax_errors(lines: &Lines, errors: Vec<toml::de::Error>) -> Vec<ConfigError> {
    let mut errors: Vec<(usize, toml::de::Error)> =
        errors.into_iter().map(|error| (error.span().map_or(0, |span| span.start), error)).collect();
    errors.sort_by_key(|(offset, _)| *offset);
    let mut told: Vec<ConfigError> = errors
        .into_iter()
        .map(|(offset, error)| {
            let (line, column) = lines.position(offset);
            let subject = error.span().and_then(|span| lines.text.get(span)).unwrap_or_default();
            let what = match error.message() {
                "duplicate key" => format!("{} is written twice; keep one of them", quoted(subject)),
                message => format!("{message}; fix TOML's syntax here"),
            };
            ConfigError { line: Some(line), column: Some(column), field: String::new(), what }
        })
        .collect();
    told.dedup_by_key(|error| error.line);
    told
}
