//! `cargo xtask`: builds xdp-lb, and runs what needs more than cargo.

mod build;
mod packages;
mod say;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds xdp-lb, and runs what needs more than cargo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what the build needs: an eBPF compiler and bpf-linker.
    Setup,
    /// Build the eBPF object, and the daemon with it: target/release/xdp-lb.
    Build,
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup => toolchain::find_or_install().map(drop),
        Task::Build => build::everything().map(drop),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}
