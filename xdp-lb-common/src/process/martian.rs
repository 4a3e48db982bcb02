//! Senders that no packet from a network can have: an answer to such a packet would go to nobody, to everybody, or to
//! this host itself.
//!
//! What comes in by `lo` is this host's own, and excepted.

use crate::packet::headers::TCP_ACK;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::Tables;

/// The index of `lo` in each network namespace (`LOOPBACK_IFINDEX` in Linux).
const LOOPBACK: u32 = 1;

/// Whether the source is martian, or the packet's own destination ("land"), as can be seen of the packet alone.
#[inline(always)]
pub fn is_suspect(parsed: &Parsed) -> bool {
    parsed.key.source.is_martian() | (parsed.key.source == parsed.key.destination)
}

/// Refuses that.
#[inline(always)]
pub fn check_address(parsed: &Parsed) -> Result<(), Reason> {
    if is_suspect(parsed) && parsed.ingress != LOOPBACK { Err(Reason::MartianSource) } else { Ok(()) }
}

/// Whether a packet may begin a flow, so that its source is looked up: all but TCP's with an ACK, which a backend that
/// does not know them answers with a reset.
#[inline(always)]
pub fn may_begin(parsed: &Parsed) -> bool {
    parsed.tcp_flags & TCP_ACK == 0
}

/// Refuses a source that is a VIP or another address of this host. `parsed` is that of a packet whose source has a bit in
/// the [filter](crate::tables::filter).
///
/// A call of its own in the kernel, not inlined: few packets have one.
#[inline(never)]
pub fn check_owner<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    let is_ours = tables.is_own(&parsed.key.source) || tables.is_vip(&parsed.key.source);
    if is_ours && parsed.ingress != LOOPBACK { Err(Reason::MartianSource) } else { Ok(()) }
}

/// Refuses all of them. What has no ports has no flow either, and is looked at each time.
#[inline(always)]
pub fn check<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    check_address(parsed)?;
    if tables.roles(&parsed.key.source) == 0 { Ok(()) } else { check_owner(tables, parsed) }
}
