//! Checks a client's address against its service's list of source ranges.

use crate::net::Address;
use crate::reason::Reason;
use crate::tables::{Service, SourceKey, SourceVerdict, Tables};

/// Refuses a packet if the service's list of source ranges denies its source address.
#[inline(always)]
pub fn check_source<T: Tables>(tables: &T, service: &Service, source: &Address) -> Result<(), Reason> {
    if service.source_list == 0 { Ok(()) } else { look_up_source(tables, service.source_list, source) }
}

/// Not inlined: few services have a list.
#[inline(never)]
fn look_up_source<T: Tables>(tables: &T, list: u32, source: &Address) -> Result<(), Reason> {
    let verdict = tables.source_verdict(&SourceKey { scope: list, address: *source });
    if verdict == SourceVerdict::Deny as u32 { Err(Reason::SourceDenied) } else { Ok(()) }
}
