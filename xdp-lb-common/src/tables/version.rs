//! The version of the layout: both sides must have the same to share pinned tables.

use super::directory::Keyed;
use super::drops::Sampled;
use super::loss::{LossKey, Watched};
use super::refusal::RefusalKey;
use super::{
    Backend, Check, FlowKey, Fragment, FragmentKey, PortRanges, Reply, RouterAddresses, RouterInterface,
    ServerKey, Service, Settings, SolePorts, SourceKey, Traffic, VlanDevice,
};
use crate::flow_table::Line;
use crate::layout::{Layout, fold, fold_name};
use crate::net::{Address, Endpoint};
use crate::rate::Buckets;
use crate::reason::COUNTED_REASONS;
use crate::trace::{TraceFilter, TraceLimits};

/// Increased when the meaning of a key or value changes.
const MEANING: u32 = 7;

macro_rules! hash_of_pinned {
    ($($(#[$doc:meta])* $name:ident: $kind:ident $(<$($part:ty),+>)? =
        $new:ident($entries:expr, $flags:expr) $(for $by:expr)?, $kept:ident;)*) => {{
        let mut hash = 0;
        $(if is_pinned(stringify!($kept)) {
            hash = fold_name(fold_name(hash, stringify!($name)), stringify!($kind));
            $($(hash = fold(hash, <$part as Layout>::LAYOUT);)+)?
        })*
        hash
    }};
}

/// Whether a table is pinned, by the last column of its row in [`maps`](crate::maps).
pub const fn is_pinned(kept: &str) -> bool {
    matches!(kept.as_bytes(), b"pinned")
}

/// The version of the shared tables' layout: the meaning of the bytes, and a hash of each pinned table's name and type and of the
/// fields of its key and value, so that it follows every change. A new reason does not change it.
pub const LAYOUT_VERSION: u32 =
    MEANING * 10_000 + fold(crate::maps!(hash_of_pinned), COUNTED_REASONS) % 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    macro_rules! kept {
        ($($(#[$doc:meta])* $name:ident: $kind:ident $(<$($part:ty),+>)? =
            $new:ident($entries:expr, $flags:expr) $(for $by:expr)?, $kept:ident;)*) => {
            [$((stringify!($name), stringify!($kept))),*]
        };
    }

    #[test]
    fn the_numbers_of_reasons_mean_what_they_did() {
        let names = Reason::ALL[..40].iter().fold(0, |hash, reason| fold_name(hash, reason.name()));
        assert_eq!(
            names, 3_398_402_094,
            "a counter means another reason than in earlier builds: raise MEANING"
        );
    }

    #[test]
    fn each_row_says_whether_its_table_is_pinned() {
        let rows = crate::maps!(kept);
        assert!(rows.iter().all(|(_, kept)| matches!(*kept, "pinned" | "own")), "{rows:?}");
        assert_eq!(rows.iter().filter(|(_, kept)| is_pinned(kept)).count(), 30);
    }
}
