//! `cargo xtask fuzz`: the datapath's fuzz targets under libFuzzer, for as long as one likes.
//!
//! libFuzzer comes as a crate, and its coverage from the stable compiler's own LLVM: nothing has to be installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use xdp_lb_fuzz::{TARGET_VARIABLE, Target};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::{target_dir, workspace};

use crate::say;
use crate::workspace::{cargo, run};

/// What is run, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// The target to fuzz; all of them, one after the other, where none is named.
    #[arg(value_parser = PossibleValuesParser::new(Target::ALL.iter().map(|target| target.name)))]
    target: Option<String>,
    /// For how long each target is run: 30s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    time: Duration,
    /// Reduce the corpus in fuzz/corpus to the inputs that together reach all that is reached, those included that
    /// earlier runs found, and run nothing else.
    #[arg(long)]
    minimise: bool,
}

/// What the compiler adds for libFuzzer: counters, and calls where values are compared (SanitizerCoverage). No
/// address sanitiser: but for a cell of one word, the datapath on the host is safe Rust, which panics instead.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// Inputs are no longer than this: a frame of some hundred bytes, and what its tables are made of; many of those in
/// a sequence.
const LONGEST: u32 = 2000;

/// Builds the targets and runs them.
pub fn run_all(options: &Options) -> Result<ExitCode> {
    let program = build()?;
    let is_wanted = |target: &&Target| options.target.as_ref().is_none_or(|name| name == target.name);
    let mut failed = Vec::new();
    for target in Target::ALL.iter().filter(is_wanted) {
        let fuzzer = Fuzzer::new(&program, target)?;
        if options.minimise {
            fuzzer.minimise()?;
        } else if !fuzzer.fuzz(options.time)? {
            failed.push(target.name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("Failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Builds the program of all targets; its path.
fn build() -> Result<PathBuf> {
    say::step("Building the fuzz targets");
    let host = host_triple()?;
    let directory = target_dir().join("fuzz");
    // For a named target, so that build scripts and macros are built without coverage.
    run(cargo()
        .args(["build", "--release", "--package", "xdp-lb-fuzz", "--features", "libfuzzer"])
        .args(["--bin", "xdp-lb-fuzz", "--target", &host])
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f")))?;
    Ok(directory.join(host).join("release/xdp-lb-fuzz"))
}

/// One target, and where its inputs are.
struct Fuzzer<'a> {
    program: &'a Path,
    target: &'static Target,
    /// In the repository: few and small.
    corpus: PathBuf,
    /// All that any run has found.
    found: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn new(program: &'a Path, target: &'static Target) -> Result<Self> {
        let corpus = workspace().join("fuzz/corpus").join(target.name);
        let found = target_dir().join("fuzz/found").join(target.name);
        for folder in [&corpus, &found] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { program, target, corpus, found })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.env(TARGET_VARIABLE, self.target.name);
        command
    }

    /// Searches for so long; whether nothing was wrong.
    fn fuzz(&self, time: Duration) -> Result<bool> {
        let Target { name, words, .. } = self.target;
        say::step(format_args!("Fuzzing {name} for {} s: {words}", time.as_secs()));
        let artifacts = target_dir().join("fuzz").join(format!("{name}-"));
        let status = self
            .command()
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}", artifacts.display()))
            // From the start as long as that: a short one makes no packet.
            .args(["-len_control=0", "-use_value_profile=1", "-timeout=5"])
            .args([&self.found, &self.corpus])
            .status()
            .context("cannot start the fuzzer")?;
        if !status.success() {
            println!(
                "The input is in the file named above. Put it into fuzz/corpus/{name}, and `cargo test -p xdp-lb-fuzz` \
                 fails until this is fixed."
            );
        }
        Ok(status.success())
    }

    /// Puts into the repository the fewest inputs that reach all that any is known to reach.
    fn minimise(&self) -> Result<()> {
        say::step(format_args!("Reducing the corpus of {}", self.target.name));
        let fewest = self.found.with_extension("fewest");
        let _ = fs::remove_dir_all(&fewest);
        fs::create_dir_all(&fewest).with_context(|| format!("cannot make {}", fewest.display()))?;
        // By the places that are reached alone: how often they are is not a reason to keep an input.
        run(self
            .command()
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .arg(format!("-max_len={LONGEST}"))
            .args([&fewest, &self.corpus, &self.found]))?;
        fs::remove_dir_all(&self.corpus).context("cannot remove the old corpus")?;
        fs::create_dir_all(&self.corpus).context("cannot make the new corpus")?;
        for input in fs::read_dir(&fewest).context("cannot list the new corpus")? {
            let input = input.context("cannot list the new corpus")?;
            fs::copy(input.path(), self.corpus.join(input.file_name())).context("cannot copy an input")?;
        }
        Ok(())
    }
}

/// The compiler's own target.
fn host_triple() -> Result<String> {
    let said = output(Command::new("rustc").arg("-vV").current_dir(workspace()))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

/// A time such as 30s, 10m or 2h; at least a second.
fn duration(text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("give a number and a unit: 30s, 10m, 2h"),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        // libFuzzer counts in an i32.
        Some(seconds @ 1..=0x7fff_ffff) => Ok(Duration::from_secs(seconds)),
        _ => bail!("give a time from 1s on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_not_nothing() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("10m").unwrap(), Duration::from_secs(600));
        assert_eq!(duration("2h").unwrap(), Duration::from_secs(7200));
        for bad in ["", "10", "0s", "m", "1d", "99999999999999999999h", "9999999999h", "-1s", "1.5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
