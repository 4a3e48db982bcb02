//! `cargo xtask bench`: what a packet costs, as ratios within one run.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xdp_lb_tests::paths::target_dir;

use crate::workspace::{cargo, run};
use crate::{build, preflight, sandbox, say, toolchain};

const BENCH: [&str; 5] = ["bench", "-p", "xdp-lb", "--bench", "datapath"];

/// Builds what is measured, then measures it in the sandbox.
pub fn run_all() -> Result<ExitCode> {
    preflight::check("bench")?;
    build::ebpf(&toolchain::find_or_install()?, false)?;
    say::step("Building the benchmark");
    run(cargo().args(BENCH).arg("--no-run"))?;
    sandbox::run(&["bench".to_owned()])
}

/// Measures, inside the sandbox. The table goes to stdout, the figures to target/bench/datapath.json.
pub fn run_inside() -> Result<()> {
    let directory = target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let report = directory.join("datapath.json");
    say::step("Measuring the datapath (a minute or two; leave the machine alone meanwhile)");
    run(cargo().args(BENCH).arg("--offline").env("XDP_LB_BENCH_REPORT", &report))?;
    say::note(report.display());
    Ok(())
}
