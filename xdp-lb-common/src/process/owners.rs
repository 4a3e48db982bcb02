//! The service and backend of a packet on the slow path.

use core::cell::Cell;

use crate::reason::Reason;
use crate::tables::refusal::RefusalKey;
use crate::tables::{BackendIndex, ServiceIndex};

/// The packet's service and backend, as far as they are known yet.
#[derive(Default)]
pub(super) struct Owners {
    /// The index of its service plus 1. 0: not known.
    service: u32,
    /// Its destination or source backend. 0: not known.
    backend: Cell<BackendIndex>,
}

impl Owners {
    /// Resets both to unknown.
    #[inline(always)]
    pub(super) fn forget(&mut self) {
        self.service = 0;
        self.backend.set(BackendIndex(0));
    }

    /// Sets its service.
    #[inline(always)]
    pub(super) fn set_service(&mut self, service: ServiceIndex) {
        self.service = service.0 + 1;
    }

    /// Sets its backend.
    #[inline(always)]
    pub(super) fn set_backend(&self, backend: BackendIndex) {
        self.backend.set(backend);
    }

    /// The key under which the packet is counted if it is not forwarded for this reason.
    #[inline(always)]
    pub(super) fn refusal(&self, reason: Reason) -> RefusalKey {
        RefusalKey { service: self.service, backend: self.backend.get(), reason: reason as u32 }
    }
}
