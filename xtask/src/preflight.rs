//! What the tests and the demo need of the machine, looked at before anything is built.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use xdp_lb_tests::{output, xdp_pass};

use crate::{packages, sandbox, say};

/// Refuses, saying what is missing and what to do, where the machine cannot run `task`; installs the programs that
/// are missing.
pub fn check(task: &str) -> Result<()> {
    if !packages::is_root() {
        bail!(
            "root is missing: `cargo xtask {task}` makes network namespaces and loads eBPF programs. Run it as root"
        );
    }
    for namespace in ["net", "pid", "mnt"] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            bail!(
                "the kernel has no {namespace} namespaces (CONFIG_NAMESPACES and its options): boot one that has"
            );
        }
    }
    let file_systems = fs::read_to_string("/proc/filesystems").context("cannot read /proc/filesystems")?;
    if !file_systems.split_whitespace().any(|name| name == "bpf") {
        bail!("the kernel has no BPF file system (CONFIG_BPF_SYSCALL): boot one that has");
    }
    xdp_pass::load().context(
        "boot a kernel with CONFIG_BPF_SYSCALL, and leave a container that may not load BPF programs (CAP_BPF, CAP_NET_ADMIN)",
    )?;
    packages::ensure_programs()?;
    say::step("Trying out namespaces, virtual devices and XDP");
    if sandbox::run(&["probe".to_owned()])? != ExitCode::SUCCESS {
        bail!("this machine cannot run `cargo xtask {task}`: see above");
    }
    Ok(())
}

/// What [`check`] tries in a sandbox: a veth device with an XDP program.
pub fn probe() -> Result<()> {
    output(Command::new("ip").args(["link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b"]))
        .context("the kernel makes no virtual Ethernet devices: `modprobe veth` (CONFIG_VETH)")?;
    xdp_pass::attach_here("veth-a").map(drop).context(
        "the kernel attaches no XDP programs to virtual Ethernet devices: Linux 5.9 or later is needed",
    )
}
