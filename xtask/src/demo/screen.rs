//! What the person who watches sees, on stdout: coloured on a terminal, plain elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, stdout};

use crate::say;

/// A chapter of the story.
pub fn chapter(number: u32, title: &str) {
    println!("\n{}", paint("1;36", &format!("{number}. {title}")));
}

/// Tells what is about to happen, or what it means.
pub fn tell(text: impl Display) {
    println!("   {text}");
}

/// Something that was typed.
pub fn typed(command: &str) {
    println!("   {}", paint("1", &format!("$ {command}")));
}

/// What a program printed.
pub fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("   {}", paint("2", &format!("| {line}")));
    }
}

/// How often each name answered, as bars.
pub fn bars(rows: &[(String, usize)]) {
    let total: usize = rows.iter().map(|(_, count)| count).sum();
    for (name, count) in rows {
        let percent = 100 * count / total.max(1);
        println!("   {name:<10} {count:>4}  {} {percent} %", paint("32", &"#".repeat(percent / 2)));
    }
}

/// Checks and how they went.
#[derive(Default)]
pub struct Summary {
    rows: Vec<(String, String, bool)>,
}

impl Summary {
    /// Notes, and tells, whether a check passed, and what was seen.
    pub fn check(&mut self, what: &str, seen: impl Display, passed: bool) {
        println!("   {} {what}: {seen}", mark(passed));
        self.rows.push((what.to_owned(), seen.to_string(), passed));
    }

    /// Whether there were checks and all passed.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|(_, _, passed)| *passed)
    }

    /// Prints the table.
    pub fn print(&self) {
        let column = |cells: &mut dyn Iterator<Item = &String>| cells.map(|cell| cell.chars().count()).max();
        let first = column(&mut self.rows.iter().map(|(what, _, _)| what)).unwrap_or(0).max("check".len());
        let second = column(&mut self.rows.iter().map(|(_, seen, _)| seen)).unwrap_or(0).max("seen".len());
        println!("\n{}", paint("1", &format!("{:<first$}  {:<second$}  result", "check", "seen")));
        println!("{}  {}  ------", "-".repeat(first), "-".repeat(second));
        for (what, seen, passed) in &self.rows {
            println!("{what:<first$}  {seen:<second$}  {}", mark(*passed));
        }
    }
}

fn mark(passed: bool) -> String {
    if passed { paint("1;32", "ok") } else { paint("1;31", "FAILED") }
}

fn paint(code: &str, text: &str) -> String {
    say::paint(stdout().is_terminal(), code, text)
}
