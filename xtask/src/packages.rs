//! Debian's packages: which there are, and installing them without starting a service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xdp_lb_tests::paths;

use crate::workspace::run;
use crate::{interrupt, say};

/// Whether this process may install packages and make namespaces.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Installs packages with apt-get, having said so. Removes none, and starts no service.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    let command_line = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if paths::program("apt-get").is_none() {
        bail!("{why}: install the equivalent of Debian's packages {} by hand", packages.join(", "));
    }
    if !is_root() {
        bail!("{why}: run `sudo {command_line}`, or this command as root");
    }
    say::note(format_args!("{why}: installing Debian's packages {}", packages.join(", ")));
    let _no_services = NoServices::begin()?;
    let absent: Vec<_> =
        SERVERS.into_iter().filter(|(program, _)| paths::program(program).is_none()).collect();
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        // Seconds: another apt-get may be at work, such as a host's daily one.
        command.args(["-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    // A package list that cannot be refreshed may still do.
    if let Err(error) = run(apt_get().args(["update", "-q"])) {
        say::note(format_args!("{error}; going on with the package lists as they are"));
    }
    run(apt_get().args(["install", "-y", "--no-remove", "--no-install-recommends"]).args(packages))
        .with_context(|| {
            format!("{why}: Debian's packages {} could not be installed", packages.join(", "))
        })?;
    // The programs are wanted, and not servers on this host from the next boot on.
    for (program, service) in absent {
        if paths::program(program).is_some() && paths::program("systemctl").is_some() {
            run(Command::new("systemctl").args(["--quiet", "disable", service]))?;
        }
    }
    Ok(())
}

/// Programs whose packages have a service, and that service.
const SERVERS: [(&str, &str); 3] = [("nginx", "nginx"), ("nsd", "nsd"), ("prometheus", "prometheus")];

/// While it lives, Debian's packages start no service when they are installed (`invoke-rc.d` asks
/// /usr/sbin/policy-rc.d, and 101 means no).
struct NoServices {
    ours: bool,
    _outlive: interrupt::Outlive,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_SCRIPT: &str = "#!/bin/sh\n# Temporary: cargo xtask setup is installing packages.\nexit 101\n";

impl NoServices {
    fn begin() -> Result<Self> {
        // Ctrl-C ends apt-get; this process has the file to take away.
        let _outlive = interrupt::outlive()?;
        let policy = Path::new(POLICY);
        // One that was left by a set-up that was killed is ours to take away.
        let ours = match fs::read_to_string(policy) {
            Ok(text) => text == POLICY_SCRIPT,
            Err(_) => !policy.exists(),
        };
        if ours {
            fs::write(policy, POLICY_SCRIPT)
                .and_then(|()| fs::set_permissions(policy, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {POLICY}"))?;
        }
        Ok(Self { ours, _outlive })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// The programs that the tests and the demo use, and Debian's package of each.
const PROGRAMS: [(&str, &str); 15] = [
    ("nginx", "nginx-light"),
    ("dnsmasq", "dnsmasq-base"),
    ("nsd", "nsd"),
    ("dig", "bind9-dnsutils"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
    ("nft", "nftables"),
    ("tmux", "tmux"),
    ("prometheus", "prometheus"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("sha256sum", "coreutils"),
    ("tshark", "tshark"),
];

/// Sees to it that the programs that the tests and the demo use are there.
pub fn ensure_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| paths::program(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    install(&packages, &format!("the tests and the demo use {}", programs.join(", ")))
}

/// Tries to install the load balancers that `cargo xtask bench` compares xdp-lb with; those that cannot be had are left
/// out of the comparison.
pub fn offer_peers() {
    let missing = paths::missing_peers();
    if !missing.is_empty()
        && let Err(error) = install(&missing, "the benchmark compares with them")
    {
        say::note(format_args!("{error:#}; going on without"));
    }
}
