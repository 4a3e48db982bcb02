//! The sandbox: PID, mount and network namespaces of its own, in which this program runs itself again.
//!
//! Nothing that is made in it can be left behind. Its processes end with its first one, which ends with the one
//! that started it, however that ends; its mounts (bpffs with its pins, /run with its sockets and named network
//! namespaces) and its network go when the last process has ended.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use xdp_lb_tests::{SANDBOX_VARIABLE, output, paths};

use crate::{interrupt, say};

/// Where programs in the sandbox put temporary files. In memory.
const TEMPORARY: &str = "/run/tmp";

/// Runs `xtask inside ARGUMENTS` in a new sandbox, and returns how it ended. A signal ends it at once.
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    run_with(arguments, false)
}

/// Like [`run`], of what ends by itself once its stdin does, which is at the first signal; the next one ends it at once.
pub fn run_until_asked(arguments: &[String]) -> Result<ExitCode> {
    run_with(arguments, true)
}

fn run_with(arguments: &[String], until_asked: bool) -> Result<ExitCode> {
    let _outlive = interrupt::outlive()?;
    // What the sandbox's processes leave when their parent is killed is waited for here, below.
    prctl::set_child_subreaper(true).context("cannot wait for what the sandbox leaves")?;

    remove_old_labs();

    let itself = std::env::current_exe().context("cannot find this program's own executable")?;
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--mount",
            "--net",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
            "--",
        ])
        .arg(itself)
        .arg("inside")
        .args(arguments)
        .env(SANDBOX_VARIABLE, std::process::id().to_string())
        .env("TMPDIR", TEMPORARY);
    // SAFETY: between fork and exec the closure makes one system call, prctl.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    if until_asked {
        // Ctrl-C reaches the terminal's foreground process group: neither this nor what it runs is to end of it.
        command.stdin(Stdio::piped()).process_group(0);
    }
    let mut child = command.spawn().context("cannot start `unshare` (Debian's package util-linux)")?;
    interrupt::kill_also(i32::try_from(child.id()).context("a process id fits an i32")?);
    if let Some(stdin) = child.stdin.take() {
        interrupt::close_first(stdin.into());
    }
    let status = child.wait().context("cannot wait for the sandbox")?;
    interrupt::kill_also(0);
    // The first process of the sandbox ends when all others have.
    while waitpid(None, None).is_ok() {}

    if interrupt::came() && !(until_asked && status.code().is_some()) {
        say::step("Interrupted. All of it ran in a sandbox, which is gone with everything in it.");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Removes the lab folders of sandboxes that are gone: each is named by the process that made the sandbox.
fn remove_old_labs() {
    let Ok(labs) = fs::read_dir(paths::target_dir().join("lab")) else { return };
    for lab in labs.flatten() {
        let gone = lab.file_name().to_str().is_some_and(|process| !Path::new("/proc").join(process).exists());
        if gone && lab.path().is_dir() {
            // Another task may be removing it, too.
            let _ = fs::remove_dir_all(lab.path());
        }
    }
}

/// Furnishes the sandbox, from inside: what `xtask inside` does first.
pub fn enter() -> Result<()> {
    if std::process::id() != 1 {
        bail!("`xtask inside` is for the sandbox, which `cargo xtask test` and `cargo xtask demo` make");
    }
    interrupt::exit_at_once()?;
    // The old /sys shows the devices of the old network namespace, and has the host's bpffs on it.
    mount_new("sysfs", "/sys")?;
    mount_new("bpf", "/sys/fs/bpf").context("the kernel has no BPF file system")?;
    mount_new("tmpfs", "/run")?;
    for dir in ["/run/netns", "/run/lock", TEMPORARY] {
        fs::create_dir(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    output(Command::new("ip").args(["link", "set", "lo", "up"])).map(drop)
}

fn mount_new(file_system: &str, at: &str) -> Result<()> {
    mount(Some(file_system), at, Some(file_system), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None::<&str>)
        .with_context(|| format!("cannot mount {file_system} at {at}"))
}
