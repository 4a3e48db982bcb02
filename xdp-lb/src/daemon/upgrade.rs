//! An upgrade: another binary takes over from this daemon, or this daemon goes on.
//!
//! The daemon starts the binary that is now at its own path. The two exchange lines over a socket:
//!
//! | successor | daemon | |
//! |---|---|---|
//! | `namespace` | | it requests the [namespace](crate::net::namespace) of health checks |
//! | | `namespace`, with a socket to a server in it; or `none: WHY` | |
//! | `checked` | | the config is valid, and the pins have its layout |
//! | `ready` | | its program is verified, and its own checks of the backends have ended; nothing has been changed yet |
//! | | `go`, with the lock on the state file | the daemon has released pins, sockets and netlink; forwarding goes on |
//! | `done` | | it has taken over, and answers requests |
//! | `alive` | | a second later it still answers requests, and so on |
//! | `over` | | it ends as it was told to |
//! | `failed: WHY` | | at any time: the daemon goes on, or takes everything back |
//!
//! Until `ready` the daemon works as usual. Only between `go` and `done` does no daemon own the tables, and that time is bounded.
//! Afterwards the daemon stays until it has received `alive` often enough. A successor that dies or is silent for too long has
//! failed, too. Then the daemon takes over again like a restart: the tables, and the links, in which it puts its own program.
//!
//! The lock on the state file moves as a copy of its descriptor. From `go` on, both hold it, so that nobody else gets it,
//! and it stays with the one that goes on.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::Interest;
use tokio::time::timeout;

use super::orphan::Orphan;
use crate::control::handle::Handle;
use crate::descriptor;
use crate::lock::Lock;
use crate::logging;
use crate::net::namespace::Namespace;

/// How long a successor may take until it sends `checked`.
const TO_CHECK: Duration = Duration::from_secs(30);

/// How long it may take from there until it sends `ready`.
const TO_BE_READY: Duration = Duration::from_secs(60);

/// How long the hand-over may take, while no daemon owns the tables.
const TO_TAKE_OVER: Duration = Duration::from_secs(10);

/// How often it sends `alive`.
const BEAT: Duration = Duration::from_secs(1);

/// How many of these the daemon needs before it ends.
const BEATS: u32 = 5;

/// How long it may be silent in between.
const SILENCE: Duration = Duration::from_secs(5);

const NAMESPACE: &str = "namespace";
const NONE: &str = "none: ";
const CHECKED: &str = "checked";
const READY: &str = "ready";
const GO: &str = "go";
const DONE: &str = "done";
const ALIVE: &str = "alive";
const OVER: &str = "over";
const FAILED: &str = "failed: ";

/// Maximum length of a line, in bytes.
const LONGEST: usize = 4096;

/// One end of the socket between the two.
#[derive(Debug)]
struct Wire {
    socket: UnixStream,
    /// Received bytes that were not consumed yet.
    heard: Vec<u8>,
}

impl Wire {
    fn new(socket: UnixStream) -> Self {
        Self { socket, heard: Vec::new() }
    }

    /// Sends a line, which fits into the socket's buffer.
    fn say(&mut self, line: &str) -> io::Result<()> {
        self.socket.write_all(format!("{line}\n").as_bytes())
    }

    /// The next line. `None` once the other end has closed. The socket must be nonblocking. Cancel safe.
    async fn hear(&mut self) -> io::Result<Option<String>> {
        let socket = tokio::net::UnixStream::from_std(self.socket.try_clone()?)?;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.heard.len() > LONGEST {
                return Err(io::Error::other("a line is too long"));
            }
            socket.readable().await?;
            match socket.try_read_buf(&mut self.heard) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The binary that takes over, as a process that the service manager adopts. It outlives the runtime in which it was started.
#[derive(Debug)]
pub(crate) struct Successor {
    process: Orphan,
    wire: Wire,
}

impl Successor {
    /// Starts the binary at this path with this config file.
    pub(crate) fn start(binary: &Path, config_file: &Path) -> Result<Self> {
        let (socket, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
        socket.set_nonblocking(true).context("cannot set up a socket")?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(config_file).arg("--take-over");
        logging::hand_on(&mut command);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = Orphan::start(command).context("it cannot be started")?;
        Ok(Self { process, wire: Wire::new(socket) })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it is ready to take over, without having changed anything. If it requests the namespace of health checks, it gets
    /// a server of its own there.
    ///
    /// # Errors
    /// If it found a problem, in its words.
    pub(crate) async fn ready(
        &mut self,
        binary: &Path,
        namespace: &Result<Arc<Namespace>, String>,
    ) -> Result<()> {
        if self.hear(&[NAMESPACE, CHECKED], TO_CHECK).await? == NAMESPACE {
            let heir = match namespace {
                Ok(namespace) => namespace.heir(binary).await.map_err(|error| format!("{error:#}")),
                Err(why) => Err(why.clone()),
            };
            let (line, heir) = match heir {
                Ok(heir) => (NAMESPACE.to_owned(), Some(heir)),
                Err(why) => (format!("{NONE}{}", in_one_line(&why)), None),
            };
            let heir = heir.as_ref().map(|heir| heir.as_fd());
            descriptor::send(self.wire.socket.as_fd(), format!("{line}\n").as_bytes(), heir)
                .context("it has ended")?;
            self.hear(&[CHECKED], TO_CHECK).await?;
        }
        self.hear(&[READY], TO_BE_READY).await.map(drop)
    }

    /// Hands over with this lock, and waits until it has taken over.
    ///
    /// # Errors
    /// If it does not, with the reason.
    pub(crate) async fn take_over(&mut self, lock: &Lock) -> Result<()> {
        descriptor::send(self.wire.socket.as_fd(), format!("{GO}\n").as_bytes(), Some(lock.as_fd()))
            .context("it has ended")?;
        self.hear(&[DONE], TO_TAKE_OVER).await.map(drop)
    }

    /// Waits until it has shown that it stays.
    ///
    /// # Errors
    /// If it does not, with the reason.
    pub(crate) async fn stay(&mut self) -> Result<()> {
        for _ in 0..BEATS {
            if self.hear(&[OVER, ALIVE], SILENCE).await? == OVER {
                break;
            }
        }
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn end(&self) {
        if let Err(error) = self.process.end() {
            tracing::warn!("cannot stop process {}: {error:#}", self.id());
        }
    }

    /// Sends it SIGTERM, as the service manager does.
    pub(crate) fn terminate(&self) {
        if let Err(error) = self.process.terminate() {
            tracing::warn!("cannot stop process {}: {error:#}", self.id());
        }
    }

    /// Its next line, which must be one of these.
    async fn hear(&mut self, wanted: &[&str], within: Duration) -> Result<String> {
        // The reason, unless it sends another line first.
        let last = wanted.last().copied().unwrap_or_default();
        match timeout(within, self.wire.hear()).await {
            Err(_) => bail!("it did not report {last:?} within {within:?}"),
            Ok(Ok(Some(line))) if wanted.contains(&line.as_str()) => Ok(line),
            Ok(Ok(Some(line))) => match line.strip_prefix(FAILED) {
                Some(why) => bail!("{why}"),
                None => bail!("it reported {line:?} instead of {last:?}: is it xdp-lb?"),
            },
            Ok(Ok(None)) => bail!("it exited before it reported {last:?}: see the log"),
            Ok(Err(error)) => Err(error).context("cannot read from it"),
        }
    }
}

/// The former daemon, on this process's stdin.
#[derive(Debug)]
pub(crate) struct Predecessor(Wire);

impl Predecessor {
    pub(crate) fn on_stdin() -> Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
        Ok(Self(Wire::new(socket.into())))
    }

    /// A socket to a server of this build in the daemon's namespace of health checks.
    ///
    /// # Errors
    /// If there is none, with the reason.
    pub(crate) fn namespace(&mut self) -> Result<OwnedFd> {
        let gone = "the previous daemon did not hand over its network namespace for health checks";
        self.0.say(NAMESPACE).context(gone)?;
        let (line, socket) = descriptor::receive(self.0.socket.as_fd(), LONGEST).context(gone)?;
        socket.with_context(|| {
            let line = String::from_utf8_lossy(&line);
            format!("{gone}: {}", line.trim_end().trim_start_matches(NONE))
        })
    }

    /// Sends that the config is valid and the pins have this layout. From here on the socket is nonblocking.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub(crate) fn checked(&mut self) -> Result<()> {
        self.0.say(CHECKED).context(GONE)?;
        self.0.socket.set_nonblocking(true).context("cannot set up a socket")
    }

    /// Sends that this daemon is ready.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.0.say(READY).context(GONE)
    }

    /// Waits until the daemon has released everything, and returns its lock on the state file. A daemon of an earlier release hands
    /// over none: it releases everything once this one is `checked`, and ends once it is `ready`. Cancel safe.
    ///
    /// # Errors
    /// If it goes on instead.
    pub(crate) async fn go(&mut self) -> Result<Option<OwnedFd>> {
        let socket =
            tokio::net::UnixStream::from_std(self.0.socket.try_clone().context(GONE)?).context(GONE)?;
        loop {
            socket.readable().await.context(GONE)?;
            let received = socket.try_io(Interest::READABLE, || descriptor::receive(socket.as_fd(), LONGEST));
            match received {
                Ok((line, lock)) if line == format!("{GO}\n").as_bytes() => return Ok(lock),
                Ok(_) => bail!(GONE),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context(GONE),
            }
        }
    }

    /// Sends that this daemon has taken over, and then that it is alive, as long as its owner task answers. Returns when the other
    /// daemon has ended.
    pub(crate) async fn watch(&mut self, handle: &Handle) {
        // If it is gone, nobody needs to know.
        let mut is_there = self.0.say(DONE).is_ok();
        while is_there {
            is_there = match timeout(BEAT, self.0.hear()).await {
                Err(_) => handle.is_pending().await.is_ok() && self.0.say(ALIVE).is_ok(),
                Ok(heard) => heard.is_ok_and(|line| line.is_some()),
            };
        }
    }

    /// Sends that this daemon ends on purpose, and needs no replacement.
    pub(crate) fn over(mut self) {
        let _ = self.0.say(OVER);
    }

    /// Sends that this daemon cannot take over.
    pub(crate) fn failed(&mut self, why: &anyhow::Error) {
        let _ = self.0.say(&format!("{FAILED}{}", in_one_line(&format!("{why:#}"))));
    }
}

const GONE: &str = "the previous daemon did not hand over";

fn in_one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

/// The path of this process's binary, where another may be installed later.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own executable")
}
