//! Asking for confirmation before flows are ended, on a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::report::documents::RemovalQuery;

/// How a service or backend is removed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Removal {
    /// Remove it at once and end its flows, instead of draining it for up to `drain_timeout`
    #[arg(long)]
    pub(super) now: bool,
    /// Do not ask for confirmation; without a terminal on stdin and stderr, it is never asked for
    #[arg(long, requires = "now")]
    pub(super) yes: bool,
}

impl Removal {
    pub(super) const fn query(self) -> RemovalQuery {
        RemovalQuery { now: self.now }
    }

    /// Whether to ask first.
    pub(super) fn asks(self) -> bool {
        self.now && !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

/// Asks for confirmation on the terminal.
///
/// # Errors
/// If the answer is not yes.
pub(super) fn ask(what: &str) -> anyhow::Result<()> {
    eprint!("{what}\nContinue? [y/N] ");
    io::stderr().flush().context("cannot write the question to the terminal")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
