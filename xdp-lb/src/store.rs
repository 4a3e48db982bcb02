//! What the daemon keeps in files to survive a restart: the runtime changes, in the state file, and the addresses that it added to
//! the host, in another one beside it.
//!
//! Such a file contains its checksum: the SHA-256 of its text without the digits of the checksum. A file without one (of version 1,
//! or edited by hand) is accepted.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::file;
use crate::lock::Lock;

/// The latest version that this daemon knows.
const VERSION: u32 = 4;
/// The version of a file without later features, so that an earlier daemon can read it.
const FIRST_VERSION: u32 = 2;
const LARGEST: u64 = 256 << 20;

/// What is kept in a file.
pub trait Kept: Default + Serialize + DeserializeOwned + 'static {
    /// The name of the file in messages.
    const NAME: &str;
    /// What is lost with it, as text.
    const LOSS: &str;

    /// The first version of the file that can hold this.
    fn version(&self) -> u32 {
        FIRST_VERSION
    }
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is damaged. It was renamed, so that the next change does not overwrite it.
    #[error("the {name} {} {why}; it was renamed to {}: {loss}", path.display(), set_aside.display())]
    SetAside {
        /// What it is called.
        name: &'static str,
        /// What is lost with it.
        loss: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What it is called now.
        set_aside: PathBuf,
    },
    /// A later version of the daemon wrote it. It is unchanged.
    #[error(
        "the {name} {} has version {version}, but this daemon supports version {VERSION}: run the later daemon that \
         wrote it, or move the file away to start without the changes made at runtime", path.display()
    )]
    Newer {
        /// What it is called.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file could not be read or renamed. It is unchanged.
    #[error("the {name} {} {why}: {cause}; check its permissions and the disk", path.display())]
    Unreadable {
        /// What it is called.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What could not be done.
        why: String,
        /// Why.
        cause: io::Error,
    },
}

/// Whether a written change is on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Saved {
    /// It is on the disk.
    OnDisk,
    /// The file is in place, but may be the old one again after a power loss: why, as text.
    Unsynced(String),
}

/// What is wrong with a file's contents.
enum Unfit {
    Damaged(String),
    Newer(u32),
}

/// The file's document.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State<T> {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(alias = "overlay")]
    contents: T,
}

/// Only the version, whatever else a later daemon may have written.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a file; the default if there is none.
///
/// # Errors
/// If the file is damaged (then it is renamed to NAME.corrupt-TIME), was written by a later version, or could not be read.
pub fn read<T: Kept>(path: &Path) -> Result<T, StateError> {
    let why = match look(path)? {
        Ok(contents) => return Ok(contents),
        Err(why) => why,
    };
    let set_aside = set_aside(path).map_err(|cause| StateError::Unreadable {
        name: T::NAME,
        path: path.into(),
        why: format!("{why}, and cannot be renamed"),
        cause,
    })?;
    Err(StateError::SetAside { name: T::NAME, loss: T::LOSS, path: path.into(), why, set_aside })
}

/// Reads a file and never renames it. The inner `Err` says as text what is wrong with one that [`read`] would rename.
///
/// # Errors
/// If the file was written by a later version, or could not be read.
pub fn look<T: Kept>(path: &Path) -> Result<Result<T, String>, StateError> {
    let read = file::within_patience(path, |path| file::read(path, LARGEST)).and_then(|read| read);
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Err(format!("is larger than {} MiB", LARGEST >> 20))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(T::default())),
        Err(source) => {
            let why = "cannot be read".into();
            return Err(StateError::Unreadable { name: T::NAME, path: path.into(), why, cause: source });
        }
    };
    match decode(&bytes) {
        Ok(contents) => Ok(Ok(contents)),
        Err(Unfit::Damaged(why)) => Ok(Err(why)),
        Err(Unfit::Newer(version)) => Err(StateError::Newer { name: T::NAME, path: path.into(), version }),
    }
}

/// Locks a state file for as long as the daemon lives: two daemons would overwrite each other's changes. The lock file is beside the
/// state file, which is replaced with each change.
///
/// # Errors
/// If another daemon has it, with that one's process ID; or if the file system refuses.
pub fn lock(path: &Path) -> anyhow::Result<Lock> {
    make_directory(path, "state file")?;
    Lock::take(&lock_file(path), |pid| {
        format!(
            "another daemon (pid {pid}) uses the state file {}: stop it first, or use another state_file",
            path.display()
        )
    })
}

/// The lock that the previous daemon has handed over; a new one if that had another state file.
///
/// # Errors
/// As for [`lock`].
pub fn inherit_lock(descriptor: OwnedFd, path: &Path) -> anyhow::Result<Lock> {
    match Lock::inherit(descriptor, &lock_file(path))? {
        Some(lock) => Ok(lock),
        None => lock(path),
    }
}

fn lock_file(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// Writes a file: whole or not at all, and on the disk unless the answer says otherwise. It does not wait long for a file system
/// that hangs.
///
/// # Errors
/// If the directory cannot be created or the file cannot be written; then the old file stays. If the file system does not answer,
/// the new file may appear later.
pub fn write<T: Kept>(path: &Path, contents: &T) -> anyhow::Result<Saved> {
    write_and_sync(path, contents, |directory| File::open(directory)?.sync_all())
}

fn write_and_sync<T: Kept>(
    path: &Path,
    contents: &T,
    sync: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> anyhow::Result<Saved> {
    let text = encode(contents)?;
    file::within_patience(path, move |path| put::<T>(path, &text, sync))
        .with_context(|| format!("cannot write the {} {}", T::NAME, path.display()))?
}

fn put<T: Kept>(
    path: &Path,
    text: &str,
    sync: impl FnOnce(&Path) -> io::Result<()>,
) -> anyhow::Result<Saved> {
    let directory = make_directory(path, T::NAME)?;
    let temporary = beside(path, ".new");
    file::write_new(&temporary, text.as_bytes(), None)
        .with_context(|| format!("cannot write the new {} {}", T::NAME, temporary.display()))?;
    fs::rename(&temporary, path)
        .with_context(|| format!("cannot replace the {} {}", T::NAME, path.display()))?;
    // From here on the change is in effect, and a restart finds it.
    Ok(match sync(directory) {
        Ok(()) => Saved::OnDisk,
        Err(error) => Saved::Unsynced(format!(
            "it is saved, but a power loss now may undo it: cannot sync the directory {}: {error}",
            directory.display()
        )),
    })
}

/// Creates the directory of a file if there is none, only for its owner.
fn make_directory<'a>(path: &'a Path, name: &str) -> anyhow::Result<&'a Path> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot create the {name}'s directory {}", directory.display()))?;
    Ok(directory)
}

/// The file's text, with its checksum.
fn encode<T: Kept>(contents: &T) -> serde_json::Result<String> {
    let unsealed = State { version: contents.version(), checksum: Some(String::new()), contents };
    let text = serde_json::to_string_pretty(&unsealed)? + "\n";
    // It precedes anything that an operator could have named like this.
    Ok(text.replacen(UNSEALED, &format!("{}{}\"", &UNSEALED[..UNSEALED.len() - 1], checksum(&text)), 1))
}

const UNSEALED: &str = "\"checksum\": \"\"";

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Whether the text matches the checksum in it.
fn is_whole(text: &str, sealed_with: &str) -> bool {
    checksum(&text.replacen(sealed_with, "", 1)) == sealed_with
}

fn decode<T: Kept>(bytes: &[u8]) -> Result<T, Unfit> {
    let broken = |error: &dyn std::fmt::Display| Unfit::Damaged(format!("is damaged ({error})"));
    let text = std::str::from_utf8(bytes).map_err(|error| broken(&error))?;
    let Version { version } = serde_json::from_str(text).map_err(|error| broken(&error))?;
    match version.cmp(&VERSION) {
        Ordering::Greater => return Err(Unfit::Newer(version)),
        Ordering::Less if version == 0 => {
            return Err(Unfit::Damaged(format!("has version {version}, which never existed")));
        }
        _ => {}
    }
    let state: State<T> = serde_json::from_str(text).map_err(|error| broken(&error))?;
    match state.checksum {
        Some(sealed_with) if !is_whole(text, &sealed_with) => Err(Unfit::Damaged(
            "does not match its checksum (if you edited it by hand, remove its line \"checksum\")".into(),
        )),
        _ => Ok(state.contents),
    }
}

/// Renames a file to NAME.corrupt-TIME; earlier ones stay.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut name = beside(path, &format!(".corrupt-{now}"));
    for number in 1.. {
        if !name.try_exists()? {
            break;
        }
        name = beside(path, &format!(".corrupt-{now}.{number}"));
    }
    fs::rename(path, &name)?;
    Ok(name)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::config::parse;
    use crate::model::Backend;
    use crate::overlay::Overlay;

    fn read(path: &Path) -> Result<Overlay, StateError> {
        super::read(path)
    }

    fn directory() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn overlay() -> Overlay {
        let config = parse(
            "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n\
             backend = [{ address = \"198.51.100.1:80\" }, { address = \"198.51.100.2:80\" }]\n",
        )
        .expect("valid");
        let mut overlay = Overlay::default();
        let address = |text: &str| text.parse().expect("an address");
        let added = Backend::new(address("198.51.100.3:80"), 7);
        overlay.add_backend(&config, "web", added).expect("added");
        overlay.remove_backend(&config, "web", address("198.51.100.1:80")).expect("removed");
        let service = serde_json::from_str(
            r#"{"name":"dns","vip":"[2001:db8::53]:53","protocol":"udp","health_check":{"type":"dns"},
                "backend":[{"address":"[2001:db8::1]:53"}]}"#,
        )
        .expect("valid");
        overlay.add_service(&config, service).expect("added");
        overlay
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).expect("listed");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn no_file_is_no_changes() {
        let directory = directory();
        assert_eq!(read(&directory.path().join("none")).expect("read"), Overlay::default());
    }

    #[test]
    fn what_was_written_is_read_from_a_file_of_root_alone() {
        let directory = directory();
        let path = directory.path().join("new/deep/state.json");
        assert_eq!(write(&path, &Overlay::default()).expect("written"), Saved::OnDisk);
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        assert_eq!(read(&path).expect("read"), overlay());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().expect("a parent")).expect("listed").count(), 1);
    }

    #[test]
    fn the_file_is_for_people_to_read() {
        let directory = directory();
        let path = directory.path().join("state.json");
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        let text = fs::read_to_string(&path).expect("read");
        let sealed_with =
            serde_json::from_str::<State<Overlay>>(&text).expect("read").checksum.expect("sealed");
        assert_eq!(sealed_with.len(), 64);
        assert_eq!(
            text.replace(&sealed_with, "CHECKSUM"),
            r#"{
  "version": 2,
  "checksum": "CHECKSUM",
  "contents": {
    "added_services": {
      "dns": {
        "name": "dns",
        "vip": "[2001:db8::53]:53",
        "protocol": "udp",
        "mode": "full-nat",
        "health_check": {
          "type": "dns",
          "name": ".",
          "record": "NS",
          "interval": "1s",
          "timeout": "500ms",
          "rise": 2,
          "fall": 3
        }
      }
    },
    "backends": {
      "dns": {
        "[2001:db8::1]:53": {
          "added": {
            "weight": 100,
            "admin": "enabled"
          }
        }
      },
      "web": {
        "198.51.100.1:80": "removed",
        "198.51.100.3:80": {
          "added": {
            "weight": 7,
            "admin": "enabled"
          }
        }
      }
    }
  }
}
"#
        );
    }

    #[test]
    fn what_a_killed_daemon_left_half_written_is_replaced_and_never_read() {
        let directory = directory();
        let path = directory.path().join("state.json");
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        fs::write(directory.path().join("state.json.new"), "{\"vers").expect("written");
        assert_eq!(read(&path).expect("read"), overlay());
        assert_eq!(write(&path, &Overlay::default()).expect("written"), Saved::OnDisk);
        assert_eq!(read(&path).expect("read"), Overlay::default());
        assert_eq!(names(&directory), ["state.json"]);
    }

    #[test]
    fn a_link_in_the_way_of_the_new_file_is_not_followed() {
        let directory = directory();
        let path = directory.path().join("state.json");
        let other = directory.path().join("other");
        fs::write(&other, "mine").expect("written");
        std::os::unix::fs::symlink(&other, directory.path().join("state.json.new")).expect("linked");
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        assert_eq!(fs::read_to_string(&other).expect("read"), "mine");
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_told_and_never_overwrites_an_earlier_one() {
        let state = State { version: 1, checksum: None, contents: overlay() };
        let whole = serde_json::to_string(&state).expect("printed");
        let directory = directory();
        let path = directory.path().join("state.json");
        let damaged = [
            String::new(),
            whole[..whole.len() / 2].to_owned(),
            "{\"version\":0,\"overlay\":{},\"more\":1}".to_owned(),
            whole.replace("\"added\"", "\"aded\""),
            whole.replace("198.51.100.3:80", "198.51.100.3"),
        ];
        for (number, text) in damaged.iter().enumerate() {
            fs::write(&path, text).expect("written");
            let error = read(&path).expect_err("refused");
            let StateError::SetAside { set_aside, .. } = &error else { panic!("{error}") };
            assert_eq!(fs::read_to_string(set_aside).expect("read"), *text);
            assert!(error.to_string().contains("was renamed to"), "{error}");
            assert_eq!(names(&directory).len(), number + 1, "{:?}", names(&directory));
            assert!(names(&directory).iter().all(|name| name.starts_with("state.json.corrupt-")));
            assert_eq!(read(&path).expect("read"), Overlay::default());
        }
    }

    #[test]
    fn a_file_that_was_torn_anywhere_or_has_a_bit_flipped_is_set_aside() {
        let directory = directory();
        let path = directory.path().join("state.json");
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        let whole = fs::read(&path).expect("read");
        let refused = |bytes: &[u8], how: &str| {
            let refused = matches!(decode::<Overlay>(bytes), Err(Unfit::Damaged(_) | Unfit::Newer(_)));
            assert!(refused, "{how}: {}", String::from_utf8_lossy(bytes));
        };
        for length in 0..whole.len() {
            refused(&whole[..length], "torn");
            // A disk that has the length and not the data.
            let mut zeroed = whole.clone();
            zeroed[length..].fill(0);
            refused(&zeroed, "zeroed");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(&flipped, "flipped");
        }
        // Valid in every word, and not what was written.
        let text = String::from_utf8(whole).expect("text").replace("\"weight\": 7", "\"weight\": 6");
        fs::write(&path, text).expect("written");
        let message = read(&path).expect_err("refused").to_string();
        assert!(
            message.contains("remove its line \"checksum\"") && message.contains("was renamed to"),
            "{message}"
        );
    }

    #[test]
    fn a_file_of_version_1_and_one_that_was_edited_by_hand_are_read() {
        let first = State { version: 1, checksum: None, contents: overlay() };
        let first = serde_json::to_string(&first).expect("printed");
        assert!(matches!(decode(first.as_bytes()), Ok::<Overlay, _>(read) if read == overlay()));
        let text = encode(&overlay()).expect("printed");
        let by_hand: String = text.lines().filter(|line| !line.contains("checksum")).collect();
        assert!(matches!(decode(by_hand.as_bytes()), Ok::<Overlay, _>(read) if read == overlay()));
    }

    #[test]
    fn a_later_daemons_file_is_refused_and_stays_where_it_is() {
        let directory = directory();
        let path = directory.path().join("state.json");
        fs::write(&path, "{\"version\":5,\"overlay\":{},\"more\":1}").expect("written");
        let message = read(&path).expect_err("refused").to_string();
        assert!(message.contains("has version 5, but this daemon supports version 4"), "{message}");
        assert_eq!(names(&directory), ["state.json"]);
    }

    #[test]
    fn to_look_at_a_damaged_file_leaves_it_alone() {
        let directory = directory();
        let path = directory.path().join("state.json");
        fs::write(&path, "{").expect("written");
        assert!(look::<Overlay>(&path).expect("read").expect_err("damaged").contains("is damaged"));
        assert_eq!(names(&directory), ["state.json"]);
    }

    #[test]
    fn a_directory_that_cannot_be_synced_leaves_the_new_file_and_says_so() {
        let directory = directory();
        let path = directory.path().join("state.json");
        let saved = write_and_sync(&path, &overlay(), |_| Err(io::Error::other("no disk"))).expect("written");
        assert!(matches!(&saved, Saved::Unsynced(why) if why.contains("no disk")), "{saved:?}");
        assert_eq!(read(&path).expect("read"), overlay());
    }

    #[test]
    fn a_file_that_cannot_be_read_stays_where_it_is() {
        let directory = directory();
        let error = read(directory.path()).expect_err("refused");
        assert!(matches!(error, StateError::Unreadable { .. }), "{error}");
        assert!(directory.path().is_dir());
    }

    #[test]
    fn a_write_that_fails_says_where_and_leaves_the_old_file() {
        let directory = directory();
        let path = directory.path().join("state.json");
        assert_eq!(write(&path, &overlay()).expect("written"), Saved::OnDisk);
        fs::create_dir(directory.path().join("state.json.new")).expect("made");
        let message = format!("{:#}", write(&path, &Overlay::default()).expect_err("refused"));
        assert!(message.contains("state.json.new"), "{message}");
        assert_eq!(read(&path).expect("read"), overlay());
    }
}
