//! The daemon's processor time.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::unistd::{SysconfVar, sysconf};
use xdp_lb_tests::Daemon;

/// The daemon's processor time so far, and what of it the kernel used for it, seconds (proc_pid_stat(5)).
pub fn processor_time(daemon: &Daemon) -> Result<(f64, f64)> {
    let id = daemon.process().context("the daemon runs")?.id();
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("the daemon has ended")?;
    let fields: Vec<_> = stat.rsplit_once(") ").context("it has a name")?.1.split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|it| it.parse::<f64>().ok());
    let (Some(user), Some(kernel)) = (ticks(11), ticks(12)) else { bail!("/proc/{id}/stat: {stat}") };
    let a_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok(((user + kernel) / a_second, kernel / a_second))
}
