//! What the rows of [`xdp_lb_common::maps`] say to whoever loads the maps.

use xdp_lb_common::flow_table;
use xdp_lb_common::tables::version::is_pinned;

use super::directory;
use crate::model::Limits;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $(<$($part:ty),+>)? =
        $new:ident($entries:expr, $flags:expr) $(for $by:expr)?, $kept:ident;)*) => {
        const PINNED: &[(&str, bool)] = &[$((stringify!($name), is_pinned(stringify!($kept)))),*];
        const SIZES: &[(&str, fn(&Limits) -> u32)] = &[$($((stringify!($name), $by),)?)*];
    };
}

xdp_lb_common::maps!(tables);

/// The maps that are pinned: what forwarding needs and what must outlive the daemon.
pub fn pinned() -> impl Iterator<Item = &'static str> {
    PINNED.iter().filter(|(_, is_pinned)| *is_pinned).map(|(name, _)| *name)
}

/// The maps that are as large as these limits say, and how many entries each has.
pub fn sizes(limits: &Limits) -> impl Iterator<Item = (&'static str, u32)> {
    SIZES.iter().map(|(name, size)| (*name, size(limits)))
}
