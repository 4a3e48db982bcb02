//! The tables of earlier layouts, for a daemon that takes over: converts each layout's pins to the current types.

mod alike;
mod lru;
mod tables;

use std::path::Path;

use anyhow::Result;
use xdp_lb_common::tables::version::LAYOUT_VERSION;

use self::alike::Alike;
use self::lru::Lru;
pub use self::tables::Former;
use super::load::Options;
use super::pins;

/// Opens the pins of a layout.
type Open = fn(&Path, &Options) -> Result<Box<dyn Former>>;

/// The layouts that can be taken over.
const KNOWN: &[(u32, Open)] = &[
    // A build that differs only in its layout number, as the end-to-end tests make one.
    (LAYOUT_VERSION, open_alike),
    // The flow table without levels.
    (PREVIOUS, open_alike),
    // The list of reasons was part of the number.
    (WITH_REASONS, open_alike),
    // Flow records in LRU hash tables, one for each direction.
    (lru::LAYOUT_VERSION, open_lru),
];

/// The layout before the flow table had levels.
const PREVIOUS: u32 = 72_669;
/// The one before that.
const WITH_REASONS: u32 = 71_077;

/// Checks whether this daemon can take over the pins under this path, if there are any.
///
/// # Errors
/// If it cannot.
pub fn check_layout(pin_path: &Path) -> Result<()> {
    pins::other(pin_path, is_known).map(drop)
}

/// Whether tables of this layout can be taken over.
pub fn is_known(version: u32) -> bool {
    KNOWN.iter().any(|(known, _)| *known == version)
}

/// Opens the tables of this layout pinned in this directory.
///
/// # Errors
/// If some are missing, or the layout is unknown.
pub fn open(directory: &Path, version: u32, options: &Options) -> Result<Box<dyn Former>> {
    let known = KNOWN.iter().find(|(known, _)| *known == version);
    let (_, open) = known.ok_or_else(|| anyhow::anyhow!("nothing is known of layout {version}"))?;
    open(directory, options)
}

fn open_alike(directory: &Path, options: &Options) -> Result<Box<dyn Former>> {
    Ok(Box::new(Alike::open(directory, options)?))
}

fn open_lru(directory: &Path, options: &Options) -> Result<Box<dyn Former>> {
    Ok(Box::new(Lru::open(directory, options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_before_this_one_is_known() {
        const PRESENT: u32 = 79_534;
        assert_eq!(
            LAYOUT_VERSION, PRESENT,
            "the layout has changed: add {PRESENT} to KNOWN, with who reads it, and put the new number here"
        );
        assert!(is_known(PREVIOUS) && is_known(lru::LAYOUT_VERSION) && !is_known(9999));
    }
}
