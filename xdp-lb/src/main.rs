//! xdp-lb: the daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    xdp_lb::cli::main()
}
