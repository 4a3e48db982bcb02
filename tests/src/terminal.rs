//! A terminal of a given size on a host of the lab, by tmux: what a program shows there can be read, and keys pressed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{Host, output};
use crate::wait::until;

/// A terminal with a program in it; both end when this is dropped.
pub struct Terminal {
    host: Host,
    socket: PathBuf,
}

impl Terminal {
    /// Runs a command line of a shell in a terminal of this size.
    pub fn start(host: &Host, name: &str, (columns, lines): (u16, u16), command_line: &str) -> Result<Self> {
        let terminal = Self { host: host.clone(), socket: host.dir().join(format!("{name}.tmux")) };
        let mut start = terminal.tmux(&["new-session", "-d"]);
        start.args(["-x", &columns.to_string(), "-y", &lines.to_string(), command_line]);
        output(&mut start).context("cannot start tmux")?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("tmux");
        // Without anybody's settings, and with characters beyond ASCII.
        command
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// What is on the screen, without colours.
    pub fn screen(&self) -> Result<String> {
        output(&mut self.tmux(&["capture-pane", "-p"]))
    }

    /// The same, with the escape sequences of colours.
    pub fn coloured_screen(&self) -> Result<String> {
        output(&mut self.tmux(&["capture-pane", "-p", "-e"]))
    }

    /// Presses keys: names of tmux (`Enter`, `Down`, `C-c`), or characters.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        output(&mut self.tmux(&[&["send-keys"], keys].concat())).map(drop)
    }

    /// Waits until the screen has this text.
    pub fn see(&self, text: &str) -> Result<()> {
        let seen = until(&format!("{text:?} on the screen"), Duration::from_secs(40), || {
            Ok(self.screen()?.contains(text))
        });
        seen.map(drop).with_context(|| self.screen().unwrap_or_default())
    }

    /// Whether the program still runs.
    pub fn is_running(&self) -> bool {
        output(&mut self.tmux(&["has-session"])).is_ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its program may have ended, and the terminal with it.
        let _ = output(&mut self.tmux(&["kill-server"]));
    }
}
