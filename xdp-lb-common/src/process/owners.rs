//! Whose a packet is that takes the slow path.

use core::cell::Cell;

use crate::reason::Reason;
use crate::tables::refusal::RefusalKey;
use crate::tables::{BackendIndex, ServiceIndex};

/// Whose the packet in hand is, as far as its way has shown.
#[derive(Default)]
pub(super) struct Owners {
    /// The service that it is for, its index with 1 added; 0: none that is known.
    service: u32,
    /// The backend that it goes to or comes from; 0: none that is known.
    backend: Cell<BackendIndex>,
}

impl Owners {
    /// Nothing is known of the packet.
    #[inline(always)]
    pub(super) fn forget(&mut self) {
        self.service = 0;
        self.backend.set(BackendIndex(0));
    }

    /// It is for this service.
    #[inline(always)]
    pub(super) fn set_service(&mut self, service: ServiceIndex) {
        self.service = service.0 + 1;
    }

    /// It goes to this backend, or comes from it.
    #[inline(always)]
    pub(super) fn set_backend(&self, backend: BackendIndex) {
        self.backend.set(backend);
    }

    /// What is counted of it, if it ends for this reason.
    #[inline(always)]
    pub(super) fn refusal(&self, reason: Reason) -> RefusalKey {
        RefusalKey { service: self.service, backend: self.backend.get(), reason: reason as u32 }
    }
}
