//! The datapath's clock.

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

/// Seconds of the clock that the datapath notes packets by.
pub fn monotonic_seconds() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the monotonic clock")?;
    Ok(now.tv_sec() as u32)
}
