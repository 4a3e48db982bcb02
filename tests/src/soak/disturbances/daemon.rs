//! The daemon is killed, hangs, is upgraded, or loses its pins.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Chance, links, members};
use crate::soak::bed::Bed;
use crate::wait;

/// How long a daemon may take to find that its pins are gone, and to make them again.
const REPAIRED: Duration = Duration::from_secs(40);

/// Killed just after it has acknowledged changes; meanwhile the kernel forgets the neighbours.
pub fn killed(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    bed.balancer.wait_until_alone()?;
    members::weights_change(bed, chance)?;
    bed.balancer.kill()?;
    // Above 8 s the datapath takes next hops from the kernel.
    chance.sleep(0.5..6.0);
    links::forget_neighbours_of(&bed.network.lb)?;
    chance.sleep(0.5..6.0);
    bed.balancer.restart()
}

/// Hung: it answers nobody, and nobody checks.
pub fn hangs(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    bed.balancer.wait_until_alone()?;
    let time = chance.time(3.0..14.0);
    bed.shared.tally.note(format!("for {:.1} s", time.as_secs_f64()));
    let half = time / 2;
    std::thread::scope(|scope| {
        let lb = &bed.network.lb;
        let forgets = scope.spawn(move || {
            std::thread::sleep(half);
            links::forget_neighbours_of(lb)
        });
        bed.balancer.hang(time)?;
        forgets.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Another build takes over, while weights change.
pub fn upgraded(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let changes = members::choose_weights(chance, 5);
    let Bed { balancer, ledger, shared, .. } = bed;
    balancer.upgrade(|daemon| {
        for (kind, backend, change, weight) in changes {
            std::thread::sleep(Duration::from_millis(200));
            // While one hands over to the other nobody answers: such a change is not acknowledged, and may be there or not.
            ledger.asked(kind, backend, change);
            let (service, address) = (kind.to_string(), kind.backend(backend).to_string());
            if daemon.cli(&["backend", "set-weight", &service, &address, &weight.to_string()]).is_ok() {
                ledger.acknowledged(kind, backend, change);
                shared.tally.acknowledged();
            }
        }
    })
}

/// `rm -rf PIN_PATH`. Forwarding goes on, and the daemon makes all pins again.
pub fn pins_removed(bed: &mut Bed) -> Result<()> {
    bed.balancer.wait_until_alone()?;
    let dir = bed.balancer.daemon().pins().to_owned();
    let before = pins(&dir)?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    wait::until("all pins to be made again", REPAIRED, || {
        // The command line ends with a code of its own where there is trouble.
        let status: Value = serde_json::from_str(&bed.balancer.ask("GET", "status", "")?)?;
        Ok(status["trouble"].is_null() && pins(&dir).is_ok_and(|now| now == before))
    })
    .map(drop)
}

/// The pins in a folder and those below it.
fn pins(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(pins(&entry.path())?),
            false => _ = found.insert(entry.path()),
        }
    }
    Ok(found)
}
