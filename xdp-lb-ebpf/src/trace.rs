//! Notes what becomes of packets that somebody follows.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::trace::{FORWARDED, TraceEvent, ends, matches};

use crate::followed::{Followed, Noted};
use crate::maps::{FOLLOWED, TRACE_FILTER, TRACE_LEFT, TRACE_LIMITS, TRACES};
use crate::packet::Readable;
use crate::scratch::scratch;
use crate::tables::add;

/// Copies a packet that comes. A call of its own, as [`end`] is: what the stack of the program itself holds lies under all others'.
#[inline(never)]
pub fn begin<P: Readable>(packet: &P) {
    let Some(followed) = followed() else { return };
    followed.is_on = false;
    let Some(limits) = TRACE_LIMITS.get(0) else { return };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= limits.until {
        return;
    }
    let event = TraceEvent {
        time: now,
        ingress: packet.ingress(),
        before: packet.length() as u32,
        ..TraceEvent::default()
    };
    followed.ends = ends(packet);
    followed.is_long = limits.payload != 0;
    if followed.is_long {
        followed.long.event = event;
        copy(packet, &mut followed.long.before);
    } else {
        followed.short.event = event;
        copy(packet, &mut followed.short.before);
    }
    if let Some(scratch) = scratch() {
        scratch.forget_refusal();
    }
    followed.is_on = true;
}

/// A verdict as a number: what becomes of the packet, and the reason or the interface.
#[inline(always)]
pub fn code(verdict: Verdict) -> u64 {
    let (action, number) = match verdict {
        Verdict::Pass(reason) => (xdp_action::XDP_PASS, reason as u32),
        Verdict::Drop(reason) => (xdp_action::XDP_DROP, reason as u32),
        Verdict::Transmit => (xdp_action::XDP_TX, 0),
        Verdict::Redirect(ifindex) => (xdp_action::XDP_REDIRECT, ifindex),
    };
    u64::from(action) << 32 | u64::from(number)
}

/// Notes what became of the packet, if it is one of those that are followed.
#[inline(never)]
pub fn end<P: Readable>(packet: &P, code: u64) {
    let Some(followed) = followed().filter(|followed| followed.is_on) else { return };
    let (action, number) = ((code >> 32) as u32, code as u32);
    let (reason, egress) = match action {
        xdp_action::XDP_REDIRECT => (FORWARDED, number),
        xdp_action::XDP_TX => {
            let refusal = scratch().and_then(|scratch| scratch.refusal());
            (refusal.map_or(FORWARDED, |reason| reason as u32), 0)
        }
        _ => (number, 0),
    };
    let Some(filter) = TRACE_FILTER.get(0) else { return };
    if !matches(filter, &followed.ends, &ends(packet), reason) || !followed.may_note() {
        return;
    }
    let after = packet.length() as u32;
    let skipped = followed.skipped;
    let noted = |event: &mut TraceEvent| {
        *event = TraceEvent { egress, action, reason, after, skipped, ..*event };
    };
    let sent = if followed.is_long {
        noted(&mut followed.long.event);
        copy(packet, &mut followed.long.after);
        send(&followed.long)
    } else {
        noted(&mut followed.short.event);
        copy(packet, &mut followed.short.after);
        send(&followed.short)
    };
    followed.skipped = if sent { 0 } else { skipped + 1 };
}

impl Followed {
    /// Whether there is room for one more: of all, and in this second on this CPU.
    #[inline(always)]
    fn may_note(&mut self) -> bool {
        let Some(left) = TRACE_LEFT.get_ptr_mut(0) else { return false };
        let Some(limits) = TRACE_LIMITS.get(0) else { return false };
        // SAFETY: it is the word of an entry, read at once.
        if unsafe { left.read_volatile() } <= 0 {
            return false;
        }
        let time = if self.is_long { self.long.event.time } else { self.short.event.time };
        let second = time >> 30;
        if second != self.second {
            (self.second, self.noted) = (second, 0);
        }
        if self.noted >= limits.per_second {
            self.skipped += 1;
            return false;
        }
        self.noted += 1;
        // SAFETY: as above. Two CPUs may note one more than are left.
        unsafe { add(left, -1) };
        true
    }
}

#[inline(always)]
fn followed() -> Option<&'static mut Followed> {
    // SAFETY: each CPU has its own, a program is not interrupted by another of its kind, and the map's memory holds zeros or what
    // these programs left there.
    FOLLOWED.get_ptr_mut(0).map(|followed| unsafe { &mut (*followed).0 })
}

/// Copies the beginning of a packet.
#[inline(always)]
fn copy<const BYTES: usize>(packet: &impl Readable, to: &mut [u8; BYTES]) {
    let length = (packet.end() - packet.start()).min(BYTES);
    // SAFETY: the packet has so many bytes, and so has the room. Nothing else writes to it.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), length as u32, packet.start() as *const _) };
}

/// Whether user space gets it: there may be no room.
#[inline(always)]
fn send<const BYTES: usize>(noted: &Noted<BYTES>) -> bool {
    TRACES.output::<Noted<BYTES>>(noted, 0).is_ok()
}
