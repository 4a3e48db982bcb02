//! Walks over the whole table: for the daemon, to read it and to clean it up.

use super::find::read;
use super::forget::forget;
use super::life::Life;
use super::lines::vacate;
use super::memory::{LOCKS, Memory, WAYS, Word};
use super::outcome::Found;
use super::record::Record;
use super::tags;
use crate::hash::{FlowHash, KEYS};

/// The record at this place, if there is one.
pub fn record_at<M: Memory>(memory: &M, place: u32) -> Option<Record> {
    let mut record = Record::default();
    (read(memory, place, &mut record, |_| true) == Found::Record).then_some(record)
}

/// All records, each as it is when it is visited. Records added or removed meanwhile may be missed.
pub fn records<M: Memory>(memory: &M) -> impl Iterator<Item = Record> {
    (0..memory.buckets()).flat_map(move |bucket| records_of(memory, bucket))
}

/// The same for one bucket.
pub fn records_of<M: Memory>(memory: &M, bucket: u32) -> impl Iterator<Item = Record> {
    let word = memory.tags(bucket).map_or(0, Word::load);
    let used = (0..WAYS).filter(move |way| word != 0 && tags::of(word, *way) > tags::BELONGS);
    used.filter_map(move |way| record_at(memory, bucket * WAYS + way))
}

/// Calls `visit` with every record, and removes those for which it returns true.
///
/// A record is removed only if it is unchanged: if a packet has noted itself meanwhile, it is visited again.
pub fn sweep<M: Memory>(memory: &M, keys: &[u64; KEYS], mut visit: impl FnMut(&Record) -> bool) {
    (0..memory.buckets()).for_each(|bucket| sweep_bucket(memory, keys, bucket, &mut visit));
}

/// The same for one bucket.
pub fn sweep_bucket<M: Memory>(
    memory: &M,
    keys: &[u64; KEYS],
    bucket: u32,
    mut visit: impl FnMut(&Record) -> bool,
) {
    for first in records_of(memory, bucket) {
        let mut shown = Some(first);
        while let Some(record) = shown {
            if !visit(&record) || forget(memory, keys, &record, |life| life == record.life()) {
                break;
            }
            shown = record_at(memory, record.place);
        }
    }
}

/// How often a line must be found taken before it counts as abandoned.
const LOOKS: u32 = 8;

/// Frees abandoned lines and locks, and returns how many lines. A daemon that is killed while it changes a record leaves at most one
/// such line.
///
/// Only one daemon may call it, before it changes any record itself. `wait` returns once every program that was running has ended.
/// Lines that such a program had taken are records or free by then. So a line that is found taken time and again is abandoned,
/// unless a program happened to hold it each time for the nanoseconds of the test.
pub fn free_abandoned<M: Memory>(memory: &M, wait: impl Fn()) -> u32 {
    let mut freed = 0;
    for place in 0..memory.buckets() * WAYS {
        let Some(line) = memory.line(place) else { break };
        let life = Life::from_bits(line[0].load());
        if !life.is_taken() {
            continue;
        }
        let is_still_taken = (0..LOOKS).all(|_| {
            wait();
            line[0].load() == life.to_bits()
        });
        // The second line of an IPv6 record is freed with the first.
        let is_v6 = memory.line(place ^ 1).is_some_and(|more| Life::from_bits(more[0].load()).belongs());
        if is_still_taken && vacate(memory, place, is_v6, life).is_some() {
            freed += 1;
        }
    }
    for lock in (0..LOCKS).filter_map(|number| memory.lock(FlowHash::from_bits(number))) {
        let is_held = lock.load() != 0
            && (0..LOOKS).all(|_| {
                wait();
                lock.load() != 0
            });
        if is_held {
            lock.store(0);
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::claim::begin;
    use super::super::find::find;
    use super::super::host::HostMemory;
    use super::super::lines::take;
    use super::super::note::note;
    use super::super::outcome::{Begun, Manner};
    use super::super::record::WayBack;
    use super::super::testing::{SETTINGS, address, flow_key, room};
    use super::*;
    use crate::flow_table;
    use crate::net::{Endpoint, Port};
    use crate::tables::{BackendIndex, FlowKey};

    const FLOWS: u16 = 200;

    fn key_of(flow: u16) -> FlowKey {
        flow_key(flow % 2 == 1, flow)
    }

    fn put(memory: &HostMemory, flow: u16) {
        let key = key_of(flow);
        let mut room = room(&key, 100);
        let end = |number| Endpoint::new(address(flow % 2 == 1, number), Port::new(flow), key.protocol);
        room.new.set(&key, &end(1), BackendIndex(u32::from(flow)), &end(2), &WayBack::default());
        assert_eq!(begin(memory, &SETTINGS, &mut room, Manner(0)), Begun::New);
    }

    fn table() -> HostMemory {
        let memory = HostMemory::new(128, AtomicU64::default);
        (0..FLOWS).for_each(|flow| put(&memory, flow));
        memory
    }

    fn flows(memory: &HostMemory) -> BTreeSet<FlowKey> {
        records(memory).map(|record| record.key()).collect()
    }

    fn look(memory: &HostMemory, flow: u16) -> Option<Record> {
        let mut room = room(&key_of(flow), 100);
        (find(memory, &SETTINGS, &mut room) == Found::Record).then_some(room.record)
    }

    #[test]
    fn the_number_of_buckets_says_for_how_many_flows_they_are() {
        for wanted in (1..100_000).chain([1 << 20, 1 << 26]) {
            let there = flow_table::buckets(wanted);
            let most = flow_table::flows(there);
            assert!(most >= wanted && flow_table::buckets(most) == there);
            assert!(flow_table::buckets(most + 1) > there);
        }
        assert_eq!(flow_table::flows(0), 0);
    }

    #[test]
    fn every_record_is_shown_once() {
        let memory = table();
        let all: Vec<_> = records(&memory).collect();
        assert_eq!(all.len(), usize::from(FLOWS));
        assert_eq!(flows(&memory), (0..FLOWS).map(key_of).collect());
        assert!((0..FLOWS).all(|flow| all.contains(&look(&memory, flow).unwrap())));
    }

    #[test]
    fn what_is_of_no_use_is_swept_away_and_nothing_else() {
        let memory = table();
        sweep(&memory, &SETTINGS.hash_keys, |record| record.backend().0.is_multiple_of(3));
        let left = (0..FLOWS).filter(|flow| !flow.is_multiple_of(3));
        assert_eq!(flows(&memory), left.map(key_of).collect());
    }

    #[test]
    fn a_record_that_a_packet_notes_itself_in_meanwhile_is_looked_at_again() {
        let memory = table();
        let mut seen = Vec::new();
        sweep(&memory, &SETTINGS.hash_keys, |record| {
            if record.backend() != BackendIndex(7) {
                return false;
            }
            seen.push(record.life().last_seen());
            note(&memory, record, |life| life.noted(200, 0, 0)).unwrap();
            record.life().last_seen() == 100
        });
        assert_eq!(seen, [100, 200]);
        assert!(look(&memory, 7).is_some());
    }

    #[test]
    fn a_line_that_a_killed_daemon_has_taken_is_freed() {
        for (flow, is_half_done) in [(6, false), (7, false), (6, true), (7, true)] {
            let memory = table();
            let mut record = look(&memory, flow).unwrap();
            take(&memory, &mut record).unwrap();
            if is_half_done {
                // It has updated the tags, and freed the second line.
                let taken = record.life().taken();
                let line = &memory.line(record.place).unwrap()[0];
                vacate(&memory, record.place, record.is_v6(), taken).unwrap();
                line.store(taken.to_bits(), Ordering::Relaxed);
            }
            let waits = Cell::new(0);
            assert_eq!(free_abandoned(&memory, || waits.set(waits.get() + 1)), 1);
            assert_eq!(waits.get(), LOOKS);
            assert_eq!(look(&memory, flow), None);
            put(&memory, flow);
            assert_eq!(flows(&memory).len(), usize::from(FLOWS));
            assert_eq!(free_abandoned(&memory, || unreachable!("nothing is taken")), 0);
        }
    }

    #[test]
    fn a_lock_that_a_killed_daemon_has_taken_is_freed() {
        let memory = table();
        let new = room(&key_of(1000), 100);
        Word::store(memory.lock(new.hash).unwrap(), 1);
        let begin = |memory: &HostMemory| {
            let mut room = new;
            room.new.set(&key_of(1000), &new.source, BackendIndex(1), &new.source, &WayBack::default());
            begin(memory, &SETTINGS, &mut room, Manner(0))
        };
        assert_eq!(begin(&memory), Begun::Busy);
        assert_eq!(free_abandoned(&memory, || ()), 0);
        assert_eq!(begin(&memory), Begun::New);
    }

    #[test]
    fn a_line_that_a_packet_has_taken_is_left_alone() {
        let memory = table();
        let mut record = look(&memory, 7).unwrap();
        take(&memory, &mut record).unwrap();
        let line = &memory.line(record.place).unwrap()[0];
        let life = record.life();
        let resume = || line.store(life.taken().resumed(life).to_bits(), Ordering::Relaxed);
        assert_eq!(free_abandoned(&memory, resume), 0);
        assert!(look(&memory, 7).is_some());
    }
}
