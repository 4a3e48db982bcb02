//! A sample of dropped packets for watchers that ask for them: the first of each reason and source in a second.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::published::Published;
use crate::datapath::Drops;

/// The maximum number of packets shown per second.
const PER_SECOND: usize = 20;

/// How long the datapath samples after a request, and how often the request is renewed while someone watches.
const TIME: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_secs(1);

/// Shows the sample to watchers until the daemon ends.
pub async fn show(mut drops: Drops, published: Published) {
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_wanted = false;
    // Each CPU takes a sample of its own.
    let mut seen = HashSet::new();
    loop {
        tokio::select! {
            _ = again.tick() => {
                seen.clear();
                let was_wanted = is_wanted;
                is_wanted = published.drops_are_watched();
                let asked = match (was_wanted, is_wanted) {
                    (false, false) => Ok(()),
                    (true, false) => drops.want(Duration::ZERO),
                    (_, true) => drops.want(TIME),
                };
                if let Err(error) = asked {
                    tracing::error!("{error:#}");
                }
            }
            sample = drops.next() => {
                let sample = match sample {
                    Ok(sample) => sample,
                    Err(error) => {
                        tracing::error!("{error:#}: watchers see no dropped packets any more");
                        return;
                    }
                };
                if seen.len() < PER_SECOND && seen.insert((sample.refusal.reason, sample.flow.source)) {
                    published.show_drop(&sample);
                }
            }
        }
    }
}
