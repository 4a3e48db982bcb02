//! A network namespace of the daemon's own, in which no VIP is anybody's address: from there a connection to a VIP leaves
//! like a client's, also where the VIP is an address of this host, and what comes back in the VIP's name is not a martian.
//!
//! To enter it takes `CAP_SYS_ADMIN`, which the daemon does not keep. So somebody stays in it, and makes the sockets that are
//! asked for over a Unix socket: a thread of the daemon that made the namespace; and after an upgrade a process, the heir, which
//! whoever was there before starts from the new binary. The namespace has no name, and ends with the last who is in it, as
//! the veth pair does that leads out of it; who is in it ends with whom it serves.

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

/// What is there, as it is asked over a socket. It ends when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    requests: mpsc::Sender<Request>,
}

/// An order with its descriptor, and who waits for what is sent back.
struct Request(Order, Option<OwnedFd>, oneshot::Sender<Result<Option<OwnedFd>>>);

impl Namespace {
    /// Makes it, with nothing in it. `confine`: what each of its threads is to do once it needs `CAP_SYS_ADMIN` no more.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or where `confine` fails.
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

    /// The one of the daemon before, whose heir is at the other end of this socket.
    ///
    /// # Errors
    /// Where it is not there, or of another build; or where `confine` fails.
    pub fn inherit(socket: OwnedFd, confine: fn() -> Result<()>) -> Result<Self> {
        exchange(&socket, &Order::Build(build()), None)?;
        Self::behind(socket, confine)
    }

    fn behind(socket: OwnedFd, confine: fn() -> Result<()>) -> Result<Self> {
        let (requests, received) = mpsc::channel();
        // Of its own: it waits for each answer.
        let relay = move || {
            for Request(order, descriptor, answer) in received {
                // Whoever asked may have gone, which is their affair.
                let _ = answer.send(exchange(&socket, &order, descriptor));
            }
        };
        start_thread("checks-relay", confine, relay)?;
        Ok(Self { requests })
    }

    /// Makes the veth pair that leads into it, from the calling thread's namespace, in the place of the one of a daemon before;
    /// returns the index of its outer end.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn open(&self) -> Result<u32> {
        let name = format!("xdp-lb-{}", process::id());
        let home = File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")?;
        self.ask(Order::Open { name: name.clone() }, Some(home.into())).await?;
        let ifindex = if_nametoindex(name.as_str()).with_context(|| format!("cannot find {name}"))?;
        let (kernel, _connection) = connect()?;
        kernel.bring_up(ifindex).await.with_context(|| format!("cannot bring {name} up"))?;
        Ok(ifindex)
    }

    /// A socket in it, that does not block and can be bound to this address.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn socket(&self, kind: Type, source: IpAddr) -> Result<Socket> {
        let made = self.ask(Order::Socket { is_stream: kind == Type::STREAM, source }, None).await?;
        Ok(made.context("the response carries no socket")?.into())
    }

    /// Has this program, the daemon's of another build, serve the namespace, too, and returns the socket by which it is
    /// asked: what [`Namespace::inherit`] takes.
    ///
    /// # Errors
    /// Where it cannot be started.
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

/// Starts a thread, and waits until it has done what it begins with.
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

/// Does in this process's namespace what is asked over its standard input, until nobody is there to ask: the command
/// `xdp-lb serve-checks`.
///
/// # Errors
/// Where its standard input is not such a socket.
pub fn serve_on_stdin() -> Result<()> {
    // What ends the daemon is sent to the whole process group, and this ends with the daemon.
    for ending in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: nothing is run when the signal comes.
        unsafe { signal(ending, SigHandler::SigIgn) }.context("cannot ignore a signal")?;
    }
    let socket = io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
    inside::serve(&socket).map_err(|error| anyhow!("{error:#}; only the daemon itself runs this command"))
}

/// What tells this build from others.
fn build() -> String {
    format!("xdp-lb {} (commit {})", crate::VERSION, crate::COMMIT)
}
