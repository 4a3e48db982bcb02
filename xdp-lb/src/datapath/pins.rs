//! The pins: what makes forwarding outlive the daemon.
//!
//! `PIN_PATH/layout-N/` holds the maps by their names, and a link for each interface and mode
//! (`link-native-3`, by the interface's index, which outlives its name), and one for its program at TC ingress (`tc-3`). A daemon
//! of another layout finds no maps of its own there, and says so.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::warn;
use xdp_lb_common::tables::version::LAYOUT_VERSION;

use super::link;
use crate::model::XdpMode;

/// What the names of pins begin with that are links to TC ingress.
pub(super) const CLASSIFIER: &str = "tc-";

/// The directory of one layout's pins.
#[derive(Debug)]
pub struct Pins {
    pin_path: PathBuf,
    directory: PathBuf,
    /// Held open for its lock, which ends with this process, however that ends.
    lock: File,
}

impl Pins {
    /// The pins under this bpffs path, made where there are none.
    ///
    /// # Errors
    /// Where the path is not on a bpffs, holds the pins of another layout, or another daemon uses it.
    pub fn open(pin_path: &Path) -> Result<Self> {
        let (directory, lock) = Self::make(pin_path)?;
        Ok(Self { pin_path: pin_path.to_owned(), directory, lock })
    }

    fn make(pin_path: &Path) -> Result<(PathBuf, File)> {
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
        let lock = lock(&own)?;
        Ok((own, lock))
    }

    /// Makes the pins what they should be: these maps by their names, and these links at their paths. Says which were missing, or were pins
    /// of something else.
    ///
    /// # Errors
    /// Where they cannot be made, such as after the bpffs was unmounted, or where another daemon has taken the directory.
    pub fn restore<'a>(
        &mut self,
        maps: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>,
        links: impl Iterator<Item = (BorrowedFd<'a>, PathBuf)>,
    ) -> Result<Vec<String>> {
        let mut restored = Vec::new();
        if !self.is_in_place() {
            (self.directory, self.lock) = Self::make(&self.pin_path)?;
            restored.push(self.directory.display().to_string());
        }
        for (name, map) in maps {
            let id = link::object_id(map).context("cannot ask the kernel about a map")?;
            let is_its = |pin: &Path| {
                link::open(pin).and_then(|present| link::object_id(present.as_fd())).ok() == Some(id)
            };
            restored.extend(restore(map, &self::map(&self.pin_path, name), is_its)?.then(|| name.to_owned()));
        }
        for (link, path) in links {
            let info = link::info(link).context("cannot ask the kernel about a link")?;
            let is_its = |pin: &Path| {
                link::open(pin).and_then(|present| link::info(present.as_fd())).ok() == Some(info)
            };
            restored.extend(restore(link, &path, is_its)?.then(|| name(&path)));
        }
        Ok(restored)
    }

    /// Whether the directory is the one that was made and locked.
    pub(super) fn is_in_place(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.lock.metadata().map(id);
        held.is_ok_and(|held| fs::metadata(&self.directory).map(id).is_ok_and(|present| present == held))
    }

    /// Where they are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the link of the interface with this index is pinned.
    pub fn link(&self, ifindex: u32, mode: XdpMode) -> PathBuf {
        self.directory.join(format!("link-{}-{ifindex}", mode_name(mode)))
    }

    /// Where the link of the program at TC ingress of the interface with this index is pinned.
    pub fn classifier(&self, ifindex: u32) -> PathBuf {
        self.directory.join(format!("{CLASSIFIER}{ifindex}"))
    }

    /// The pinned links, with how they were attached.
    pub fn links(&self) -> Result<Vec<(PathBuf, XdpMode)>> {
        let link = |path: PathBuf| link_mode(&path).map(|mode| (path, mode));
        Ok(list(&self.directory)?.into_iter().filter_map(link).collect())
    }

    /// The pinned links to TC ingress.
    pub fn classifiers(&self) -> Result<Vec<PathBuf>> {
        let mut pinned = list(&self.directory)?;
        pinned.retain(|path| name(path).starts_with(CLASSIFIER));
        Ok(pinned)
    }
}

/// Where a map of this layout is pinned under this path.
pub fn map(pin_path: &Path, name: &str) -> PathBuf {
    directory(pin_path).join(name)
}

/// Pins an object where it is not pinned already; returns whether it was not.
fn restore(object: BorrowedFd<'_>, path: &Path, is_its: impl Fn(&Path) -> bool) -> Result<bool> {
    if is_its(path) {
        return Ok(false);
    }
    remove(path)?;
    link::pin(object, path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(true)
}

/// Pins a link in the place of whatever is pinned there. What cannot be pinned now is with the next look at the pins
/// ([`Pins::restore`]); the link is held meanwhile.
pub fn pin(link: BorrowedFd<'_>, path: &Path) {
    if let Err(error) = restore(link, path, |_| false) {
        warn!("{error:#}");
    }
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
                "{} holds {}, from another version of xdp-lb (this one uses {}): unload it first with `xdp-lb \
                 unload`, which interrupts forwarding, or use another pin_path",
                pin_path.display(),
                name(&entry),
                name(&own)
            );
        }
    }
    Ok(())
}

/// Whether the pins may not be looked at, for lack of permission: their directory is root's, or the kernel gives links to root
/// alone.
pub fn is_denied(pin_path: &Path) -> bool {
    let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    match fs::read_dir(directory(pin_path)) {
        Err(error) => is_denied(&error),
        Ok(pins) => {
            let mut links = pins.flatten().map(|pin| pin.path()).filter(|path| link_mode(path).is_some());
            links.any(|path| link::open(&path).is_err_and(|error| is_denied(&error)))
        }
    }
}

/// Whether a daemon has pinned a link that is on the interface with this index.
pub fn is_pinned(pin_path: &Path, ifindex: u32) -> bool {
    let pins = list(&directory(pin_path)).unwrap_or_default();
    pins.iter().filter(|path| link_mode(path).is_some()).any(|path| interface(path) == Some(ifindex))
}

/// How the link was attached that is pinned here; nothing where this is not the pin of a link.
pub(super) fn link_mode(path: &Path) -> Option<XdpMode> {
    let has = |mode: &XdpMode| name(path).starts_with(&format!("link-{}-", mode_name(*mode)));
    [XdpMode::Native, XdpMode::Generic].into_iter().find(has)
}

/// The index of the interface that the link pinned here is on; nothing where that is gone.
pub(super) fn interface(path: &Path) -> Option<u32> {
    let info = link::open(path).and_then(|link| link::info(link.as_fd())).ok()?;
    (info.ifindex != 0).then_some(info.ifindex)
}

/// Two daemons with the same tables would undo each other's writes.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let file = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another daemon uses the pins in {}: stop it first, or use another pin_path",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", directory.display()))
        }
    }
}

pub(super) fn mode_name(mode: XdpMode) -> &'static str {
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

pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

/// Removes a pin; one that is gone already is not an error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
