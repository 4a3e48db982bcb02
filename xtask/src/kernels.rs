//! `cargo xtask test --kernels`: the packet fixtures on other kernels than this machine's.
//!
//! Debian's cloud kernels are fetched and booted by qemu under emulation, with a root file system in memory that
//! holds the test program and what it calls, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{program, target_dir};

use crate::emulator::{self, Machine};
use crate::test::Totals;
use crate::workspace::{cargo, run};
use crate::{build, packages, say, toolchain};

/// The kernels of Debian 12 and its updates.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// What the fixtures need that these kernels have as modules, in the order of loading.
const MODULES: [&str; 1] = ["veth"];

/// Seconds for which one kernel may run. Each fixture loads the program, which an emulated verifier takes seconds to
/// look through: all of them take a quarter of an hour.
const PATIENCE: u32 = 3600;

/// What the file system's last words are, with the tests' exit code behind.
const LAST_WORDS: &str = "The tests ended with ";

/// Builds the fixtures, and runs on each kernel those whose names contain one of these words; all, without any.
pub fn run_all(words: &[String]) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        println!("SKIPPED all kernels but this machine's: the others are those of x86-64");
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = [
        emulator::PROGRAM,
        ("busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("xz", "xz-utils"),
        ("strip", "binutils"),
    ];
    let missing: Vec<_> =
        wanted.iter().filter(|(name, _)| program(name).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty()
        && let Err(error) = packages::install(&missing, "other kernels are booted by qemu")
    {
        println!("SKIPPED all kernels but this machine's: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    build::ebpf(&toolchain::find_or_install()?, false)?;
    say::step("Building the packet fixtures");
    let fixtures = fixtures()?;
    let mut kernels = Vec::new();
    for series in SERIES {
        match find_kernel(series) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => println!("SKIPPED {series}: {error:#}"),
        }
    }
    say::step(format_args!(
        "Running the packet fixtures on {} kernels at a time, emulated (a fixture takes some seconds)",
        kernels.len()
    ));
    let start = Instant::now();
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    // Side by side: an emulated machine keeps one core busy.
    thread::scope(|scope| -> Result<()> {
        let fixtures = &fixtures;
        let machines: Vec<_> = kernels
            .iter()
            .map(|kernel| (kernel, scope.spawn(move || boot(kernel, fixtures, words))))
            .collect();
        for (kernel, machine) in machines {
            let console = machine.join().expect("nothing in it panics")?;
            say::step(&kernel.package);
            for line in &console {
                println!("{line}");
                totals.add(line);
            }
            if !console.iter().any(|line| line.ends_with(&format!("{LAST_WORDS}0"))) {
                failed.push(kernel.package.as_str());
            }
        }
        Ok(())
    })?;
    println!("\nOn {} of {} kernels: {}", kernels.len(), SERIES.len(), totals.line(start.elapsed()));
    if !failed.is_empty() {
        println!("Failed on: {}", failed.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    ensure!(
        kernels.is_empty() || totals != Totals::default(),
        "no fixture was run: none has a name with {words:?} in it"
    );
    Ok(ExitCode::SUCCESS)
}

/// The newest kernel of a series, fetched where it is not there yet.
fn find_kernel(series: &str) -> Result<Kernel> {
    let package = newest(series)?
        .context("Debian has no kernel of this series in its package lists (apt-get update)")?;
    fetch(package)
}

/// The test program of the fixtures, built like all other tests.
fn fixtures() -> Result<PathBuf> {
    let messages = output(cargo().args([
        "test",
        "--test",
        "datapath",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "datapath" && message["profile"]["test"] == true;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    };
    messages.lines().find_map(executable).context("cargo names no test program of the fixtures")
}

/// The newest of Debian's cloud kernels of a series: small, and with all that the fixtures need.
fn newest(series: &str) -> Result<Option<String>> {
    let pattern = format!("^linux-image-{}\\.[0-9].*-cloud-amd64$", series.replace('.', "\\."));
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let mut names: Vec<_> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_by_key(|name| {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect::<Vec<u32>>()
    });
    Ok(names.last().map(|name| (*name).to_owned()))
}

/// A kernel's image and its modules.
struct Kernel {
    package: String,
    image: PathBuf,
    root: PathBuf,
}

/// Fetches a kernel's package and unpacks it under the target directory, where it is not there yet.
fn fetch(package: String) -> Result<Kernel> {
    let directory = target_dir().join("kernels");
    let root = directory.join(&package);
    if !root.join("boot").is_dir() {
        fs::create_dir_all(&directory).context("cannot make the kernels' directory")?;
        run(Command::new("apt-get").args(["-q", "download", &package]).current_dir(&directory))?;
        let archive = entries(&directory)?
            .into_iter()
            .find(|path| name(path).starts_with(&format!("{package}_")) && name(path).ends_with(".deb"))
            .with_context(|| format!("apt-get downloaded no {package}"))?;
        run(Command::new("dpkg-deb").arg("-x").args([&archive, &root]))?;
        fs::remove_file(&archive).context("cannot remove the package")?;
    }
    let image = entries(&root.join("boot"))?.into_iter().find(|path| name(path).starts_with("vmlinuz"));
    Ok(Kernel { image: image.with_context(|| format!("{package} has no image"))?, package, root })
}

/// Boots a kernel with the fixtures in its file system; what its console says.
fn boot(kernel: &Kernel, fixtures: &Path, words: &[String]) -> Result<Vec<String>> {
    let archive = kernel.root.with_extension("initramfs");
    pack(kernel, fixtures, words, &archive)?;
    let mut console = Vec::new();
    let machine = Machine {
        kernel: &kernel.image,
        initrd: &archive,
        append: "",
        arguments: &["-m", "2048"],
        patience: PATIENCE,
    };
    machine.run(|line| console.push(line))?;
    fs::remove_file(&archive).context("cannot remove the file system")?;
    Ok(console)
}

/// Packs a root file system: the fixtures, the programs that they call, the libraries of both, the modules.
fn pack(kernel: &Kernel, fixtures: &Path, words: &[String], archive: &Path) -> Result<()> {
    let root = kernel.root.with_extension("root");
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "proc", "sys", "dev", "tmp", "modules"] {
        fs::create_dir_all(root.join(directory)).context("cannot make the file system")?;
    }
    run(Command::new("strip").arg("-o").arg(root.join("bin/fixtures")).arg(fixtures))?;
    for wanted in ["busybox", "ip", "sysctl"] {
        let program = program(wanted).with_context(|| format!("there is no {wanted} on this machine"))?;
        fs::copy(program, root.join("bin").join(wanted)).with_context(|| format!("cannot copy {wanted}"))?;
    }
    for wanted in ["fixtures", "ip", "sysctl"] {
        for library in libraries(&root.join("bin").join(wanted))? {
            let place = root.join(library.strip_prefix("/").expect("it is absolute"));
            fs::create_dir_all(place.parent().expect("it lies in a folder"))
                .context("cannot make a folder")?;
            fs::copy(&library, &place).with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    for module in MODULES {
        let found = find(&kernel.root.join("lib/modules"), &format!("{module}.ko"))?
            .with_context(|| format!("{} has no module {module}", kernel.root.display()))?;
        let place = root.join("modules").join(name(&found));
        fs::copy(&found, &place).with_context(|| format!("cannot copy {}", found.display()))?;
        if place.extension().is_some_and(|extension| extension == "xz") {
            run(Command::new("xz").arg("-d").arg(&place))?;
        }
    }
    let init = root.join("init");
    fs::write(&init, init_script(words)).context("cannot write the file system's first program")?;
    run(Command::new("chmod").arg("+x").arg(&init))?;
    run(Command::new("sh")
        .args(["-ec", "find . | cpio --quiet -o -H newc | gzip -1 > \"$1\"", "sh"])
        .arg(archive)
        .current_dir(&root))?;
    fs::remove_dir_all(&root).context("cannot remove the file system's folder")
}

/// What the machine does. The words go to the fixtures quoted.
fn init_script(words: &[String]) -> String {
    let words: String = words.iter().map(|word| format!(" '{}'", word.replace('\'', "'\\''"))).collect();
    let load: String = MODULES.iter().map(|module| format!("insmod /modules/{module}.ko\n")).collect();
    format!(
        "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
{load}echo 1 > /proc/sys/net/core/bpf_jit_enable
RUST_TEST_THREADS=1 fixtures{words}
echo \"{LAST_WORDS}$?\"
poweroff -f
"
    )
}

/// The shared libraries of a program, as the dynamic linker finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output(Command::new("ldd").arg(program))?;
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// A file below a directory whose name begins so.
fn find(directory: &Path, start: &str) -> Result<Option<PathBuf>> {
    for path in entries(directory)? {
        if path.is_dir() {
            if let Some(found) = find(&path, start)? {
                return Ok(Some(found));
            }
        } else if name(&path).starts_with(start) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    match list() {
        Ok(paths) => Ok(paths),
        Err(error) => bail!("cannot list {}: {error}", directory.display()),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
