//! Values that a BPF map holds byte for byte.

use zerocopy::{FromBytes, IntoBytes};

/// A value whose bytes are all there is to it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: any bytes are a T (FromBytes), and a T has no padding (IntoBytes).
unsafe impl<T: FromBytes + IntoBytes + Copy + 'static> aya::Pod for Plain<T> {}
