//! `cargo xtask soak`: many long flows of all modes and families, while all around them fails.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use xdp_lb_tests::soak;

use crate::{build, interrupt, preflight, sandbox, say};

/// What is run.
#[derive(clap::Args)]
pub struct Options {
    /// How long flows are disturbed.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
    /// What chance makes of it: the same number brings the same disturbances in the same order.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many flows there are.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(20..=20_000))]
    flows: u64,
    /// Only disturbances whose descriptions contain one of these words, such as `upgraded,weights`.
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    only: Vec<String>,
}

/// Sets up, builds, and runs it in a sandbox.
pub fn run(options: &Options) -> Result<ExitCode> {
    preflight::check("soak")?;
    build::everything(false)?;
    let Options { minutes, flows, only, .. } = options;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    let mut words = vec![
        "soak".to_owned(),
        format!("--minutes={minutes}"),
        format!("--flows={flows}"),
        format!("--seed={seed}"),
    ];
    words.extend(only.iter().map(|word| format!("--only={word}")));
    sandbox::run_until_asked(&words)
}

/// It itself, inside the sandbox.
pub fn run_inside(options: &Options) -> Result<ExitCode> {
    let is_asked = asked_to_end();
    let seed = options.seed.unwrap_or_else(seed_of_now);
    say::step(format_args!(
        "Disturbing {} flows for {} minutes, with --seed {seed}",
        options.flows, options.minutes
    ));
    let soak = soak::Options {
        flows: usize::try_from(options.flows)?,
        time: Duration::from_secs(60 * options.minutes),
        is_brief: false,
        seed,
        disturbances: chosen(&options.only)?,
    };
    let outcome = soak::run(&soak, || is_asked.load(Ordering::SeqCst), say::note)?;
    let minutes = outcome.time.as_secs_f64() / 60.0;
    println!("\nDisturbed for {minutes:.1} minutes, seed {seed}:\n\n{}", outcome.table());
    Ok(match (outcome.is_clean(), is_asked.load(Ordering::SeqCst)) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(interrupt::EXIT_CODE),
        (true, false) => ExitCode::SUCCESS,
    })
}

/// Set once [`sandbox::run_until_asked`] asks for the end: it closes what is read here.
fn asked_to_end() -> Arc<AtomicBool> {
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::SeqCst);
        say::step(
            "Asked to end: it does as soon as the present disturbance is over. Ctrl-C again ends it at once",
        );
    });
    asked
}

/// The disturbances whose descriptions contain one of these words; without words, all.
fn chosen(words: &[String]) -> Result<Vec<soak::Disturbance>> {
    let is_chosen = |disturbance: &soak::Disturbance| {
        let description = disturbance.to_string();
        words.is_empty() || words.iter().any(|word| description.contains(word))
    };
    let chosen: Vec<_> = soak::Disturbance::ALL.into_iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        let all = soak::Disturbance::ALL.map(|disturbance| format!("  {disturbance}"));
        bail!("no disturbance has {} in its description; there are:\n{}", words.join(" or "), all.join("\n"));
    }
    Ok(chosen)
}

fn seed_of_now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs())
}
