//! Running cargo and other programs in the workspace.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xdp_lb_tests::paths::{target_dir, workspace};

/// The eBPF object, as built.
pub fn ebpf_object() -> PathBuf {
    target_dir().join("bpf/xdp-lb-ebpf")
}

/// The cargo that runs this task, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    prepare_cargo(&mut command);
    command
}

/// Makes a cargo work in the workspace, without the variables that `cargo run` set for this process alone: they
/// would make it build things anew.
pub fn prepare_cargo(command: &mut Command) {
    command.current_dir(workspace()).env("CARGO_TARGET_DIR", target_dir());
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

/// A command as a person would type it.
pub fn show(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    format!("`{}`", words.join(" "))
}
