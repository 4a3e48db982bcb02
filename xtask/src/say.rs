//! What the person who watches is told, on stderr: coloured on a terminal, plain elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};

/// One step of the work, before it is done.
pub fn step(what: impl Display) {
    eprintln!("{} {what}", paint("1;36", "==>"));
}

/// A detail of the step.
pub fn note(what: impl Display) {
    eprintln!("    {what}");
}

/// The error that ends the task, with its causes.
pub fn error(error: &anyhow::Error) {
    eprintln!("{} {error:#}", paint("1;31", "error:"));
}

/// `text` in the colour of an ANSI code (SGR parameters), where stderr is a terminal that wants it.
pub fn paint(code: &str, text: &str) -> String {
    let plain =
        !stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}
