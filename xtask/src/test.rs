//! `cargo xtask test`: every test, those that need the kernel and the network in a sandbox.

use std::io::{BufRead, BufReader, IsTerminal, stdout};
use std::ops::AddAssign;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

mod packaged;
mod processes;

use crate::workspace::{cargo, run, show};
use crate::{browser, build, kernels, preflight, sandbox, say, schemathesis, toolchain};

/// What is run.
#[derive(clap::Args)]
pub struct Options {
    /// Run only the tests that need neither root nor a network.
    #[arg(long)]
    host: bool,
    /// Run the packet fixtures on other kernels (Debian's 6.1 and 6.12), booted by qemu under emulation; with words behind
    /// `--`, those whose names contain one.
    #[arg(long, conflicts_with = "host")]
    kernels: bool,
    /// Install, use, upgrade, remove and purge the package of `cargo xtask dist` on a clean Debian with systemd, booted by qemu
    /// under emulation, by the guide's first page; and run the image there.
    #[arg(long, conflicts_with_all = ["host", "kernels"])]
    packages: bool,
    /// Run each end-to-end test so many times, and no others: to find those that fail now and then.
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["host", "kernels", "packages"])]
    repeat: Option<usize>,
    /// Handed to the test programs: words that names must contain, and libtest's options.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// One call of `cargo test`. All select the same packages, the workspace's default members: others would be built
/// with other features, and their dependencies anew.
#[derive(Clone, Copy)]
struct Suite {
    title: &'static str,
    targets: &'static [&'static str],
}

const HOST: [Suite; 2] = [
    Suite { title: "Host: unit and property tests", targets: &["--lib", "--bins"] },
    Suite { title: "Host: examples in the documentation", targets: &["--doc"] },
];

/// Each of its tests has network namespaces of its own.
const KERNEL: Suite = Suite {
    title: "Kernel: packets through the program",
    targets: &["--test", "command_line", "--test", "datapath", "--test", "net_resolver"],
};

/// The generator takes a processor: nothing else is tested beside it.
const FLOODS: Suite = Suite {
    title: "Floods: real clients and servers, and the kernel's packet generator",
    targets: &["--test", "floods"],
};

/// The tests of [`END_TO_END`], each of which has network namespaces and a process of its own.
const END_TO_END_TITLE: &str = "End to end: real clients, servers and daemon";
const END_TO_END: &str = "e2e";

/// Builds all, then runs the tests.
pub fn run_all(options: &Options) -> Result<ExitCode> {
    if options.kernels {
        return kernels::run_all(&options.arguments);
    }
    if options.packages {
        return packaged::run_all();
    }
    if !options.host {
        preflight::check("test").map_err(|error| {
            anyhow!("{error:#}. (`cargo xtask test --host` needs neither root nor a network.)")
        })?;
        schemathesis::offer();
        browser::offer();
    }
    let toolchain = toolchain::find_or_install()?;
    build::ebpf(&toolchain, false)?;
    if options.host {
        return run_and_sum(&HOST, None, &options.arguments);
    }
    build::daemon()?;
    say::step("Building the tests");
    // Those in the documentation are built when they are run.
    for targets in [["--lib", "--bins"], ["--test", "*"]] {
        run(cargo().arg("test").args(targets).arg("--no-run"))?;
    }
    let mut inside = vec!["test".to_owned()];
    inside.extend(options.repeat.map(|times| format!("--repeat={times}")));
    inside.push("--".to_owned());
    inside.extend_from_slice(&options.arguments);
    sandbox::run(&inside)
}

/// Runs the tests, all built already, inside the sandbox.
pub fn run_inside(options: &Options) -> Result<ExitCode> {
    match options.repeat {
        Some(times) => run_and_sum(&[], Some(times), &options.arguments),
        None => run_and_sum(&[&HOST[..], &[KERNEL, FLOODS]].concat(), Some(1), &options.arguments),
    }
}

/// Runs these suites, then each end-to-end test so many times, where they are to be run.
fn run_and_sum(suites: &[Suite], end_to_end: Option<usize>, arguments: &[String]) -> Result<ExitCode> {
    let start = Instant::now();
    let mut totals = Totals::default();
    let mut failed_suites = Vec::new();
    for suite in suites {
        say::step(suite.title);
        let mut command = suite.command();
        command.args(["--no-fail-fast", "--offline", "--"]).args(arguments);
        if stdout().is_terminal() {
            command.arg("--color=always");
        }
        if !stream(&mut command, &mut totals)? {
            failed_suites.push(suite.title);
        }
    }
    if let Some(times) = end_to_end {
        say::step(END_TO_END_TITLE);
        if !processes::run(END_TO_END, arguments, times, &mut totals)? {
            failed_suites.push(END_TO_END_TITLE);
        }
    }
    println!("\nTotal: {}", totals.line(start.elapsed()));
    if failed_suites.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("Failed: {}", failed_suites.join("; "));
    Ok(ExitCode::FAILURE)
}

impl Suite {
    fn command(&self) -> Command {
        let mut command = cargo();
        command.arg("test").args(self.targets);
        command
    }
}

/// Runs a command, showing its output line by line and adding up the results. Whether it succeeded.
fn stream(command: &mut Command, totals: &mut Totals) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", show(command)))?;
    let lines = BufReader::new(child.stdout.take().expect("it is piped"));
    for line in lines.split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
    }
    Ok(child.wait().context("cannot wait for the tests")?.success())
}

/// Tests by result.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// The sum in words.
    pub fn line(&self, time: Duration) -> String {
        let Self { passed, failed, ignored } = self;
        format!("{passed} passed, {failed} failed, {ignored} ignored, in {:.0} s", time.as_secs_f64())
    }

    /// Adds libtest's summary line: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`. Whether it is one.
    pub fn add(&mut self, line: &str) -> bool {
        if !line.starts_with("test result:") {
            return false;
        }
        let count = |what: &str| -> u64 {
            let before = line.split_once(what).map_or("", |(before, _)| before);
            before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
        self.ignored += count(" ignored");
        true
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_summary_lines_coloured_or_not() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
        );
        totals.add(
            "test result: \x1b[31mFAILED\x1b[m. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert!(!totals.add("5 passed; 5 failed; 5 ignored"));
        assert_eq!(totals, Totals { passed: 43, failed: 2, ignored: 1 });
    }
}
