//! The kernel side: the program's entry, the maps, and packet access through an XDP context. The packet processing itself is in
//! [`xdp_lb_common::process`].
#![allow(unsafe_code, reason = "helpers and packets are the kernel's")]
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    missing_docs,
    reason = "the macros make items without one of those that have one; nothing here is public"
)]

mod bench;
mod decap;
mod flow_table;
mod followed;
mod losses;
mod maps;
mod neighbour;
mod packet;
mod scratch;
mod skb;
mod tables;
mod tc;
mod trace;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::process::{Verdict, process, send_check};

use crate::packet::Frame;
use crate::scratch::{PerCpu, scratch};
use crate::tables::Maps;

/// The load balancer.
#[xdp]
pub fn xdp_lb(context: XdpContext) -> u32 {
    let verdict = process(&mut Frame::new(&context), &Maps::new(&context), &mut PerCpu);
    #[cfg(feature = "log")]
    log(&context, verdict);
    action(verdict)
}

/// The program of health checks through VIPs, on the host's end of the veth pair at whose other end the checks' sockets are.
#[xdp]
pub fn xdp_check(context: XdpContext) -> u32 {
    let Some(scratch) = scratch() else { return xdp_action::XDP_DROP };
    action(send_check(&mut Frame::new(&context), &Maps::new(&context), scratch))
}

/// The load balancer, which notes what becomes of packets that are followed. It takes the other one's place for as long as somebody
/// follows any.
#[xdp]
pub fn xdp_trace(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    trace::begin(&frame);
    let verdict = process(&mut frame, &Maps::new(&context), &mut PerCpu);
    trace::end(&frame, trace::code(verdict));
    action(verdict)
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit => xdp_action::XDP_TX,
        // SAFETY: the helper takes two numbers, and refuses an index that does not exist.
        Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// Passes every packet. The other end of a veth pair needs a program to accept transmitted packets.
#[xdp]
pub fn xdp_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[cfg(feature = "log")]
fn log(context: &XdpContext, verdict: Verdict) {
    use aya_log_ebpf::debug;
    match verdict {
        Verdict::Pass(reason) => debug!(context, "pass: {}", reason.name()),
        Verdict::Drop(reason) => debug!(context, "drop: {}", reason.name()),
        Verdict::Transmit => debug!(context, "transmit"),
        Verdict::Redirect(ifindex) => debug!(context, "redirect to {}", ifindex),
    }
}

/// Not reachable: otherwise the verifier would reject the program.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that is declared to the kernel, for helpers that require a GPL-compatible one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
