//! Files that others write, or whose file system may hang: only regular files, of a bounded size, within a bounded time.
//!
//! A FIFO without a writer, a device, or a file system whose server does not answer would block the reader forever.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a file may take to be read or written.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a regular file, without blocking.
///
/// # Errors
/// If it cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a FIFO waits for a writer, unless O_NONBLOCK is set. It has no effect on regular files.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata))
}

/// The bytes of a regular file: `Ok(None)` if it has more than `largest`.
///
/// # Errors
/// If it cannot be read, or is not a regular file.
pub fn read(path: &Path, largest: u64) -> io::Result<Option<Vec<u8>>> {
    let (file, metadata) = open(path)?;
    if metadata.len() > largest {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(largest + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= largest).then_some(bytes))
}

/// A file that one process at a time edits.
#[derive(Debug)]
pub struct Editing {
    path: PathBuf,
    directory: File,
}

impl Editing {
    /// Locks the file's directory until this is dropped, or the process ends. A symbolic link is followed.
    ///
    /// # Errors
    /// `WouldBlock` if there is one already; or if the directory cannot be opened.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            // Network file systems may be unable to lock a directory.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { path, directory }),
        }
    }

    /// Replaces the file, all or nothing, with the owner and the mode that it has.
    ///
    /// # Errors
    /// If it is not a regular file, or cannot be written; then it is as it was.
    pub fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let (_, metadata) = open(&self.path)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let successor = self.path.with_file_name(format!(".{name}.xdp-lb-save"));
        let written = write_new(&successor, bytes, Some(&metadata))
            .and_then(|()| std::fs::rename(&successor, &self.path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&successor);
        }
        written?;
        self.directory.sync_all()
    }
}

/// Writes and syncs a file, with this owner and mode, or else for this user alone. One that a killed process left there is
/// replaced.
///
/// # Errors
/// If it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new` follows no link and truncates nothing.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if let Some(like) = like {
        std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
        file.set_permissions(like.permissions())?;
    }
    file.sync_all()
}

/// The files that are being read or written, including those whose file system hangs, and since when.
static IN_USE: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());

/// Reads or writes a file on another thread, and gives up after [`PATIENCE`]. If the file system hangs, the thread stays until that
/// answers. Until then, the file is not tried again, so that such threads do not pile up and no caller waits.
///
/// # Errors
/// `TimedOut` if it takes longer, as text.
pub fn within_patience<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> T + Send + 'static,
) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let hangs = || {
        let why = format!("its file system has not responded for {} s", PATIENCE.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    let in_use = || IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let now = Instant::now();
        match in_use().entry(path.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(now);
                break;
            }
            Entry::Occupied(since) if now >= deadline || now - *since.get() >= PATIENCE => {
                return Err(hangs());
            }
            Entry::Occupied(_) => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (done, answer) = mpsc::sync_channel(1);
    let owned = path.to_owned();
    let started = std::thread::Builder::new().name("file".into()).spawn(move || {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(&owned)));
        in_use().remove(&owned);
        // The caller may have given up.
        let _ = result.map(|result| done.send(result));
    });
    if let Err(error) = started {
        in_use().remove(path);
        return Err(error);
    }
    answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
        RecvTimeoutError::Timeout => hangs(),
        RecvTimeoutError::Disconnected => io::Error::other("its reader has failed; see the log"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_file_is_replaced_behind_a_link_with_its_mode_and_never_by_half() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        // What a killed save left behind is in nobody's way, and a file that somebody else put there is left alone.
        fs::write(folder.path().join(".file.xdp-lb-save"), "half").unwrap();
        fs::write(folder.path().join("file.new"), "theirs").unwrap();
        Editing::begin(&link).unwrap().replace(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(folder.path().join("file.new")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn one_process_at_a_time_edits_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let first = Editing::begin(&path).unwrap();
        assert_eq!(Editing::begin(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        first.replace(b"new").unwrap();
        assert_eq!(Editing::begin(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it still edits");
        drop(first);
        Editing::begin(&path).unwrap();
    }

    #[test]
    fn a_fifo_a_device_and_a_directory_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let began = Instant::now();
        for (path, why) in [
            (fifo.as_path(), "it is not a regular file"),
            (&link, "it is not a regular file"),
            (Path::new("/dev/zero"), "it is not a regular file"),
            (folder.path(), "it is a directory"),
        ] {
            assert_eq!(read(path, 10).unwrap_err().to_string(), why, "{}", path.display());
        }
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_file_is_read_whole_or_found_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap().as_deref(), Some(&b"0123456789"[..]));
        assert_eq!(read(&path, 9).unwrap(), None);
        // The kernel's own files have no size that could be known before.
        assert!(read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_some());
        assert_eq!(read(Path::new("/proc/self/status"), 10).unwrap(), None);
        assert_eq!(read(&folder.path().join("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_whose_reader_hangs_is_given_up_in_time_and_does_not_take_a_thread_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hangs");
        let (go, wait) = mpsc::channel::<()>();
        let began = Instant::now();
        let first = within_patience(&path, move |_| wait.recv().is_ok());
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let second = within_patience(&path, |_| unreachable!("the first one is still at it"));
        let second: io::Result<()> = second;
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < PATIENCE + PATIENCE / 2, "the second waits for nothing");
        drop(go);
        // It answers again.
        while within_patience(&path, |_| ()).is_err() {
            assert!(began.elapsed() < 2 * PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
