//! Following packets: the tracing program takes the place of the other one in the links, for as long as somebody follows any.
//!
//! It ends however the daemon ends: the program notes nothing after a time that it knows, and a guard, a process of its own, puts the
//! other program back as soon as the daemon has gone, or that time is over.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use xdp_lb_common::trace::{LONG, SHORT, TraceEvent, TraceFilter};
use zerocopy::FromBytes as _;

use super::clock::monotonic;
use super::link;

/// What the guard's command line begins with.
pub const GUARD: &str = "guard-trace";

/// How much longer than the trace the guard waits for the daemon to end it.
const GRACE: Duration = Duration::from_secs(2);

/// Which packets are followed, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Which.
    pub filter: TraceFilter,
    /// For how long.
    pub time: Duration,
    /// How many at most.
    pub count: u32,
    /// How many each CPU notes in a second at most.
    pub per_second: u32,
    /// Whether with their payload.
    pub payload: bool,
}

/// Links with the tracing program in them. Dropped, they hold the other one again.
#[derive(Debug)]
pub struct Tracing {
    links: Vec<OwnedFd>,
    plain: OwnedFd,
    tracing: OwnedFd,
    /// The kernel's id of the tracing program.
    pub id: u32,
    /// Ends when its input does.
    guard: Child,
}

impl Tracing {
    /// Puts the tracing program into these links.
    ///
    /// # Errors
    /// If the guard cannot be started, or the kernel refuses; then they hold what they held.
    pub fn begin<'a>(
        links: impl Iterator<Item = BorrowedFd<'a>>,
        plain: BorrowedFd<'_>,
        tracing: BorrowedFd<'_>,
        time: Duration,
    ) -> Result<Self> {
        let links: Vec<OwnedFd> = links.map(|link| link.try_clone_to_owned()).collect::<Result<_, _>>()?;
        let (plain, tracing) = (plain.try_clone_to_owned()?, tracing.try_clone_to_owned()?);
        let id = link::object_id(tracing.as_fd()).context("cannot ask the kernel about the program")?;
        let guard = guard(&links, &plain, &tracing, time).context("cannot start the guard of the trace")?;
        let begun = Self { links, plain, tracing, id, guard };
        for link in &begun.links {
            link::exchange(link.as_fd(), begun.tracing.as_fd(), begun.plain.as_fd())
                .context("cannot put the tracing program into a link")?;
        }
        Ok(begun)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        restore(&self.links, &self.plain, &self.tracing);
        drop(self.guard.stdin.take());
        // It has nothing left to do, and ends at once.
        let _ = self.guard.wait();
    }
}

/// Puts the other program back where the tracing one is.
fn restore(links: &[OwnedFd], plain: &OwnedFd, tracing: &OwnedFd) {
    for link in links {
        // Fails where somebody else has put another one there, or the interface is gone.
        let _ = link::exchange(link.as_fd(), plain.as_fd(), tracing.as_fd());
    }
}

/// Starts the guard: this binary, with these descriptors.
fn guard(links: &[OwnedFd], plain: &OwnedFd, tracing: &OwnedFd, time: Duration) -> Result<Child> {
    // Without FD_CLOEXEC, for the guard alone: they are closed here once it has them.
    let inherited = |descriptor: &OwnedFd| -> Result<OwnedFd> {
        let copy = fcntl(descriptor, FcntlArg::F_DUPFD(3))?;
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(copy) })
    };
    let all = [plain, tracing].into_iter().chain(links);
    let all: Vec<OwnedFd> = all.map(inherited).collect::<Result<_>>()?;
    let seconds = (time + GRACE).as_secs();
    let mut command = Command::new("/proc/self/exe");
    command.arg(GUARD).arg(seconds.to_string()).args(all.iter().map(|it| it.as_raw_fd().to_string()));
    // Of a group of its own, so that a terminal's signals are not for it.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    Ok(command.spawn()?)
}

/// The guard: waits until its input ends, or so many seconds, and puts the other program back. The descriptors are that program's,
/// the tracing one's, and those of the links.
///
/// # Errors
/// If the command line is not that of a guard.
pub fn stand_guard(seconds: u64, descriptors: &[RawFd]) -> Result<()> {
    // SAFETY: whoever starts a guard gives it these descriptors, and nothing else in this process knows them.
    let all = descriptors.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) });
    let mut all: Vec<OwnedFd> = all.collect();
    anyhow::ensure!(all.len() >= 2, "it is started by the daemon alone");
    let links = all.split_off(2);
    let mut input = io::stdin().lock();
    let timeout = PollTimeout::try_from(Duration::from_secs(seconds)).unwrap_or(PollTimeout::MAX);
    let mut waits = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut waits, timeout);
    if matches!(ended, Ok(1..)) {
        // Nobody writes: this is the end.
        let _ = input.read(&mut [0]);
    }
    restore(&links, &all[0], &all[1]);
    Ok(())
}

/// A packet that was followed.
#[derive(Clone, Debug)]
pub struct Traced {
    /// What became of it.
    pub event: TraceEvent,
    /// How long ago it came when this was read.
    pub age: Duration,
    /// The beginning of the frame as it came.
    pub before: Vec<u8>,
    /// As it left.
    pub after: Vec<u8>,
}

/// The packets that are followed, as they come.
pub struct TracedPackets {
    buffer: AsyncFd<RingBuf<MapData>>,
}

impl TracedPackets {
    /// Reads from this ring buffer, but not what an earlier trace has left there.
    ///
    /// # Errors
    /// Outside of a tokio runtime, or if the map is of another kind.
    pub(super) fn new(map: OwnedFd) -> Result<Self> {
        let buffer = RingBuf::try_from(Map::RingBuf(MapData::from_fd(map)?))?;
        // SAFETY: the buffer owns its descriptor, which stays the same until the buffer is dropped.
        let mut buffer = unsafe { AsyncFd::register(buffer) }.context("cannot wait for packets")?;
        while buffer.get_mut().next().is_some() {}
        Ok(Self { buffer })
    }

    /// The next packet. Cancel safe.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn next(&mut self) -> Result<Traced> {
        loop {
            let mut ready = self.buffer.readable_mut().await.context("cannot wait for packets")?;
            if let Some(item) = ready.get_inner_mut().next() {
                if let Some(traced) = read(&item) {
                    return Ok(traced);
                }
                continue;
            }
            ready.clear_ready();
        }
    }
}

fn read(item: &[u8]) -> Option<Traced> {
    let (event, frames) = TraceEvent::read_from_prefix(item).ok()?;
    let kept = if frames.len() >= 2 * LONG { LONG } else { SHORT };
    let frame = |number: usize, length: u32| {
        let frame = frames.get(number * kept..)?;
        Some(frame.get(..kept.min(length as usize))?.to_vec())
    };
    let age = monotonic().ok()?.saturating_sub(Duration::from_nanos(event.time));
    Some(Traced { event, age, before: frame(0, event.before)?, after: frame(1, event.after)? })
}
