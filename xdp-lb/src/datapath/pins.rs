//! The pins, by which forwarding outlives the daemon.
//!
//! `PIN_PATH/layout-N/` contains the maps by name, a link for each interface and mode (`link-native-3`, by the interface's index,
//! which survives renaming), and one for its program at TC ingress (`tc-3`). A daemon of another layout makes its own pins beside
//! them, in `PIN_PATH/next-M/`, copies everything that outlives a daemon, and puts its program into the links. These stay pinned
//! in both folders until the daemon has shown that it stays. Then `next-M` becomes `layout-M`, and `layout-N` is removed.

use std::fs::{self, File, TryLockError};
use std::hint::black_box;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::warn;
use xdp_lb_common::tables::version::LAYOUT_VERSION;

use super::link::{self, Flags};

/// Prefix of the pins of links at TC ingress.
pub(super) const CLASSIFIER: &str = "tc-";

/// And those of programs that are filters at TC ingress, where the kernel has no such links.
pub(super) const FILTER: &str = "filter-";

/// Prefix of the folders of a layout's pins, and of those being taken over.
pub(super) const LAYOUT: &str = "layout-";
pub(super) const STAGED: &str = "next-";

/// The name of the program's pin in a folder for a take-over.
const PROGRAM: &str = "program";
/// The same of the one at TC ingress.
const CLASSIFIER_PROGRAM: &str = "program-tc";

/// The directory of one layout's pins.
#[derive(Debug)]
pub struct Pins {
    pin_path: PathBuf,
    directory: PathBuf,
    /// Held open for its lock, which ends with this process in any case.
    lock: File,
    /// The pins of an earlier layout, which stay until this daemon has shown that it stays.
    former: Option<Former>,
}

#[derive(Debug)]
struct Former {
    directory: PathBuf,
    lock: Option<File>,
}

/// The pins of another layout.
#[derive(Debug)]
pub struct Other {
    /// Their directory.
    pub directory: PathBuf,
    /// The layout's number.
    pub version: u32,
}

impl Pins {
    /// Opens the pins under this bpffs path, or creates them.
    ///
    /// # Errors
    /// If the path is not on a bpffs, has the pins of another layout, or another daemon uses it.
    pub fn open(pin_path: &Path) -> Result<Self> {
        let (directory, lock) = Self::make(pin_path)?;
        Ok(Self { pin_path: pin_path.to_owned(), directory, lock, former: None })
    }

    /// Creates pins beside those of another layout, under a name by which no daemon adopts them before [`Pins::keep`]. If this
    /// daemon fails before that, the other pins are taken over: the links are pinned there, too.
    ///
    /// # Errors
    /// If another daemon uses them.
    pub fn stage(pin_path: &Path, other: &Other) -> Result<Self> {
        let directory = staging(pin_path);
        if directory.exists() {
            let _lock = lock(&directory)?;
            remove_all(&directory)?;
        }
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = lock(&directory)?;
        let former = Former { directory: other.directory.clone(), lock: None };
        Ok(Self { pin_path: pin_path.to_owned(), directory, lock, former: Some(former) })
    }

    /// Locks the pins of the other layout, which no daemon may use any more.
    ///
    /// # Errors
    /// If one still uses them.
    pub fn lock_former(&mut self) -> Result<()> {
        if let Some(former) = &mut self.former {
            former.lock = Some(lock(&former.directory)?);
        }
        Ok(())
    }

    /// Removes the staged pins, before any link got its program.
    pub fn unstage(&self) {
        if self.former.is_some()
            && let Err(error) = remove_all(&self.directory)
        {
            warn!("{error:#}");
        }
    }

    /// Whether the pins of an earlier layout still exist.
    pub fn is_staged(&self) -> bool {
        self.former.is_some()
    }

    /// Pins the load balancer's programs for as long as the pins of an earlier layout are there: whether the links hold one of
    /// them says which tables forward.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn pin_programs(&self, xdp: BorrowedFd<'_>, tc: BorrowedFd<'_>) -> Result<()> {
        link::pin(xdp, &self.directory.join(PROGRAM))
            .and_then(|()| link::pin(tc, &self.directory.join(CLASSIFIER_PROGRAM)))
            .context("cannot pin the program")
    }

    /// Makes these the only pins: removes those of an earlier layout. The links stay attached.
    ///
    /// # Errors
    /// If they cannot be renamed or removed.
    pub fn keep(&mut self) -> Result<()> {
        let Some(former) = self.former.take() else { return Ok(()) };
        self.directory = keep(&self.pin_path, &former.directory)?;
        Ok(())
    }

    fn make(pin_path: &Path) -> Result<(PathBuf, File)> {
        // Checked before anything is created there.
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
        // A caller that can take over from another layout has checked this before.
        other(pin_path, |_| false)?;
        let own = directory(pin_path);
        match fs::create_dir(&own) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", own.display())),
        }
        let lock = lock(&own)?;
        Ok((own, lock))
    }

    /// Restores the pins: these maps by name, and these links at their paths. Returns those that were missing or pinned another
    /// object.
    ///
    /// # Errors
    /// If they cannot be made, for example after the bpffs was unmounted, or if another daemon has taken the directory.
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
            restored.extend(restore(map, &self.directory.join(name), is_its)?.then(|| name.to_owned()));
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

    /// Whether the directory is still the one that was created and locked.
    pub(super) fn is_in_place(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.lock.metadata().map(id);
        held.is_ok_and(|held| fs::metadata(&self.directory).map(id).is_ok_and(|present| present == held))
    }

    /// The pins' directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of the earlier layout's pins, if these still exist.
    pub(super) fn former_directory(&self) -> Option<&Path> {
        self.former.as_ref().map(|former| former.directory.as_path())
    }

    /// The directory in which an earlier daemon pinned its links.
    fn of_links(&self) -> &Path {
        self.former_directory().unwrap_or(&self.directory)
    }

    /// The path of the pin of the link to the interface with this index.
    pub fn link(&self, ifindex: u32, mode: Flags) -> PathBuf {
        self.directory.join(format!("link-{}-{ifindex}", mode.name()))
    }

    /// The path of the pin of the link to TC ingress of the interface with this index.
    pub fn classifier(&self, ifindex: u32) -> PathBuf {
        self.directory.join(format!("{CLASSIFIER}{ifindex}"))
    }

    /// Where the program is pinned that is a filter at TC ingress of the interface with this index.
    pub fn filter(&self, ifindex: u32) -> PathBuf {
        self.directory.join(format!("{FILTER}{ifindex}"))
    }

    /// The interfaces that have such a filter, with the pin.
    pub fn filters(&self) -> Result<Vec<(u32, PathBuf)>> {
        let filter = |path: PathBuf| Some((filter_interface(&path)?, path));
        Ok(list(self.of_links())?.into_iter().filter_map(filter).collect())
    }

    /// The pinned links, with their modes.
    pub fn links(&self) -> Result<Vec<(PathBuf, Flags)>> {
        let link = |path: PathBuf| link_mode(&path).map(|mode| (path, mode));
        Ok(list(self.of_links())?.into_iter().filter_map(link).collect())
    }

    /// The pinned links at TC ingress.
    pub fn classifiers(&self) -> Result<Vec<PathBuf>> {
        let mut pinned = list(self.of_links())?;
        pinned.retain(|path| name(path).starts_with(CLASSIFIER));
        Ok(pinned)
    }
}

/// Pins an object unless it is pinned already. Returns whether it was not.
fn restore(object: BorrowedFd<'_>, path: &Path, is_its: impl Fn(&Path) -> bool) -> Result<bool> {
    if is_its(path) {
        return Ok(false);
    }
    remove(path)?;
    link::pin(object, path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(true)
}

/// Pins a link, replacing whatever is pinned there. A link that cannot be pinned now is pinned by the next [`Pins::restore`], and
/// held meanwhile.
pub fn pin(link: BorrowedFd<'_>, path: &Path) {
    if let Err(error) = restore(link, path, |_| false) {
        warn!("{error:#}");
    }
}

/// The pins of another layout under this path, if there are any and this daemon `knows` the layout.
///
/// # Errors
/// If it does not.
pub fn other(pin_path: &Path, knows: fn(u32) -> bool) -> Result<Option<Other>> {
    if !pin_path.exists() {
        return Ok(None);
    }
    let own = directory(pin_path);
    let mut found = None;
    for entry in list(pin_path)? {
        let Some(version) = name(&entry).strip_prefix(LAYOUT).map(str::to_owned) else { continue };
        if entry == own {
            continue;
        }
        let version = version.parse().unwrap_or_default();
        ensure!(
            knows(version) && found.is_none(),
            "{} holds {}, from another version of xdp-lb, which this one (it uses {}) cannot take over from: unload \
             it first with `xdp-lb unload`, which interrupts forwarding, or use another pin_path",
            pin_path.display(),
            name(&entry),
            name(&own)
        );
        found = Some(Other { directory: entry, version });
    }
    Ok(found)
}

/// Completes the take-over of a daemon that began to replace another layout and was killed before it had shown that it stays:
/// keeps its tables if the links hold its program. Returns the remaining pins of another layout, if there are any, to take over.
///
/// # Errors
/// If pins cannot be read or removed, or another daemon uses them.
pub fn settle(pin_path: &Path, knows: fn(u32) -> bool) -> Result<Option<Other>> {
    let Some(other) = other(pin_path, knows)? else { return Ok(None) };
    let id = |name: &&str| {
        link::open(&staging(pin_path).join(name)).and_then(|program| link::object_id(program.as_fd())).ok()
    };
    let staged: Vec<u32> = [PROGRAM, CLASSIFIER_PROGRAM].iter().filter_map(id).collect();
    let holds = |path: &PathBuf| {
        let info = link::open(path).and_then(|link| link::info(link.as_fd()));
        info.is_ok_and(|info| staged.contains(&info.program))
    };
    let forwards_for_staged = list(&other.directory)?.iter().filter(|path| is_link(path)).any(holds);
    // A directory that is in the way was left by a daemon that was killed while it removed the rest.
    if forwards_for_staged || directory(pin_path).exists() {
        let _lock = lock(&other.directory)?;
        keep(pin_path, &other.directory)?;
        return Ok(None);
    }
    Ok(Some(other))
}

/// Makes staged pins this layout's, and removes those of the earlier one. Returns their directory.
fn keep(pin_path: &Path, former: &Path) -> Result<PathBuf> {
    let (staged, own) = (staging(pin_path), directory(pin_path));
    if staged.exists() {
        remove(&staged.join(PROGRAM))?;
        remove(&staged.join(CLASSIFIER_PROGRAM))?;
        fs::rename(&staged, &own).with_context(|| format!("cannot rename {}", staged.display()))?;
    }
    remove_all(former)?;
    Ok(own)
}

/// Removes a folder of pins. Links stay attached while they are held, or pinned elsewhere.
fn remove_all(directory: &Path) -> Result<()> {
    list(directory)?.iter().try_for_each(|path| remove(path))?;
    fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Whether the pins cannot be inspected for lack of permission: their directory is root's, or the kernel returns links only to
/// root.
pub fn is_denied(pin_path: &Path) -> bool {
    let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    match fs::read_dir(directory(pin_path)) {
        Err(error) => is_denied(&error),
        Ok(pins) => {
            let mut links = pins.flatten().map(|pin| pin.path()).filter(|path| is_link(path));
            links.any(|path| link::open(&path).is_err_and(|error| is_denied(&error)))
        }
    }
}

/// Whether a daemon has pinned a link on the interface with this index.
pub fn is_pinned(pin_path: &Path, ifindex: u32) -> bool {
    let pins = list(&directory(pin_path)).unwrap_or_default();
    pins.iter().filter(|path| link_mode(path).is_some()).any(|path| interface(path) == Some(ifindex))
}

/// Whether this is the pin of a link.
pub(super) fn is_link(path: &Path) -> bool {
    link_mode(path).is_some() || name(path).starts_with(CLASSIFIER)
}

/// The index of the interface at whose TC ingress the program that is pinned here is a filter; nothing where this is another pin.
pub(super) fn filter_interface(path: &Path) -> Option<u32> {
    name(path).strip_prefix(FILTER)?.parse().ok()
}

/// How the link pinned here was attached. `None` if this is not a link's pin.
pub(super) fn link_mode(path: &Path) -> Option<Flags> {
    let has = |mode: &Flags| name(path).starts_with(&format!("link-{}-", mode.name()));
    [Flags::Native, Flags::Generic].into_iter().find(has)
}

/// The index of the interface of the link pinned here. `None` if the interface is gone.
pub(super) fn interface(path: &Path) -> Option<u32> {
    let info = link::open(path).and_then(|link| link::info(link.as_fd())).ok()?;
    (info.ifindex != 0).then_some(info.ifindex)
}

/// Locks a directory: two daemons with the same tables would undo each other's writes.
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

/// The directory of this layout's pins.
pub fn directory(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("{LAYOUT}{}", own_layout()))
}

fn staging(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("{STAGED}{}", own_layout()))
}

/// The number of this build's layout, as digits at one place of the binary: the end-to-end tests make a build of another layout
/// by replacing the digits.
static OWN_LAYOUT: [u8; 20] = {
    let mut text = *b"xdp-lb layout 000000";
    let (mut at, mut rest) = (text.len(), LAYOUT_VERSION);
    while rest > 0 {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
};

fn own_layout() -> u32 {
    // Otherwise the compiler would know the digits.
    let digits = black_box(&OWN_LAYOUT).iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| 10 * number + u32::from(digit - b'0'))
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

/// Removes a pin. It is not an error if it is gone already.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
