//! A process for each test of a test program, several at a time.
//!
//! In one process, while a thread starts another program, that program has the files and sockets of all threads for a moment: a
//! binary just written is busy, a port just closed is taken. Processes of their own share nothing. Most of a test's time goes
//! by waiting, for a check's interval or a timeout, so more of them run than there are CPUs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xdp_lb_tests::{output, paths};

use super::Totals;
use crate::workspace::{cargo, show};

/// How many run at a time for each CPU; `RUST_TEST_THREADS` says how many in all.
const FOR_EACH_CPU: usize = 3;

/// Tests that take both processors run with no other beside them: each would find the machine too slow.
const ALONE: [&str; 2] = ["api_crowd::hundreds_of_silent", "api_crowd::readers_who"];

/// A test that takes longer hangs, and is ended.
const LONGEST: Duration = Duration::from_mins(10);

/// The program of the tests' package that holds the tests `name`, which cargo has built before.
fn program(name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--test", name, "--no-run", "--offline", "--message-format=json", "--quiet"]);
    let messages = output(&mut command)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.with_context(|| format!("{} named no program", show(&command)))
}

/// Runs each test of a test program that the arguments select `times` times. Whether all passed.
pub fn run(name: &str, arguments: &[String], times: usize, totals: &mut Totals) -> Result<bool> {
    let program = program(name)?;
    let list = output(Command::new(&program).args(arguments).arg("--list"))?;
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let mut names: Vec<&str> = names.flat_map(|name| std::iter::repeat_n(name, times)).collect();
    println!("\nrunning {} tests, each in a process of its own", names.len());
    names.reverse();

    let start = Instant::now();
    let (queue, done, turn) = (Mutex::new(names), Mutex::new(Vec::new()), RwLock::new(()));
    thread::scope(|scope| {
        for worker in 0..workers() {
            let (program, queue, done, turn) = (&program, &queue, &done, &turn);
            scope.spawn(move || {
                loop {
                    let Some(name) = queue.lock().expect("no worker panics").pop() else { break };
                    let is_alone = ALONE.iter().any(|it| name.starts_with(it));
                    let _alone = is_alone.then(|| turn.write().expect("no worker panics"));
                    let _beside = (!is_alone).then(|| turn.read().expect("no worker panics"));
                    let result = run_one(program, name, worker);
                    done.lock().expect("no worker panics").push((name, result));
                }
            });
        }
    });

    let mut here = Totals::default();
    let mut failures = Vec::new();
    for (name, result) in done.into_inner().expect("no worker panics") {
        let (passed, text) = result.with_context(|| format!("cannot run the test {name}"))?;
        // What has ended without a summary was killed, or has killed itself.
        if !text.lines().any(|line| here.add(line)) {
            here.failed += 1;
        }
        if !passed {
            failures.push((name, text));
        }
    }
    for (name, text) in &failures {
        println!("\n---- {name} ----\n{}", text.trim_end());
    }
    if !failures.is_empty() {
        println!("\nfailures:");
        failures.iter().for_each(|(name, _)| println!("    {name}"));
    }
    let result = if failures.is_empty() { "ok" } else { "FAILED" };
    let Totals { passed, failed, ignored } = here;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; finished in {seconds:.0}s"
    );
    *totals += here;
    Ok(failures.is_empty())
}

fn workers() -> usize {
    let wanted = std::env::var("RUST_TEST_THREADS").ok().and_then(|number| number.parse().ok());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or(FOR_EACH_CPU * cpus).max(1)
}

/// Runs one test, and prints a line of it. Whether it passed, and all that it printed.
fn run_one(program: &Path, name: &str, worker: usize) -> Result<(bool, String)> {
    let start = Instant::now();
    let printed = std::env::temp_dir().join(format!("test-{worker}"));
    let file = File::create(&printed).with_context(|| format!("cannot make {}", printed.display()))?;
    let mut command = Command::new(program);
    command
        .args(["--exact", name])
        .current_dir(paths::workspace().join("tests"))
        .env("CARGO_TARGET_DIR", paths::target_dir())
        .env("RUST_TEST_THREADS", "1")
        .stdin(Stdio::null())
        .stderr(file.try_clone().context("cannot use a file twice")?)
        .stdout(file);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", show(&command)))?;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for a test")? {
            break status;
        }
        if start.elapsed() > LONGEST {
            child.kill().context("cannot end a test")?;
            let mut file = File::options().append(true).open(&printed)?;
            writeln!(file, "ended after {} s, as a test that hangs", LONGEST.as_secs())?;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read(&printed).with_context(|| format!("cannot read {}", printed.display()))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let result = match status.success() {
        true if text.contains("1 ignored") => "ignored",
        true => "ok",
        false => "FAILED",
    };
    println!("test {name} ... {result} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok((status.success(), text))
}
