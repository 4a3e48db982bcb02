//! Where things are, and running programs there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where all that is built goes, tools included.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => std::path::absolute(dir).expect("CARGO_TARGET_DIR is a path"),
        _ => root().join("target"),
    }
}

/// The eBPF object, as built.
pub fn ebpf_object() -> PathBuf {
    target_dir().join("bpf/xdp-lb-ebpf")
}

/// The daemon and CLI, as built.
pub fn daemon() -> PathBuf {
    target_dir().join("release/xdp-lb")
}

/// The cargo that runs this task, in the workspace, with the variables that it set for this task alone
/// taken out: they would make the next cargo build things anew.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    clear_cargo_variables(&mut command);
    command
}

/// Takes out what `cargo run` set for this process alone.
pub fn clear_cargo_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if text == "CARGO" || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(text);
        }
    }
}

/// Runs a command whose output the person may see; an error names it.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", show(command));
    }
    Ok(())
}

/// What a command prints on stdout; an error carries its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", show(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", show(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program of this name is found on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps nginx, dnsmasq and ethtool where an ordinary user's PATH does not look.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// Whether the file is there and can be run.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    format!("`{}`", words.join(" "))
}
