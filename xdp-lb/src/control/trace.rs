//! Following packets: one caller at a time, for as long as it reads.

use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::owner::{Owner, Request};
use super::published::Published;
use crate::datapath::{Trace, TracedPackets};
use crate::model::refusal::{Answer, Refusal};
use crate::report::trace::TraceView;

impl Owner {
    /// Begins to follow packets; returns them, and which trace this is.
    pub(super) fn start_trace(&mut self, trace: &Trace) -> Answer<(TracedPackets, u64)> {
        if self.following.is_on() {
            let words = "somebody follows packets already: wait until that has ended (10 s, unless it was given another time)";
            return Err(Refusal::Conflict(words.into()));
        }
        let packets =
            self.kernel.start_trace(trace).map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        Ok((packets, self.following.begin(Instant::now() + trace.time)))
    }

    /// Ends this trace, if it is the present one.
    fn stop_trace(&mut self, number: u64) {
        if self.following.end(number) {
            self.kernel.stop_trace();
        }
    }

    /// Ends a trace whose time is over.
    pub(super) fn stop_late_trace(&mut self, now: Instant) {
        if let Some(number) = self.following.late(now) {
            self.stop_trace(number);
        }
    }
}

/// The packets that a caller follows. Dropped, it ends.
pub struct TraceStream {
    packets: TracedPackets,
    published: Published,
    until: tokio::time::Instant,
    left: u32,
    payload: bool,
    _end: End,
}

impl TraceStream {
    pub(super) fn new(
        (packets, number): (TracedPackets, u64),
        trace: &Trace,
        published: Published,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self {
            packets,
            published,
            until: tokio::time::Instant::now() + trace.time,
            left: trace.count,
            payload: trace.payload,
            _end: End { requests, number },
        }
    }

    /// The next packet; nothing once there were as many as were asked for, or the time is over.
    pub async fn next(&mut self) -> Option<TraceView> {
        if self.left == 0 {
            return None;
        }
        let packet = timeout_at(self.until, self.packets.next()).await.ok()?;
        let packet = packet.inspect_err(|error| tracing::error!("cannot follow packets: {error:#}")).ok()?;
        self.left -= 1;
        let snapshot = self.published.latest().ok()?;
        Some(snapshot.traced(&packet, self.payload, SystemTime::now()))
    }
}

/// Ends a trace when it is dropped.
struct End {
    requests: mpsc::Sender<Request>,
    number: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        let (requests, number) = (self.requests.clone(), self.number);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let stop: Request = Box::new(move |owner| {
                owner.stop_trace(number);
                std::future::ready(None).boxed()
            });
            // The owner task may have ended, and the trace with it.
            let _ = requests.send_timeout(stop, Duration::from_secs(10)).await;
        });
    }
}
