//! How many flows a service and its backends have.
//!
//! A flow counts from its record's first packet on until a packet closes it, or the backend resets it. What else ends a
//! record (its age, a full table) is not seen here: each census sets the counts right.

use crate::tables::flow::COUNTED;
use crate::tables::{BackendIndex, COUNTS_FLOWS, Service, Tables};

/// What the progress of a flow begins with: whether it counts. Without a branch, which the verifier would follow through
/// all that comes.
#[inline(always)]
pub fn first_progress(service: &Service) -> u8 {
    const { assert!(COUNTED == COUNTS_FLOWS << 5) };
    (service.options & COUNTS_FLOWS) << 5
}

/// Notes that a flow begins, if it counts.
#[inline(always)]
pub fn began<T: Tables>(tables: &T, service: &Service, index: BackendIndex) {
    if service.counts_flows() {
        add(tables, service, index);
    }
}

#[inline(never)]
fn add<T: Tables>(tables: &T, service: &Service, index: BackendIndex) {
    tables.add_flow(service.index, index, 1);
}

/// Notes that a flow of this backend is closed that counted.
#[inline(never)]
pub fn ended<T: Tables>(tables: &T, index: BackendIndex) {
    if let Some(backend) = tables.backend(index) {
        tables.add_flow(backend.service, index, -1);
    }
}
