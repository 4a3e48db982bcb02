//! Programs for `cargo xtask bench`. `BPF_PROG_TEST_RUN` hands each round what the last one left, so a
//! wrapper puts the packet back, as one of many flows, and calls the program under test.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::bench::{Plan, WORDS};
use xdp_lb_common::headers::Ethernet;
use xdp_lb_common::packet::Packet;

use crate::packet::Frame;

#[map]
static BENCH_PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map]
static BENCH_ROUND: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BENCH_PROGRAM: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The least that a program can do which sends a packet back: swaps the Ethernet addresses.
#[xdp]
pub fn xdp_floor(context: XdpContext) -> u32 {
    let mut frame = Frame::new(&context);
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return xdp_action::XDP_DROP };
    let swapped = Ethernet {
        destination: ethernet.source,
        source: ethernet.destination,
        ethertype: ethernet.ethertype,
    };
    match frame.write(0, swapped) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_DROP,
    }
}

/// Puts the plan's packet in place, as the next of its flows, and calls the program under test.
#[xdp]
pub fn xdp_bench(context: XdpContext) -> u32 {
    let (Some(plan), Some(round)) = (BENCH_PLAN.get(0), BENCH_ROUND.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
    let round = unsafe {
        *round = (*round).wrapping_add(1);
        *round
    };
    let mut frame = Frame::new(&context);
    if frame.write::<[u32; WORDS]>(0, plan.words).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // An odd factor visits every flow once before any again, in no order that a cache could foresee.
    let flow = round.wrapping_mul(0x9e37_79b1) & plan.flow_mask;
    let address = (flow >> 14) as u16;
    let port = 0x4000 | (flow & 0x3fff) as u16;
    if frame.write(plan.address_at as usize, address.to_be()).is_none()
        || frame.write(plan.port_at as usize, port.to_be()).is_none()
    {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is this program's own; where the slot is empty the call returns.
    let _ = unsafe { BENCH_PROGRAM.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}
