//! A host: a network namespace, and what runs in it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::Lab;
use crate::process::Process;

/// A host of a lab. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    name: String,
    lab: Lab,
    namespace: Arc<OwnedFd>,
}

impl Host {
    pub(crate) fn new(lab: &Lab, name: &str) -> Result<Self> {
        let namespace =
            new_namespace().with_context(|| format!("cannot make a network namespace for {name}"))?;
        let host = Self { name: name.to_owned(), lab: lab.clone(), namespace: Arc::new(namespace) };
        fs::create_dir_all(host.dir()).with_context(|| format!("cannot make {}", host.dir().display()))?;
        host.run("ip link set lo up")?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab that it belongs to.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where its processes write.
    pub fn dir(&self) -> PathBuf {
        self.lab.dir().join(&self.name)
    }

    /// A path by which this process's children can name the namespace.
    pub fn namespace_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// A command that will run on this host. It shares all but the network with its caller.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = Arc::clone(&self.namespace);
        // SAFETY: between fork and exec the closure makes one system call, setns, on a descriptor that it keeps open.
        unsafe {
            command.pre_exec(move || Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        command
    }

    /// Runs a command line (split at white space; no quoting) to its end, and returns what it prints. An error carries
    /// what it said on stderr.
    pub fn run(&self, command_line: &str) -> Result<String> {
        let mut words = command_line.split_whitespace();
        let program = words.next().context("the command line is empty")?;
        output(self.command(program).args(words)).with_context(|| format!("on {}", self.name))
    }

    /// Starts a program that runs until the handle is dropped, and logs to `NAME.log` in the host's folder.
    pub fn spawn(&self, name: &str, program: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command(program);
        command.args(arguments);
        self.spawn_command(name, command)
    }

    /// Like [`Host::spawn`], for a command that [`Host::command`] made.
    pub fn spawn_command(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(format!("{} on {}", name, self.name), command, self.dir().join(format!("{name}.log")))
    }

    /// Runs a closure on this host, in a thread of its own: a socket that it opens stays on this host, whoever uses
    /// it afterwards.
    pub fn enter<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the namespace of {}", self.name))?;
                Ok(run())
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a network sysctl, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        self.enter(|| fs::write(&file, value))?
            .with_context(|| format!("cannot write {file} on {}", self.name))
    }
}

/// Makes a network namespace, in a thread that ends in it.
fn new_namespace() -> Result<OwnedFd> {
    let made = thread::spawn(|| -> Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    made.join().map_err(|_| anyhow!("the thread panicked"))?
}

/// Runs a command to its end and returns what it prints on stdout; an error carries its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
