//! What is counted while it runs, by flows and by disturbances.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disturbances::Disturbance;
use super::kind::Kind;

/// How many of the latest disturbances are named where something went wrong.
const LATEST: usize = 4;

/// How many faults of one disturbance are kept in words; all are counted.
const KEPT: usize = 6;

/// The counts of a kind of flows.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Flows that were answered for the first time.
    pub opened: u64,
    /// Those of them that ended since their backend left or died.
    pub planned: u64,
    /// Attempts to open one that were not answered.
    pub unopened: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// Flows that broke while their backend lived.
    pub broken: u64,
    /// The longest that a request of a flow whose backend lived waited for its answer; for UDP, of those that were not lost.
    pub longest: Duration,
}

/// The counts of a disturbance.
#[derive(Clone, Copy, Default, Debug)]
pub struct Effect {
    /// How often it happened.
    pub times: u64,
    /// How many flows broke at requests that were sent from its begin to the next one's.
    pub broken: u64,
    /// How many datagrams were lost that were sent in that time.
    pub lost: u64,
}

/// All counts.
#[derive(Clone, Default, Debug)]
pub struct Counted {
    /// By kind of flows.
    pub kinds: BTreeMap<Kind, Counts>,
    /// By disturbance.
    pub disturbances: BTreeMap<Disturbance, Effect>,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that were not there later.
    pub lost: u64,
    /// Other faults, such as a backend that did not come up again.
    pub troubles: u64,
    /// What went wrong, in words; of what came in great number, the first.
    pub faults: Vec<String>,
}

impl Counted {
    /// How many flows broke while their backend lived.
    pub fn broken(&self) -> u64 {
        self.kinds.values().map(|counts| counts.broken).sum()
    }
}

/// Who is at the other end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The flow's kind.
    pub kind: Kind,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The backend's number, counted from 1.
    pub backend: usize,
}

/// The counts, shared by the flows and by whoever disturbs them.
pub struct Tally {
    begin: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counted: Counted,
    flows: BTreeMap<u64, Ends>,
    history: Vec<(Duration, String)>,
    /// When each disturbance began.
    begun: Vec<(Instant, Disturbance)>,
    /// How many faults there were since the latest began.
    faults: usize,
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Self {
        Self { begin: Instant::now(), inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since it began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The counts so far.
    pub fn counted(&self) -> Counted {
        self.lock().counted.clone()
    }

    /// The flows that are open.
    pub fn flows(&self) -> Vec<Ends> {
        self.lock().flows.values().copied().collect()
    }

    /// A flow was answered for the first time.
    pub fn opened(&self, flow: u64, ends: Ends) {
        let mut inner = self.lock();
        inner.counted.kinds.entry(ends.kind).or_default().opened += 1;
        inner.flows.insert(flow, ends);
    }

    /// An attempt to open one came to nothing.
    pub fn unopened(&self, kind: Kind) {
        self.lock().counted.kinds.entry(kind).or_default().unopened += 1;
    }

    /// A request was answered after this time.
    pub fn answered(&self, kind: Kind, after: Duration) {
        let mut inner = self.lock();
        let counts = inner.counted.kinds.entry(kind).or_default();
        counts.answered += 1;
        counts.longest = counts.longest.max(after);
    }

    /// A datagram that was sent then was not answered.
    pub fn lost(&self, kind: Kind, sent: Instant) {
        let mut inner = self.lock();
        inner.counted.kinds.entry(kind).or_default().lost += 1;
        if let Some(effect) = inner.effect(sent) {
            effect.lost += 1;
        }
    }

    /// A flow ended since its backend left or died.
    pub fn planned(&self, flow: u64, kind: Kind) {
        let mut inner = self.lock();
        inner.counted.kinds.entry(kind).or_default().planned += 1;
        inner.flows.remove(&flow);
    }

    /// A flow broke while its backend lived, at a request that was sent then.
    pub fn broken(&self, flow: u64, ends: Ends, why: &str, sent: Instant) {
        let mut inner = self.lock();
        inner.counted.kinds.entry(ends.kind).or_default().broken += 1;
        inner.flows.remove(&flow);
        if let Some(effect) = inner.effect(sent) {
            effect.broken += 1;
        }
        let Ends { kind, client, backend } = ends;
        inner.fault(self.elapsed(), &format!("{kind} from {client} to backend-{backend} broke: {why}"));
    }

    /// A disturbance begins.
    pub fn begins(&self, disturbance: Disturbance) {
        let mut inner = self.lock();
        inner.counted.disturbances.entry(disturbance).or_default().times += 1;
        inner.begun.push((Instant::now(), disturbance));
        inner.faults = 0;
        let at = self.elapsed();
        inner.history.push((at, disturbance.to_string()));
    }

    /// A detail of the disturbance that runs.
    pub fn note(&self, what: impl Into<String>) {
        let at = self.elapsed();
        self.lock().history.push((at, what.into()));
    }

    /// A change was acknowledged.
    pub fn acknowledged(&self) {
        self.lock().counted.acknowledged += 1;
    }

    /// A change that was acknowledged is not there.
    pub fn lost_change(&self, what: &str) {
        let mut inner = self.lock();
        inner.counted.lost += 1;
        inner.fault(self.elapsed(), &format!("an acknowledged change is lost: {what}"));
    }

    /// Something else that should not be.
    pub fn trouble(&self, what: &str) {
        let mut inner = self.lock();
        inner.counted.troubles += 1;
        inner.fault(self.elapsed(), what);
    }
}

impl Inner {
    /// The counts of the disturbance that was the latest then.
    fn effect(&mut self, at: Instant) -> Option<&mut Effect> {
        let (_, latest) = self.begun.iter().rev().find(|(begun, _)| *begun <= at)?;
        Some(self.counted.disturbances.entry(*latest).or_default())
    }

    fn fault(&mut self, at: Duration, what: &str) {
        self.faults += 1;
        if self.faults > KEPT {
            return;
        }
        let latest = self.history.iter().rev().take(LATEST);
        let latest: Vec<_> = latest.map(|(at, what)| format!("{what} at {}", seconds(*at))).collect();
        self.counted.faults.push(format!("{}: {what} (before: {})", seconds(at), latest.join("; ")));
    }
}

/// A time since the start, in seconds, for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
