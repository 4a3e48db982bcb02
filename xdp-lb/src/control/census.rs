//! Counting the flows of each backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use xdp_lb_common::tables::BackendIndex;

use super::flow_worker::{Finished, FlowWorker};
use super::journal::Journal;
use super::kernel::Kernel;
use super::sync::TableSync;
use super::unknown_flows::UnknownFlows;
use crate::datapath::{Census, Counted};
use crate::model::Timeouts;
use crate::model::state::TroubleKind;

/// How often flows are counted, and ended ones removed; less often if that would take more than one part in [`SHARE`] of a
/// core.
pub(super) const EVERY: Duration = Duration::from_secs(5);
const SHARE: u32 = 25;

/// How old a count may be if a caller waits for it; older if a count would take more than one part in [`SHARE_ASKED_FOR`] of a
/// core.
pub(super) const FRESH: Duration = Duration::from_millis(500);
const SHARE_ASKED_FOR: u32 = 4;

/// The last count of the flows, and the one in progress.
pub(super) struct FlowCount {
    census: Arc<Census>,
    /// The start of the last one. `None` if it failed.
    began: Option<Instant>,
    /// Whether that was before the last change.
    is_outdated: bool,
    /// When the next one is due, and when it may start if a caller waits for it.
    due: Instant,
    due_if_asked_for: Instant,
    under_way: Option<UnderWay>,
    /// The callers that wait for an up-to-date count.
    waiting: Vec<oneshot::Sender<()>>,
    /// Whether flows without a record are over.
    unknown: UnknownFlows,
}

struct UnderWay {
    began: Instant,
    is_outdated: bool,
}

impl FlowCount {
    /// Without any count yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            census: Arc::default(),
            began: None,
            is_outdated: false,
            due: now,
            due_if_asked_for: now,
            under_way: None,
            waiting: Vec::new(),
            unknown: UnknownFlows::new(now),
        }
    }

    /// The number of live flows of a backend.
    pub(super) fn live(&self, backend: BackendIndex) -> u64 {
        self.census.live.get(&backend).copied().unwrap_or(0)
    }

    /// The count, for snapshots.
    pub(super) fn shared(&self) -> Arc<Census> {
        Arc::clone(&self.census)
    }

    /// Notes a change: a count in progress is outdated.
    pub(super) fn outdate(&mut self) {
        self.is_outdated = true;
        self.under_way.iter_mut().for_each(|count| count.is_outdated = true);
    }

    /// The start of the last count, if that was after the last change.
    pub(super) fn of_now(&self) -> Option<Instant> {
        self.began.filter(|_| !self.is_outdated)
    }

    /// Starts a count if it is due.
    pub(super) fn go_on(&mut self, worker: &FlowWorker, sync: &mut TableSync, now: Instant) {
        let is_due = now >= self.due || !self.waiting.is_empty() && now >= self.due_if_asked_for;
        if self.under_way.is_none() && is_due {
            sync.forget_given();
            self.under_way = Some(UnderWay { began: now, is_outdated: false });
            worker.count();
        }
    }

    /// If the count is too old for a caller that waits for a backend to drain, returns the receiver of a newer one.
    pub(super) fn newer(&mut self, now: Instant) -> Option<oneshot::Receiver<()>> {
        let is_old = self.of_now().is_none_or(|began| now.duration_since(began) >= FRESH);
        is_old.then(|| {
            let (sender, receiver) = oneshot::channel();
            self.waiting.push(sender);
            receiver
        })
    }

    /// Applies a finished count, and settles slots.
    pub(super) fn take(
        &mut self,
        finished: Finished,
        kernel: &mut dyn Kernel,
        sync: &mut TableSync,
        timeouts: &Timeouts,
        journal: &mut Journal,
    ) {
        let Some(UnderWay { began, is_outdated }) = self.under_way.take() else { return };
        let Finished { counted, took } = finished;
        self.due_if_asked_for = began + took * SHARE_ASKED_FOR;
        self.began = counted.is_ok().then_some(began);
        let error = match counted {
            Ok(mut counted) => {
                self.due = began + EVERY.max(took * SHARE);
                self.is_outdated = is_outdated | !sync.forget_what_was_given(&mut counted);
                self.take_in(&counted, began, kernel, sync, timeouts, journal);
                self.census = Arc::new(counted.census);
                None
            }
            Err(error) => {
                self.due = began;
                self.census = Arc::default();
                Some(error)
            }
        };
        if error.is_some() || !self.is_outdated {
            for waiting in self.waiting.drain(..) {
                // The caller may be gone.
                let _ = waiting.send(());
            }
        }
        journal.note_error(TroubleKind::Flows, error);
    }

    fn take_in(
        &mut self,
        counted: &Counted,
        began: Instant,
        kernel: &mut dyn Kernel,
        sync: &mut TableSync,
        timeouts: &Timeouts,
        journal: &mut Journal,
    ) {
        if let Err(error) = kernel.correct_flow_counts(counted) {
            tracing::error!("cannot correct the flow counts of max_flows: {error:#}");
        }
        let resets = self.unknown.are_over(&counted.census, &kernel.sizes().limits, timeouts, began);
        if let Err(error) = kernel.set_resets_unknown(resets) {
            tracing::error!("cannot write the handling of unknown flows to the datapath: {error:#}");
        }
        sync.settle_counted(&counted.census, began, kernel, journal);
    }
}
