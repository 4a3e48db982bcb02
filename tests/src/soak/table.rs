//! The result, as tables in Markdown, which are as plain to read on a terminal.

use std::fmt::Write as _;

use super::kind::Protocol;
use super::tally::Counted;
use crate::way::Family;

/// All counts as tables, and what went wrong.
pub fn render(counted: &Counted) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", flows(counted));
    let _ = writeln!(text, "{}", disturbances(counted));
    let _ = writeln!(
        text,
        "Flows broken whose backend lived: {}. Acknowledged changes: {}, lost: {}. Other faults: {}.",
        counted.broken(),
        counted.acknowledged,
        counted.lost,
        counted.troubles
    );
    for fault in &counted.faults {
        let _ = writeln!(text, "- {fault}");
    }
    text
}

fn flows(counted: &Counted) -> String {
    let columns = [
        "mode",
        "family",
        "protocol",
        "flows opened",
        "ended by plan",
        "not opened",
        "requests answered",
        "datagrams lost",
        "longest wait",
        "broken",
    ];
    let rows = counted.kinds.iter().map(|(kind, counts)| {
        let is_udp = kind.protocol == Protocol::Udp;
        vec![
            kind.mode.to_string(),
            if kind.family == Family::V4 { "IPv4" } else { "IPv6" }.to_owned(),
            if is_udp { "UDP" } else { "TCP" }.to_owned(),
            counts.opened.to_string(),
            counts.planned.to_string(),
            counts.unopened.to_string(),
            counts.answered.to_string(),
            if is_udp { counts.lost.to_string() } else { "-".to_owned() },
            format!("{} ms", counts.longest.as_millis()),
            counts.broken.to_string(),
        ]
    });
    table(&columns, rows)
}

fn disturbances(counted: &Counted) -> String {
    let rows = counted.disturbances.iter().map(|(disturbance, effect)| {
        vec![
            disturbance.to_string(),
            effect.times.to_string(),
            effect.lost.to_string(),
            effect.broken.to_string(),
        ]
    });
    table(&["disturbance", "times", "datagrams lost", "flows broken"], rows)
}

fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = columns.iter().map(|column| (*column).to_owned()).collect();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    [&rows[0], &rule].into_iter().chain(&rows[1..]).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["1".to_owned(), "long".to_owned()]];
        let text = table(&["first", "b"], rows.into_iter());
        assert_eq!(text, "| first | b    |\n| ----- | ---- |\n| 1     | long |\n");
    }
}
