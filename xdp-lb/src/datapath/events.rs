//! The datapath's requests to user space.

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use xdp_lb_common::tables::NeighbourWanted;
use zerocopy::FromBytes;

/// The neighbours that the datapath needs, as packets need them.
pub struct Events {
    buffer: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// # Errors
    /// Outside of a tokio runtime, or if the map is of another kind.
    pub(super) fn new(map: Map) -> Result<Self> {
        let buffer = RingBuf::try_from(map).context("the map EVENTS is not a ring buffer")?;
        // SAFETY: the buffer owns its descriptor, which stays the same until the buffer is dropped.
        let buffer = unsafe { AsyncFd::register(buffer) }.context("cannot wait for the datapath's events")?;
        Ok(Self { buffer })
    }

    /// The next neighbour that the datapath needs. Cancel safe.
    pub async fn next(&mut self) -> Result<NeighbourWanted> {
        loop {
            let mut ready =
                self.buffer.readable_mut().await.context("cannot wait for the datapath's events")?;
            if let Some(item) = ready.get_inner_mut().next() {
                if let Ok((wanted, _)) = NeighbourWanted::read_from_prefix(&item) {
                    return Ok(wanted);
                }
                continue;
            }
            ready.clear_ready();
        }
    }
}
