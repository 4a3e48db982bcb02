//! The program of a backend, which takes the outer packet off what a load balancer sent it.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::decap::{OUTCOMES, Outcome, Settings, Tables, decapsulate};
use xdp_lb_common::net::Address;

use crate::packet::Frame;

#[map]
static DECAP_SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static DECAP_LOCAL: HashMap<Address, u8> = HashMap::with_max_entries(1024, 0);
#[map]
static DECAP_FROM: LpmTrie<Address, u8> = LpmTrie::with_max_entries(1024, 0);
#[map]
static DECAP_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(OUTCOMES, 0);

/// The decapsulator.
#[xdp(frags)]
pub fn xdp_decap(context: XdpContext) -> u32 {
    match decapsulate(&mut Frame::new(&context), &Maps) {
        outcome if outcome.is_drop() => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        DECAP_SETTINGS.get(0)
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { DECAP_LOCAL.get(address) }.is_some()
    }

    #[inline(always)]
    fn is_allowed(&self, source: &Address) -> bool {
        DECAP_FROM.get(Key::new(128, *source)).is_some()
    }

    #[inline(always)]
    fn count(&self, outcome: Outcome) {
        if let Some(counter) = DECAP_COUNTERS.get_ptr_mut(outcome as u32) {
            // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
            unsafe { *counter += 1 };
        }
    }
}
