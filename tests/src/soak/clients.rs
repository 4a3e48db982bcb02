//! The clients: flows that ask and compare what they are answered, over and over, all of a host's in one thread.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::kind::{Kind, Protocol};
use super::standing::{Life, Standing};
use super::tally::{Ends, Tally};
use super::{tcp, udp};
use crate::host::Host;

/// How long a flow whose backend lives may wait for an answer: longer than a link is down here and TCP then waits before it
/// sends again.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long opening one may take before another is tried.
pub const OPENED: Duration = Duration::from_secs(4);

/// Between two looks whether an answer is still to be waited for.
pub const LOOK: Duration = Duration::from_millis(250);

/// How long a flow sleeps before it looks whether it is to end.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Between two attempts to open a flow.
const AGAIN: Duration = Duration::from_millis(200);

/// Between two requests of most flows, in milliseconds.
const PAUSE: Range<u64> = 800..1_600;

/// The same of those that are quiet, which is every fifth where there is the time for that. They are silent for longer than a record is kept of a flow that has ended, and for less time than
/// `tcp_idle` and `udp_idle`: a flow must not be taken for one that has ended since somebody else said so.
const LONG_PAUSE: Range<u64> = 20_000..40_000;

/// What all flows share.
#[derive(Clone)]
pub struct Shared {
    /// Which backends live.
    pub standing: Arc<Standing>,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// Set once flows are to end, and what becomes of them counts no longer.
    over: Arc<AtomicBool>,
}

impl Shared {
    /// Nothing counted, all backends alive.
    pub fn new() -> Self {
        Self { standing: Arc::default(), tally: Arc::new(Tally::new()), over: Arc::default() }
    }

    /// Ends all flows.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether flows are to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// The flows of a host.
pub struct Clients {
    thread: JoinHandle<Result<()>>,
}

impl Clients {
    /// Starts as many flows of each of these kinds, numbered from `first` on. Each is opened anew when it has ended.
    pub fn start(
        host: &Host,
        kinds: Vec<Kind>,
        flows_each: usize,
        first: u64,
        some_are_quiet: bool,
        seed: u64,
        shared: &Shared,
    ) -> Result<Self> {
        let (host, shared) = (host.clone(), shared.clone());
        let thread = thread::Builder::new().name(format!("flows of {}", host.name())).spawn(move || {
            host.enter(|| -> Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let mut flows = JoinSet::new();
                let kinds = kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, flows_each));
                for (id, kind) in (first..).zip(kinds) {
                    let rng = fastrand::Rng::with_seed(seed ^ id.rotate_left(20));
                    let is_quiet = some_are_quiet && id.is_multiple_of(5);
                    let flow = Flow { id, kind, is_quiet, rng, shared: shared.clone() };
                    flows.spawn_on(flow.go_on(), runtime.handle());
                }
                runtime.block_on(flows.join_all());
                Ok(())
            })?
            .context("the flows did not run")
        })?;
        Ok(Self { thread })
    }

    /// Waits until all flows have ended, after [`Shared::end`].
    pub fn join(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("a flow's task panicked"))?
    }
}

/// One flow, and those that take its place when it has ended.
pub struct Flow {
    /// Its number, which no other flow has.
    pub id: u64,
    /// Its kind.
    pub kind: Kind,
    /// Whether it is silent for long between two requests.
    is_quiet: bool,
    /// What it does at random.
    pub rng: fastrand::Rng,
    /// What all flows share.
    pub shared: Shared,
}

/// How a flow ended.
pub enum End {
    /// All are to end.
    Over,
    /// Its backend has left, or its host has died.
    Planned,
    /// It broke, why, and when the request was sent at which it did.
    Broken(String, Instant),
}

impl Flow {
    async fn go_on(mut self) {
        // Not all at once.
        sleep(Duration::from_millis(self.rng.u64(0..PAUSE.end))).await;
        while !self.shared.is_over() {
            let opened = match self.kind.protocol {
                Protocol::Tcp => tcp::open(&mut self).await.map(Opened::Tcp),
                Protocol::Udp => udp::open(&mut self).await.map(Opened::Udp),
            };
            let Ok(opened) = opened else {
                if !self.shared.is_over() {
                    self.shared.tally.unopened(self.kind);
                }
                sleep(AGAIN).await;
                continue;
            };
            let ends = opened.ends();
            let life = self.shared.standing.life(self.kind, ends.backend);
            self.shared.tally.opened(self.id, ends);
            let end = match opened {
                Opened::Tcp(connection) => tcp::converse(&mut self, connection, life).await,
                Opened::Udp(asked) => udp::converse(&mut self, asked, life).await,
            };
            self.note(end, ends, life);
        }
    }

    fn note(&self, end: End, ends: Ends, life: Life) {
        match end {
            _ if self.shared.is_over() => {}
            End::Broken(why, sent) if self.shared.standing.lasts(life) => {
                self.shared.tally.broken(self.id, ends, &why, sent);
            }
            _ => self.shared.tally.planned(self.id, self.kind),
        }
    }

    /// Waits until it is time for the next request, which is soon where the one before was not answered; or how the flow ended
    /// meanwhile.
    pub async fn pause(&mut self, life: Life, is_soon: bool) -> Result<(), End> {
        let pause = if self.is_quiet && !is_soon { LONG_PAUSE } else { PAUSE };
        let ends = Instant::now() + Duration::from_millis(self.rng.u64(pause));
        while Instant::now() < ends {
            sleep(LONGEST_SLEEP.min(ends.saturating_duration_since(Instant::now()))).await;
            self.still(life)?;
        }
        Ok(())
    }

    /// Whether there is anything to wait for still.
    pub fn still(&self, life: Life) -> Result<(), End> {
        if self.shared.is_over() {
            Err(End::Over)
        } else if !self.shared.standing.lasts(life) {
            Err(End::Planned)
        } else {
            Ok(())
        }
    }

    /// Counts an answer.
    pub fn answered(&self, since: Instant) {
        self.shared.tally.answered(self.kind, since.elapsed());
    }
}

enum Opened {
    Tcp(tcp::Connection),
    Udp(udp::Asked),
}

impl Opened {
    fn ends(&self) -> Ends {
        match self {
            Self::Tcp(connection) => connection.ends,
            Self::Udp(asked) => asked.ends,
        }
    }
}
