//! The removal of pins, which detaches the program from every interface.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::pins::{
    self, CLASSIFIER, LAYOUT, Pins, STAGED, interface, link_mode, list, lock, mode_name, name,
};
use super::{classifier, link, links};

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
    let (links, rest): (Vec<_>, Vec<_>) =
        list(layout)?.into_iter().partition(|path| name(path).starts_with("link-"));
    let (classifiers, maps): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|path| name(path).starts_with(CLASSIFIER));
    for link in &links {
        let on = interface(link);
        remove_link(link)?;
        if let Some(ifindex) = on {
            classifier::remove_filter(ifindex);
        }
        removed.push(match (on.map(links::name), link_mode(link)) {
            (Some(interface), Some(mode)) => format!("detached from {interface} ({})", mode_name(mode)),
            _ => format!("removed {}", link.display()),
        });
    }
    classifiers.iter().try_for_each(|link| remove_link(link))?;
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
