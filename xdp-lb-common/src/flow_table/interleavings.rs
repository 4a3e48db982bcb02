//! The table under every interleaving of two CPUs, and with weakly ordered memory ([`explorer`]).
//!
//! A load counts as one that what follows depends on (see [`super::Memory::after`]), a store as one that nothing orders. The last
//! tests put faults in, so that it is seen that they would be found.

mod explorer;

use std::sync::Arc;

use self::explorer::{Shared, Watched, explore};
use super::claim;
use super::find::find;
use super::forget::forget;
use super::host::HostMemory;
use super::life::{ANSWERED, Life};
use super::note::{note, redirect};
use super::outcome::{Begun, Found, Manner};
use super::port_words;
use super::record::{Record, Room, WayBack};
use super::steps::Plain;
use super::tags;
use super::testing::{SETTINGS, address, flow_key, room};
use super::{Line, Memory, WAYS, Word};
use crate::hash::FlowHash;
use crate::net::{Endpoint, Port, Protocol};
use crate::tables::flow::ESTABLISHED;
use crate::tables::{BackendIndex, FlowKey, Settings};

/// How many departures from the plain order an execution has at most.
const DEPARTURES: usize = 2;

/// A table of one bucket; what another CPU holds is waited for twice only.
struct Small(HostMemory<Watched>);

impl Memory for Small {
    type Word = Watched;
    const TRIES: u32 = 2;
    const LOCK_TRIES: u32 = 2;

    fn buckets(&self) -> u32 {
        self.0.buckets()
    }

    fn tags(&self, bucket: u32) -> Option<&Watched> {
        self.0.tags(bucket)
    }

    fn line(&self, place: u32) -> Option<&Line<Watched>> {
        self.0.line(place)
    }

    fn lock(&self, hash: FlowHash) -> Option<&Watched> {
        self.0.lock(hash)
    }

    fn port(&self, place: u32) -> Option<&Watched> {
        self.0.port(place)
    }
}

impl Plain for Small {}

fn empty(shared: &Arc<Shared>) -> Small {
    Small(HostMemory::new(1, || shared.word()))
}

/// One with a flow.
fn with_flow(shared: &Arc<Shared>) -> Small {
    let memory = empty(shared);
    begin(&memory, &flow_key(false, 1), 1, 100);
    memory
}

/// Every part of what a flow's packets become follows from one number, so that a record of two halves is seen.
fn fill(record: &mut Record, key: &FlowKey, number: u32) {
    let source =
        Endpoint::new(address(!key.source.is_v4(), 0x500 + number), Port::new(number as u16), key.protocol);
    let backend =
        Endpoint::new(address(!key.source.is_v4(), 0x900 + number), Port::new(number as u16), key.protocol);
    record.set(key, &source, BackendIndex(number), &backend, &way(number));
}

fn way(number: u32) -> WayBack {
    WayBack { ifindex: number, ..WayBack::default() }
}

fn number(record: &Record) -> u32 {
    let number = record.backend().0;
    let is_v6 = record.is_v6();
    assert_eq!(record.source().port.get(), number as u16, "half of another");
    assert_eq!(record.source().address, address(is_v6, 0x500 + number), "half of another");
    assert_eq!(record.destination().address, address(is_v6, 0x900 + number), "half of another");
    assert_eq!(record.destination().port.get(), number as u16, "half of another");
    number
}

fn look(memory: &Small, key: &FlowKey) -> (Found, Record) {
    let mut room = room(key, 0);
    let found = find(memory, &SETTINGS, &mut room);
    if found == Found::Record {
        assert_eq!(room.record.key(), *key, "another flow's");
        number(&room.record);
    }
    (found, room.record)
}

/// Begins a flow, as the packet of it does that comes first; says whose record it has.
fn begin(memory: &Small, key: &FlowKey, number: u32, now: u32) -> Option<u32> {
    let mut room = room(key, now);
    fill(&mut room.new, key, number);
    match claim::begin(memory, &SETTINGS, &mut room, Manner::default()) {
        Begun::Already => Some(self::number(&room.record)),
        Begun::New => Some(number),
        Begun::Full | Begun::NoPort | Begun::Busy => None,
    }
}

/// Fills the bucket with flows of which one packet came, at `now` and at one second after the other.
fn crowd(memory: &Small, is_v6: bool, now: u32) -> FlowKey {
    let flows = if is_v6 { 4 } else { 8 };
    for flow in 0..flows {
        let begun = begin(memory, &flow_key(is_v6, 100 + flow), u32::from(flow), now + u32::from(flow));
        assert!(begun.is_some());
    }
    flow_key(is_v6, 100)
}

fn records(memory: &Small) -> usize {
    (0..WAYS).filter(|place| Life::from_bits(memory.line(*place).unwrap()[0].load()).is_record()).count()
}

/// Nothing is held any more, and the tags say what the lines do.
fn is_at_rest(memory: &Small) {
    let word = memory.tags(0).unwrap().load();
    for way in 0..WAYS {
        let life = Life::from_bits(memory.line(way).unwrap()[0].load());
        let tag = tags::of(word, way);
        assert!(life.is_record() | life.is_free() | life.belongs(), "taken for ever");
        assert_eq!((life.is_free(), life.belongs()), (tag == tags::NONE, tag == tags::BELONGS));
    }
}

#[test]
fn two_cpus_that_begin_one_flow_end_with_one_record() {
    for is_v6 in [false, true] {
        let key = flow_key(is_v6, 1);
        let begin = |number| move |memory: &Small| begin(memory, &key, number, 100);
        explore(DEPARTURES, empty, [&begin(1), &begin(2)], |memory, begun| {
            assert_eq!(records(memory), 1);
            let (_, record) = look(memory, &key);
            assert_ne!(begun, [None, None]);
            assert!(begun.into_iter().flatten().all(|begun| begun == number(&record)), "one went elsewhere");
            is_at_rest(memory);
        });
    }
}

#[test]
fn two_cpus_that_begin_different_flows_both_do() {
    let keys = [flow_key(false, 1), flow_key(true, 2)];
    let begin = |at: usize| move |memory: &Small| begin(memory, &keys[at], 1, 100);
    explore(DEPARTURES, empty, [&begin(0), &begin(1)], |memory, begun| {
        for (key, begun) in keys.iter().zip(begun) {
            assert_eq!(look(memory, key).0 == Found::Record, begun.is_some());
        }
        is_at_rest(memory);
    });
}

fn a_reader_while_a_record_is_evicted(is_v6: bool, fault: impl Fn(&mut Watched)) {
    let (oldest, new) = (flow_key(is_v6, 100), flow_key(is_v6, 1));
    let prepare = |shared: &Arc<Shared>| {
        let word = || {
            let mut word = shared.word();
            fault(&mut word);
            word
        };
        let memory = Small(HostMemory::new(1, word));
        crowd(&memory, is_v6, 100);
        memory
    };
    let read = |memory: &Small| {
        look(memory, &oldest);
        look(memory, &new);
        None
    };
    explore(
        DEPARTURES,
        prepare,
        [&read, &|memory: &Small| begin(memory, &new, 77, 120)],
        |memory, [_, begun]| {
            assert_eq!(begun, Some(77));
            assert_eq!(look(memory, &oldest).0, Found::Nothing, "the oldest goes");
            assert_eq!(number(&look(memory, &new).1), 77);
            is_at_rest(memory);
        },
    );
}

#[test]
fn a_reader_finds_a_record_whole_or_not_at_all() {
    a_reader_while_a_record_is_evicted(false, |_| {});
    a_reader_while_a_record_is_evicted(true, |_| {});
}

#[test]
fn a_note_is_never_in_another_flow_s_record() {
    let (oldest, new) = (flow_key(false, 100), flow_key(false, 1));
    let prepare = |shared: &Arc<Shared>| {
        let memory = empty(shared);
        crowd(&memory, false, 100);
        let record = look(&memory, &oldest).1;
        (memory, record)
    };
    let note = |(memory, record): &(Small, Record)| {
        note(memory, record, |life| life.noted(121, ESTABLISHED, ANSWERED)).map(|_| 0)
    };
    let begin = |(memory, _): &(Small, Record)| begin(memory, &new, 77, 120);
    explore(DEPARTURES, prepare, [&note, &begin], |(memory, _), [noted, begun]| {
        let ((old, record), (found, its)) = (look(memory, &oldest), look(memory, &new));
        if found == Found::Record {
            assert_eq!((its.life().progress(), its.life().last_seen()), (0, 120));
        }
        assert_eq!(found == Found::Record, begun.is_some());
        assert!(noted.is_none() || old == Found::Nothing || record.life().last_seen() == 121);
        is_at_rest(memory);
    });
}

#[test]
fn a_client_that_moves_is_answered_all_the_while() {
    let key = flow_key(false, 1);
    let redirect = |memory: &Small| {
        let mut record = look(memory, &key).1;
        redirect(memory, &mut record, &way(9)).is_some()
    };
    let follow = |memory: &Small| {
        let (found, record) = look(memory, &key);
        assert_ne!(found, Found::Nothing, "it has a record");
        if found == Found::Record {
            assert!([1, 9].contains(&record.way_back().ifindex));
            note(memory, &record, |life| life.noted(101, ESTABLISHED, 0));
        }
        false
    };
    explore(DEPARTURES, with_flow, [&redirect, &follow], |memory, [moved, _]| {
        let (found, record) = look(memory, &key);
        assert_eq!(found, Found::Record);
        assert_eq!(record.way_back().ifindex, if moved { 9 } else { 1 });
        is_at_rest(memory);
    });
}

fn sweep(memory: &Small, key: &FlowKey) -> bool {
    let (found, record) = look(memory, key);
    found == Found::Record && forget(memory, &SETTINGS.hash_keys, &record, |life| life.last_seen() == 100)
}

#[test]
fn a_flow_that_goes_on_is_not_swept_away() {
    let key = flow_key(false, 1);
    let follow = |memory: &Small| {
        let (found, record) = look(memory, &key);
        found == Found::Record && note(memory, &record, |life| life.noted(101, ESTABLISHED, 0)).is_some()
    };
    explore(
        DEPARTURES,
        with_flow,
        [&|memory: &Small| sweep(memory, &key), &follow],
        |memory, [gone, noted]| {
            assert_eq!(look(memory, &key).0 == Found::Nothing, gone);
            assert!(!noted || !gone, "a packet was noted in it");
            is_at_rest(memory);
        },
    );
}

#[test]
fn a_flow_that_begins_anew_while_it_is_swept_away_has_a_record_or_none() {
    let key = flow_key(false, 1);
    let anew = |memory: &Small| {
        let (found, record) = look(memory, &key);
        let mut room = Room { record, ..room(&key, 101) };
        fill(&mut room.new, &key, 2);
        let manner = Manner(Manner::ANEW);
        found == Found::Record && claim::begin(memory, &SETTINGS, &mut room, manner) == Begun::New
    };
    explore(DEPARTURES, with_flow, [&|memory: &Small| sweep(memory, &key), &anew], |memory, [gone, anew]| {
        assert_eq!(look(memory, &key).0 == Found::Nothing, gone);
        assert!(!(anew && gone), "it was another record by then");
        is_at_rest(memory);
    });
}

#[test]
fn a_port_is_handed_out_once() {
    let begin = |flow: u16| {
        move |memory: &Small| {
            let key = flow_key(false, flow);
            let mut room = room(&key, 100);
            fill(&mut room.new, &key, 1);
            room.new.set_source_port(Port::new(9));
            let settings = Settings { snat_port_count: 0, ..SETTINGS };
            let manner = Manner(Manner::PORT | Manner::OWN_PORT);
            (claim::begin(memory, &settings, &mut room, manner) == Begun::New).then_some(flow)
        }
    };
    explore(DEPARTURES, empty, [&begin(1), &begin(2)], |memory, begun| {
        let [owner] = *begun.into_iter().flatten().collect::<Vec<u16>>() else {
            panic!("one port for {begun:?}");
        };
        let backend = Endpoint::new(address(false, 0x901), Port::new(1), Protocol::TCP);
        let client = Endpoint::new(address(false, 0x501), Port::new(9), Protocol::TCP);
        let mut room = Room { backend, client, ..Room::default() };
        assert_eq!(port_words::find(memory, &SETTINGS.hash_keys, &mut room), Found::Record);
        assert_eq!(room.record.key(), flow_key(false, owner));
        is_at_rest(memory);
    });
}

#[test]
#[should_panic(expected = "half of another")]
fn loads_that_overtake_each_other_are_found() {
    a_reader_while_a_record_is_evicted(false, |word| word.is_plain = true);
}

#[test]
#[should_panic(expected = "one record")]
fn a_lock_that_two_can_have_is_found() {
    let key = flow_key(false, 1);
    let prepare = |shared: &Arc<Shared>| {
        let torn = || {
            let mut word = shared.word();
            word.is_torn = true;
            word
        };
        Small(HostMemory::new(1, torn))
    };
    let begin = |number| move |memory: &Small| begin(memory, &key, number, 100);
    explore(DEPARTURES, prepare, [&begin(1), &begin(2)], |memory, _| {
        assert_eq!(records(memory), 1, "one record");
    });
}
