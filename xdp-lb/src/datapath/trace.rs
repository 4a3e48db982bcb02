//! Following packets: a tracing program takes the place of the other one in the links, for as long as somebody follows any.
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

/// Links with a tracing program in them. Dropped, they hold the other one again.
#[derive(Debug)]
pub struct Tracing {
    places: Vec<Place>,
    /// The kernel's ids of the tracing programs.
    ids: Vec<u32>,
    /// Ends when its input does.
    guard: Child,
}

/// A link in which a tracing program takes the place of the other one.
#[derive(Debug)]
pub struct Place {
    link: OwnedFd,
    plain: OwnedFd,
    tracing: OwnedFd,
}

impl Place {
    /// This link, in which the tracing program is to take the place of the plain one.
    ///
    /// # Errors
    /// If there can be no more descriptors.
    pub fn new(link: BorrowedFd<'_>, plain: BorrowedFd<'_>, tracing: BorrowedFd<'_>) -> io::Result<Self> {
        let [link, plain, tracing] = [link, plain, tracing].map(|it| it.try_clone_to_owned());
        Ok(Self { link: link?, plain: plain?, tracing: tracing? })
    }

    /// Puts the plain program back if the tracing one is there.
    fn restore(&self) {
        // Fails where somebody else has put another one there, or the interface is gone.
        let _ = link::exchange(self.link.as_fd(), self.plain.as_fd(), self.tracing.as_fd());
    }
}

impl Tracing {
    /// Puts the tracing programs into these links.
    ///
    /// # Errors
    /// If the guard cannot be started, or the kernel refuses; then they hold what they held.
    pub fn begin(places: Vec<Place>, time: Duration) -> Result<Self> {
        let ids = places.iter().map(|it| link::object_id(it.tracing.as_fd())).collect::<io::Result<_>>();
        let ids = ids.context("cannot ask the kernel about the program")?;
        let guard = guard(&places, time).context("cannot start the guard of the trace")?;
        let begun = Self { places, ids, guard };
        for Place { link, plain, tracing } in &begun.places {
            link::exchange(link.as_fd(), tracing.as_fd(), plain.as_fd())
                .context("cannot put the tracing program into a link")?;
        }
        Ok(begun)
    }

    /// Whether this is the kernel's id of a tracing program.
    pub fn is_by(&self, program: u32) -> bool {
        self.ids.contains(&program)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        self.places.iter().for_each(Place::restore);
        drop(self.guard.stdin.take());
        // It has nothing left to do, and ends at once.
        let _ = self.guard.wait();
    }
}

/// Starts the guard: this binary, with these descriptors.
fn guard(places: &[Place], time: Duration) -> Result<Child> {
    // Without FD_CLOEXEC, for the guard alone: they are closed here once it has them.
    let inherited = |descriptor: &OwnedFd| -> Result<OwnedFd> {
        let copy = fcntl(descriptor, FcntlArg::F_DUPFD(3))?;
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(copy) })
    };
    let all = places.iter().flat_map(|it| [&it.link, &it.plain, &it.tracing]);
    let all: Vec<OwnedFd> = all.map(inherited).collect::<Result<_>>()?;
    let seconds = (time + GRACE).as_secs();
    let mut command = Command::new("/proc/self/exe");
    command.arg(GUARD).arg(seconds.to_string()).args(all.iter().map(|it| it.as_raw_fd().to_string()));
    // Of a group of its own, so that a terminal's signals are not for it.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    Ok(command.spawn()?)
}

/// The guard: waits until its input ends, or so many seconds, and puts the other program back. The descriptors are, of each link,
/// its own, that program's, and the tracing one's.
///
/// # Errors
/// If the command line is not that of a guard.
pub fn stand_guard(seconds: u64, descriptors: &[RawFd]) -> Result<()> {
    // SAFETY: whoever starts a guard gives it these descriptors, and nothing else in this process knows them.
    let all = descriptors.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) });
    let all: Vec<OwnedFd> = all.collect();
    anyhow::ensure!(all.len().is_multiple_of(3), "it is started by the daemon alone");
    let mut all = all.into_iter();
    let place = || Some(Place { link: all.next()?, plain: all.next()?, tracing: all.next()? });
    let places: Vec<Place> = std::iter::from_fn(place).collect();
    let mut input = io::stdin().lock();
    let timeout = PollTimeout::try_from(Duration::from_secs(seconds)).unwrap_or(PollTimeout::MAX);
    let mut waits = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let ended = poll(&mut waits, timeout);
    if matches!(ended, Ok(1..)) {
        // Nobody writes: this is the end.
        let _ = input.read(&mut [0]);
    }
    places.iter().for_each(Place::restore);
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
