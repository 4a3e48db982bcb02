//! Lock files: of two daemons that want the same thing, one finds the other and its process id.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A file with an advisory lock (flock(2)). The lock belongs to the open file: whoever has a copy of its descriptor holds
/// the lock, and the kernel lets go of it once the last copy is closed, however its holders ended.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock of this file, which is made where there is none, and writes this process's id into it.
    ///
    /// # Errors
    /// Where another process holds it: what `held` makes of that one's process id. Or where the file system refuses.
    pub fn take(path: &Path, held: impl FnOnce(&str) -> String) -> Result<Self> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // A FIFO or a device in its place must not block.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
                .with_context(|| format!("cannot open the lock file {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    let _ = (&mut file).take(16).read_to_string(&mut pid);
                    bail!(held(pid.trim()));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if !is_still_at(&file, path) {
                // Its holder removed it between the open and the lock: it guards nothing any more.
                continue;
            }
            return Self { path: path.into(), file }.signed();
        }
    }

    /// The lock that another process has handed over with a copy of its descriptor; `None` where that is not a lock of the
    /// file at this path.
    ///
    /// # Errors
    /// Where this process's id cannot be written into it.
    pub fn inherit(descriptor: OwnedFd, path: &Path) -> Result<Option<Self>> {
        let file = File::from(descriptor);
        if !is_still_at(&file, path) {
            return Ok(None);
        }
        Self { path: path.into(), file }.signed().map(Some)
    }

    /// Writes this process's id into the file: after a hand-over that failed, too.
    fn signed(mut self) -> Result<Self> {
        self.sign().with_context(|| format!("cannot write the lock file {}", self.path.display()))?;
        Ok(self)
    }

    /// Writes this process's id into the file, such as after a hand-over that was taken back.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Removes the file, and with it the lock: for whoever holds the only copy.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn held(pid: &str) -> String {
        format!("held by {pid}")
    }

    #[test]
    fn of_daemons_that_come_and_go_at_once_one_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (holders, takes) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..1000 {
                        if let Ok(lock) = Lock::take(&path, held) {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                            takes.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_micros(20));
                            holders.fetch_sub(1, Ordering::SeqCst);
                            lock.remove();
                        }
                    }
                });
            }
        });
        assert!(takes.into_inner() > 10);
    }

    #[test]
    fn a_lock_that_was_handed_over_is_held_until_its_last_holder_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, held).unwrap();
        let handed = first.as_fd().try_clone_to_owned().unwrap();
        let second = Lock::inherit(handed, &path).unwrap().expect("it is this file's");
        drop(first);
        let error = Lock::take(&path, held).unwrap_err().to_string();
        assert_eq!(error, format!("held by {}", std::process::id()));
        drop(second);
        Lock::take(&path, held).unwrap();
    }

    #[test]
    fn a_lock_of_another_file_is_not_taken_for_this_ones() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(&folder.path().join("one"), held).unwrap();
        let handed = first.as_fd().try_clone_to_owned().unwrap();
        assert!(Lock::inherit(handed, &folder.path().join("two")).unwrap().is_none());
    }
}
