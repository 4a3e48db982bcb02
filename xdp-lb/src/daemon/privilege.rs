//! The capabilities of this process: as many as the daemon needs, and no more.

use std::fs;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// Numbers from linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// Without it, the verifier does not let the program store a pointer to the stack or a map, and refuses it.
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks for the capabilities that loading and attaching the program takes.
///
/// # Errors
/// If one is missing, in one line.
pub fn check() -> Result<()> {
    match fs::read_to_string("/proc/self/status") {
        Ok(status) if !suffices(&status) => bail!("needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"),
        // If they cannot be read, the kernel decides.
        _ => Ok(()),
    }
}

/// What the daemon needs as long as it runs: to attach to an interface that returns, for routes, neighbours and VIPs that change,
/// and for checks that ping.
const NEEDED: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// What checks of type `exec` need in addition: their programs run as another user, and are killed after their timeout.
const NEEDED_TO_EXECUTE: [Capability; 3] =
    [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL];

/// What giving groups of the host access to the control socket takes, at each start and upgrade.
const NEEDED_FOR_GROUPS: Capability = Capability::CAP_CHOWN;

/// Gives up all other capabilities for good, and the means to gain any (`no_new_privs`), for this thread, the threads that it
/// starts, and the programs that they execute. Call it before another thread is started, and in each that already runs.
///
/// # Errors
/// Where the kernel refuses.
pub fn drop_rest(executes: bool, has_groups: bool) -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read the capabilities")?;
    let mut keep: CapsHashSet = NEEDED.into_iter().filter(|one| permitted.contains(one)).collect();
    if executes {
        keep.extend(NEEDED_TO_EXECUTE.into_iter().filter(|one| permitted.contains(one)));
    }
    keep.extend((has_groups && permitted.contains(&NEEDED_FOR_GROUPS)).then_some(NEEDED_FOR_GROUPS));
    // CAP_SYS_ADMIN stands for two of them where the service manager does not know them.
    if !keep.contains(&Capability::CAP_BPF) || !keep.contains(&Capability::CAP_PERFMON) {
        keep.extend(permitted.contains(&Capability::CAP_SYS_ADMIN).then_some(Capability::CAP_SYS_ADMIN));
    }
    give_up(&permitted, &keep).context("cannot drop unneeded capabilities")?;
    prctl::set_no_new_privs().context("cannot set no_new_privs")
}

fn give_up(permitted: &CapsHashSet, keep: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // The bounding set limits what executed programs can gain. Reducing it takes a capability itself.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for one in caps::all().difference(keep) {
            if caps::has_cap(None, CapSet::Bounding, *one)? {
                caps::drop(None, CapSet::Bounding, *one)?;
            }
        }
    }
    // So a successor that does not run as root keeps them, too.
    caps::set(None, CapSet::Inheritable, keep)?;
    caps::set(None, CapSet::Ambient, keep)?;
    caps::set(None, CapSet::Effective, keep)?;
    caps::set(None, CapSet::Permitted, keep)
}

/// Whether the effective capabilities in a process's status (proc_pid_status(5)) suffice.
fn suffices(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(Ok(effective)) = effective.map(|text| u64::from_str_radix(text.trim(), 16)) else { return true };
    let has = |capability: u32| effective & (1 << capability) != 0;
    has(CAP_NET_ADMIN) && (has(CAP_BPF) && has(CAP_PERFMON) || has(CAP_SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_capabilities_suffice_and_nothing_less() {
        for (effective, is_enough) in [
            ("000001ffffffffff", true),
            ("000000c000001000", true),
            ("0000008000001000", false),
            ("0000000000201000", true),
            ("000000c000000000", false),
            ("0000000000001000", false),
            ("0000000000000000", false),
        ] {
            let status = format!("Name:\txdp-lb\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n");
            assert_eq!(suffices(&status), is_enough, "{effective}");
        }
        assert!(suffices("Name:\txdp-lb\n"), "unknown");
    }
}
