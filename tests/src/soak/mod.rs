//! A load balancer under disturbances: many long flows of all kinds, while checks and links fail, the daemon is killed,
//! hangs and is upgraded, backends come and go, and strangers send packets. No flow may break whose backend lives, and
//! nothing may be lost that the daemon has acknowledged.

mod balancer;
mod bed;
mod clients;
mod disturbances;
mod kind;
mod ledger;
mod message;
mod packets;
mod servers;
mod standing;
mod table;
mod tally;
mod tcp;
mod udp;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::wait;
use bed::Bed;
use clients::{Clients, LOOK, Shared};
use disturbances::Chance;
pub use disturbances::Disturbance;
pub use kind::{Forwarding, Kind, Protocol};
pub use tally::{Counted, Counts, Effect};

/// How long all flows may take to open.
const OPENED: Duration = Duration::from_secs(60);

/// How long flows go on behind the last disturbance, so that those are seen that it broke.
const REST: Duration = Duration::from_secs(4);

/// How it goes.
pub struct Options {
    /// How many flows, over all kinds together.
    pub flows: usize,
    /// How long disturbances go on. The one that runs then goes on to its end.
    pub time: Duration,
    /// Whether it ends when all disturbances have happened once, each in the least of its time.
    pub is_brief: bool,
    /// What chance makes of it.
    pub seed: u64,
    /// What disturbs them.
    pub disturbances: Vec<Disturbance>,
}

/// What came of it.
pub struct Outcome {
    /// What was counted.
    pub counted: Counted,
    /// How long flows were disturbed.
    pub time: Duration,
}

impl Outcome {
    /// Whether no flow broke whose backend lived, no acknowledged change was lost, and nothing else went wrong.
    pub fn is_clean(&self) -> bool {
        self.counted.broken() == 0 && self.counted.lost == 0 && self.counted.troubles == 0
    }

    /// The result as tables.
    pub fn table(&self) -> String {
        table::render(&self.counted)
    }
}

/// Runs it, telling `say` what happens, until the time is over or `is_asked_to_end`.
pub fn run(
    options: &Options,
    is_asked_to_end: impl Fn() -> bool,
    mut say: impl FnMut(String),
) -> Result<Outcome> {
    let sets_up = Instant::now();
    let shared = Shared::new();
    let mut bed = Bed::start(shared.clone())?;
    let clients = start_clients(&bed, options)?;
    wait_until_open(&shared, options, &is_asked_to_end)?;
    let took = sets_up.elapsed().as_secs_f64();
    say(format!("{} flows are open, after {took:.1} s", shared.tally.flows().len()));

    let begin = Instant::now();
    let mut chance = Chance { rng: fastrand::Rng::with_seed(options.seed), is_brief: options.is_brief };
    disturb(&mut bed, &mut chance, options, &is_asked_to_end, &mut say);
    let rests = Instant::now();
    let rest = if options.is_brief { REST / 4 } else { REST };
    while rests.elapsed() < rest && !is_asked_to_end() {
        sleep(LOOK);
    }
    let time = begin.elapsed();
    shared.end();
    for client in clients {
        client.join()?;
    }
    Ok(Outcome { counted: shared.tally.counted(), time })
}

fn flows_each(options: &Options) -> usize {
    options.flows.div_ceil(Kind::all().count())
}

/// Those whose replies pass the load balancer come from one client, the others from another.
fn start_clients(bed: &Bed, options: &Options) -> Result<Vec<Clients>> {
    let start = |is_direct: bool| {
        let kinds = Kind::all().filter(|kind| kind.mode.is_direct() == is_direct).collect();
        // Numbers far apart.
        let first = if is_direct { 1 << 32 } else { 0 };
        let (each, some_are_quiet) = (flows_each(options), !options.is_brief);
        Clients::start(bed.client(is_direct), kinds, each, first, some_are_quiet, options.seed, &bed.shared)
    };
    [false, true].into_iter().map(start).collect()
}

/// One disturbance after the other, all of them in a new order each time.
fn disturb(
    bed: &mut Bed,
    chance: &mut Chance,
    options: &Options,
    is_asked_to_end: &impl Fn() -> bool,
    say: &mut impl FnMut(String),
) {
    let begin = Instant::now();
    let is_over = || is_asked_to_end() || begin.elapsed() >= options.time;
    while !is_over() {
        let mut order = options.disturbances.clone();
        chance.rng.shuffle(&mut order);
        for disturbance in order {
            if is_over() {
                return;
            }
            let before = bed.shared.tally.counted();
            let since = Instant::now();
            let goes_on = one(bed, &mut chance.fork(), options, disturbance, is_asked_to_end);
            let now = bed.shared.tally.counted();
            say(format!(
                "{:>6.1} s  {disturbance}: {:.1} s, {} broken, {} lost, {} faults",
                begin.elapsed().as_secs_f64(),
                since.elapsed().as_secs_f64(),
                now.broken() - before.broken(),
                now.lost - before.lost,
                now.troubles - before.troubles
            ));
            for fault in now.faults.iter().skip(before.faults.len()) {
                say(format!("          {fault}"));
            }
            if !goes_on {
                return;
            }
            chance.sleep(0.2..3.0);
        }
        if options.is_brief {
            return;
        }
    }
}

/// Runs one disturbance, then verifies the acknowledged changes and waits until all backends are up and all flows open.
/// Returns whether a daemon still answers.
fn one(
    bed: &mut Bed,
    chance: &mut Chance,
    options: &Options,
    disturbance: Disturbance,
    is_asked_to_end: &impl Fn() -> bool,
) -> bool {
    bed.shared.tally.begins(disturbance);
    let steps = disturbance
        .run(bed, chance)
        .and_then(|()| bed.verify())
        .and_then(|()| bed.wait_until_well())
        .and_then(|()| wait_until_open(&bed.shared, options, is_asked_to_end));
    let Err(error) = steps else { return true };
    if is_asked_to_end() {
        return true;
    }
    bed.shared.tally.trouble(&format!("{disturbance}: {error:#}"));
    let answers = bed.balancer.daemon().backends(None).is_ok();
    if !answers {
        let log = bed.balancer.log_tail();
        bed.shared.tally.trouble(&format!("there is no daemon to go on with; the end of its log:\n{log}"));
    }
    answers
}

/// Waits until every flow is open, or open again.
fn wait_until_open(shared: &Shared, options: &Options, is_asked_to_end: &impl Fn() -> bool) -> Result<()> {
    let all = flows_each(options) * Kind::all().count();
    wait::until("all flows to be open", OPENED, || Ok(is_asked_to_end() || shared.tally.flows().len() >= all))
        .map(drop)
}
