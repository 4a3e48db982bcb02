//! Source addresses that a packet from a network cannot have: an answer to such a packet would be sent to no one, to everyone, or
//! to this host itself.
//!
//! Packets that arrive on `lo` are this host's own, and exempt.

use crate::packet::headers::TCP_ACK;
use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::Tables;

/// The index of `lo` in each network namespace (`LOOPBACK_IFINDEX` in Linux).
const LOOPBACK: u32 = 1;

/// Whether the source is martian, or equal to the destination ("land"), as far as the packet alone shows.
#[inline(always)]
pub fn is_suspect(parsed: &Parsed) -> bool {
    parsed.key.source.is_martian() | (parsed.key.source == parsed.key.destination)
}

/// Refuses such a packet.
#[inline(always)]
pub fn check_address(parsed: &Parsed) -> Result<(), Reason> {
    if is_suspect(parsed) && parsed.ingress != LOOPBACK { Err(Reason::MartianSource) } else { Ok(()) }
}

/// Whether a packet may begin a flow, so that its source is looked up: all but TCP packets with an ACK, which a backend without
/// the connection answers with a reset.
#[inline(always)]
pub fn may_begin(parsed: &Parsed) -> bool {
    parsed.tcp_flags & TCP_ACK == 0
}

/// Refuses a source that is a VIP or another address of this host. `parsed`: a packet whose source has a bit in the
/// [filter](crate::tables::filter).
///
/// Not inlined: few packets need it.
#[inline(never)]
pub fn check_owner<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    let is_ours = tables.is_own(&parsed.key.source) || tables.is_vip(&parsed.key.source);
    if is_ours && parsed.ingress != LOOPBACK { Err(Reason::MartianSource) } else { Ok(()) }
}

/// Does all of these checks. A packet without ports has no flow, so each one is checked.
#[inline(always)]
pub fn check<T: Tables>(tables: &T, parsed: &Parsed) -> Result<(), Reason> {
    check_address(parsed)?;
    if tables.roles(&parsed.key.source) == 0 { Ok(()) } else { check_owner(tables, parsed) }
}
