//! The effective services: config file, runtime changes and discovery merged.

use std::net::SocketAddr;

use super::service::{Backend, Service};
use super::state::{AdminState, Origin};

/// The effective services, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effective {
    /// Sorted by name.
    pub services: Vec<EffectiveService>,
}

/// An effective service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EffectiveService {
    /// Its definition. Its list of backends is empty: `backends`, beside it, holds them.
    pub service: Service,
    /// The state set by the operator.
    pub admin: AdminState,
    /// Whether it is in the file or was added at runtime.
    pub origin: Origin,
    /// Its backends, sorted by address.
    pub backends: Vec<EffectiveBackend>,
    /// Unused backends: discovered ones that break a rule, and those that wait for room. Sorted by address.
    pub refused: Vec<Refused>,
    /// It is no longer defined, and keeps its flows until they end.
    pub is_leaving: bool,
}

impl EffectiveService {
    /// Its backend at this address.
    pub fn backend(&self, address: SocketAddr) -> Option<&EffectiveBackend> {
        let place = self.backends.binary_search_by_key(&address, |it| it.backend.address).ok()?;
        Some(&self.backends[place])
    }
}

/// A defined or discovered backend that is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Its address.
    pub address: SocketAddr,
    /// The reason.
    pub why: String,
}

/// An effective backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectiveBackend {
    /// Its address and current options.
    pub backend: Backend,
    /// The state set by the operator.
    pub admin: AdminState,
    /// Whether it is in the file, was added at runtime, or was discovered.
    pub origin: Origin,
    /// It is no longer defined or found: it keeps its flows until they end, and gets no new ones.
    pub is_leaving: bool,
}

impl Effective {
    /// Whether a service at this VIP has this backend.
    pub fn has(&self, service: &Service, address: SocketAddr) -> bool {
        let is_it =
            |it: &EffectiveService| (it.service.vip, it.service.protocol) == (service.vip, service.protocol);
        let at = self.services.iter().find(|it| is_it(it));
        at.is_some_and(|it| it.backend(address).is_some())
    }
}
