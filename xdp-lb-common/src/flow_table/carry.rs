//! Copies records from another table: one of another layout or size, left by an earlier daemon.

use super::find::find;
use super::forget::forget;
use super::life::Life;
use super::memory::Steps;
use super::merge::is_alike;
use super::note::note;
use super::outcome::{Begun, Found, Manner};
use super::record::{Record, Room};
use crate::tables::Settings;
use crate::tables::flow::PAIRED;

/// The result of copying one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// It is in the table.
    There,
    /// It is in the table, but without its SNAT port, which another flow has here: the backend's packets do not find it.
    WithoutPort,
    /// There was no room.
    Lost,
}

/// Copies a record of another table into this one, with its flow's progress. If the flow already has a record here, it is replaced,
/// and keeps the latest progress, so a record may be copied more than once. `now`: seconds of the clock of
/// [`Life::last_seen`](super::life::Life::last_seen).
pub fn carry<M: Steps>(memory: &M, settings: &Settings, record: &Record, now: u32) -> Carried {
    let mut room = Room { flow: record.key(), now, ..Room::default() };
    if find(memory, settings, &mut room) == Found::Record {
        if is_alike(&room.record, record) {
            let newer = |life: Life| {
                if is_newer(record.life(), life) { life.with_notes_of(record.life()) } else { life }
            };
            // A record that has gone meanwhile was no longer needed.
            let _ = note(memory, &room.record, newer);
            return Carried::There;
        }
        forget(memory, &settings.hash_keys, &room.record, |_| true);
    }
    room.new = Record { place: 0, padding: 0, ..*record };
    let progress = record.life().progress();
    let own_port = if progress & PAIRED != 0 { Manner::OWN_PORT } else { 0 };
    if memory.begin_flow(settings, &mut room, Manner(u32::from(progress & !PAIRED) | own_port)) != Begun::New
    {
        return Carried::Lost;
    }
    let has_port = room.new.life().progress() & PAIRED != 0;
    let lost = if has_port { 0 } else { PAIRED };
    let _ = note(memory, &room.new, |life| life.with_notes_of(record.life()).without(lost));
    if progress & PAIRED != 0 && !has_port { Carried::WithoutPort } else { Carried::There }
}

fn is_newer(one: Life, other: Life) -> bool {
    one.last_seen() > other.last_seen()
        || one.last_seen() == other.last_seen() && one.progress() & !other.progress() != 0
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::super::claim::begin;
    use super::super::host::HostMemory;
    use super::super::life::ANSWERED;
    use super::super::port_words;
    use super::super::record::WayBack;
    use super::super::testing::{SETTINGS, address, flow_key, room};
    use super::super::walk::records;
    use super::*;
    use crate::net::{Endpoint, Port};
    use crate::tables::flow::{CONFIRMED, ESTABLISHED};
    use crate::tables::{BackendIndex, FlowKey};

    fn key_of(flow: u16) -> FlowKey {
        flow_key(flow % 2 == 1, flow)
    }

    fn put(memory: &HostMemory, flow: u16, backend: u32, manner: u32) -> Record {
        let key = key_of(flow);
        let mut room = room(&key, 100);
        let end = |number| Endpoint::new(address(flow % 2 == 1, number), Port::new(8080), key.protocol);
        let way = WayBack { ifindex: 7, ..WayBack::default() };
        room.new.set(&key, &end(1), BackendIndex(backend), &end(2), &way);
        assert_eq!(begin(memory, &SETTINGS, &mut room, Manner(manner)), Begun::New);
        room.new
    }

    fn look(memory: &HostMemory, flow: u16) -> Option<Record> {
        let mut room = room(&key_of(flow), 100);
        (find(memory, &SETTINGS, &mut room) == Found::Record).then_some(room.record)
    }

    /// The record that a backend's packet of this flow finds.
    fn look_by_port(memory: &HostMemory, record: &Record) -> Option<FlowKey> {
        let mut room = room(&record.key(), 100);
        (room.backend, room.client) = (record.destination(), record.source());
        let found = port_words::find(memory, &SETTINGS.hash_keys, &mut room);
        (found == Found::Record).then(|| room.record.key())
    }

    fn table() -> HostMemory {
        HostMemory::new(128, AtomicU64::default)
    }

    #[test]
    fn a_record_is_found_from_both_sides_as_it_was_in_the_other_table() {
        let (from, to) = (table(), table());
        for flow in 0..200 {
            let record = put(&from, flow, u32::from(flow), if flow % 3 == 0 { Manner::PORT } else { 0 });
            note(&from, &record, |life| life.noted(130, life.progress() | ESTABLISHED | CONFIRMED, ANSWERED))
                .unwrap();
        }
        let all: Vec<_> = records(&from).collect();
        assert!(all.iter().all(|record| carry(&to, &SETTINGS, record, 130) == Carried::There));
        for record in &all {
            let there = records(&to).find(|there| there.key() == record.key()).unwrap();
            assert_eq!(there.words[1..], record.words[1..]);
            assert_eq!(there.more, record.more);
            assert_eq!(there.words[0] << 16, record.words[0] << 16, "all but the version");
            let is_paired = record.life().progress() & PAIRED != 0;
            assert_eq!(look_by_port(&to, record), is_paired.then(|| record.key()));
        }
        assert_eq!(records(&to).count(), all.len());
    }

    #[test]
    fn once_more_brings_what_was_noted_since_and_takes_nothing_back() {
        let (from, to) = (table(), table());
        let record = put(&from, 4, 1, Manner::PORT);
        carry(&to, &SETTINGS, &record, 100);
        note(&from, &record, |life| life.noted(150, life.progress() | ESTABLISHED, ANSWERED)).unwrap();
        let record = records(&from).next().unwrap();
        assert_eq!(carry(&to, &SETTINGS, &record, 150), Carried::There);
        let there = look(&to, 4).unwrap();
        assert_eq!((there.life().last_seen(), there.life().proof() & ANSWERED), (150, ANSWERED));
        note(&to, &there, |life| life.noted(160, life.progress() | CONFIRMED, 0)).unwrap();
        carry(&to, &SETTINGS, &record, 160);
        let there = look(&to, 4).unwrap();
        assert_eq!((there.life().last_seen(), there.life().progress() & CONFIRMED), (160, CONFIRMED));
    }

    #[test]
    fn what_the_flow_s_packets_were_given_before_counts_and_not_what_they_found_here() {
        let (from, to) = (table(), table());
        let record = put(&from, 4, 1, Manner::PORT);
        put(&to, 4, 2, Manner::PORT);
        assert_eq!(carry(&to, &SETTINGS, &record, 100), Carried::There);
        assert_eq!(look(&to, 4).unwrap().backend(), BackendIndex(1));
        assert_eq!(records(&to).count(), 1);
    }

    #[test]
    fn a_flow_whose_port_another_has_is_without_one() {
        let (from, to) = (table(), table());
        let record = put(&from, 4, 1, Manner::PORT);
        let mut other = put(&from, 6, 1, Manner::PORT);
        other.set_source_port(record.source_port());
        assert_eq!(carry(&to, &SETTINGS, &record, 100), Carried::There);
        assert_eq!(carry(&to, &SETTINGS, &other, 100), Carried::WithoutPort);
        assert_eq!(look_by_port(&to, &record), Some(record.key()));
        assert_eq!(look(&to, 6).unwrap().life().progress() & PAIRED, 0);
    }
}
