//! The load balancer at TC ingress, for interfaces without the XDP program: it does with the kernel's packets what that does with
//! frames.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xdp_lb_common::packet::Packet as _;
use xdp_lb_common::process::{Verdict, process};

use crate::PerCpu;
use crate::neighbour::send_marked;
use crate::skb::Skb;
use crate::tables::Maps;

/// The load balancer. It also sends what the XDP program has marked that was here before: see [`crate::neighbour`].
#[classifier]
pub fn tc_lb(context: TcContext) -> i32 {
    let mut packet = Skb::with_headers(&context);
    match process(&mut packet, &Maps::new(&context), &mut PerCpu) {
        Verdict::Pass(_) => send_marked(&context),
        Verdict::Drop(_) => TC_ACT_SHOT,
        Verdict::Transmit => redirect(packet.ingress()),
        Verdict::Redirect(ifindex) => redirect(ifindex),
    }
}

/// Transmits the packet by this interface, as one of the host's own.
#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes two numbers; an index that does not exist ends the packet.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
