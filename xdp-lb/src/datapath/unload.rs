//! The removal of pins, which detaches the program from every interface.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::links::detached;
use super::pins::{
    self, LAYOUT, Pins, STAGED, filter_interface, interface, is_link, link_mode, list, lock, name,
};
use super::{classifier, link};

/// Removes all of these pins, and so detaches the program from every interface; says what was removed.
///
/// # Errors
/// Where something cannot be removed; what comes before it is.
pub fn remove(pins: &Pins) -> Result<Vec<String>> {
    if !pins.is_in_place() {
        return Ok(Vec::new());
    }
    let mut removed = remove_layout(pins.directory())?;
    if let Some(former) = pins.former_directory() {
        removed.extend(remove_layout(former)?);
    }
    // The path itself may be a mount point, or hold what is not ours.
    let _ = pins.directory().parent().map(fs::remove_dir);
    Ok(removed)
}

/// Removes the pins of any layout under this path that no daemon uses, and so detaches the program from
/// every interface; says what was removed.
///
/// # Errors
/// Where a daemon uses them, or something cannot be removed; what comes before it is.
pub fn unload(pin_path: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    if !pin_path.exists() {
        return Ok(removed);
    }
    let is_of_pins = |path: &PathBuf| [LAYOUT, STAGED].iter().any(|it| name(path).starts_with(it));
    for layout in list(pin_path)?.into_iter().filter(is_of_pins) {
        let _lock = lock(&layout)?;
        removed.extend(remove_layout(&layout)?);
    }
    let _ = fs::remove_dir(pin_path);
    Ok(removed)
}

fn remove_layout(layout: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    // Links first: no packet meets half a set of tables.
    let (links, rest): (Vec<_>, Vec<_>) = list(layout)?.into_iter().partition(|path| is_link(path));
    let (filters, maps): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|path| filter_interface(path).is_some());
    let has_xdp: Vec<_> =
        links.iter().filter(|path| link_mode(path).is_some()).filter_map(|path| interface(path)).collect();
    for link in &links {
        let on = interface(link);
        remove_link(link)?;
        if let Some(ifindex) = on {
            classifier::remove_filters(ifindex);
        }
        removed.extend(match (on, link_mode(link)) {
            (Some(ifindex), Some(mode)) => Some(detached(ifindex, mode.name())),
            // It was beside the XDP program.
            (Some(ifindex), None) if has_xdp.contains(&ifindex) => None,
            (Some(ifindex), None) => Some(detached(ifindex, "tc")),
            (None, _) => Some(format!("removed {}", link.display())),
        });
    }
    for filter in &filters {
        if let Some(ifindex) = filter_interface(filter) {
            classifier::remove_filters(ifindex);
            removed.push(detached(ifindex, "tc"));
        }
        pins::remove(filter)?;
    }
    for map in &maps {
        pins::remove(map)?;
    }
    if !maps.is_empty() {
        removed.push(format!("removed {} tables from {}", maps.len(), layout.display()));
    }
    fs::remove_dir(layout).with_context(|| format!("cannot remove {}", layout.display()))?;
    Ok(removed)
}

/// Detaches a pinned link and removes its pin; one that is gone already is not an error.
fn remove_link(path: &Path) -> Result<()> {
    // A link that cannot be detached now is once its pin is gone.
    let _ = link::open(path).and_then(|link| link::detach(link.as_fd()));
    pins::remove(path)
}
