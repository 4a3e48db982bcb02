//! The daemon's own network namespace for health checks of VIPs. It has none of the VIPs as addresses. So a connection from there
//! to a VIP leaves like a client's, even if the VIP is an address of this host, and the replies are not martians.
//!
//! Entering it takes `CAP_SYS_ADMIN`, which the daemon does not keep. So a server stays inside, and opens the sockets that are
//! requested over a Unix socket. It is a thread of the daemon that made the namespace. After an upgrade it is a process, the heir,
//! which the former server starts from the new binary. The namespace has no name: it ends with the last server inside, and the veth
//! pair that leads out of it ends with it. A server ends when its daemon does.

mod inside;
mod order;

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::{io, process, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use order::{Answer, Order};
use socket2::{Socket, Type};
use tokio::sync::oneshot;

use super::kernel::connect;

/// The handle to the server inside. The server ends when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    requests: mpsc::Sender<Request>,
}

/// A request with its descriptor, and where the reply goes.
struct Request(Order, Option<OwnedFd>, oneshot::Sender<Result<Option<OwnedFd>>>);

impl Namespace {
    /// Creates it, empty. Each of its threads calls `confine` once it no longer needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or if `confine` fails.
    pub fn start(confine: fn() -> Result<()>) -> Result<Self> {
        let (socket, theirs) = order::pair()?;
        let enter = move || {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
            confine()
        };
        let serve = move || {
            if let Err(error) = inside::serve(&theirs) {
                tracing::error!("cannot use the network namespace for health checks: {error:#}");
            }
        };
        start_thread("checks", enter, serve)?;
        Self::behind(socket, confine)
    }

    /// The namespace of the former daemon, whose heir is at the other end of this socket.
    ///
    /// # Errors
    /// If there is no heir, or it is of another build, or if `confine` fails.
    pub fn inherit(socket: OwnedFd, confine: fn() -> Result<()>) -> Result<Self> {
        exchange(&socket, &Order::Build(build()), None)?;
        Self::behind(socket, confine)
    }

    fn behind(socket: OwnedFd, confine: fn() -> Result<()>) -> Result<Self> {
        let (requests, received) = mpsc::channel();
        // A thread of its own, since it waits for each reply.
        let relay = move || {
            for Request(order, descriptor, answer) in received {
                // The caller may have gone.
                let _ = answer.send(exchange(&socket, &order, descriptor));
            }
        };
        start_thread("checks-relay", confine, relay)?;
        Ok(Self { requests })
    }

    /// Makes the veth pair that leads into it from the calling thread's namespace, and replaces a former daemon's. Returns the index
    /// of its outer end.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn open(&self) -> Result<u32> {
        let name = format!("xdp-lb-{}", process::id());
        let home = File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")?;
        self.ask(Order::Open { name: name.clone() }, Some(home.into())).await?;
        let ifindex = if_nametoindex(name.as_str()).with_context(|| format!("cannot find {name}"))?;
        let (kernel, _connection) = connect()?;
        kernel.bring_up(ifindex).await.with_context(|| format!("cannot bring {name} up"))?;
        Ok(ifindex)
    }

    /// A nonblocking socket in it that can be bound to this address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn socket(&self, kind: Type, source: IpAddr) -> Result<Socket> {
        let made = self.ask(Order::Socket { is_stream: kind == Type::STREAM, source }, None).await?;
        Ok(made.context("the response carries no socket")?.into())
    }

    /// Starts an heir inside: this program, the daemon's of another build. Returns the socket for requests to it, which
    /// [`Namespace::inherit`] takes.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn heir(&self, program: &Path) -> Result<OwnedFd> {
        let (socket, theirs) = order::pair()?;
        self.ask(Order::Heir { program: program.to_owned() }, Some(theirs)).await?;
        Ok(socket)
    }

    async fn ask(&self, order: Order, descriptor: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request(order, descriptor, answer));
        answered.await.context("the thread for the health checks' network namespace has ended")?
    }
}

/// Starts a thread, and waits until its first part is done.
fn start_thread(
    name: &str,
    begin: impl FnOnce() -> Result<()> + Send + 'static,
    go_on: impl FnOnce() + Send + 'static,
) -> Result<()> {
    let (begun, has_begun) = mpsc::channel();
    let run = move || {
        let result = begin();
        let is_well = result.is_ok();
        let _ = begun.send(result);
        if is_well {
            go_on();
        }
    };
    thread::Builder::new().name(name.into()).spawn(run).context("cannot start a thread")?;
    has_begun.recv().with_context(|| format!("the thread {name} has ended"))?
}

fn exchange(socket: &OwnedFd, order: &Order, descriptor: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    const GONE: &str = "the process in the health checks' network namespace has exited: restart the daemon";
    order::send(socket, order, descriptor.as_ref().map(|descriptor| descriptor.as_fd())).context(GONE)?;
    match order::receive::<Answer>(socket)? {
        Some((Ok(()), made)) => Ok(made),
        Some((Err(why), _)) => bail!(why),
        None => bail!(GONE),
    }
}

/// Serves requests from standard input in this process's namespace, until the other end closes: the command
/// `xdp-lb serve-checks`.
///
/// # Errors
/// If standard input is not such a socket.
pub fn serve_on_stdin() -> Result<()> {
    // Signals that end the daemon go to the whole process group, and this process ends with the daemon anyway.
    for ending in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: no handler runs.
        unsafe { signal(ending, SigHandler::SigIgn) }.context("cannot ignore a signal")?;
    }
    let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
    inside::serve(&socket).map_err(|error| anyhow!("{error:#}; only the daemon itself runs this command"))
}

/// Identifies this build.
fn build() -> String {
    format!("xdp-lb {} (commit {})", crate::VERSION, crate::COMMIT)
}
