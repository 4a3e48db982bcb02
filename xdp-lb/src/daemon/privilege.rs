//! What this process may do: as much as the daemon needs, and no more.

use std::fs;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// The numbers of linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// Without it the verifier lets no pointer to the stack or a map be stored, and refuses the program.
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Looks for the privilege that loading and attaching the program takes.
///
/// # Errors
/// Where it is missing, in one line.
pub fn check() -> Result<()> {
    match fs::read_to_string("/proc/self/status") {
        Ok(status) if !suffices(&status) => bail!("needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"),
        // Where it cannot be known the kernel decides.
        _ => Ok(()),
    }
}

/// What the daemon needs all its life: an interface that comes back is attached to anew, routes, neighbours and VIPs
/// change, checks may ping.
const NEEDED: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// What checks of type `exec` need besides: their programs run as another user, and are killed when they take too long.
const NEEDED_TO_EXECUTE: [Capability; 3] =
    [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL];

/// What it takes to open the control socket to groups of the host, at each start and upgrade.
const NEEDED_FOR_GROUPS: Capability = Capability::CAP_CHOWN;

/// Gives up every other capability for good, and the means to gain any (`no_new_privs`): of this thread, those that it
/// starts, and what they execute. To be called before there is another thread, and by each that is there before.
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
    // What stands for two of them where a service manager does not know them.
    if !keep.contains(&Capability::CAP_BPF) || !keep.contains(&Capability::CAP_PERFMON) {
        keep.extend(permitted.contains(&Capability::CAP_SYS_ADMIN).then_some(Capability::CAP_SYS_ADMIN));
    }
    give_up(&permitted, &keep).context("cannot drop unneeded capabilities")?;
    prctl::set_no_new_privs().context("cannot set no_new_privs")
}

fn give_up(permitted: &CapsHashSet, keep: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // What a process that this one executes could have; to shorten that takes a capability itself.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for one in caps::all().difference(keep) {
            if caps::has_cap(None, CapSet::Bounding, *one)? {
                caps::drop(None, CapSet::Bounding, *one)?;
            }
        }
    }
    // A successor that is not root's keeps them, too.
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
