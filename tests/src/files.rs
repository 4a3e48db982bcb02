//! The file that long downloads are made of.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::output;
use crate::paths;

/// How long the big file is.
pub const BIG_FILE_BYTES: u64 = 100_000_000;

/// A file of [`BIG_FILE_BYTES`] pseudo-random bytes, the same every time, made on the first call.
pub fn big_file() -> Result<PathBuf> {
    let (dir, file) = (paths::target_dir().join("lab"), place());
    if has_big_file() {
        return Ok(file);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Under a name of its own until it is whole: another process may be doing the same.
    let partial = dir.join(format!("big.bin.{}", std::process::id()));
    write_big_file(&partial)
        .and_then(|()| Ok(fs::rename(&partial, &file)?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn place() -> PathBuf {
    paths::target_dir().join("lab/big.bin")
}

/// Whether it was made before.
pub fn has_big_file() -> bool {
    place().metadata().is_ok_and(|meta| meta.len() == BIG_FILE_BYTES)
}

/// Removes it, for whoever made it for itself alone.
pub fn remove_big_file() -> Result<()> {
    let file = place();
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

fn write_big_file(file: &Path) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(file)?);
    // xorshift64* (Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..BIG_FILE_BYTES / 8 {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        writer.write_all(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes())?;
    }
    Ok(writer.flush()?)
}

/// The SHA-256 sum of a file, in hex.
pub fn sha256(file: &Path) -> Result<String> {
    let line = output(std::process::Command::new("sha256sum").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}
