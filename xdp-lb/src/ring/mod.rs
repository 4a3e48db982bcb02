//! A service's ring: weighted Maglev, how long a ring is, and how one ring becomes the next.

mod length;
mod maglev;
mod transition;

pub use length::{length, shorter};
pub use maglev::{Member, build};
pub use transition::{moved, transition};
