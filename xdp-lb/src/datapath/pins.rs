//! The pins: what makes forwarding outlive the daemon.
//!
//! `PIN_PATH/layout-N/` holds the maps by their names, and a link for each interface and mode
//! (`link-native-eth0`), and one for its program at TC ingress (`tc-eth0`). A daemon of another layout finds no maps of its own there, and says so.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use xdp_lb_common::layout::LAYOUT_VERSION;

use super::{classifier, link};
use crate::config::XdpMode;

/// What the names of pins begin with that are links to TC ingress.
const CLASSIFIER: &str = "tc-";

/// The directory of one layout's pins.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Held open for its lock, which ends with this process, however that ends.
    _lock: File,
}

impl Pins {
    /// The pins under this bpffs path, made where there are none.
    ///
    /// # Errors
    /// Where the path is not on a bpffs, holds the pins of another layout, or another daemon uses it.
    pub fn open(pin_path: &Path) -> Result<Self> {
        // Looked at before anything is made there.
        let present = pin_path.ancestors().find(|path| path.exists()).unwrap_or(pin_path);
        let kind = statfs(present).with_context(|| format!("cannot look at {}", present.display()))?;
        ensure!(
            kind.filesystem_type() == BPF_FS_MAGIC,
            "{} is not on a BPF file system: {}",
            pin_path.display(),
            mount_hint(pin_path)
        );
        fs::create_dir_all(pin_path)
            .with_context(|| format!("cannot make the pin directory {}", pin_path.display()))?;
        check_layout(pin_path)?;
        let own = directory(pin_path);
        match fs::create_dir(&own) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", own.display())),
        }
        let _lock = lock(&own)?;
        Ok(Self { directory: own, _lock })
    }

    /// Where an interface's link is pinned.
    pub fn link(&self, interface: &str, mode: XdpMode) -> PathBuf {
        link_path(&self.directory, interface, mode)
    }

    /// Where the link of an interface's program at TC ingress is pinned.
    pub fn classifier(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("{CLASSIFIER}{}", escape(interface)))
    }

    /// Removes all of them, and so detaches the program from every interface; says what was removed.
    ///
    /// # Errors
    /// Where something cannot be removed; what comes before it is.
    pub fn remove(&self) -> Result<Vec<String>> {
        let removed = remove_layout(&self.directory)?;
        // The path itself may be a mount point, or hold what is not ours.
        let _ = self.directory.parent().map(fs::remove_dir);
        Ok(removed)
    }

    /// The interfaces whose links are pinned, with how they were attached.
    pub fn links(&self) -> Result<Vec<(String, XdpMode)>> {
        let mut links = Vec::new();
        for entry in list(&self.directory)? {
            for mode in [XdpMode::Native, XdpMode::Generic] {
                if let Some(interface) = name(&entry).strip_prefix(&format!("link-{}-", mode_name(mode))) {
                    links.push((unescape(interface), mode));
                }
            }
        }
        Ok(links)
    }
}

/// Where a map of this layout is pinned under this path.
pub fn map(pin_path: &Path, name: &str) -> PathBuf {
    directory(pin_path).join(name)
}

/// Looks whether the pins under this path, if any, are of this daemon's layout, so that it can take them over.
///
/// # Errors
/// Where they are of another.
pub fn check_layout(pin_path: &Path) -> Result<()> {
    let own = directory(pin_path);
    if !pin_path.exists() {
        return Ok(());
    }
    for entry in list(pin_path)? {
        if entry != own && name(&entry).starts_with("layout-") {
            bail!(
                "{} holds {}, made by another version of xdp-lb (this one makes {}): unload it first with \
                 `xdp-lb unload`, which interrupts forwarding, or choose another pin_path",
                pin_path.display(),
                name(&entry),
                name(&own)
            );
        }
    }
    Ok(())
}

/// Whether a daemon has pinned a link for an interface under this path.
pub fn is_pinned(pin_path: &Path, interface: &str) -> bool {
    [XdpMode::Native, XdpMode::Generic]
        .into_iter()
        .any(|mode| link_path(&directory(pin_path), interface, mode).exists())
}

fn link_path(directory: &Path, interface: &str, mode: XdpMode) -> PathBuf {
    directory.join(format!("link-{}-{}", mode_name(mode), escape(interface)))
}

/// bpffs refuses names with a dot, which an interface's may have, and an interface's has no colon.
fn escape(interface: &str) -> String {
    interface.replace('.', ":")
}

fn unescape(name: &str) -> String {
    name.replace(':', ".")
}

/// Two daemons with the same tables would undo each other's writes.
fn lock(directory: &Path) -> Result<File> {
    let file = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another daemon uses the pins in {}: stop it first, or choose another pin_path",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", directory.display()))
        }
    }
}

fn mode_name(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Generic => "generic",
        XdpMode::Native | XdpMode::Auto => "native",
    }
}

fn directory(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("layout-{LAYOUT_VERSION}"))
}

fn mount_hint(pin_path: &Path) -> String {
    let mount = if pin_path.starts_with("/sys/fs/bpf") { Path::new("/sys/fs/bpf") } else { pin_path };
    format!("mount one with `mount -t bpf bpf {}`", mount.display())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
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
    for layout in list(pin_path)?.into_iter().filter(|path| name(path).starts_with("layout-")) {
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
        remove_link(link)?;
        if let [_, _, interface] = name(link).splitn(3, '-').collect::<Vec<_>>()[..] {
            classifier::remove_filter(&unescape(interface));
        }
        removed.push(match name(link).splitn(3, '-').collect::<Vec<_>>()[..] {
            [_, mode, interface] => format!("detached from {} ({mode})", unescape(interface)),
            _ => format!("removed {}", link.display()),
        });
    }
    classifiers.iter().try_for_each(|link| remove_link(link))?;
    for map in &maps {
        remove(map)?;
    }
    if !maps.is_empty() {
        removed.push(format!("removed {} tables from {}", maps.len(), layout.display()));
    }
    fs::remove_dir(layout).with_context(|| format!("cannot remove {}", layout.display()))?;
    Ok(removed)
}

/// Detaches a pinned link and removes its pin; one that is gone already is no error.
pub fn remove_link(path: &Path) -> Result<()> {
    // A link that cannot be detached now is once its pin is gone.
    let _ = link::detach(path);
    remove(path)
}

/// Removes a pin; one that is gone already is no error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
