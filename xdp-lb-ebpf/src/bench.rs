//! Programs for `cargo xtask bench`. `BPF_PROG_TEST_RUN` hands each round what the last one left, so its
//! programs put the packet back, as one of many flows.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::bench::{Plan, Variation, WORDS, WORDS_AT};
use xdp_lb_common::packet::Packet;
use xdp_lb_common::packet::headers::Ethernet;

use crate::packet::Frame;

#[map]
static BENCH_PLAN: Array<Plan> = Array::with_max_entries(1, 0);
/// Packets that were put back.
#[map]
static BENCH_ROUNDS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Packets that arrived.
#[map]
static BENCH_SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BENCH_PROGRAM: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The least that a program can do which sends a packet back: swaps the Ethernet addresses.
#[xdp(frags)]
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
#[xdp(frags)]
pub fn xdp_bench(context: XdpContext) -> u32 {
    let Some(plan) = BENCH_PLAN.get(0) else { return xdp_action::XDP_ABORTED };
    if put_back(&context, plan).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the context is this program's own; where the slot is empty the call returns.
    unsafe { BENCH_PROGRAM.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

/// Puts the plan's packet in place, as the next of its flows, and sends it through the plan's interface.
#[xdp(frags)]
pub fn xdp_generate(context: XdpContext) -> u32 {
    let Some(plan) = BENCH_PLAN.get(0) else { return xdp_action::XDP_ABORTED };
    match put_back(&context, plan) {
        Some(()) => redirect(plan.ifindex),
        None => xdp_action::XDP_ABORTED,
    }
}

/// The least that a program can do which sends a packet on: gives it the plan's Ethernet addresses.
#[xdp(frags)]
pub fn xdp_bare(context: XdpContext) -> u32 {
    let Some(plan) = BENCH_PLAN.get(0) else { return xdp_action::XDP_ABORTED };
    let [first, second, third, ..] = plan.words;
    let mut frame = Frame::new(&context);
    let written = frame.write(0, plan.first).and_then(|()| frame.write(WORDS_AT, [first, second, third]));
    match written {
        Some(()) => redirect(plan.ifindex),
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts packets, and drops them.
#[xdp(frags)]
pub fn xdp_sink(_: XdpContext) -> u32 {
    next(&BENCH_SUNK);
    xdp_action::XDP_DROP
}

/// The next number; 0 where there is none.
#[inline(always)]
fn next(counter: &PerCpuArray<u64>) -> u64 {
    let Some(count) = counter.get_ptr_mut(0) else { return 0 };
    // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
    unsafe {
        *count += 1;
        *count
    }
}

#[inline(always)]
fn put_back(context: &XdpContext, plan: &Plan) -> Option<()> {
    let mut frame = Frame::new(context);
    // What the last round put before the packet goes.
    if frame.length() != plan.length as usize {
        frame.move_head(frame.length() as i32 - plan.length as i32)?;
    }
    frame.write(0, plan.first)?;
    frame.write::<[u32; WORDS]>(WORDS_AT, plan.words)?;
    let variation = Variation::of(plan, next(&BENCH_ROUNDS) as u32);
    frame.write(plan.address_at as usize, variation.address.to_be())?;
    frame.write(plan.port_at as usize, variation.port.to_be())?;
    if plan.checksum_at != 0 {
        frame.write(plan.checksum_at as usize, variation.checksum(plan).to_be())?;
    }
    if plan.services != 0 {
        frame.write(plan.vip_at as usize, variation.vip.to_be())?;
        frame.write(plan.vip_port_at as usize, variation.vip_port.to_be())?;
    }
    Some(())
}

#[inline(always)]
fn redirect(ifindex: u32) -> u32 {
    // SAFETY: the helper takes two numbers; it refuses an index that does not exist.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
