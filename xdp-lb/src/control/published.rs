//! Reads without the owner task. They neither wait for a decision nor delay one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use xdp_lb_common::tables::drops::DropSample;

use super::events::{EventReader, EventReaders};
use crate::model::event::{EventView, WatchQuery};
use crate::model::refusal::{Answer, Refusal};
use crate::report::snapshot::{Clock, Snapshot};
use crate::uptime;

/// How often a document is rebuilt if the tables change meanwhile.
const TRIES: usize = 3;

/// What the owner task publishes: snapshots and events.
#[derive(Clone)]
pub struct Published {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    events: EventReaders,
}

impl Published {
    /// Reads from these receivers.
    pub(super) fn new(snapshots: watch::Receiver<Arc<Snapshot>>, events: EventReaders) -> Self {
        Self { snapshots, events }
    }

    /// The last snapshot, while the owner task is running.
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
            // Counters are read live: a backend's index may have been reused.
            if Arc::ptr_eq(&snapshot.tables, &after.tables) {
                return made;
            }
            snapshot = after;
        }
        view(&snapshot, &clock())
    }

    /// Whether a caller may be waiting for a backend to drain, for which flows are counted on demand.
    pub(super) fn drains(&self) -> bool {
        self.snapshots.borrow().drains()
    }

    /// The last events, at most `most`.
    pub(super) fn events(&self, most: usize) -> Answer<Vec<EventView>> {
        self.latest()?;
        Ok(self.events.last(most))
    }

    /// The events after the one with this id. Without an id, those from now on.
    pub(super) fn watch(&self, after: Option<&str>, query: WatchQuery) -> Answer<EventReader> {
        self.latest()?;
        Ok(match query.drops {
            true => self.events.reader_with_drops(after),
            false => self.events.reader(after),
        })
    }

    /// Whether somebody wants to see dropped packets.
    pub(super) fn drops_are_watched(&self) -> bool {
        self.events.drops_are_watched()
    }

    /// Shows one to those who do.
    pub(super) fn show_drop(&self, sample: &DropSample) {
        if let Some(event) = self.latest().ok().and_then(|snapshot| snapshot.dropped(sample)) {
            self.events.show_drop(event);
        }
    }
}
