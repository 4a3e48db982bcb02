//! The eBPF toolchain: a compiler with the sources of `core`, and a bpf-linker whose LLVM can read
//! what that compiler emits.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{self, is_executable, target_dir};

use crate::workspace::run;
use crate::{packages, say, workspace};

/// The bpf-linker that is built where none fits, and the LLVM majors that it can be built with, best first.
const BPF_LINKER_VERSION: &str = "0.13.0";
const BPF_LINKER_LLVMS: [u32; 3] = [22, 23, 21];

/// Debian 12's compiler, which carries this LLVM, and the sources of its `core`.
const DEBIAN_PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "g++"];

/// The variables by which a person names the parts.
const TOOLCHAIN_VARIABLE: &str = "XDP_LB_EBPF_TOOLCHAIN";
const LINKER_VARIABLE: &str = "XDP_LB_BPF_LINKER";

/// What builds the eBPF object.
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker.
    pub bpf_linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.compiler, self.bpf_linker.display())
    }
}

/// A Rust compiler that can build `core`.
pub struct Compiler {
    /// What a person calls it.
    name: String,
    /// Its cargo.
    pub cargo: PathBuf,
    /// Its rustc.
    pub rustc: PathBuf,
    /// Its version, such as 1.96.0.
    release: String,
    /// The major version of its LLVM.
    llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rustc {}, LLVM {})", self.name, self.release, self.llvm)
    }
}

/// The toolchain of this machine: the one that the person named, else a rustup toolchain, else the system's.
/// Installs Debian's packages, and builds a bpf-linker under the target directory, where nothing else fits.
pub fn find_or_install() -> Result<Toolchain> {
    say::step("Looking for an eBPF toolchain");
    let toolchain = find()?;
    say::note(format_args!("taking {toolchain}"));
    Ok(toolchain)
}

fn find() -> Result<Toolchain> {
    // What a person named is taken or refused, never passed over.
    if let Some(named) = std::env::var(TOOLCHAIN_VARIABLE).ok().filter(|name| !name.is_empty()) {
        let compiler = named_compiler(&named).with_context(|| format!("{TOOLCHAIN_VARIABLE}={named}"))?;
        let bpf_linker = find_or_build_linker(&compiler)?;
        return Ok(Toolchain { compiler, bpf_linker });
    }
    for candidate in rustup_compilers().into_iter().chain([system_compiler()]) {
        match candidate.and_then(|compiler| Ok((find_or_build_linker(&compiler)?, compiler))) {
            Ok((bpf_linker, compiler)) => return Ok(Toolchain { compiler, bpf_linker }),
            Err(reason) => say::note(format_args!("{reason:#}")),
        }
    }
    install_debian()
}

/// A toolchain by its rustup name, or by the folder that its cargo and rustc lie in.
fn named_compiler(name: &str) -> Result<Compiler> {
    if name.contains('/') {
        return Compiler::try_new(name.to_owned(), Path::new(name));
    }
    rustup_compiler(name)
}

/// rustup's toolchains, a nightly one first.
fn rustup_compilers() -> Vec<Result<Compiler>> {
    let Ok(list) = output(Command::new("rustup").args(["toolchain", "list"])) else {
        return vec![Err(anyhow!("rustup is not installed"))];
    };
    let mut names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names.into_iter().map(rustup_compiler).collect()
}

fn rustup_compiler(name: &str) -> Result<Compiler> {
    let rustc = output(Command::new("rustup").args(["which", "--toolchain", name, "rustc"]))?;
    let bin = Path::new(rustc.trim()).parent().context("rustup names no folder")?;
    Compiler::try_new(format!("rustup's {name}"), bin)
}

/// The compiler of the distribution.
fn system_compiler() -> Result<Compiler> {
    Compiler::try_new("the system's compiler in /usr/bin".to_owned(), Path::new("/usr/bin"))
}

fn install_debian() -> Result<Toolchain> {
    let by_hand = "with rustup: `rustup toolchain install nightly --component rust-src`, then a bpf-linker on PATH \
                   (https://github.com/aya-rs/bpf-linker/releases, or `cargo binstall bpf-linker`)";
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is = |key: &str, value: &str| {
        release.lines().any(|line| {
            line.strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('='))
                .is_some_and(|v| v.trim_matches('"') == value)
        })
    };
    if !(is("ID", "debian") && is("VERSION_ID", "12")) {
        bail!(
            "no eBPF toolchain found, and only Debian 12's packages are known to this set-up. Install one {by_hand}"
        );
    }
    packages::install(&DEBIAN_PACKAGES, "no eBPF toolchain found")
        .with_context(|| format!("or install one {by_hand}"))?;
    let compiler = system_compiler()?;
    let bpf_linker = find_or_build_linker(&compiler)?;
    Ok(Toolchain { compiler, bpf_linker })
}

impl Compiler {
    /// The compiler in a folder, refused where it is too old or lacks the sources of `core`.
    fn try_new(name: String, bin: &Path) -> Result<Self> {
        let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
        for program in [&cargo, &rustc] {
            if !is_executable(program) {
                bail!("{name} will not do: there is no {}", program.display());
            }
        }
        let version = output(Command::new(&rustc).arg("-vV"))?;
        let field = |key: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            value.ok_or_else(|| anyhow!("{name} will not do: `rustc -vV` names no {key}"))
        };
        let release = field("release:")?.to_owned();
        let llvm = leading_number(field("LLVM version:")?)
            .ok_or_else(|| anyhow!("{name} will not do: its LLVM version is unknown"))?;
        let wanted = env!("CARGO_PKG_RUST_VERSION");
        if major_minor(&release) < major_minor(wanted) {
            bail!("{name} will not do: it is rustc {release}, and {wanted} is needed");
        }
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        if !core.is_dir() {
            bail!("{name} will not do: it lacks the sources of `core` (component rust-src)");
        }
        Ok(Self { name, cargo, rustc, release, llvm })
    }
}

/// A bpf-linker that can read what the compiler emits: LLVM reads the bitcode of its own and of older majors.
fn find_or_build_linker(compiler: &Compiler) -> Result<PathBuf> {
    let built = target_dir().join("tools/bin/bpf-linker");
    if let Some(named) = std::env::var_os(LINKER_VARIABLE).filter(|name| !name.is_empty()) {
        let named = PathBuf::from(named);
        if !is_executable(&named) {
            bail!("{LINKER_VARIABLE}={}: there is no such program", named.display());
        }
        return Ok(named);
    }
    let mut reasons = Vec::new();
    for linker in
        paths::program("bpf-linker").into_iter().chain(Some(built.clone()).filter(|file| is_executable(file)))
    {
        match linker_llvm(&linker) {
            Ok(llvm) if llvm >= compiler.llvm => return Ok(linker),
            Ok(llvm) => reasons.push(format!("{} has LLVM {llvm}", linker.display())),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    if reasons.is_empty() {
        reasons.push("there is none".to_owned());
    }
    let reasons = reasons.join(", ");
    let Some((llvm, prefix)) = installed_llvm(compiler.llvm) else {
        bail!(
            "{compiler} will not do: it needs a bpf-linker with LLVM {} or later ({reasons}), \
             and there is no /usr/lib/llvm-NN with llvm-config to build one with",
            compiler.llvm
        );
    };
    say::note(format_args!(
        "{compiler} needs a bpf-linker ({reasons}): building {BPF_LINKER_VERSION} with {} (a minute or two)",
        prefix.display()
    ));
    build_linker(llvm, &prefix)?;
    Ok(built)
}

/// The LLVM major version of a bpf-linker.
///
/// It prints none. But the bitcode that it writes begins with the block that identifies its producer.
fn linker_llvm(linker: &Path) -> Result<u32> {
    let dir = target_dir().join("tools/probe");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (input, bitcode) = (dir.join("empty.ll"), dir.join("empty.bc"));
    fs::write(&input, "target triple = \"bpfel\"\n").context("cannot write the linker's probe")?;
    output(Command::new(linker).arg("--emit=llvm-bc").arg("-o").arg(&bitcode).arg(&input))?;
    let bitcode = fs::read(&bitcode).context("cannot read the linker's probe")?;
    bitcode_producer_major(&bitcode)
        .with_context(|| format!("{} does not say which LLVM it has", linker.display()))
}

/// The major version in the producer string ("LLVM22.1.8") of a bitcode file's identification block
/// (LLVM Bitcode File Format, IDENTIFICATION_BLOCK), which is an array of 6-bit characters at no byte's edge.
fn bitcode_producer_major(bitcode: &[u8]) -> Option<u32> {
    const CHAR6: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";
    let bits: Vec<u8> =
        bitcode.iter().take(128).flat_map(|byte| (0..8).map(move |bit| (byte >> bit) & 1)).collect();
    let char_at = |bit: usize| {
        let chunk = bits.get(bit..bit + 6)?;
        Some(CHAR6[chunk.iter().rev().fold(0, |index, bit| index << 1 | usize::from(*bit))])
    };
    let starts = |start: usize| (0..4).all(|i| char_at(start + 6 * i) == Some(b"LLVM"[i]));
    let start = (0..bits.len()).find(|start| starts(*start))?;
    let digits: String = (4..)
        .map_while(|i| char_at(start + 6 * i))
        .map(char::from)
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// An installed LLVM that bpf-linker can be built with and that reads what LLVM `at_least` emits.
fn installed_llvm(at_least: u32) -> Option<(u32, PathBuf)> {
    BPF_LINKER_LLVMS
        .into_iter()
        .filter(|llvm| *llvm >= at_least)
        .map(|llvm| (llvm, PathBuf::from(format!("/usr/lib/llvm-{llvm}"))))
        .find(|(_, prefix)| is_executable(&prefix.join("bin/llvm-config")))
}

fn build_linker(llvm: u32, prefix: &Path) -> Result<()> {
    let tools = target_dir().join("tools");
    run(workspace::cargo()
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_TARGET_DIR", tools.join("build"))
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&tools))
    .context("bpf-linker could not be built")?;
    // A few hundred megabytes that nothing needs again.
    fs::remove_dir_all(tools.join("build")).context("cannot remove bpf-linker's build folder")
}

fn major_minor(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| leading_number(part).unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitcode_file_names_the_llvm_that_wrote_it() {
        // The first bytes of what LLVM 22.1.8 writes for an empty module.
        let bitcode = [
            0x42, 0x43, 0xc0, 0xde, 0x35, 0x14, 0, 0, 5, 0, 0, 0, 0x62, 0x0c, 0x30, 0x24, 0x4a, 0x59, 0xbe,
            0xa6, 0x6d, 0xfb, 0xb5, 0xcf, 0x0b, 0x51, 0x80, 0x4c, 1, 0, 0, 0,
        ];
        assert_eq!(bitcode_producer_major(&bitcode), Some(22));
        assert_eq!(bitcode_producer_major(&bitcode[..16]), None);
        assert_eq!(bitcode_producer_major(&[]), None);
    }

    #[test]
    fn versions_compare_by_number_and_not_by_text() {
        assert!(major_minor("1.100.0") > major_minor("1.95"));
        assert_eq!(major_minor("1.98.0-nightly"), (1, 98));
        assert_eq!(leading_number("22.1.8"), Some(22));
        assert_eq!(leading_number("x"), None);
    }
}
