//! The processor that a benchmark runs on.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Keeps this process, and those that it starts from now on, on the last processor: the first has the interrupts.
pub fn pin() -> Result<()> {
    let cpus = sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1) as usize;
    let mut set = CpuSet::new();
    set.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot pin to one processor")
}

/// Whether few samples will do.
pub fn is_quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}
