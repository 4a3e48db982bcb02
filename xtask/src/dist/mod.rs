//! `cargo xtask dist`: all that a release consists of, in `target/dist`. Files have the time of the commit, and no paths of the
//! machine, so that the same commit and tools give the same bytes: `--twice` compares.

mod binary;
mod deb;
mod image;
mod rpm;
mod sbom;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{program, target_dir, workspace};

use crate::workspace::{cargo, run};
use crate::{build, packages, say, toolchain};

/// What is made.
#[derive(clap::Args)]
pub struct Options {
    /// Make these alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Build again in another folder, and compare every file byte for byte.
    #[arg(long)]
    twice: bool,
    /// Use a tree with changes that are not committed: to try it out.
    #[arg(long)]
    dirty: bool,
}

/// A part of a release.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The program, stripped, and its debug symbols
    Binary,
    /// What is installed, as an archive
    Tarball,
    /// Debian's package
    Deb,
    /// The package of Fedora and its relatives
    Rpm,
    /// The container image
    Image,
}

/// Where all of it goes.
pub fn folder() -> PathBuf {
    target_dir().join("dist")
}

/// What a release is made from.
struct Release {
    /// As in `Cargo.toml`.
    version: &'static str,
    /// The commit's time, in seconds since 1970: that of every file.
    epoch: String,
    /// Where it goes.
    folder: PathBuf,
}

impl Release {
    fn new(dirty: bool) -> Result<Self> {
        let changes = git(&["status", "--porcelain"])?;
        if !dirty && !changes.is_empty() {
            bail!(
                "the tree has changes that are not committed, so nobody could build the same again: commit them, \
                 or use --dirty to try it out\n{changes}"
            );
        }
        let folder = folder();
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot remove what was there")?;
        }
        fs::create_dir_all(&folder).context("cannot make the folder")?;
        let epoch = git(&["log", "-1", "--format=%ct"])?;
        Ok(Self { version: env!("CARGO_PKG_VERSION"), epoch, folder })
    }

    /// A command that gives files the time of the commit, as far as it knows how.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("SOURCE_DATE_EPOCH", &self.epoch).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command
    }
}

/// Makes all of it.
pub fn run_all(options: &Options) -> Result<()> {
    ensure_programs()?;
    let release = Release::new(options.dirty)?;
    make(&release, options)?;
    let sums = sums(&release.folder)?;
    fs::write(release.folder.join("SHA256SUMS"), &sums).context("cannot write the sums")?;
    print!("{sums}");
    if options.twice {
        again(options, &sums)?;
    }
    Ok(())
}

fn make(release: &Release, options: &Options) -> Result<()> {
    let wanted = |part: Part| options.only.is_empty() || options.only.contains(&part);
    build::ebpf(&toolchain::find_or_install()?, false)?;
    let program = binary::shared(release)?;
    if wanted(Part::Image) {
        image::make(release, &program)?;
    }
    let parts = [Part::Tarball, Part::Deb, Part::Rpm];
    if !parts.into_iter().any(wanted) {
        return Ok(());
    }
    let tree = tree::make(release, &program)?;
    if wanted(Part::Tarball) {
        tree::archive(release, &tree)?;
    }
    if wanted(Part::Rpm) {
        rpm::make(release, &tree)?;
    }
    if wanted(Part::Deb) {
        deb::make(release, &tree, &program)?;
    }
    Ok(())
}

/// The programs that make packages, and Debian's package of each.
const PROGRAMS: [(&str, &str); 6] = [
    ("dh", "debhelper"),
    ("fakeroot", "fakeroot"),
    ("lintian", "lintian"),
    ("rpmbuild", "rpm"),
    ("buildah", "buildah"),
    ("strip", "binutils"),
];

fn ensure_programs() -> Result<()> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(name, _)| program(name).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { packages::install(&missing, "packages are made with them") }
}

/// The SHA-256 sums of the files in a folder, as `sha256sum` prints them.
fn sums(folder: &Path) -> Result<String> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .context("cannot list what was made")?
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name())
        .collect();
    files.sort();
    output(Command::new("sha256sum").args(&files).current_dir(folder))
}

/// Makes it from a clone in another folder, and compares.
fn again(options: &Options, first: &str) -> Result<()> {
    ensure!(!options.dirty, "what is not committed cannot be built again: leave --dirty away");
    let clone = target_dir().join("dist-again");
    if clone.exists() {
        fs::remove_dir_all(&clone).context("cannot remove the earlier clone")?;
    }
    say::step(format_args!("Building again, in {}", clone.display()));
    run(Command::new("git").args(["clone", "--quiet", "--local"]).arg(workspace()).arg(&clone))?;
    let target = clone.join("target");
    fs::create_dir(&target).context("cannot make a folder")?;
    // Tools are not what is compared.
    std::os::unix::fs::symlink(target_dir().join("tools"), target.join("tools"))
        .context("cannot link the tools")?;
    let mut command = cargo();
    command.current_dir(&clone).env("CARGO_TARGET_DIR", &target).args(["xtask", "dist"]);
    for part in &options.only {
        let name = clap::ValueEnum::to_possible_value(part).expect("none is skipped");
        command.args(["--only", name.get_name()]);
    }
    run(&mut command)?;
    let second = sums(&target.join("dist"))?;
    let differing: Vec<&str> =
        first.lines().filter(|line| !line.ends_with("SHA256SUMS") && !second.contains(line)).collect();
    ensure!(differing.is_empty(), "the second build differs in:\n{}", differing.join("\n"));
    say::step(format_args!("The two builds are alike, byte for byte: {} files", first.lines().count()));
    fs::remove_dir_all(&clone).context("cannot remove the clone")
}

fn git(arguments: &[&str]) -> Result<String> {
    Ok(output(Command::new("git").args(arguments).current_dir(workspace()))?.trim().to_owned())
}
