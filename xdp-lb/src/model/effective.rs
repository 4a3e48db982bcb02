//! The services that there are: what file, runtime changes and discovery make together.

use std::net::SocketAddr;

use super::service::{Backend, Service};
use super::state::{AdminState, Origin};

/// The services that there are, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effective {
    /// Sorted by name.
    pub services: Vec<EffectiveService>,
}

/// A service that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EffectiveService {
    /// Its definition. Its list of backends is empty: `backends`, beside it, holds them.
    pub service: Service,
    /// The state set by the operator.
    pub admin: AdminState,
    /// Whether the file defines it or the CLI added it.
    pub origin: Origin,
    /// Its backends, sorted by address.
    pub backends: Vec<EffectiveBackend>,
    /// What is not used: what discovery found and no rule allows, and what waits for room. Sorted by address.
    pub refused: Vec<Refused>,
    /// It is not defined any more, and keeps its flows until they end.
    pub is_leaving: bool,
}

impl EffectiveService {
    /// Its backend at this address.
    pub fn backend(&self, address: SocketAddr) -> Option<&EffectiveBackend> {
        let place = self.backends.binary_search_by_key(&address, |it| it.backend.address).ok()?;
        Some(&self.backends[place])
    }
}

/// A backend that is defined or was found, and that is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Where it is said to listen.
    pub address: SocketAddr,
    /// Why not, in words.
    pub why: String,
}

/// A backend that there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectiveBackend {
    /// Its address, and the weight that holds now.
    pub backend: Backend,
    /// The state set by the operator.
    pub admin: AdminState,
    /// Whether the file lists it, the CLI added it, or discovery found it.
    pub origin: Origin,
    /// It is not defined or found any more: it keeps its flows until they end, and gets no new ones.
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
