//! The rows of [`xdp_lb_common::maps`], for loading the maps.

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

/// The maps that are pinned: those that forwarding needs, and those that must outlive the daemon.
pub fn pinned() -> impl Iterator<Item = &'static str> {
    PINNED.iter().filter(|(_, is_pinned)| *is_pinned).map(|(name, _)| *name)
}

/// The maps whose size depends on these limits, with their number of entries.
pub fn sizes(limits: &Limits) -> impl Iterator<Item = (&'static str, u32)> {
    SIZES.iter().map(|(name, size)| (*name, size(limits)))
}
