//! Each CPU's scratch.

use xdp_lb_common::process::{Scratch, Scratchpad};

use crate::maps::SCRATCH;

/// This CPU's scratch.
pub struct PerCpu;

impl Scratchpad for PerCpu {
    #[inline(always)]
    fn lend(&mut self) -> Option<&mut Scratch> {
        scratch()
    }
}

/// This CPU's scratch.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: each CPU has its own, a program is not interrupted by another of its kind, and the map's
    // memory holds zeros or what these programs left there.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).0 })
}
