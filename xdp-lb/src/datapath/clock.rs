//! The datapath's clock.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

/// Seconds of the clock with which the datapath timestamps packets.
pub fn monotonic_seconds() -> Result<u32> {
    Ok(monotonic()?.as_secs() as u32)
}

/// The time of that clock.
pub fn monotonic() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the monotonic clock")?;
    Ok(now.into())
}
