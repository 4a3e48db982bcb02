//! Counts the flows of a service and its backends.
//!
//! A flow counts from its record's first packet until a packet closes it or the backend resets it. Records that end in other ways
//! (by age, or in a full table) are not seen here: each census corrects the counts.

use crate::tables::flow::COUNTED;
use crate::tables::{BackendIndex, COUNTS_FLOWS, Service, Tables};

/// A flow's initial progress: whether it counts. Without a branch, which the verifier would follow through everything after it.
#[inline(always)]
pub fn first_progress(service: &Service) -> u8 {
    const { assert!(COUNTED == COUNTS_FLOWS << 5) };
    (service.options & COUNTS_FLOWS) << 5
}

/// Adds a new flow to the counts, if it counts.
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

/// Notes that a counted flow of this backend has closed.
#[inline(never)]
pub fn ended<T: Tables>(tables: &T, index: BackendIndex) {
    if let Some(backend) = tables.backend(index) {
        tables.add_flow(backend.service, index, -1);
    }
}
