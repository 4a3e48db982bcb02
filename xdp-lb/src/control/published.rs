//! What is read without the owner task: it neither waits for a decision nor delays one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::model::refusal::{Answer, Refusal};
use crate::report::documents::{BackendView, CountersView, ServiceDetailView, ServiceView, StatusView};
use crate::report::snapshot::{Clock, Snapshot};
use crate::uptime;

/// How often a document is made again where the tables have changed meanwhile.
const TRIES: usize = 3;

/// The snapshots that the owner task publishes.
#[derive(Clone)]
pub struct Published(pub(super) watch::Receiver<Arc<Snapshot>>);

impl Published {
    fn view<T>(&self, view: impl Fn(&Snapshot, &Clock) -> Answer<T>) -> Answer<T> {
        if self.0.has_changed().is_err() {
            return Err(Refusal::Failed("the daemon is stopping".into()));
        }
        let latest = || Arc::clone(&self.0.borrow());
        let clock = || Clock { now: Instant::now(), seconds_of_boot: uptime::now().as_secs() };
        let mut snapshot = latest();
        for _ in 1..TRIES {
            let made = view(&snapshot, &clock());
            let after = latest();
            // The counters are read as they are now: a backend's place may be another's by then.
            if Arc::ptr_eq(&snapshot.tables, &after.tables) {
                return made;
            }
            snapshot = after;
        }
        view(&snapshot, &clock())
    }

    /// The daemon on one screen.
    pub(super) fn status(&self) -> Answer<StatusView> {
        self.view(Snapshot::status)
    }

    /// Every service, by name.
    pub(super) fn services(&self) -> Answer<Vec<ServiceView>> {
        self.view(Snapshot::services)
    }

    /// A service with its backends.
    pub(super) fn service(&self, name: &str) -> Answer<ServiceDetailView> {
        self.view(|snapshot, clock| snapshot.service(name, clock))
    }

    /// The backends of a service, or of all.
    pub(super) fn backends(&self, service: Option<&str>) -> Answer<Vec<BackendView>> {
        self.view(|snapshot, clock| snapshot.backends(service, clock))
    }

    /// Every counter of passes and drops.
    pub(super) fn counters(&self) -> Answer<CountersView> {
        self.view(|snapshot, _| snapshot.counters())
    }

    /// The daemon on one screen, and every counter, at one moment.
    pub(super) fn scrape(&self) -> Answer<(StatusView, CountersView)> {
        self.view(|snapshot, clock| Ok((snapshot.status(clock)?, snapshot.counters()?)))
    }

    /// Whether somebody may wait for a backend to lose its last flow, for which flows are counted as they are asked for.
    pub(super) fn drains(&self) -> bool {
        self.0.borrow().drains()
    }
}
