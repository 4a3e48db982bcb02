//! The flow hash: keyed, so that nobody outside can aim at one backend.

/// How many 64-bit keys the flow hash takes.
pub const KEYS: usize = 8;
