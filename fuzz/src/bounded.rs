//! The bounded run: each target on its corpus, then on random inputs for a few seconds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

use crate::Target;

/// How long random inputs are tried.
const TIME: Duration = Duration::from_secs(2);

#[test]
fn what_is_read_of_any_frame_is_what_is_there() {
    run("parse");
}

#[test]
fn any_frame_with_any_tables_does_no_harm_and_leaves_whole() {
    run("process");
}

#[test]
fn packets_replies_and_changes_in_a_row_keep_to_the_tables() {
    run("sequence");
}

#[test]
fn what_a_backend_takes_out_of_any_frame_is_a_whole_packet_that_was_in_it() {
    run("decap");
}

#[test]
fn every_target_is_run_and_has_a_corpus_that_stays_small() {
    let mut total = 0;
    for target in Target::ALL {
        let inputs = corpus(target);
        assert!(inputs.len() >= 10, "{} has {} inputs", target.name, inputs.len());
        total += inputs.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    assert!(total < 200_000, "{total} bytes");
}

fn run(name: &str) {
    let target = Target::named(name).expect("there is such a target");
    let corpus = corpus(target);
    for (path, bytes) in &corpus {
        attempt(target, bytes, &path.display().to_string());
    }
    let mut random = rand::make_rng::<SmallRng>();
    let start = Instant::now();
    while start.elapsed() < TIME {
        for _ in 0..100 {
            let input = input(&mut random, &corpus);
            attempt(target, &input, "a random input");
        }
    }
}

/// Random bytes, or an input of the corpus with some of its bytes changed.
fn input(random: &mut SmallRng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    if corpus.is_empty() || random.random_ratio(1, 2) {
        let mut input = vec![0; random.random_range(0..1500)];
        random.fill_bytes(&mut input);
        return input;
    }
    let mut input = corpus[random.random_range(0..corpus.len())].1.clone();
    for _ in 0..random.random_range(1..8) {
        if !input.is_empty() {
            let place = random.random_range(0..input.len());
            input[place] = random.random();
        }
    }
    input
}

/// Runs a target on an input; one that it panics on is kept.
fn attempt(target: &Target, input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
        let kept = folder.join(format!("failed-{}", target.name));
        let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(&kept, input));
        eprintln!(
            "`{}` fails on {what}, kept as {}: put it into fuzz/corpus/{} until it is fixed",
            target.name,
            kept.display(),
            target.name
        );
        resume_unwind(panic);
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry of the corpus").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("an input can be read");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}
