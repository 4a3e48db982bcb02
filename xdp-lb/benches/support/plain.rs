//! Values in maps.

#![expect(unsafe_code, reason = "aya asks for it")]

use xdp_lb_common::bench::Plan;
use zerocopy::{FromBytes, IntoBytes};

/// A map's value whose bytes are all there is to it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: any bytes are a T (FromBytes), and a T has no padding (IntoBytes).
unsafe impl<T: FromBytes + IntoBytes + Copy + 'static> aya::Pod for Plain<T> {}

const _: () = assert!(size_of::<Plain<Plan>>() == size_of::<Plan>());
