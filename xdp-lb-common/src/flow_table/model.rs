//! The table against a plain map, one operation after the other.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::claim::begin;
use super::find::find;
use super::forget::forget;
use super::host::HostMemory;
use super::life::ANSWERED;
use super::memory::Eviction;
use super::note::{note, redirect};
use super::outcome::{Begun, Found, Manner};
use super::port_words;
use super::record::{Record, Room, WayBack};
use super::testing::{self, SETTINGS, flow_key, room};
use super::{Memory, Word};
use crate::net::{Endpoint, MacAddress, Port};
use crate::tables::flow::{ESTABLISHED, FINS, PAIRED};
use crate::tables::{BackendIndex, FlowKey, Settings, Tags};

/// Small levels, so that a small table has several.
type Table = HostMemory<AtomicU64, FIRST_LEVEL>;

const FIRST_LEVEL: u32 = 4;

fn table(buckets: u32) -> Table {
    HostMemory::new(buckets, AtomicU64::default)
}

/// What becomes of a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    source: Endpoint,
    index: BackendIndex,
    backend: Endpoint,
    way: WayBack,
}

fn target(key: &FlowKey, number: u32) -> Target {
    let [a, b, c, d] = number.to_be_bytes();
    Target {
        source: Endpoint::new(
            testing::address(!key.source.is_v4(), 0x500 + number),
            Port::new(40_000),
            key.protocol,
        ),
        index: BackendIndex(number),
        backend: Endpoint::new(
            testing::address(!key.source.is_v4(), 0x900 + number),
            Port::new(8080),
            key.protocol,
        ),
        way: WayBack {
            ifindex: number,
            tags: Tags { outer: 0x8100_0000 | number & 0xfff, inner: number % 2 * 0x8100_0007 },
            destination_mac: MacAddress::new([2, 1, a, b, c, d]),
            source_mac: MacAddress::new([2, 2, a, b, c, d]),
        },
    }
}

fn told(record: &Record) -> Target {
    Target {
        source: record.source(),
        index: record.backend(),
        backend: record.destination(),
        way: record.way_back(),
    }
}

fn insert(memory: &Table, key: &FlowKey, target: &Target, now: u32) -> Begun {
    let mut room = room(key, now);
    room.new.set(key, &target.source, target.index, &target.backend, &target.way);
    begin(memory, &SETTINGS, &mut room, Manner::default())
}

fn lookup(memory: &Table, key: &FlowKey) -> Option<Record> {
    let mut room = room(key, 0);
    match find(memory, &SETTINGS, &mut room) {
        Found::Record => Some(room.record),
        Found::Nothing => None,
        Found::Busy => panic!("nobody else is there"),
    }
}

/// Lines without a record have no tag, and none is taken.
fn check_whole(memory: &Table) {
    use super::life::Life;
    for bucket in 0..memory.buckets() {
        let word = Word::load(memory.tags(bucket).unwrap());
        for way in 0..super::WAYS {
            let life = Life::from_bits(Word::load(&memory.line(bucket * super::WAYS + way).unwrap()[0]));
            let tag = super::tags::of(word, way);
            assert!(life.is_free() == (tag == 0), "{life:?} {tag}");
            assert!(life.belongs() == (tag == 1), "{life:?} {tag}");
            assert!(life.is_free() | life.belongs() | life.is_record(), "{life:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, bool, u32),
    Note(u16, bool),
    Redirect(u16, bool, u32),
    Anew(u16, bool, u32),
    Forget(u16, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flow = || (0..60u16, any::<bool>());
    let step = prop_oneof![
        4 => (flow(), 1..9u32).prop_map(|((flow, v6), to)| Step::Insert(flow, v6, to)),
        2 => flow().prop_map(|(flow, v6)| Step::Note(flow, v6)),
        1 => (flow(), 1..9u32).prop_map(|((flow, v6), to)| Step::Redirect(flow, v6, to)),
        1 => (flow(), 1..9u32).prop_map(|((flow, v6), to)| Step::Anew(flow, v6, to)),
        2 => flow().prop_map(|(flow, v6)| Step::Forget(flow, v6)),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn the_table_holds_what_was_put_into_it(steps in steps()) {
        let memory = table(64);
        let mut model: HashMap<FlowKey, (Target, u8)> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(flow, v6, to) => {
                    let key = flow_key(v6, flow);
                    let target = target(&key, to);
                    let expected = if model.contains_key(&key) { Begun::Already } else { Begun::New };
                    prop_assert_eq!(insert(&memory, &key, &target, 7), expected);
                    model.entry(key).or_insert((target, 0));
                }
                Step::Note(flow, v6) => {
                    let key = flow_key(v6, flow);
                    if let Some(record) = lookup(&memory, &key) {
                        let noted = note(&memory, &record, |life| life.noted(9, ESTABLISHED, 0));
                        prop_assert_eq!(noted.unwrap().1.progress(), ESTABLISHED);
                        model.get_mut(&key).unwrap().1 = ESTABLISHED;
                    }
                }
                Step::Redirect(flow, v6, to) => {
                    let key = flow_key(v6, flow);
                    if let Some(mut record) = lookup(&memory, &key) {
                        let way = target(&key, to).way;
                        prop_assert!(redirect(&memory, &mut record, &way).is_some());
                        model.get_mut(&key).unwrap().0.way = way;
                    }
                }
                Step::Anew(flow, v6, to) => {
                    let key = flow_key(v6, flow);
                    if let Some(record) = lookup(&memory, &key) {
                        let target = target(&key, to);
                        let mut room = Room { record, ..room(&key, 8) };
                        room.new.set(&key, &target.source, target.index, &target.backend, &target.way);
                        let begun = begin(&memory, &SETTINGS, &mut room, Manner(Manner::ANEW));
                        prop_assert_eq!(begun, Begun::New);
                        model.insert(key, (target, 0));
                    }
                }
                Step::Forget(flow, v6) => {
                    let key = flow_key(v6, flow);
                    if let Some(record) = lookup(&memory, &key) {
                        prop_assert!(forget(&memory, &SETTINGS.hash_keys, &record, |_| true));
                        model.remove(&key);
                    }
                }
            }
            check_whole(&memory);
        }
        for flow in 0..60 {
            for v6 in [false, true] {
                let key = flow_key(v6, flow);
                let found = lookup(&memory, &key);
                prop_assert!(found.is_none_or(|record| record.key() == key));
                let found = found.map(|record| (told(&record), record.life().progress()));
                prop_assert_eq!(found, model.get(&key).copied());
            }
        }
    }
}

#[test]
fn a_flood_of_first_packets_evicts_the_oldest_of_its_kind_and_nothing_that_is_proven() {
    let memory = table(32);
    let proven: Vec<FlowKey> = (0..100).map(|flow| flow_key(false, flow)).collect();
    for key in &proven {
        assert_eq!(insert(&memory, key, &target(key, 1), 100), Begun::New);
        let record = lookup(&memory, key).unwrap();
        let noted = note(&memory, &record, |life| life.noted(101, ESTABLISHED, ANSWERED));
        assert!(noted.is_some());
    }
    let mut refused = 0;
    for flow in 1000..11_000 {
        let key = flow_key(flow % 3 == 0, flow);
        let claimed = insert(&memory, &key, &target(&key, 2), 110 + u32::from(flow) / 1000);
        refused += u32::from(claimed != Begun::New);
        if claimed == Begun::New {
            assert!(lookup(&memory, &key).is_some());
        }
    }
    check_whole(&memory);
    assert!(
        refused < 100,
        "{refused} of 10,000 found no room though a half of it is nobody's who has shown himself"
    );
    assert!(proven.iter().all(|key| lookup(&memory, key).is_some()));
}

#[test]
fn records_that_are_given_up_for_others_are_counted_and_those_that_are_over_are_not() {
    let memory = table(1);
    for flow in 0..20 {
        let key = flow_key(false, flow);
        assert_eq!(insert(&memory, &key, &target(&key, 1), 100), Begun::New);
    }
    assert_eq!(memory.evicted(Eviction::Room), 12, "there is room for eight");
    for flow in 20..28 {
        let key = flow_key(false, flow);
        assert_eq!(insert(&memory, &key, &target(&key, 1), 100_000), Begun::New);
    }
    assert_eq!([Eviction::Room, Eviction::Port].map(|cause| memory.evicted(cause)), [12, 0]);
}

#[test]
fn few_flows_lie_in_the_first_level_and_more_in_those_behind_it() {
    let memory = table(1024);
    let mut ends = Vec::new();
    for flow in 0..2000 {
        let key = flow_key(false, flow);
        assert_eq!(insert(&memory, &key, &target(&key, 1), 100), Begun::New, "{flow}");
        let end = (0..=flow).map(|flow| lookup(&memory, &flow_key(false, flow)).unwrap().place / super::WAYS);
        if [20, 400, 1999].contains(&flow) {
            ends.push(end.max().unwrap());
        }
    }
    assert!(ends[0] < FIRST_LEVEL, "{ends:?}");
    assert!((FIRST_LEVEL..16 * FIRST_LEVEL).contains(&ends[1]), "{ends:?}");
    assert!(ends[2] >= 16 * FIRST_LEVEL, "{ends:?}");
}

#[test]
fn half_full_every_flow_finds_room() {
    for is_v6 in [false, true] {
        let memory = table(1024);
        let flows = if is_v6 { 2048 } else { 4096 };
        for flow in 0..flows {
            let key = flow_key(is_v6, flow);
            assert_eq!(insert(&memory, &key, &target(&key, 1), 100), Begun::New, "{flow} {is_v6}");
        }
        assert!((0..flows).all(|flow| lookup(&memory, &flow_key(is_v6, flow)).is_some()), "{is_v6}");
        check_whole(&memory);
    }
}

/// Begins a flow whose backend knows its client by a port of so many; with `own`, by this one if it can.
fn insert_paired(memory: &Table, key: &FlowKey, own: Option<u16>, ports: u16, now: u32) -> Option<Port> {
    let (to, mut room) = (target(key, 1), room(key, now));
    room.new.set(key, &to.source.with_port(Port::new(own.unwrap_or(0))), to.index, &to.backend, &to.way);
    let settings = Settings { snat_port_count: ports, ..SETTINGS };
    let manner = Manner(Manner::PORT | if own.is_some() { Manner::OWN_PORT } else { 0 });
    let begun = begin(memory, &settings, &mut room, manner);
    assert!([Begun::New, Begun::NoPort].contains(&begun), "{begun:?}");
    (begun == Begun::New).then(|| room.new.source_port())
}

#[test]
fn a_reply_finds_its_flow_and_no_port_is_given_twice() {
    for is_v6 in [false, true] {
        let memory = table(512);
        let mut ports = HashMap::new();
        for flow in 0..500 {
            let key = flow_key(is_v6, flow);
            let port =
                insert_paired(&memory, &key, None, 600, 100).unwrap_or_else(|| panic!("no port for {flow}"));
            assert!((1024..1624).contains(&port.get()));
            assert_eq!(ports.insert(port, key), None, "{port:?}");
        }
        for (port, key) in &ports {
            let to = target(key, 1);
            let client = Endpoint::new(to.source.address, *port, key.protocol);
            let find = |backend, client| {
                let mut room = Room { backend, client, ..Room::default() };
                (port_words::find(&memory, &SETTINGS.hash_keys, &mut room), room.record)
            };
            let (found, record) = find(to.backend, client);
            assert_eq!((found, record.key()), (Found::Record, *key));
            for other in [
                (to.backend.with_port(Port::new(1)), client),
                (to.backend, client.with_port(Port::new(1023))),
                (to.backend, Endpoint::new(testing::address(is_v6, 1), *port, key.protocol)),
            ] {
                assert_eq!(find(other.0, other.1).0, Found::Nothing);
            }
        }
    }
}

#[test]
fn where_ports_are_short_a_flow_that_little_speaks_for_gives_its_own_to_another() {
    let memory = table(64);
    for flow in 0..8 {
        assert!(insert_paired(&memory, &flow_key(false, flow), None, 8, 100).is_some());
    }
    assert!(insert_paired(&memory, &flow_key(false, 8), None, 8, 100).is_some(), "little speaks for any");
    let left: Vec<_> = (0..9).filter_map(|flow| lookup(&memory, &flow_key(false, flow))).collect();
    assert_eq!(left.len(), 8, "one has gone");
    assert_eq!(memory.evicted(Eviction::Port), 1);
    // One that its backend has answered keeps its port, and so does for some seconds one that both sides have closed.
    for record in &left {
        note(&memory, record, |life| life.noted(101, PAIRED | ESTABLISHED, ANSWERED));
    }
    assert_eq!(insert_paired(&memory, &flow_key(false, 10), None, 8, 105), None);
    let closed = lookup(&memory, &left[0].key()).unwrap();
    note(&memory, &closed, |life| life.noted(105, PAIRED | ESTABLISHED | FINS, ANSWERED));
    assert_eq!(insert_paired(&memory, &flow_key(false, 10), None, 8, 114), None);
    let port = insert_paired(&memory, &flow_key(false, 10), None, 8, 115);
    assert_eq!(port, Some(closed.source_port()));
    assert_eq!(memory.evicted(Eviction::Room), 0);
    check_whole(&memory);
}

#[test]
fn a_port_of_ones_own_comes_first() {
    let memory = table(64);
    let begin = |flow| insert_paired(&memory, &flow_key(false, flow), Some(5), 8, 100).unwrap().get();
    assert_eq!(begin(0), 5);
    assert!((1024..1032).contains(&begin(1)));
}
