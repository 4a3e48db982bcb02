//! What is read without the owner task: it neither waits for a decision nor delays one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::events::{EventReader, EventReaders};
use crate::model::refusal::{Answer, Refusal};
use crate::report::snapshot::{Clock, Snapshot};
use crate::uptime;

/// How often a document is made again where the tables have changed meanwhile.
const TRIES: usize = 3;

/// What the owner task publishes: snapshots and events.
#[derive(Clone)]
pub struct Published {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    events: EventReaders,
}

impl Published {
    /// What these receivers hear.
    pub(super) fn new(snapshots: watch::Receiver<Arc<Snapshot>>, events: EventReaders) -> Self {
        Self { snapshots, events }
    }

    /// The last snapshot of an owner task that goes on.
    pub(super) fn latest(&self) -> Answer<Arc<Snapshot>> {
        match self.snapshots.has_changed() {
            Ok(_) => Ok(Arc::clone(&self.snapshots.borrow())),
            Err(_) => Err(Refusal::Failed("the daemon is stopping".into())),
        }
    }

    /// A document of the last snapshot.
    pub(super) fn view<T>(&self, view: impl Fn(&Snapshot, &Clock) -> Answer<T>) -> Answer<T> {
        let mut snapshot = self.latest()?;
        let clock = || Clock { now: Instant::now(), seconds_of_boot: uptime::now().as_secs() };
        for _ in 1..TRIES {
            let made = view(&snapshot, &clock());
            let after = self.latest()?;
            // The counters are read as they are now: a backend's place may be another's by then.
            if Arc::ptr_eq(&snapshot.tables, &after.tables) {
                return made;
            }
            snapshot = after;
        }
        view(&snapshot, &clock())
    }

    /// Whether somebody may wait for a backend to lose its last flow, for which flows are counted as they are asked for.
    pub(super) fn drains(&self) -> bool {
        self.snapshots.borrow().drains()
    }

    /// What happens after the event of this id; without one, from now on.
    pub(super) fn watch(&self, after: Option<&str>) -> Answer<EventReader> {
        self.latest()?;
        Ok(self.events.reader(after))
    }
}
