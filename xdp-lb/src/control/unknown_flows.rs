//! Decides whether a flow without a record has ended, or has only lost its record: packets of ended flows are answered with a
//! reset.

use std::time::{Duration, Instant};

use crate::datapath::Census;
use crate::model::{Limits, Timeouts};

/// How long after a start live flows may be without a record: if an earlier daemon's tables are gone, its flows get records with
/// their clients' next packets.
const AFTER_START: Duration = Duration::from_secs(10);

/// What may have removed records of live flows.
pub struct UnknownFlows {
    /// The end of the effects of the last event that may have removed records.
    unsure_until: Instant,
}

impl UnknownFlows {
    /// The state after a start.
    pub fn new(now: Instant) -> Self {
        Self { unsure_until: now + AFTER_START }
    }

    /// Whether flows without a record are over, after this count of the records. A table that is more than half full may have had
    /// no room for a flow, or may have evicted a new one ([`xdp_lb_common::flow_table`]). Such a flow ends by itself after
    /// `tcp_idle`.
    pub fn are_over(&mut self, census: &Census, limits: &Limits, timeouts: &Timeouts, now: Instant) -> bool {
        // A table is half full with seven eighths of the flows for which it is sized.
        if census.records > u64::from(limits.flows - limits.flows / 8) {
            self.unsure_until = self.unsure_until.max(now + timeouts.tcp_idle);
        }
        now >= self.unsure_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_without_a_record_are_over_unless_a_start_or_a_full_table_has_taken_it() {
        let begin = Instant::now();
        let limits = Limits { flows: 800, ..Limits::default() };
        let timeouts = Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) };
        let mut unknown = UnknownFlows::new(begin);
        let mut after = |seconds: u64, records: u64| {
            let census = Census { records, ..Census::default() };
            unknown.are_over(&census, &limits, &timeouts, begin + Duration::from_secs(seconds))
        };
        assert!(!after(9, 0), "records may still be on their way");
        assert!(after(10, 700));
        assert!(!after(11, 701), "the table may have evicted some");
        assert!(!after(910, 0));
        assert!(after(911, 0), "they are over by now");
    }
}
