//! The daemon under test, whoever of its successors that is now.

use std::fs;
use std::path::PathBuf;
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::kind::Kind;
use crate::daemon::Daemon;
use crate::host::{Host, output};
use crate::{other_build, paths, wait};

/// How long a daemon may take to end, and one that has handed over to go.
const GONE: Duration = Duration::from_secs(30);

/// The daemon on its host.
pub struct Balancer {
    daemon: Daemon,
    /// Where its binary lies, so that another can be put there.
    program: PathBuf,
    /// Whether that is the other build.
    is_other: bool,
    pid: Pid,
    /// The one before, which watches its successor for some seconds.
    before: Option<Pid>,
}

impl Balancer {
    /// Starts it.
    pub fn start(host: &Host, interfaces: &[&str], config: &str) -> Result<Self> {
        let program = host.dir().join("xdp-lb");
        put_first_build(&program)?;
        let daemon = Daemon::start_program(program.clone(), host, interfaces, config)?;
        let pid = pid(&daemon)?;
        Ok(Self { daemon, program, is_other: false, pid, before: None })
    }

    /// The daemon: its files, and its command line.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its log's last lines.
    pub fn log_tail(&self) -> String {
        let log = self.daemon.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Waits until the one before has gone: where its successor dies or hangs sooner, it takes everything back.
    pub fn wait_until_alone(&mut self) -> Result<()> {
        self.before.take().map_or(Ok(()), wait_until_gone)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.wait_until_alone()?;
        kill(self.pid, Signal::SIGKILL).context("cannot kill the daemon")?;
        wait_until_gone(self.pid)
    }

    /// Starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon.run()?;
        self.pid = pid(&self.daemon)?;
        Ok(())
    }

    /// Stops it for a time, as if it hung, and lets it go on.
    pub fn hang(&mut self, time: Duration) -> Result<()> {
        self.wait_until_alone()?;
        kill(self.pid, Signal::SIGSTOP).context("cannot stop the daemon")?;
        sleep(time);
        kill(self.pid, Signal::SIGCONT).context("cannot continue the daemon")
    }

    /// Has the other build take over, with something done meanwhile.
    pub fn upgrade(&mut self, meanwhile: impl FnOnce(&Daemon)) -> Result<()> {
        self.wait_until_alone()?;
        if self.is_other {
            put_first_build(&self.program)?;
        } else {
            other_build::write(&self.program)?;
        }
        let daemon = &self.daemon;
        thread::scope(|scope| {
            let upgrade = scope.spawn(|| daemon.cli(&["upgrade"]));
            meanwhile(daemon);
            upgrade.join().map_err(|_| anyhow!("the upgrade's thread panicked"))?
        })?;
        self.is_other = !self.is_other;
        let before = std::mem::replace(&mut self.pid, pid(&self.daemon)?);
        anyhow::ensure!(before != self.pid, "the upgrade succeeded, and the daemon is the same");
        self.before = Some(before);
        Ok(())
    }

    /// Sends a request to the API with curl, past the command line.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut command = self.daemon.host().command("curl");
        command.arg("--unix-socket").arg(self.daemon.socket());
        command.args(["-sSg", "--fail-with-body", "--max-time", "30", "-X", method]);
        if !body.is_empty() {
            command.args(["-d", body]);
        }
        output(command.arg(format!("http://localhost/v1/{path}")))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // A successor is not a child of this process; one that is stopped ends, too.
        let _ = self.wait_until_alone();
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = wait_until_gone(self.pid);
    }
}

/// The path of a backend in the API.
pub fn path(kind: Kind, backend: usize) -> String {
    format!("services/{kind}/backends/{}", kind.backend(backend))
}

/// Written beside and renamed, as an installer does: a binary that runs cannot be written to.
fn put_first_build(program: &PathBuf) -> Result<()> {
    let new = program.with_extension("new");
    fs::copy(paths::daemon(), &new).context("there is no daemon: run `cargo xtask build`")?;
    fs::rename(&new, program).context("cannot put the daemon's binary in its place")
}

fn pid(daemon: &Daemon) -> Result<Pid> {
    let status = daemon.cli_json(&["status"])?;
    let pid = status["pid"].as_i64().context("the status has no pid")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

/// Waits until a process has ended: whether anybody has waited for it is another matter.
fn wait_until_gone(pid: Pid) -> Result<()> {
    wait::until(&format!("process {pid} to end"), GONE, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state is behind the name, which is in parentheses (proc_pid_stat(5)). The first thread may be a zombie while others
        // still hold its files, the lock on the state file among them.
        let is_over = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        Ok(is_over && threads <= 1)
    })
    .map(drop)
}
