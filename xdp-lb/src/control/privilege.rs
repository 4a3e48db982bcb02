//! Whether this process may do what the daemon does.

use std::fs;

use anyhow::{Result, bail};

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
