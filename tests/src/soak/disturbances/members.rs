//! Backends come, go and change, by all that can be told to a daemon.

use anyhow::Result;

use super::Chance;
use crate::soak::bed::{BY_DISCOVERY, BY_FILE, BY_HAND, Bed, DRAIN_TIMEOUT, LISTED};
use crate::soak::kind::Kind;
use crate::soak::ledger::Change;

/// Tells all services of a member: a weight where it joins, nothing where it leaves.
type Tell = fn(&mut Bed, &mut Chance, Option<u16>) -> Result<()>;

/// By the config file and a reload.
pub fn of_file(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    come_or_go(bed, chance, BY_FILE, |bed, _, weight| bed.reload(weight))
}

/// By lists of backends that are replaced.
pub fn found(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    come_or_go(bed, chance, BY_DISCOVERY, |bed, _, weight| bed.discover(weight))
}

/// By the command line and the API.
pub fn by_hand(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    come_or_go(bed, chance, BY_HAND, |bed, chance, weight| {
        let change = weight.map_or(Change::Leaves, Change::Joins);
        Kind::all().try_for_each(|kind| bed.change(kind, BY_HAND, change, chance.rng.bool()))
    })
}

/// A backend joins that is not there; one that is leaves, and sometimes comes back while it has flows still.
fn come_or_go(bed: &mut Bed, chance: &mut Chance, backend: usize, tell: Tell) -> Result<()> {
    let is_there = bed.ledger.has(Kind::all().next().expect("there are kinds"), backend);
    if is_there {
        bed.shared.tally.note(format!("backend-{backend} leaves"));
        Kind::all().for_each(|kind| bed.shared.standing.leaves(kind, backend, DRAIN_TIMEOUT));
        tell(bed, chance, None)?;
        if chance.rng.bool() {
            return Ok(());
        }
        chance.sleep(0.5..3.0);
    }
    bed.shared.tally.note(format!("backend-{backend} joins"));
    let weight = chance.weight();
    tell(bed, chance, Some(weight))?;
    Kind::all().for_each(|kind| bed.shared.standing.joined(kind, backend));
    Ok(())
}

/// Some backends of some services get another weight.
pub fn weights_change(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    for (kind, backend, change, _) in choose_weights(chance, 10) {
        bed.change(kind, backend, change, chance.rng.bool())?;
    }
    Ok(())
}

/// So many changes of weights.
pub fn choose_weights(chance: &mut Chance, count: usize) -> Vec<(Kind, usize, Change, u16)> {
    let (kinds, backends): (Vec<_>, Vec<_>) = (Kind::all().collect(), LISTED.collect());
    let choose = |_| {
        let weight = chance.weight();
        (chance.one(&kinds), chance.one(&backends), Change::Weighs(weight), weight)
    };
    (0..count).map(choose).collect()
}

/// A backend is drained in all services; where one is already, that one is enabled.
pub fn drained(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let first = Kind::all().next().expect("there are kinds");
    let drained = LISTED.into_iter().find(|backend| bed.ledger.drains(first, *backend));
    let backend = drained.unwrap_or_else(|| chance.one(&LISTED.collect::<Vec<_>>()));
    let change = Change::Drains(drained.is_none());
    bed.shared.tally.note(format!("backend-{backend}: {change:?}"));
    Kind::all().try_for_each(|kind| bed.change(kind, backend, change, chance.rng.bool()))
}
