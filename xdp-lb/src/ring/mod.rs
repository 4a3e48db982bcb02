//! A service's ring: weighted Maglev, how a backend comes into it bit by bit, how long a ring is, and how one ring becomes
//! the next.

#![forbid(unsafe_code)]

mod length;
mod maglev;
mod merge;
mod phase;
mod transition;

pub use length::{length, shorter};
pub use maglev::{Member, build};
pub use merge::{is_held, merged, record_for_merge};
pub use phase::owners;
pub use transition::{moved, transition};
