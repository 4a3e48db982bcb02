//! Values that a BPF map contains byte for byte.

use zerocopy::{FromBytes, IntoBytes};

/// A value that consists of its bytes only.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: any bytes are a valid T (FromBytes), and a T has no padding (IntoBytes).
unsafe impl<T: FromBytes + IntoBytes + Copy + 'static> aya::Pod for Plain<T> {}
