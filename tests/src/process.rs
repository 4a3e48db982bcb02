//! A process that runs in the background and ends with its handle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until_some;

/// A process in the background, killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the command, with stdout and stderr appended to the log.
    pub fn start(name: String, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let second = file.try_clone().context("cannot share the log")?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(second).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start {name}"))?, name, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, stdout and stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it writes to.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Its exit status, once it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a process id fits an i32")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits for that, at most half a minute.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let waited_for = format!("{} to end after SIGTERM", self.name);
        until_some(&waited_for, Duration::from_secs(30), || self.exited())
    }

    /// Kills it (SIGKILL), which it cannot notice, and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let waited_for = format!("{} to end", self.name);
        until_some(&waited_for, deadline, || self.exited())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is not a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
