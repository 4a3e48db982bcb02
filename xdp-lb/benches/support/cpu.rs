//! The processor that a benchmark runs on.

use std::ops::Range;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Keeps this thread, and what it starts from now on, on the last processor: the first has the interrupts.
pub fn pin() -> Result<()> {
    let last = count()? - 1;
    keep_to(last..last + 1)
}

/// Keeps this thread, and what it starts from now on, on the other processors, where there are any.
#[allow(dead_code, reason = "most benchmarks use one processor")]
pub fn leave_the_last() -> Result<()> {
    keep_to(0..(count()? - 1).max(1))
}

/// Keeps this thread, and what it starts from now on, on these processors.
pub fn keep_to(cpus: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot keep to some processors")
}

/// How many there are.
pub fn count() -> Result<usize> {
    Ok(sysconf(SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(1) as usize)
}

/// Whether few samples will do.
pub fn is_quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}
