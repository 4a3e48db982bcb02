//! The pins: what makes forwarding outlive the daemon.
//!
//! `PIN_PATH/layout-N/` holds the maps by their names, and a link for each interface and mode
//! (`link-native-3`, by the interface's index, which outlives its name), and one for its program at TC ingress (`tc-3`). A daemon
//! of another layout makes its own beside them, in `PIN_PATH/next-M/`, copies what lives longer than a daemon, and puts its program
//! into the links. Those stay pinned in both folders until it has shown that it stays. Then `next-M` becomes `layout-M`, and
//! `layout-N` goes.

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

/// What the names of pins begin with that are links to TC ingress.
pub(super) const CLASSIFIER: &str = "tc-";

/// And those of programs that are filters at TC ingress, where the kernel has no such links.
pub(super) const FILTER: &str = "filter-";

/// What the names of the folders of pins begin with: a layout's, and those of one that is taken over to.
pub(super) const LAYOUT: &str = "layout-";
pub(super) const STAGED: &str = "next-";

/// The name of the program's pin in a folder that is taken over to.
const PROGRAM: &str = "program";
/// The same of the one at TC ingress.
const CLASSIFIER_PROGRAM: &str = "program-tc";

/// The directory of one layout's pins.
#[derive(Debug)]
pub struct Pins {
    pin_path: PathBuf,
    directory: PathBuf,
    /// Held open for its lock, which ends with this process, however that ends.
    lock: File,
    /// The pins of an earlier layout, which stay until this daemon has shown that it does.
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
    /// Where they are.
    pub directory: PathBuf,
    /// The layout's number.
    pub version: u32,
}

impl Pins {
    /// The pins under this bpffs path, made where there are none.
    ///
    /// # Errors
    /// Where the path is not on a bpffs, holds the pins of another layout, or another daemon uses it.
    pub fn open(pin_path: &Path) -> Result<Self> {
        let (directory, lock) = Self::make(pin_path)?;
        Ok(Self { pin_path: pin_path.to_owned(), directory, lock, former: None })
    }

    /// Pins beside those of another layout, under a name by which no daemon adopts them before [`Pins::keep`]. Where this
    /// daemon fails before that, the other pins are what is taken over: the links are pinned there, too.
    ///
    /// # Errors
    /// Where another daemon uses them.
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

    /// Takes the pins of the other layout, which no daemon may use any more.
    ///
    /// # Errors
    /// Where one does.
    pub fn lock_former(&mut self) -> Result<()> {
        if let Some(former) = &mut self.former {
            former.lock = Some(lock(&former.directory)?);
        }
        Ok(())
    }

    /// Removes what was staged, before any link was given its program.
    pub fn unstage(&self) {
        if self.former.is_some()
            && let Err(error) = remove_all(&self.directory)
        {
            warn!("{error:#}");
        }
    }

    /// Whether the pins of an earlier layout are still there.
    pub fn is_staged(&self) -> bool {
        self.former.is_some()
    }

    /// Pins the load balancer's programs for as long as the pins of an earlier layout are there: whether the links hold one of
    /// them says which tables forward.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn pin_programs(&self, xdp: BorrowedFd<'_>, tc: BorrowedFd<'_>) -> Result<()> {
        link::pin(xdp, &self.directory.join(PROGRAM))
            .and_then(|()| link::pin(tc, &self.directory.join(CLASSIFIER_PROGRAM)))
            .context("cannot pin the program")
    }

    /// Makes these the only pins: those of an earlier layout go. The links stay attached.
    ///
    /// # Errors
    /// Where they cannot be renamed or removed.
    pub fn keep(&mut self) -> Result<()> {
        let Some(former) = self.former.take() else { return Ok(()) };
        self.directory = keep(&self.pin_path, &former.directory)?;
        Ok(())
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
        // Who can take over from another layout has looked before.
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

    /// Where the pins of the earlier layout are, where they are there still.
    pub(super) fn former_directory(&self) -> Option<&Path> {
        self.former.as_ref().map(|former| former.directory.as_path())
    }

    /// Where an earlier daemon has pinned its links.
    fn of_links(&self) -> &Path {
        self.former_directory().unwrap_or(&self.directory)
    }

    /// Where the link of the interface with this index is pinned.
    pub fn link(&self, ifindex: u32, mode: Flags) -> PathBuf {
        self.directory.join(format!("link-{}-{ifindex}", mode.name()))
    }

    /// Where the link of the program at TC ingress of the interface with this index is pinned.
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

    /// The pinned links, with how they were attached.
    pub fn links(&self) -> Result<Vec<(PathBuf, Flags)>> {
        let link = |path: PathBuf| link_mode(&path).map(|mode| (path, mode));
        Ok(list(self.of_links())?.into_iter().filter_map(link).collect())
    }

    /// The pinned links to TC ingress.
    pub fn classifiers(&self) -> Result<Vec<PathBuf>> {
        let mut pinned = list(self.of_links())?;
        pinned.retain(|path| name(path).starts_with(CLASSIFIER));
        Ok(pinned)
    }
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

/// The pins of another layout under this path, where there are such: of one that this daemon `knows`.
///
/// # Errors
/// Where it does not.
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

/// Ends what a daemon has begun that took over from another layout and was killed before it could show that it stays: its
/// tables are kept where the links hold its program. The pins of another layout that are left, where there are such, are to be
/// taken over from.
///
/// # Errors
/// Where pins cannot be read or removed, or another daemon uses them.
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
    // What is in the way of the name is left over by one that was killed while it removed the rest.
    if forwards_for_staged || directory(pin_path).exists() {
        let _lock = lock(&other.directory)?;
        keep(pin_path, &other.directory)?;
        return Ok(None);
    }
    Ok(Some(other))
}

/// Makes staged pins this layout's, and removes those of the earlier one. Returns where they are now.
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

/// Removes a folder of pins. Links stay attached for as long as they are held, or pinned elsewhere.
fn remove_all(directory: &Path) -> Result<()> {
    list(directory)?.iter().try_for_each(|path| remove(path))?;
    fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Whether the pins may not be looked at, for lack of permission: their directory is root's, or the kernel gives links to root
/// alone.
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

/// Whether a daemon has pinned a link that is on the interface with this index.
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

/// How the link was attached that is pinned here; nothing where this is not the pin of a link.
pub(super) fn link_mode(path: &Path) -> Option<Flags> {
    let has = |mode: &Flags| name(path).starts_with(&format!("link-{}-", mode.name()));
    [Flags::Native, Flags::Generic].into_iter().find(has)
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

/// Where the pins of this layout are.
pub fn directory(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("{LAYOUT}{}", own_layout()))
}

fn staging(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("{STAGED}{}", own_layout()))
}

/// The number of this build's layout, by its digits at one place of the binary: the end-to-end tests make a build of another
/// layout by putting other digits there.
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
    // The compiler would know the digits otherwise.
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

/// Removes a pin; one that is gone already is not an error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
