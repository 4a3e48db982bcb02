//! What the person who watches is told, on stderr: coloured on a terminal, plain elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};

/// One step of the work, before it is done.
pub fn step(what: impl Display) {
    eprintln!("{} {what}", mark("1;36", "==>"));
}

/// A detail of the step.
pub fn note(what: impl Display) {
    eprintln!("    {what}");
}

/// The error that ends the task, with its causes.
pub fn error(error: &anyhow::Error) {
    eprintln!("{} {error:#}", mark("1;31", "error:"));
}

/// `text` in the colour of an ANSI code (SGR parameters) where it goes to a terminal, unless `NO_COLOR` is set.
pub fn paint(terminal: bool, code: &str, text: &str) -> String {
    let coloured = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn mark(code: &str, text: &str) -> String {
    paint(stderr().is_terminal(), code, text)
}
