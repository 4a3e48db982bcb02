//! An upgrade: another binary takes over from this daemon, or this daemon goes on.
//!
//! The daemon starts the binary that lies at its own path now. The two talk over a socket, a line each:
//!
//! | successor | daemon | |
//! |---|---|---|
//! | `namespace` | | it asks for the [namespace](crate::net::namespace) of health checks |
//! | | `namespace`, with a socket to somebody in it; or `none: WHY` | |
//! | `checked` | | the config is valid, and the pins are of its layout; nothing was touched yet |
//! | | `go`, with the lock on the state file | the daemon has let go of pins, sockets and netlink; forwarding goes on |
//! | `ready` | | it has taken over, and its first health checks have ended: the daemon exits |
//! | `failed: WHY` | | at any time: the daemon goes on, or takes everything back |
//!
//! A successor that dies, or takes too long, has failed, too. What is taken back is what a restart takes over: the
//! tables, and the links, into which the daemon puts its own program again.
//!
//! The lock on the state file moves as a copy of its descriptor. From `go` on, both hold it, so that nobody else gets it,
//! and it stays with the one that lives on. A daemon without such a lock sends `go` alone, and its successor takes the
//! lock itself; a successor that does not know of it leaves the descriptor unread, and the kernel closes it.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::handle::{Answer, Refusal};
use super::orphan::Orphan;
use crate::api::types::{Outcome, UpgradeState, UpgradeView};
use crate::descriptor;
use crate::lock::Lock;
use crate::net::namespace::Namespace;

/// How long a successor may take until it has checked what it can.
const TO_CHECK: Duration = Duration::from_secs(30);

/// How long it may take from there until it is ready.
const TO_BE_READY: Duration = Duration::from_secs(90);

/// The longest line that a daemon sends its successor, in bytes.
const LONGEST: usize = 4096;

const NAMESPACE: &str = "namespace";
const NONE: &str = "none: ";
const CHECKED: &str = "checked";
const GO: &str = "go";
const READY: &str = "ready";
const FAILED: &str = "failed: ";

/// How the owner task asks for an upgrade, and what became of it.
#[derive(Clone, Debug)]
pub struct Upgrades {
    wanted: mpsc::Sender<()>,
    state: Arc<watch::Sender<Option<UpgradeView>>>,
}

impl Upgrades {
    /// With the receiver of what is asked for.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (wanted, asked) = mpsc::channel(1);
        (Self { wanted, state: Arc::new(watch::channel(None).0) }, asked)
    }

    /// Asks for an upgrade.
    pub(super) fn begin(&self) -> Answer<Outcome> {
        if self.wanted.try_send(()).is_err() {
            return Err(Refusal::Conflict("an upgrade is under way already".into()));
        }
        self.note(UpgradeState::UnderWay, "the new binary is started".into());
        let message = "the binary at the daemon's path is started: it takes over once it has checked everything, and \
                       the daemon goes on where it does not become ready (xdp-lb status)";
        Ok(Outcome { message: message.into(), changed: true, trouble: None })
    }

    /// What became of the last upgrade.
    pub(super) fn view(&self) -> Option<UpgradeView> {
        self.state.borrow().clone()
    }

    pub(super) fn note(&self, state: UpgradeState, message: String) {
        self.state.send_replace(Some(UpgradeView { state, message }));
    }
}

/// The binary that is to take over: a process that the service manager takes for one of its own. It outlives the runtime that it was started in.
#[derive(Debug)]
pub(super) struct Successor {
    process: Orphan,
    socket: UnixStream,
}

impl Successor {
    /// Starts the binary at this path with this config file.
    pub(super) fn start(binary: &Path, config_file: &Path) -> Result<Self> {
        let (socket, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        socket.set_nonblocking(true).context("cannot set up a socket")?;
        let mut command = Command::new(binary);
        command.arg("run").arg("--config").arg(config_file).arg("--take-over");
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = Orphan::start(command).with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { process, socket })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has checked what it can without touching anything. Where it asks for the namespace of health checks,
    /// it gets somebody of its own in there.
    ///
    /// # Errors
    /// Where it found something, in its words.
    pub(super) async fn checked(
        &self,
        binary: &Path,
        namespace: &Result<Arc<Namespace>, String>,
    ) -> Result<()> {
        if self.hear(&[NAMESPACE, CHECKED], TO_CHECK).await? == CHECKED {
            return Ok(());
        }
        let heir = match namespace {
            Ok(namespace) => namespace.heir(binary).await.map_err(|error| format!("{error:#}")),
            Err(why) => Err(why.clone()),
        };
        let (line, heir) = match heir {
            Ok(heir) => (NAMESPACE.to_owned(), Some(heir)),
            Err(why) => (format!("{NONE}{}", in_one_line(&why)), None),
        };
        let heir = heir.as_ref().map(|heir| heir.as_fd());
        descriptor::send(self.socket.as_fd(), format!("{line}\n").as_bytes(), heir)
            .context("it has ended")?;
        self.hear(&[CHECKED], TO_CHECK).await.map(drop)
    }

    /// Hands over, with this lock, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become so, with why.
    pub(super) async fn take_over(&mut self, lock: &Lock) -> Result<()> {
        descriptor::send(self.socket.as_fd(), format!("{GO}\n").as_bytes(), Some(lock.as_fd()))
            .context("it has ended")?;
        self.hear(&[READY], TO_BE_READY).await.map(drop)
    }

    /// Ends it, and waits until it is gone.
    pub(super) fn end(&self) {
        if let Err(error) = self.process.end() {
            tracing::warn!("cannot end the process {}: {error:#}", self.id());
        }
    }

    /// Its next line, which has to be one of these.
    async fn hear(&self, wanted: &[&str], within: Duration) -> Result<String> {
        // What it says at last, unless it asks for something first.
        let last = wanted.last().copied().unwrap_or_default();
        let socket = tokio::net::UnixStream::from_std(self.socket.try_clone()?)?;
        let mut lines = BufReader::new(socket).lines();
        match timeout(within, lines.next_line()).await {
            Err(_) => bail!("it has not said {last:?} within {within:?}"),
            Ok(Ok(Some(line))) if wanted.contains(&line.as_str()) => Ok(line),
            Ok(Ok(Some(line))) => match line.strip_prefix(FAILED) {
                Some(why) => bail!("{why}"),
                None => bail!("it says {line:?}, and should say {last:?}: is it xdp-lb?"),
            },
            Ok(Ok(None)) => bail!("it has ended before it said {last:?}: see the log"),
            Ok(Err(error)) => Err(error).context("it cannot be heard"),
        }
    }
}

/// The daemon that is taken over from, on this process's stdin.
#[derive(Debug)]
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    pub(super) fn on_stdin() -> Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
        Ok(Self(socket.into()))
    }

    /// A socket to somebody of this build in the daemon's namespace of health checks.
    ///
    /// # Errors
    /// Where there is nobody, with why.
    pub(super) fn namespace(&mut self) -> Result<OwnedFd> {
        let gone = "the daemon that is taken over from does not give its namespace of health checks away";
        writeln!(self.0, "{NAMESPACE}").context(gone)?;
        let (line, socket) = descriptor::receive(self.0.as_fd(), LONGEST).context(gone)?;
        socket.with_context(|| {
            let line = String::from_utf8_lossy(&line);
            format!("{gone}: {}", line.trim_end().trim_start_matches(NONE))
        })
    }

    /// Says that all is well so far, and waits until the pins and sockets are free. Returns the lock on the state file
    /// of a daemon that has one.
    ///
    /// # Errors
    /// Where the daemon goes on instead.
    pub(super) fn hand_over(&mut self) -> Result<Option<OwnedFd>> {
        let gone = "the daemon that was to hand over has not done so";
        writeln!(self.0, "{CHECKED}").context(gone)?;
        let (line, lock) = descriptor::receive(self.0.as_fd(), LONGEST).context(gone)?;
        if line == format!("{GO}\n").as_bytes() { Ok(lock) } else { bail!(gone) }
    }

    /// Says that it may go. Where it has gone already there is nobody to tell.
    pub(super) fn ready(mut self) {
        let _ = writeln!(self.0, "{READY}");
    }

    /// Says that this daemon cannot take over.
    pub(super) fn failed(&mut self, why: &anyhow::Error) {
        let _ = writeln!(self.0, "{FAILED}{}", in_one_line(&format!("{why:#}")));
    }
}

fn in_one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

/// Where this process's binary lies: where another may lie later.
///
/// # Errors
/// Where the kernel does not tell.
pub(super) fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}
