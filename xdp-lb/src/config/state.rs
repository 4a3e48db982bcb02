//! The state file: the runtime changes, so that they survive a restart.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::overlay::Overlay;

const VERSION: u32 = 1;
const LARGEST: u64 = 256 << 20;

/// Why the runtime changes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is there and makes no sense. It was renamed, so that the next change does not
    /// overwrite it.
    #[error(
        "the state file {} {why}; it was set aside as {}: the changes made at runtime are not in effect until \
         they are made again, or that file is mended and put back", path.display(), set_aside.display()
    )]
    SetAside {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What it is called now.
        set_aside: PathBuf,
    },
    /// The file could not be read or set aside. It is as it was.
    #[error("the state file {} {why}: {source}; check its permissions and the disk", path.display())]
    Unreadable {
        /// The state file.
        path: PathBuf,
        /// What could not be done.
        why: String,
        /// Why.
        source: io::Error,
    },
}

/// The file's document.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State<T> {
    version: u32,
    overlay: T,
}

/// Only the version, whatever else a later daemon may have written.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads the runtime changes; none where there is no file.
///
/// # Errors
/// Where the file is no state file of this version (then it is set aside, as NAME.corrupt-TIME) or
/// could not be read.
pub fn read(path: &Path) -> Result<Overlay, StateError> {
    let unreadable =
        |why: &str, source| StateError::Unreadable { path: path.into(), why: why.into(), source };
    let mut bytes = Vec::new();
    let why = match File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Overlay::default()),
        Err(error) => return Err(unreadable("cannot be read", error)),
        Ok(_) => match decode(&bytes) {
            Ok(overlay) => return Ok(overlay),
            Err(why) => why,
        },
    };
    let set_aside =
        set_aside(path).map_err(|error| unreadable(&format!("{why}, and cannot be renamed"), error))?;
    Err(StateError::SetAside { path: path.into(), why, set_aside })
}

/// Writes the runtime changes: whole or not at all, and on the disk when this returns.
///
/// # Errors
/// Where the directory cannot be made or the file cannot be written; the old file stands then.
pub fn write(path: &Path, overlay: &Overlay) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut text = serde_json::to_vec_pretty(&State { version: VERSION, overlay })?;
    text.push(b'\n');
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the state file's directory {}", directory.display()))?;
    let temporary = beside(path, ".new");
    write_whole(&temporary, &text)
        .with_context(|| format!("cannot write the state file's successor {}", temporary.display()))?;
    fs::rename(&temporary, path)
        .with_context(|| format!("cannot put the state file {} in place", path.display()))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot write the directory {} to the disk", directory.display()))
}

fn decode(bytes: &[u8]) -> Result<Overlay, String> {
    if bytes.len() as u64 > LARGEST {
        return Err(format!("is larger than {} MiB", LARGEST >> 20));
    }
    let broken = |error| format!("is damaged ({error})");
    let Version { version } = serde_json::from_slice(bytes).map_err(broken)?;
    if version != VERSION {
        return Err(format!("is of version {version}, and this daemon knows version {VERSION}"));
    }
    serde_json::from_slice::<State<Overlay>>(bytes).map(|state| state.overlay).map_err(broken)
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    // One that a killed daemon left behind; `create_new` then follows no link and truncates nothing.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Renames a file to NAME.corrupt-TIME; an earlier one of that name stays.
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
