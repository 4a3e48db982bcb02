//! An upgrade: another binary takes over from this daemon, or this daemon goes on.
//!
//! The daemon starts the binary that lies at its own path now. The two talk over a socket, a line each:
//!
//! | successor | daemon | |
//! |---|---|---|
//! | `namespace` | | it asks for the [namespace](crate::net::namespace) of health checks |
//! | | `namespace`, with a socket to somebody in it; or `none: WHY` | |
//! | `checked` | | the config is valid, and the pins are of its layout |
//! | `ready` | | its program is verified, and its own checks of the backends have ended: nothing was touched yet |
//! | | `go`, with the lock on the state file | the daemon has let go of pins, sockets and netlink; forwarding goes on |
//! | `done` | | it has taken over, and answers |
//! | `alive` | | a second later it still answers, and so on |
//! | `over` | | it ends as it was told to |
//! | `failed: WHY` | | at any time: the daemon goes on, or takes everything back |
//!
//! Until `ready` the daemon works as ever; nobody works with the tables between `go` and `done` alone, which is bounded. Then
//! the daemon stays until it has heard `alive` often enough. A successor that dies, or is silent for too long, has failed, too.
//! What is taken back is what a restart takes over: the tables, and the links, into which the daemon puts its own program again.
//!
//! The lock on the state file moves as a copy of its descriptor. From `go` on, both hold it, so that nobody else gets it,
//! and it stays with the one that lives on.

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

/// How long a successor may take until it has checked what it can.
const TO_CHECK: Duration = Duration::from_secs(30);

/// How long it may take from there until it is ready.
const TO_BE_READY: Duration = Duration::from_secs(60);

/// How long the hand-over may take, while nobody works with the tables.
const TO_TAKE_OVER: Duration = Duration::from_secs(10);

/// How often it says that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// How often it has to say so before the daemon ends.
const BEATS: u32 = 5;

/// How long it may be silent meanwhile.
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

/// The longest line, bytes.
const LONGEST: usize = 4096;

/// One end of the socket between the two.
#[derive(Debug)]
struct Wire {
    socket: UnixStream,
    /// What has come and was not read yet.
    heard: Vec<u8>,
}

impl Wire {
    fn new(socket: UnixStream) -> Self {
        Self { socket, heard: Vec::new() }
    }

    /// Says a line, which fits into the socket's buffer.
    fn say(&mut self, line: &str) -> io::Result<()> {
        self.socket.write_all(format!("{line}\n").as_bytes())
    }

    /// The next line; `None` where nobody is at the other end any more. The socket must not block. Cancel safe.
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

/// The binary that is to take over: a process that the service manager takes for one of its own. It outlives the runtime that it was started in.
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

    /// Waits until it is ready to take over, without having touched anything. Where it asks for the namespace of health
    /// checks, it gets somebody of its own in there.
    ///
    /// # Errors
    /// Where it found something, in its words.
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

    /// Hands over, with this lock, and waits until it has taken over.
    ///
    /// # Errors
    /// Where it does not, with why.
    pub(crate) async fn take_over(&mut self, lock: &Lock) -> Result<()> {
        descriptor::send(self.wire.socket.as_fd(), format!("{GO}\n").as_bytes(), Some(lock.as_fd()))
            .context("it has ended")?;
        self.hear(&[DONE], TO_TAKE_OVER).await.map(drop)
    }

    /// Waits until it has shown that it stays.
    ///
    /// # Errors
    /// Where it does not, with why.
    pub(crate) async fn stay(&mut self) -> Result<()> {
        for _ in 0..BEATS {
            if self.hear(&[OVER, ALIVE], SILENCE).await? == OVER {
                break;
            }
        }
        Ok(())
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn end(&self) {
        if let Err(error) = self.process.end() {
            tracing::warn!("cannot stop process {}: {error:#}", self.id());
        }
    }

    /// Asks it to end, as the service manager does.
    pub(crate) fn terminate(&self) {
        if let Err(error) = self.process.terminate() {
            tracing::warn!("cannot stop process {}: {error:#}", self.id());
        }
    }

    /// Its next line, which has to be one of these.
    async fn hear(&mut self, wanted: &[&str], within: Duration) -> Result<String> {
        // What it says at last, unless it says something else first.
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

/// The daemon that is taken over from, on this process's stdin.
#[derive(Debug)]
pub(crate) struct Predecessor(Wire);

impl Predecessor {
    pub(crate) fn on_stdin() -> Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
        Ok(Self(Wire::new(socket.into())))
    }

    /// A socket to somebody of this build in the daemon's namespace of health checks.
    ///
    /// # Errors
    /// Where there is nobody, with why.
    pub(crate) fn namespace(&mut self) -> Result<OwnedFd> {
        let gone = "the previous daemon did not hand over its network namespace for health checks";
        self.0.say(NAMESPACE).context(gone)?;
        let (line, socket) = descriptor::receive(self.0.socket.as_fd(), LONGEST).context(gone)?;
        socket.with_context(|| {
            let line = String::from_utf8_lossy(&line);
            format!("{gone}: {}", line.trim_end().trim_start_matches(NONE))
        })
    }

    /// Says that the config is valid and the pins are of this layout. From here on its socket does not block.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub(crate) fn checked(&mut self) -> Result<()> {
        self.0.say(CHECKED).context(GONE)?;
        self.0.socket.set_nonblocking(true).context("cannot set up a socket")
    }

    /// Says that all is well so far.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.0.say(READY).context(GONE)
    }

    /// Waits until the daemon has let go of everything; returns its lock on the state file. A daemon of an earlier release hands over
    /// none: it lets go once this one is `checked`, and ends once it is `ready`. Cancel safe.
    ///
    /// # Errors
    /// Where it goes on instead.
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

    /// Says that this daemon has taken over, and then, for as long as its owner task answers, that it is alive. Returns when
    /// the other one has ended, which trusts in this one then.
    pub(crate) async fn watch(&mut self, handle: &Handle) {
        // Where it has gone there is nobody to tell.
        let mut is_there = self.0.say(DONE).is_ok();
        while is_there {
            is_there = match timeout(BEAT, self.0.hear()).await {
                Err(_) => handle.is_pending().await.is_ok() && self.0.say(ALIVE).is_ok(),
                Ok(heard) => heard.is_ok_and(|line| line.is_some()),
            };
        }
    }

    /// Says that this daemon ends as it was told to, and need not be replaced.
    pub(crate) fn over(mut self) {
        let _ = self.0.say(OVER);
    }

    /// Says that this daemon cannot take over.
    pub(crate) fn failed(&mut self, why: &anyhow::Error) {
        let _ = self.0.say(&format!("{FAILED}{}", in_one_line(&format!("{why:#}"))));
    }
}

const GONE: &str = "the previous daemon did not hand over";

fn in_one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

/// Where this process's binary lies: where another may lie later.
///
/// # Errors
/// Where the kernel does not tell.
pub(crate) fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own executable")
}
