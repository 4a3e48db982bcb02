//! Which backends live, and with them the flows that must not break.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::kind::Kind;

/// How much sooner than its time a backend that leaves counts as gone: flows that end about then are nobody's fault.
const MARGIN: Duration = Duration::from_secs(1);

/// A backend of a service, from the time that it joins or its host starts to the time that it has left or its host dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    kind: Kind,
    backend: usize,
    number: u32,
}

/// What is known of all backends.
#[derive(Default)]
pub struct Standing {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<(Kind, usize), Member>,
    dead: BTreeSet<usize>,
}

#[derive(Clone, Copy, Default)]
struct Member {
    life: u32,
    /// When its flows may be ended, where it leaves.
    leaves: Option<Instant>,
}

impl Standing {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present life of a backend, for a flow that begins.
    pub fn life(&self, kind: Kind, backend: usize) -> Life {
        let number = self.lock().members.get(&(kind, backend)).map_or(0, |member| member.life);
        Life { kind, backend, number }
    }

    /// Whether a flow that began in this life must be there still.
    pub fn lasts(&self, life: Life) -> bool {
        let inner = self.lock();
        let member = inner.members.get(&(life.kind, life.backend)).copied().unwrap_or_default();
        let left = member.leaves.is_some_and(|at| Instant::now() + MARGIN >= at);
        !inner.dead.contains(&life.backend) && member.life == life.number && !left
    }

    /// A backend is about to be removed; it may keep its flows for so long.
    pub fn leaves(&self, kind: Kind, backend: usize, keeps: Duration) {
        self.lock().members.entry((kind, backend)).or_default().leaves = Some(Instant::now() + keeps);
    }

    /// A backend has been added. Where it had not left by then, it is itself again.
    pub fn joined(&self, kind: Kind, backend: usize) {
        let mut inner = self.lock();
        let member = inner.members.entry((kind, backend)).or_default();
        if member.leaves.take().is_some_and(|at| Instant::now() + MARGIN >= at) {
            member.life += 1;
        }
    }

    /// A backend's host is about to die.
    pub fn dies(&self, backend: usize) {
        self.lock().dead.insert(backend);
    }

    /// A backend's host is about to start again.
    pub fn starts(&self, backend: usize) {
        let mut inner = self.lock();
        for kind in Kind::all() {
            inner.members.entry((kind, backend)).or_default().life += 1;
        }
        inner.dead.remove(&backend);
    }

    /// Whether its host is dead.
    pub fn is_dead(&self, backend: usize) -> bool {
        self.lock().dead.contains(&backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        Kind::all().next().unwrap()
    }

    #[test]
    fn a_backend_that_leaves_and_comes_back_in_time_lives_on() {
        let standing = Standing::default();
        let life = standing.life(kind(), 1);
        standing.leaves(kind(), 1, Duration::from_secs(60));
        assert!(standing.lasts(life));
        standing.joined(kind(), 1);
        assert!(standing.lasts(life));
    }

    #[test]
    fn a_backend_that_has_left_ends_its_flows_also_when_it_comes_back() {
        let standing = Standing::default();
        let life = standing.life(kind(), 1);
        standing.leaves(kind(), 1, Duration::ZERO);
        assert!(!standing.lasts(life));
        standing.joined(kind(), 1);
        assert!(!standing.lasts(life));
        assert!(standing.lasts(standing.life(kind(), 1)));
    }

    #[test]
    fn a_host_that_dies_ends_the_flows_of_all_its_backends_and_no_other() {
        let standing = Standing::default();
        let lives: Vec<_> = Kind::all().map(|kind| standing.life(kind, 1)).collect();
        let other = standing.life(kind(), 2);
        standing.dies(1);
        standing.starts(1);
        assert!(lives.iter().all(|life| !standing.lasts(*life)));
        assert!(standing.lasts(other));
        assert!(Kind::all().all(|kind| standing.lasts(standing.life(kind, 1))));
    }
}
