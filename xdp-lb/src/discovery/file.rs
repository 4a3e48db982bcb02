//! Discovery of backends by a file: reads it at the start, and whenever it is replaced, written or removed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::document::parse;
use super::{Found, Update};
use crate::file;
use crate::model::{Discovery, Service};

/// How often it is read without a notification: there are none from a network file system, or from a directory to which a link in
/// the file's path led.
const POLL: Duration = Duration::from_secs(10);

/// Changes within this time are handled together.
const SETTLE: Duration = Duration::from_millis(20);

/// The maximum size. Ten thousand backends take a tenth of it.
const LARGEST: u64 = 16 << 20;

/// Reads a service's backends whenever the file changes, until nobody listens any more.
pub(super) async fn follow(
    service: Service,
    discovery: Discovery,
    path: PathBuf,
    updates: mpsc::Sender<Update>,
) {
    let mut told = None;
    loop {
        // Watched before it is read, so that no change is missed.
        let watch = Watch::of(&path);
        let of = path.clone();
        let Ok(content) = tokio::task::spawn_blocking(move || read(&of)).await else { return };
        if told.as_ref() != Some(&content) {
            let result = match &content {
                Ok(text) => parse(text, &service, discovery.max_backends as usize)
                    .map(|backends| Found { backends, refused: Vec::new() })
                    .map_err(|errors| told_of(&path, &errors)),
                Err(why) => Err(told_of(&path, std::slice::from_ref(why))),
            };
            let update =
                Update { service: service.name.clone(), discovery: discovery.clone(), result, next: None };
            if updates.send(update).await.is_err() {
                return;
            }
            told = Some(content);
        }
        match watch {
            Ok(watch) => {
                // If there is none for longer, the file is read anyway.
                let _ = timeout(POLL, watch.change()).await;
            }
            Err(error) => {
                tracing::debug!("cannot watch {}, so it is read every {POLL:?}: {error}", path.display());
                sleep(POLL).await;
            }
        }
        sleep(SETTLE).await;
    }
}

fn told_of(path: &Path, errors: &[String]) -> String {
    format!("{}: {}", path.display(), errors.join("; "))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    file::within_patience(path, |path| file::read(path, LARGEST))
        .and_then(|read| read)
        .map_err(|error| format!("cannot read it: {error}; create it, readable by the daemon"))?
        .ok_or_else(|| format!("is larger than {} MiB; is it a list of backends?", LARGEST >> 20))
}

/// Watches the file's directory, and the one to which a link leads. Not the file itself: replacing it creates another file.
struct Watch(AsyncFd<Descriptor>);

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    fn of(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let directory = |path: &Path| path.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
        inotify.add_watch(&directory(path), events)?;
        if let Ok(real) = path.canonicalize() {
            inotify.add_watch(&directory(&real), events)?;
        }
        // SAFETY: the descriptor is the inotify's own, and open as long as that exists, within the AsyncFd.
        let watch = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) };
        Ok(Self(watch.map_err(|error| io::Error::other(error.to_string()))?))
    }

    /// Returns after the next change.
    async fn change(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().0.read_events() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
