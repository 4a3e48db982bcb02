//! Tables for people, JSON and YAML for programs.

use std::io;

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::logging::coloured;
use crate::model::state::BackendState;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// Tables and sentences; on a narrow terminal, less important columns are left out.
    #[default]
    Table,
    /// Tables with all columns, however wide.
    Wide,
    /// One JSON document.
    Json,
    /// The same document as YAML.
    Yaml,
}

impl Format {
    /// Whether it is for people.
    pub(super) const fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Where results are printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    pub(super) format: Format,
    /// Whether states are coloured.
    pub(super) colour: bool,
    /// The width of the terminal, if it is one.
    pub(super) width: Option<u16>,
}

impl Screen {
    /// Standard output, coloured if it is a terminal and `NO_COLOR` (no-color.org) is not set.
    pub(super) fn of_stdout(format: Format) -> Self {
        // A serial console has no width of its own.
        let width = Table::new().width().filter(|width| *width != 0);
        Self { format, colour: coloured(&io::stdout()), width }
    }

    /// The output: the document as JSON or YAML, or the table.
    pub(super) fn show<T: Serialize>(
        &self,
        document: &T,
        table: impl FnOnce() -> String,
    ) -> anyhow::Result<String> {
        let mut text = match self.format {
            Format::Table | Format::Wide => table(),
            Format::Json => serde_json::to_string_pretty(document)?,
            Format::Yaml => yaml(document)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// One of many results: the document as one line of JSON or one document of YAML, or the line.
    pub(super) fn line<T: Serialize>(
        &self,
        document: &T,
        line: impl FnOnce() -> String,
    ) -> anyhow::Result<String> {
        let text = match self.format {
            Format::Table | Format::Wide => line(),
            Format::Json => serde_json::to_string(document)?,
            Format::Yaml => format!("---\n{}", yaml(document)?.trim_end()),
        };
        Ok(text + "\n")
    }

    /// A table as wide as its contents. On a terminal that is narrower, less important columns are left out, except with
    /// `--output wide`. A last column of words wraps; if there is no room for that, each row's words are on a separate line
    /// below it.
    pub(super) fn table(&self, columns: &[Column], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
        let mut rows: Vec<_> = rows.into_iter().collect();
        let mut columns = columns.to_vec();
        if let (Some(width), Format::Table) = (self.width, self.format) {
            self.leave_out(&mut columns, &mut rows, width.into());
        }
        self.fitted(&columns, rows)
    }

    /// Takes out the columns that leave first until the rest fits, without a last column of words.
    fn leave_out(&self, columns: &mut Vec<Column>, rows: &mut [Vec<Cell>], width: usize) {
        loop {
            let fixed = columns.iter().take_while(|column| !matches!(column.kind, Kind::Words)).count();
            let plain = Self { colour: false, width: None, ..*self };
            let grid = plain.grid(&columns[..fixed], rows.iter().map(|row| row[..fixed].to_vec()));
            if widest(&grid) <= width {
                return;
            }
            let leaves = |column: &Column| column.leaves.filter(|_| !matches!(column.kind, Kind::Words));
            let Some(first) = columns.iter().filter_map(leaves).min() else { return };
            let Some(place) = columns.iter().position(|column| column.leaves == Some(first)) else { return };
            columns.remove(place);
            rows.iter_mut().for_each(|row| drop(row.remove(place)));
        }
    }

    fn fitted(&self, columns: &[Column], rows: Vec<Vec<Cell>>) -> String {
        let (Some(width), Some((Column { kind: Kind::Words, .. }, others))) =
            (self.width, columns.split_last())
        else {
            return self.grid(columns, rows);
        };
        let without =
            |screen: &Self| screen.grid(others, rows.iter().map(|row| row[..others.len()].to_vec()));
        // Escape sequences of colours take no space.
        let plain = without(&Self { colour: false, ..*self });
        if widest(&plain) + ROOM_FOR_WORDS <= usize::from(width) {
            return self.grid(columns, rows);
        }
        let words = rows.iter().map(|row| row[others.len()].content());
        // Nothing for the headings.
        let mut text = String::new();
        for (line, words) in without(self).lines().zip([String::new()].into_iter().chain(words)) {
            text += line;
            text += "\n";
            if !words.is_empty() {
                text += &format!("  {words}\n");
            }
        }
        text
    }

    fn grid(&self, columns: &[Column], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        if self.colour {
            table.enforce_styling();
        }
        if let Some(width) = self.width {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        table.set_header(columns.iter().map(|column| column.heading));
        table.add_rows(rows);
        for (drawn, column) in table.column_iter_mut().zip(columns) {
            drawn.set_padding((0, 2));
            if !matches!(column.kind, Kind::Words) {
                drawn.set_constraint(ColumnConstraint::ContentWidth);
            }
            if matches!(column.kind, Kind::Number) {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The length of the longest line, in characters.
fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or_default()
}

fn yaml<T: Serialize>(document: &T) -> anyhow::Result<String> {
    // By way of JSON, whose names and numbers are those of the API.
    Ok(serde_yaml_ng::to_string(&serde_json::to_value(document)?)?)
}

/// A column of words is not narrower than this.
const ROOM_FOR_WORDS: usize = 30;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    heading: &'static str,
    kind: Kind,
    /// When it is left out if there is no room for all: the lowest number first; `None`: never.
    leaves: Option<u8>,
}

impl Column {
    /// The same column, which is left out if there is no room for all, in this turn.
    pub(super) const fn leaves(self, turn: u8) -> Self {
        Self { leaves: Some(turn), ..self }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Number,
    Words,
}

/// A column that is aligned to the left.
pub(super) const fn text(heading: &'static str) -> Column {
    Column { heading, kind: Kind::Text, leaves: None }
}

/// A column that is aligned to the right.
pub(super) const fn number(heading: &'static str) -> Column {
    Column { heading, kind: Kind::Number, leaves: None }
}

/// A column of sentences, which wrap.
pub(super) const fn words(heading: &'static str) -> Column {
    Column { heading, kind: Kind::Words, leaves: None }
}

/// A backend's state: green if it serves, yellow if it will or did, red if it cannot.
pub(super) fn state(state: BackendState) -> Cell {
    let colour = match state {
        BackendState::Up => Color::Green,
        BackendState::Draining | BackendState::Checking | BackendState::Standby | BackendState::HalfOpen => {
            Color::Yellow
        }
        BackendState::Panic | BackendState::Ejected | BackendState::Down | BackendState::Unresolved => {
            Color::Red
        }
    };
    Cell::new(state.name()).fg(colour)
}
