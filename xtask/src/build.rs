//! The build: the eBPF object first, then the daemon, which carries it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};
use object::elf;
use xdp_lb_tests::paths::{self, target_dir};

use crate::say;
use crate::toolchain::{self, Toolchain};
use crate::workspace::{self, run};

/// Builds the eBPF object and the daemon; with `log`, the datapath's packets go to the daemon's log.
pub fn everything(log: bool) -> Result<()> {
    let toolchain = toolchain::find_or_install()?;
    ebpf(&toolchain, log)?;
    daemon()
}

/// Builds the eBPF object, to where the daemon's build script finds it.
pub fn ebpf(toolchain: &Toolchain, log: bool) -> Result<()> {
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let dir = target_dir().join("ebpf");
    say::step("Building the eBPF object (the first time `core` too, which takes a minute)");

    // Names the kernel's structures that the host's architecture shapes, as aya-ebpf wants it.
    let mut flags = vec![format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH)];
    // BTF comes from the debug information.
    flags.extend(["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()]);
    flags.push(format!("-Clinker={}", toolchain.bpf_linker.display()));
    let mut cargo = Command::new(&toolchain.compiler.cargo);
    workspace::prepare_cargo(&mut cargo);
    for variable in
        ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(variable);
    }
    run(cargo
        .env("RUSTC", &toolchain.compiler.rustc)
        // `-Z build-std` on a compiler that is not a nightly one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .args(["build", "--release", "-p", "xdp-lb-ebpf", "--bin", "xdp-lb-ebpf"])
        .args(["-Z", "build-std=core", "--target", target, "--target-dir"])
        .arg(&dir)
        .args(log.then_some("--features=log")))
    .with_context(|| format!("the eBPF object could not be built with {toolchain}"))?;

    let built = dir.join(target).join("release/xdp-lb-ebpf");
    let object = workspace::ebpf_object();
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = without_dwarf(&bytes).with_context(|| format!("cannot strip {}", built.display()))?;
    // An unchanged object keeps its time stamp, so that cargo does not build the daemon anew.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::create_dir_all(object.parent().expect("it lies in a folder"))
            .context("cannot make target/bpf")?;
        fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    say::note(format_args!("{} ({} bytes)", object.display(), bytes.len()));
    Ok(())
}

/// The object without DWARF, which is three quarters of it and which the kernel does not read. BTF stays.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(object)?;
    for section in &mut object.sections {
        section.delete = section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM keeps the sections' names with those of the symbols.
    let names = object.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}

/// Builds the daemon, with the eBPF object in it.
pub fn daemon() -> Result<()> {
    say::step("Building the daemon");
    run(workspace::cargo().args(["build", "--release", "-p", "xdp-lb"]))?;
    say::note(paths::daemon().display());
    Ok(())
}
