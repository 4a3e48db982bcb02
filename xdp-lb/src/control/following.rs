//! Whether somebody follows packets: one caller at a time.

use std::time::Instant;

/// Who follows packets.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// How often somebody has begun to.
    begun: u64,
    /// Until when the present one does.
    until: Option<Instant>,
}

impl Following {
    /// Whether somebody does.
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Somebody begins to, until then; returns which trace this is.
    pub(super) fn begin(&mut self, until: Instant) -> u64 {
        self.begun += 1;
        self.until = Some(until);
        self.begun
    }

    /// This trace ends; returns whether it was the present one.
    pub(super) fn end(&mut self, number: u64) -> bool {
        self.begun == number && self.until.take().is_some()
    }

    /// The present trace, if its time is over.
    pub(super) fn late(&self, now: Instant) -> Option<u64> {
        self.until.filter(|until| *until <= now).map(|_| self.begun)
    }
}
