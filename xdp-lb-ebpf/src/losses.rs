//! Counts packets that the kernel drops after the program's verdict. These programs only run at such drops: at the tracepoints of
//! failed redirects and transmits (include/trace/events/xdp.h). A packet that is not dropped costs nothing.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::loss::{LossKey, REDIRECT, TRANSMIT, Watched};

use crate::maps::{LOSSES, REASON_COUNTERS, WATCHED};
use crate::tables::add;

/// `TP_PROTO(const struct net_device *dev, const struct bpf_prog *xdp, const void *tgt, int err, enum bpf_map_type map_type, u32
/// map_id, u32 index)`. For a redirect without a map, the index is the interface's (5.13).
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
pub fn xdp_lost_redirect(context: RawTracePointContext) -> u32 {
    if let Some(watched) = WATCHED.get(0)
        && is_watched(watched, context.arg(1))
    {
        count(
            Reason::RedirectFailed,
            LossKey { ifindex: context.arg(6), action: REDIRECT, error: context.arg(3) },
        );
    }
    0
}

/// `TP_PROTO(const struct net_device *dev, const struct bpf_prog *xdp, u32 act)`: the verdict failed.
#[raw_tracepoint(tracepoint = "xdp_exception")]
pub fn xdp_lost_otherwise(context: RawTracePointContext) -> u32 {
    let action: u32 = context.arg(2);
    // For a redirect, drivers call this after the other tracepoint has already been called.
    if action != REDIRECT
        && let Some(watched) = WATCHED.get(0)
        && is_watched(watched, context.arg(1))
    {
        let ifindex = read::<u32>(context.arg(0), watched.device_ifindex).unwrap_or(0);
        let reason = if action == TRANSMIT { Reason::TransmitFailed } else { Reason::Internal };
        count(reason, LossKey { ifindex, action, error: 0 });
    }
    0
}

/// Whether a `struct bpf_prog` is a program whose packets are counted.
#[inline(always)]
fn is_watched(watched: &Watched, program: u64) -> bool {
    let id = read::<u64>(program, watched.program_aux).and_then(|aux| read::<u32>(aux, watched.aux_id));
    id.is_some_and(|id| id != 0 && watched.programs.contains(&id))
}

/// The value in kernel memory at this offset from the address.
#[inline(always)]
fn read<T>(address: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper reads kernel memory, and fails at invalid addresses. Only numbers are read.
    unsafe { bpf_probe_read_kernel((address + u64::from(offset)) as *const T) }.ok()
}

#[inline(always)]
fn count(reason: Reason, key: LossKey) {
    if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: each CPU has its own, and programs of a CPU count one after the other. If this interrupts one of them, a packet
        // may be miscounted.
        unsafe { *counter += 1 };
    }
    if LOSSES.get_ptr_mut(key).is_none() {
        // If another CPU is faster, or there is no room, the next lookup shows that.
        let _ = LOSSES.insert(key, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(counter) = LOSSES.get_ptr_mut(key) {
        // SAFETY: it is the aligned word of an entry.
        unsafe { add(counter.cast(), 1) };
    }
}
