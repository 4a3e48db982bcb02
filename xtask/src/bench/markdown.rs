//! A report as Markdown that reads well on a terminal, too.

use std::fmt::Write as _;

use xdp_lb_tests::report::{Machine, Report, Table};

/// The whole page.
pub fn render(report: &Report, quick: bool) -> String {
    let Machine { cpu, cpus, memory, kernel, commit } = &report.machine;
    let mut page = format!(
        "## {}\n\nCommit {commit}, Linux {kernel}, {cpus} x {cpu}, {memory} GiB of memory.\n",
        report.title
    );
    if quick {
        page += "A quick run: few samples, not to be quoted.\n";
    }
    for table in &report.tables {
        let _ = write!(page, "\n### {}\n\n", table.title);
        if !table.note.is_empty() {
            let _ = write!(page, "{}\n\n", table.note);
        }
        page += &render_table(table);
    }
    page
}

fn render_table(table: &Table) -> String {
    let widths: Vec<_> = (0..table.columns.len())
        .map(|column| {
            let cells = table.rows.iter().filter_map(|row| row.get(column)).chain([&table.columns[column]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", padded.collect::<String>())
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    format!("{}{}{rows}", line(&table.columns), line(&rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_says_what_it_is() {
        let mut report = Report::new("What a packet costs", "abc");
        let mut table = Table::new("Paths", "In nanoseconds.", &["path", "ns"]);
        table.row(["nat", "41"]);
        table.row(["full-nat, größer", "7"]);
        report.tables.push(table);
        let page = render(&report, true);
        let expected = "\n### Paths\n\nIn nanoseconds.\n\n\
            | path             | ns  |\n\
            | ---------------- | --- |\n\
            | nat              | 41  |\n\
            | full-nat, größer | 7   |\n";
        assert!(page.ends_with(expected), "{page}");
        assert!(page.starts_with("## What a packet costs\n\nCommit abc, Linux "), "{page}");
        assert!(page.contains("not to be quoted") && !render(&report, false).contains("not to be quoted"));
    }
}
