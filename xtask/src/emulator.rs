//! A machine under emulation: a kernel, its first file system, and the lines on its console.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// Debian's package of the emulator, and its program.
pub const PROGRAM: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// What is booted.
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The file system in memory that it begins with.
    pub initrd: &'a Path,
    /// The kernel's command line, after what all have.
    pub append: &'a str,
    /// More arguments of the emulator.
    pub arguments: &'a [&'a str],
    /// Seconds for which it may run.
    pub patience: u32,
}

impl Machine<'_> {
    /// Boots it, and hands each line of its console on, until it is off.
    pub fn run(&self, mut line: impl FnMut(String)) -> Result<()> {
        let mut command = Command::new("timeout");
        command
            .arg(self.patience.to_string())
            .args([PROGRAM.0, "-accel", "tcg", "-cpu", "max", "-nic", "none", "-nographic", "-no-reboot"])
            .args(self.arguments)
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 {}", self.append), "-kernel"])
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initrd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec the closure makes one system call, prctl.
        unsafe {
            // `timeout` hands it on. The thread that starts the machine waits for it, too.
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        let mut machine = command.spawn().context("cannot start qemu")?;
        for bytes in BufReader::new(machine.stdout.take().expect("it is piped")).split(b'\n') {
            let bytes = bytes.context("cannot read the machine's console")?;
            line(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        }
        machine.wait().context("cannot wait for qemu").map(drop)
    }
}
