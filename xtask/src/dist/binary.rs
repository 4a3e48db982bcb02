//! The program: built for size and speed, without the paths of the machine, and its debug symbols apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{target_dir, workspace};

use super::Release;
use crate::say;
use crate::workspace::{cargo, ebpf_object, run};

/// Programs of this host's kind.
pub const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// What paths of the machine are called in the program.
const SOURCES: &str = "/usr/src/xdp-lb";

/// The program with its debug symbols, as packages take it; the stripped one and the symbols are put beside the packages.
pub fn shared(release: &Release) -> Result<PathBuf> {
    let built = build(release)?;
    let name = format!("xdp-lb-{}-{}", release.version, std::env::consts::ARCH);
    let symbols = release.folder.join(format!("{name}.debug"));
    let stripped = release.folder.join(&name);
    run(Command::new("objcopy")
        .args(["--only-keep-debug", "--compress-debug-sections"])
        .args([&built, &symbols]))?;
    strip(&built, &stripped)?;
    run(Command::new("objcopy").arg(format!("--add-gnu-debuglink={}", symbols.display())).arg(&stripped))?;
    say::note(format_args!("{} ({} bytes)", stripped.display(), size(&stripped)?));
    Ok(built)
}

/// Copies a program without its symbols.
pub fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("--strip-all").arg("-o").args([to, from]))
}

fn size(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("there is no {}", file.display()))?.len())
}

/// Builds it, with its symbols.
fn build(release: &Release) -> Result<PathBuf> {
    say::step("Building the release (optimised as a whole: some minutes)");
    let folder = target_dir().join("dist-build");
    let remaps = remaps()?;
    let mut flags: Vec<String> =
        remaps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    // By which debuggers find the symbols.
    flags.push("-Clink-arg=-Wl,--build-id=sha1".to_owned());
    let for_c: Vec<String> =
        remaps.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
    run(cargo()
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CFLAGS", for_c.join(" "))
        .env("SOURCE_DATE_EPOCH", &release.epoch)
        .env("XDP_LB_EBPF_OBJECT", ebpf_object())
        .args([
            "build",
            "--locked",
            "--profile",
            "dist",
            "-p",
            "xdp-lb",
            "--bin",
            "xdp-lb",
            "--target",
            TARGET,
        ]))?;
    Ok(folder.join(TARGET).join("dist/xdp-lb"))
}

/// The paths of this machine that a compiler would write into the program, and what it writes instead.
fn remaps() -> Result<Vec<(String, String)>> {
    let home = match std::env::var("CARGO_HOME") {
        Ok(home) => home,
        Err(_) => format!("{}/.cargo", std::env::var("HOME").context("HOME is not set")?),
    };
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace()))?;
    Ok(vec![
        (workspace().display().to_string(), SOURCES.to_owned()),
        (home, "/usr/share/cargo".to_owned()),
        (sysroot.trim().to_owned(), "/usr/lib/rust".to_owned()),
    ])
}
