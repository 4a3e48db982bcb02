//! `cargo xtask`: builds xdp-lb, and runs what needs more than cargo.

mod bench;
mod browser;
mod build;
mod demo;
mod dist;
#[cfg(test)]
mod docs;
#[expect(unsafe_code, reason = "the emulator ends with its parent")]
mod emulator;
mod fuzz;
#[expect(unsafe_code, reason = "signal handlers")]
mod interrupt;
mod kernels;
#[cfg(test)]
mod layers;
mod packages;
mod pictures;
mod plot;
mod preflight;
#[cfg(test)]
mod purity;
#[expect(unsafe_code, reason = "it ends with its parent")]
mod sandbox;
mod say;
mod schemathesis;
mod screenshots;
mod soak;
mod stack;
mod test;
mod toolchain;
#[cfg(test)]
mod words;
mod workspace;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xdp_lb_tests::paths;

/// Builds xdp-lb, and runs what needs more than cargo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what the other tasks need: an eBPF toolchain, and the servers and clients of the tests.
    Setup,
    /// Build the eBPF object, and the daemon with it: target/release/xdp-lb.
    Build {
        /// A datapath that says of each packet what became of it, to the daemon's log (XDP_LB_LOG=debug).
        /// For debugging only: it is many times slower.
        #[arg(long)]
        log: bool,
    },
    /// Build, then run the daemon on this host.
    Load {
        /// The daemon's config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Watch a load balancer at work: real clients, servers and failures, in a network of its own.
    Demo,
    /// Run every test: host, kernel and end to end.
    Test(test::Options),
    /// Disturb many long flows of all modes and families in all ways at once, and see that none breaks whose backend lives.
    Soak(soak::Options),
    /// Measure what a packet costs, what a change costs, and xdp-lb against what a user would pick instead.
    Bench(bench::Options),
    /// Take the pictures of the web page and of `top` for the docs, of a load balancer at work.
    Screenshots(screenshots::Options),
    /// Search for packets and tables on which the datapath goes wrong, guided by coverage.
    Fuzz(fuzz::Options),
    /// Make a release: binaries, packages, an image, sums, and the list of components, in target/dist.
    Dist(dist::Options),
    /// Draw the pictures of the documentation from their texts.
    Pictures,
    /// Show how much of the 512 bytes of stack each eBPF program takes, and by which calls.
    Stack,
    /// What runs inside the sandbox.
    #[command(hide = true)]
    Inside {
        #[command(subcommand)]
        task: InsideTask,
    },
}

#[derive(Subcommand)]
enum InsideTask {
    Probe,
    Demo,
    Bench(bench::Options),
    Soak(soak::Options),
    Screenshots(screenshots::Options),
    Test(test::Options),
}

fn main() -> ExitCode {
    run(Args::parse().task).unwrap_or_else(|error| {
        say::error(&error);
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => {
            toolchain::find_or_install()?;
            packages::ensure_programs()?;
            schemathesis::offer();
            browser::offer();
        }
        Task::Build { log } => build::everything(log)?,
        Task::Load { config } => load(&config)?,
        Task::Demo => return demo::run(),
        Task::Test(options) => return test::run_all(&options),
        Task::Fuzz(options) => return fuzz::run_all(&options),
        Task::Bench(options) => return bench::run_all(&options),
        Task::Soak(options) => return soak::run(&options),
        Task::Screenshots(options) => return screenshots::run(&options),
        Task::Dist(options) => dist::run_all(&options)?,
        Task::Pictures => pictures::draw_all()?,
        Task::Stack => return stack::show(),
        Task::Inside { task } => {
            sandbox::enter()?;
            match task {
                InsideTask::Probe => preflight::probe()?,
                InsideTask::Bench(options) => bench::run_inside(&options)?,
                InsideTask::Demo => return demo::run_inside(),
                InsideTask::Soak(options) => return soak::run_inside(&options),
                InsideTask::Screenshots(options) => return screenshots::run_inside(&options),
                InsideTask::Test(options) => return test::run_inside(&options),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the daemon and becomes it.
fn load(config: &Path) -> Result<()> {
    build::everything(false)?;
    say::step(format_args!("Running the daemon with {}", config.display()));
    let error = Command::new(paths::daemon()).arg("run").arg("--config").arg(config).exec();
    Err(error).context("cannot start the daemon")
}
