//! The balancer's own address that a backend sees as a flow's source.

use crate::hash::FlowHash;
use crate::net::Address;
use crate::reason::Reason;
use crate::tables::{Backend, Service, Tables};

/// The balancer's own address for a flow: one of the service's, selected by the flow's hash, else the one on the way to the
/// backend.
#[inline(always)]
pub fn own_address<'a, T: Tables>(
    tables: &'a T,
    service: &Service,
    backend: &'a Backend,
    hash: FlowHash,
) -> Result<&'a Address, Reason> {
    if service.snat_len == 0 {
        return Ok(&backend.source);
    }
    let place = service.snat_offset + hash.next().reduce(u32::from(service.snat_len));
    tables.snat_address(place).ok_or(Reason::Internal)
}
