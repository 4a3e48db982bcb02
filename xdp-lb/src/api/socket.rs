//! The control socket: accessible only to root and the groups of the config from the beginning, and to only one daemon.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, chown};
use tokio::net::{UnixListener, UnixSocket};

use crate::api::caller::Groups;
use crate::lock::Lock;

/// The maximum length of a Unix socket's path, in bytes: `sun_path` without its final 0 (unix(7)).
const MAX_PATH: usize = 107;
/// The number of connections that may wait to be accepted. The kernel's limit is net.core.somaxconn. Above it, clients are
/// delayed.
const BACKLOG: u32 = 4096;

/// Listens on `path` with mode 0600, or 0660 for these groups. Also returns the guard that removes the socket.
///
/// Replaces a socket that a dead daemon left behind.
///
/// # Errors
///
/// If another daemon or program answers on `path`, something other than a socket is there, or the file system returns an error.
pub fn listen(path: &Path, groups: &Groups) -> anyhow::Result<(UnixListener, Guard)> {
    if path.as_os_str().len() > MAX_PATH {
        bail!("the path {} is too long for a socket: at most {MAX_PATH} bytes fit", path.display());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .with_context(|| format!("cannot create the directory {}", parent.display()))?;
    }
    let lock = Lock::take(&lock_file(path), |pid| {
        format!(
            "another daemon (pid {pid}) answers on {}: stop it first, or use another api.socket",
            path.display()
        )
    })?;
    remove_stale(path)?;
    let listener =
        bind_private(path).with_context(|| format!("cannot listen on the socket {}", path.display()))?;
    let guard = Guard { socket: path.to_owned(), lock: Some(lock) };
    admit(path, groups)?;
    Ok((listener, guard))
}

/// Removes the socket when it is dropped.
#[derive(Debug)]
pub struct Guard {
    socket: PathBuf,
    lock: Option<Lock>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The lock is still held, so no other daemon can have created its own socket here.
        let _ = fs::remove_file(&self.socket);
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}

/// The lock file beside the socket, held as long as the daemon runs.
fn lock_file(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Binds and listens. Linux takes a new socket file's mode from the socket itself (`unix_bind_bsd`), so that it is never
/// accessible to anyone else, whatever the umask.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Gives the members of the groups access: the first one is the socket's own group, and an access control list (acl(5)) has the
/// others.
fn admit(path: &Path, groups: &Groups) -> anyhow::Result<()> {
    let groups: BTreeSet<u32> = groups.all().map(Gid::as_raw).collect();
    let mut rest = groups.into_iter();
    let Some(first) = rest.next() else { return Ok(()) };
    chown(path, None, Some(Gid::from_raw(first))).with_context(|| {
        format!("cannot give the socket {} to group {first} (this needs CAP_CHOWN)", path.display())
    })?;
    let rest: Vec<u32> = rest.collect();
    if rest.is_empty() {
        fs::set_permissions(path, Permissions::from_mode(0o660))
    } else {
        set_access_list(path, &rest)
    }
    .with_context(|| format!("cannot give the groups of [api] access to the socket {}", path.display()))
}

/// Gives the owner, the file's own group and these groups read and write permission, which connecting requires.
fn set_access_list(path: &Path, groups: &[u32]) -> io::Result<()> {
    // linux/posix_acl_xattr.h: the version, then entries of tag, permissions and id, in this order.
    const VERSION: u32 = 2;
    const READ_WRITE: u16 = 6;
    const NOBODY: u32 = u32::MAX;
    let entries = [(0x01, READ_WRITE, NOBODY), (0x04, READ_WRITE, NOBODY)]
        .into_iter()
        .chain(groups.iter().map(|group| (0x08, READ_WRITE, *group)))
        .chain([(0x10, READ_WRITE, NOBODY), (0x20, 0, NOBODY)]);
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        let tag: u16 = tag;
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both strings end with 0, and the list has the given length.
    let done = unsafe {
        libc::setxattr(
            path.as_ptr(),
            c"system.posix_acl_access".as_ptr(),
            list.as_ptr().cast(),
            list.len(),
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if !metadata.file_type().is_socket() {
        bail!("{} exists but is not a socket: move it away, or use another api.socket", path.display());
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let pid = getsockopt(&stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid());
            bail!("another program (pid {pid}) listens on {}: use another api.socket", path.display());
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("cannot remove the socket of a dead daemon, {}", path.display())),
        Err(error) => {
            Err(error).with_context(|| format!("cannot tell whether anyone listens on {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_root_alone_whatever_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/for/it/api.sock");
        let (_listener, _guard) = listen(&path, &Groups::default()).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[tokio::test]
    async fn nothing_is_left_behind_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, guard) = listen(&folder.path().join("api.sock"), &Groups::default()).unwrap();
        drop((listener, guard));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_live_daemons_socket_is_refused_and_stays_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (listener, _guard) = listen(&path, &Groups::default()).unwrap();
        let error = listen(&path, &Groups::default()).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.starts_with(&format!("another daemon (pid {pid}) answers on ")), "{error}");
        UnixStream::connect(&path).unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_and_lock_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        fs::write(folder.path().join("api.sock.lock"), "99999\n").unwrap();
        let (_listener, _guard) = listen(&path, &Groups::default()).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn another_programs_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = listen(&path, &Groups::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("another program (pid {})", std::process::id())), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        let error = listen(&path, &Groups::default()).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused_in_words() {
        let path = PathBuf::from(format!("/run/{}", "x".repeat(200)));
        assert!(listen(&path, &Groups::default()).unwrap_err().to_string().contains("at most 107 bytes"));
    }
}
