//! Counts packets that are not forwarded by their service and backend, and takes a sample of those that are dropped. A
//! forwarded packet costs no more on the fast path, and a few stores on the slow path.

use super::context::Scratch;
use crate::reason::{Kind, Reason};
use crate::tables::Tables;

/// Counts a packet that is not forwarded for this reason.
///
/// Not inlined, and reads its input from the scratch: it is rare.
#[inline(never)]
pub(super) fn count<T: Tables>(tables: &T, scratch: &Scratch, reason: Reason) {
    let refusal = scratch.meta.owners.refusal(reason);
    if refusal.service | refusal.backend.0 != 0 {
        tables.count_refusal(&refusal);
    }
    let parsed = &scratch.parsed;
    if reason.kind() == Kind::Drop && tables.samples_drop(reason, &parsed.key.source) {
        tables.put_drop(&parsed.key, &refusal, parsed.ingress);
    }
}
