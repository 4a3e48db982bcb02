//! The kernel shell: the program's entry, the maps, and packet access through an XDP context.
//! What happens to a packet is [`xdp_lb_common::process`]'s to say.
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
mod losses;
mod maps;
mod neighbour;
mod packet;
mod skb;
mod tables;
mod tc;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::process::{Scratch, Scratchpad, Verdict, process, send_check};

use crate::maps::SCRATCH;
use crate::packet::Frame;
use crate::tables::Maps;

/// The load balancer.
#[xdp(frags)]
pub fn xdp_lb(context: XdpContext) -> u32 {
    let verdict = process(&mut Frame::new(&context), &Maps::new(&context), &mut PerCpu);
    #[cfg(feature = "log")]
    log(&context, verdict);
    action(verdict)
}

/// The checks' way out: on the host's end of the veth pair at whose other end the sockets of checks are that go to VIPs.
#[xdp(frags)]
pub fn xdp_check(context: XdpContext) -> u32 {
    let Some(scratch) = scratch() else { return xdp_action::XDP_DROP };
    action(send_check(&mut Frame::new(&context), &Maps::new(&context), scratch))
}

/// This CPU's scratch.
struct PerCpu;

impl Scratchpad for PerCpu {
    #[inline(always)]
    fn lend(&mut self) -> Option<&mut Scratch> {
        scratch()
    }
}

#[inline(always)]
fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: each CPU has its own, a program is not interrupted by another of its kind, and the map's
    // memory holds zeros or what these programs left there.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).0 })
}

#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit => xdp_action::XDP_TX,
        // SAFETY: the helper takes two numbers; it refuses an index that does not exist.
        Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// Passes every packet: what the other end of a veth pair needs before it takes a transmitted one.
#[xdp(frags)]
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

/// No code path reaches this: the verifier would reject it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence that the kernel is told, for the helpers that want a GPL-compatible one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
