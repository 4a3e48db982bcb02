//! Puts the eBPF object into the daemon, and the commit into its build information.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    embed_object();
    emit_commit();
}

/// Copies the eBPF object to `OUT_DIR/xdp-lb-ebpf.o`.
fn embed_object() {
    println!("cargo:rerun-if-env-changed=XDP_LB_EBPF_OBJECT");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = match env::var_os("XDP_LB_EBPF_OBJECT") {
        Some(named) if !named.is_empty() => PathBuf::from(named),
        _ => target_dir(&out_dir).join("bpf/xdp-lb-ebpf"),
    };
    println!("cargo:rerun-if-changed={}", object.display());
    if let Err(error) = std::fs::copy(&object, out_dir.join("xdp-lb-ebpf.o")) {
        eprintln!("There is no eBPF object at {} ({error}): run `cargo xtask build`.", object.display());
        exit(1);
    }
}

/// The target directory, above OUT_DIR (`TARGET_DIR/[TRIPLE/]PROFILE/build/PACKAGE-HASH/out`).
fn target_dir(out_dir: &Path) -> PathBuf {
    let build = out_dir.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "build"));
    let above_profile =
        build.and_then(Path::parent).and_then(Path::parent).expect("OUT_DIR lies in a target directory");
    let triple = env::var("TARGET").expect("cargo sets TARGET");
    match above_profile.parent() {
        Some(target_dir) if above_profile.ends_with(&triple) => target_dir.to_owned(),
        _ => above_profile.to_owned(),
    }
}

/// Sets `XDP_LB_COMMIT` to the commit that is built, or to "unknown" where there is no git.
fn emit_commit() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=XDP_LB_COMMIT={commit}");
    // HEAD's log grows with every commit, checkout and rebase. (In a worktree .git is a file, so git is asked.)
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}
