//! The largest segment that a TCP connection's first packets announce (RFC 9293 section 3.7.1), bounded by what the path
//! to the backend takes: so neither end sends what would have to be answered by "packet too big", which may never arrive.

use crate::net::{Be16, Be32};
use crate::packet::Packet;
use crate::packet::checksum::Change;
use crate::packet::headers::{Ipv4, Ipv6, Tcp, checksum_offset};
use crate::packet::parse::Parsed;
use crate::reason::Reason;

/// TCP options (IANA "TCP Option Kind Numbers").
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The length of the option, its kind and length included.
const LENGTH: u8 = 4;

/// How many options are walked: systems put this one first or second.
const OPTIONS: usize = 8;

/// What each end assumes of one that announces nothing (RFC 9293 section 3.7.1): no bound is below.
const LEAST_V4: usize = 536;
const LEAST_V6: usize = 1220;

/// The largest segment that an IP packet of this size holds.
#[inline(always)]
fn bound(is_v4: bool, mtu: u16) -> u16 {
    let (ip, least) = if is_v4 { (size_of::<Ipv4>(), LEAST_V4) } else { (size_of::<Ipv6>(), LEAST_V6) };
    usize::from(mtu).saturating_sub(ip + size_of::<Tcp>()).max(least) as u16
}

/// Whether a SYN is seen at once to announce no more than fits in an IP packet of `mtu` bytes (0: any): it has no options, or
/// its first one says so. Else [`clamp`] has to look closer.
#[inline(always)]
pub fn is_bounded<P: Packet>(packet: &P, parsed: &Parsed, mtu: u16) -> bool {
    const NO_OPTIONS: u16 = (size_of::<Tcp>() / 4) as u16;
    // With the byte behind it: the verifier does not follow how the end of a packet is compared for one byte.
    let offset = packet.read::<Be16>(parsed.l4 + core::mem::offset_of!(Tcp, data_offset));
    if mtu == 0 || offset.is_some_and(|offset| offset.get() >> 12 == NO_OPTIONS) {
        return true;
    }
    let Some(option) = packet.read::<Be32>(parsed.l4 + size_of::<Tcp>()) else { return false };
    let option = option.get();
    let is_size = option >> 16 == u32::from(MAXIMUM_SEGMENT_SIZE) << 8 | u32::from(LENGTH);
    is_size & (option as u16 <= bound(parsed.is_v4, mtu))
}

/// Bounds what a SYN announces by what fits in an IP packet of `mtu` bytes (0: any).
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
pub fn clamp<P: Packet>(packet: &mut P, parsed: &Parsed, mtu: u16) -> Result<(), Reason> {
    // Else LLVM makes arguments of the packet's two ends, 32 bits wide, which the verifier takes for no pointers.
    let packet = core::hint::black_box(packet);
    if is_bounded(packet, parsed, mtu) {
        return Ok(());
    }
    let tcp: Tcp = packet.read(parsed.l4).ok_or(Reason::Internal)?;
    let end = parsed.l4 + usize::from(tcp.data_offset >> 4) * 4;
    let most = bound(parsed.is_v4, mtu);
    let mut at = parsed.l4 + size_of::<Tcp>();
    for _ in 0..OPTIONS {
        if at + usize::from(LENGTH) > end {
            break;
        }
        let Some(head) = packet.read::<Be16>(at) else { break };
        let [kind, length] = head.get().to_be_bytes();
        match kind {
            END => break,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if length == LENGTH => return write(packet, parsed, at + 2, most),
            // What is shorter than its own head lies.
            _ if length < 2 => break,
            _ => at += usize::from(length),
        }
    }
    Ok(())
}

/// Writes the size that stands here, where it is larger.
#[inline(always)]
fn write<P: Packet>(packet: &mut P, parsed: &Parsed, at: usize, most: u16) -> Result<(), Reason> {
    let old: Be16 = packet.read(at).ok_or(Reason::Internal)?;
    if old.get() <= most {
        return Ok(());
    }
    let new = Be16::new(most);
    packet.write(at, new).ok_or(Reason::Internal)?;
    // Behind an odd number of bytes its own two are the halves of two words, each in the other's place.
    let word = |value: Be16| {
        if (at - parsed.l4).is_multiple_of(2) { value.word() } else { value.word().swap_bytes() }
    };
    let mut change = Change::default();
    change.word(word(old), word(new));
    let checksum = parsed.l4 + checksum_offset(true);
    packet.change_checksum(checksum, Change::default(), change, false).ok_or(Reason::Internal)
}
