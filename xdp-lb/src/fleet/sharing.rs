//! Which flows of this node its peers know, and theirs in its table.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use xdp_lb_common::flow_table::life::Life;
use xdp_lb_common::flow_table::merge::{Merged, merge};
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::flow_table::{Memory, Steps, WAYS, walk};
use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::flow::{CONFIRMED, COUNTED};

use super::basis::Basis;
use super::flow::SharedFlow;
use super::table::{Refusal, TrackedRing};

/// How many buckets are walked over at a time.
const SLICE: u32 = 4096;

/// How many flows that one packet speaks for are told in a walk: a flood of such stays where it is.
const UNCONFIRMED: u32 = 64;

/// What peers were told of a flow table, and where the walk over it is.
pub struct Sharing {
    /// For each line, the life of its record when peers were told of it, or told of it; 0: never.
    told: Vec<u64>,
    /// Where the walk goes on.
    bucket: u32,
    /// How many flows that one packet speaks for were told in this walk.
    unconfirmed: u32,
    differing: BTreeMap<Endpoint, TrackedRing>,
}

impl Sharing {
    /// Nothing told yet of a table with so many buckets.
    pub fn new(buckets: u32) -> Self {
        // The pages of what stays zero take no memory.
        let told = vec![0; buckets as usize * WAYS as usize];
        Self { told, bucket: 0, unconfirmed: 0, differing: BTreeMap::new() }
    }

    /// Walks on: [`FlowTable::news`](super::table::FlowTable::news).
    pub fn news<M: Memory>(
        &mut self,
        memory: &M,
        basis: &Basis,
        seconds: u32,
        room: usize,
        flows: &mut Vec<SharedFlow>,
    ) -> bool {
        if self.bucket == 0 {
            self.unconfirmed = 0;
        }
        let mut is_full = false;
        let next = look(memory, self.bucket, |record| {
            let Some(told) = self.told.get_mut(record.place as usize) else { return };
            let life = record.life();
            if basis.is_told(Life::from_bits(*told), life, record, seconds) {
                return;
            }
            let is_flood = life.progress() & CONFIRMED == 0 && self.unconfirmed == UNCONFIRMED;
            if is_flood
                || life.is_over(record.protocol(), seconds, &basis.settings)
                || !basis.is_shared(record)
            {
                return;
            }
            is_full |= flows.len() >= room;
            if !is_full {
                *told = life.to_bits();
                self.unconfirmed += u32::from(life.progress() & CONFIRMED == 0);
                flows.push(shared(record, seconds));
            }
        });
        // Where there was no room for all, the same buckets come again.
        if !is_full {
            self.bucket = next.unwrap_or(0);
        }
        is_full || next.is_none()
    }

    /// A part of the table: [`FlowTable::page`](super::table::FlowTable::page).
    pub fn page<M: Memory>(
        memory: &M,
        basis: &Basis,
        seconds: u32,
        from: u32,
        flows: &mut Vec<SharedFlow>,
    ) -> Option<u32> {
        let mut unconfirmed = 0;
        look(memory, from, |record| {
            let is_over = record.life().is_over(record.protocol(), seconds, &basis.settings);
            let is_confirmed = record.life().progress() & CONFIRMED != 0;
            if !is_over && basis.is_shared(record) && (is_confirmed || unconfirmed < UNCONFIRMED) {
                unconfirmed += u32::from(!is_confirmed);
                flows.push(shared(record, seconds));
            }
        })
    }

    /// Takes in a flow of a peer's.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn take<M: Steps>(
        &mut self,
        memory: &M,
        basis: &Basis,
        seconds: u32,
        flow: &SharedFlow,
    ) -> Result<(), Refusal> {
        let record = basis.record_of(flow, seconds).ok_or(Refusal::Unknown)?;
        match merge(memory, &basis.settings, &record, seconds, |here| basis.has_backend_of(here)) {
            Merged::There(place, life) => {
                // What this node knows of the flow and the peer does not is told at the next walk.
                let knows_as_much = (life.progress() ^ record.life().progress()) & !COUNTED == 0;
                if let Some(told) = self.told.get_mut(place as usize).filter(|_| knows_as_much) {
                    *told = life.to_bits();
                }
            }
            Merged::Other => return Err(Refusal::Differs),
            Merged::WithoutPort => return Err(Refusal::PortTaken),
            Merged::Full => return Err(Refusal::Full),
        }
        if let Some(ring) = basis.differing(&record) {
            match self.differing.entry(ring.vip) {
                Entry::Vacant(entry) => drop(entry.insert(ring)),
                Entry::Occupied(entry) => entry.into_mut().slots.extend(ring.slots),
            }
        }
        Ok(())
    }

    /// The settled slots that flows taken in since the last call contradict: [`FlowTable::differing`](super::table::FlowTable::differing).
    pub fn differing(&mut self) -> Vec<TrackedRing> {
        std::mem::take(&mut self.differing).into_values().collect()
    }
}

/// Shows the records of some buckets, and returns where they go on; nothing at the table's end.
fn look<M: Memory>(memory: &M, from: u32, mut visit: impl FnMut(&Record)) -> Option<u32> {
    let end = from.saturating_add(SLICE).min(memory.buckets());
    (from..end).flat_map(|bucket| walk::records_of(memory, bucket)).for_each(|record| visit(&record));
    (end < memory.buckets()).then_some(end)
}

fn shared(record: &Record, now: u32) -> SharedFlow {
    let life = record.life();
    SharedFlow {
        client: record.client(),
        vip: record.vip(),
        source: record.source(),
        backend: record.destination(),
        progress: life.progress() & !COUNTED,
        proof: life.proof(),
        idle: u16::try_from(life.idle(now)).unwrap_or(u16::MAX),
    }
}

#[cfg(test)]
mod tests;
