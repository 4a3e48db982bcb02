//! How many flows each backend has, as they were counted last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use xdp_lb_common::tables::BackendIndex;

use super::journal::Journal;
use super::kernel::Kernel;
use super::sync::TableSync;
use super::unknown_flows::UnknownFlows;
use crate::datapath::Census;
use crate::model::Timeouts;
use crate::model::state::TroubleKind;

/// How often the flows are counted, and those that are over removed.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// How old a count of flows may be that somebody waits for.
pub(super) const FRESH: Duration = Duration::from_millis(500);

/// The last count of the flows.
pub(super) struct FlowCount {
    census: Arc<Census>,
    /// When it was; `None` where they could not be counted.
    at: Option<Instant>,
    /// Whether it was before the last change.
    is_outdated: bool,
    /// Whether flows without a record are over.
    unknown: UnknownFlows,
}

impl FlowCount {
    /// Nothing counted yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { census: Arc::default(), at: None, is_outdated: false, unknown: UnknownFlows::new(now) }
    }

    /// How many flows of a backend live.
    pub(super) fn live(&self, backend: BackendIndex) -> u64 {
        self.census.live.get(&backend).copied().unwrap_or(0)
    }

    /// The count, for snapshots.
    pub(super) fn shared(&self) -> Arc<Census> {
        Arc::clone(&self.census)
    }

    /// Notes that what is in effect has changed since.
    pub(super) fn outdate(&mut self) {
        self.is_outdated = true;
    }

    /// Whether the flows were counted since the last change.
    pub(super) fn is_of_now(&self) -> bool {
        self.at.is_some() && !self.is_outdated
    }

    /// Whether it is time to count again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.duration_since(at) >= EVERY)
    }

    /// Whether the count is too old for whoever waits for a backend to lose its last flow.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.is_outdated || self.at.is_none_or(|at| now.duration_since(at) >= FRESH)
    }

    /// Counts the flows, and settles the slots that have come to rest.
    pub(super) fn count(
        &mut self,
        kernel: &mut dyn Kernel,
        sync: &mut TableSync,
        timeouts: &Timeouts,
        journal: &mut Journal,
        now: Instant,
    ) {
        let counted = kernel.census(sync.tables());
        self.at = counted.is_ok().then_some(now);
        self.is_outdated &= counted.is_err();
        let error = match counted {
            Ok(census) => {
                self.census = Arc::new(census);
                let limits = kernel.sizes().limits;
                let resets = self.unknown.are_over(&self.census, &limits, timeouts, now);
                if let Err(error) = kernel.set_resets_unknown(resets) {
                    tracing::error!("cannot write the handling of unknown flows to the datapath: {error:#}");
                }
                sync.settle_counted(&self.census, kernel, journal);
                None
            }
            Err(error) => {
                self.census = Arc::default();
                Some(error)
            }
        };
        journal.note_error(TroubleKind::Flows, error);
    }
}
