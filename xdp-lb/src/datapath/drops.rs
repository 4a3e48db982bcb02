//! A sample of the packets that the datapath drops, as long as someone watches it.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use xdp_lb_common::tables::drops::DropSample;
use zerocopy::FromBytes as _;

use super::clock::monotonic_seconds;

/// The first dropped packet of each reason and source in a second, on each CPU.
pub struct Drops {
    buffer: AsyncFd<RingBuf<MapData>>,
    until: Array<MapData, u32>,
}

impl Drops {
    /// # Errors
    /// Outside of a tokio runtime, or if a map is of another kind.
    pub(super) fn new(ring: Map, until: Map) -> Result<Self> {
        let buffer = RingBuf::try_from(ring).context("the map DROPS is not a ring buffer")?;
        // SAFETY: the buffer owns its descriptor, which stays the same until the buffer is dropped.
        let buffer = unsafe { AsyncFd::register(buffer) }.context("cannot wait for dropped packets")?;
        Ok(Self { buffer, until: until.try_into()? })
    }

    /// Samples for this long from now on. Packets cost more only during that time.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn want(&mut self, time: Duration) -> Result<()> {
        let until = match time.as_secs() {
            0 => 0,
            seconds => monotonic_seconds()? + u32::try_from(seconds)?,
        };
        self.until.set(0, until, 0).context("cannot ask for dropped packets")
    }

    /// The next one. Cancel safe.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn next(&mut self) -> Result<DropSample> {
        loop {
            let mut ready = self.buffer.readable_mut().await.context("cannot wait for dropped packets")?;
            if let Some(item) = ready.get_inner_mut().next() {
                if let Ok((sample, _)) = DropSample::read_from_prefix(&item) {
                    return Ok(sample);
                }
                continue;
            }
            ready.clear_ready();
        }
    }
}
