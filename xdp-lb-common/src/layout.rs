//! What both sides must agree on to share pinned tables.

/// The version of the shared tables' layout; a daemon adopts only pins of its own version.
pub const LAYOUT_VERSION: u32 = 1;
