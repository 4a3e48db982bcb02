//! Errors in a config file, with their lines.

use std::fmt;
use std::path::PathBuf;

use toml::de::DeTable;

use crate::model::place::{Problem, Step};
use crate::model::text::quoted;

/// All errors in a config file. Displays a line for each: `xdp-lb.toml:14: service "web": vip: "192.0.2.10" has no port; write
/// "192.0.2.10:80"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errors {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The errors, by line. At least one.
    pub errors: Vec<ConfigError>,
}

/// An error in a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The line, from 1. `None` if it is about the whole file.
    pub line: Option<usize>,
    /// The column in characters, from 1, for a TOML syntax error.
    pub column: Option<usize>,
    /// The field in words, `service "web": vip`. Empty if it is not about one.
    pub field: String,
    /// The error and the fix.
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

/// The start of each line of a text.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line and the column of a byte, both from 1.
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

/// The offset in the text of the last step of a path that exists. `None` if not even the first does.
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

/// TOML's own errors: the first one of each line, since the others mostly follow from it.
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
