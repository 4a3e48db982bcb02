//! Compares a directory with a plain map: inserted keys are found, removed ones are not, a daemon that takes over finds the same,
//! and a packet never finds an incomplete record.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64};

use proptest::prelude::*;
use xdp_lb_common::net::{Port, Protocol};
use xdp_lb_common::tables::directory::Source;

use super::super::memory::Reader;
use super::*;

/// A record that shows whether it is complete.
type Record = [u32; 6];

fn record(number: u32) -> Record {
    [number; 6]
}

fn key(number: u32) -> Endpoint {
    let protocol = if number.is_multiple_of(2) { Protocol::TCP } else { Protocol::UDP };
    let address: IpAddr = if number.is_multiple_of(3) {
        Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(number / 64)).into()
    } else {
        Ipv4Addr::from_bits(0xc612_0000 + number / 64).into()
    };
    Endpoint::new(address.into(), Port::new(number as u16), protocol)
}

/// An empty directory for this many keys.
fn directory(keys: u32) -> Directory<Record> {
    let (words, records) = (Words::anonymous(words(keys)), Records::anonymous(records(keys)));
    Directory::with_wait(words, records, || ()).unwrap()
}

/// Another daemon's view of the same memory.
fn adopted(directory: &Directory<Record>) -> Directory<Record> {
    Directory::with_wait(directory.words.copy(), directory.records.copy(), || ()).unwrap()
}

fn find(directory: &Directory<Record>, key: &Endpoint) -> Option<Record> {
    Reader(&directory.words, &directory.records).find(key).copied()
}

fn contents(directory: &Directory<Record>) -> BTreeMap<Endpoint, Record> {
    directory.iter().collect::<Result<_>>().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u32>),
    Remove(Vec<u32>),
    TakeOver,
}

/// The number of keys in the model: so many that the table grows twice, and is rebuilt while nearly full.
const KEYS: u32 = 100;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..KEYS, 1..20).prop_map(Step::Put),
        3 => prop::collection::vec(0..KEYS, 1..20).prop_map(Step::Remove),
        1 => Just(Step::TakeOver),
    ]
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_map_holds(steps in prop::collection::vec(step(), 1..30)) {
        let mut directory = directory(KEYS);
        let mut model = BTreeMap::new();
        let mut version = 0;
        for step in steps {
            match step {
                Step::Put(numbers) => {
                    version += 1;
                    let entries: Vec<_> =
                        numbers.iter().map(|number| (key(*number), record(version * 1000 + number))).collect();
                    directory.put(&entries).unwrap();
                    model.extend(entries);
                }
                Step::Remove(numbers) => {
                    let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
                    directory.remove(&keys);
                    model.retain(|key, _| !keys.contains(key));
                }
                Step::TakeOver => directory = adopted(&directory),
            }
            prop_assert_eq!(&contents(&directory), &model);
            for number in 0..KEYS {
                prop_assert_eq!(find(&directory, &key(number)), model.get(&key(number)).copied());
            }
        }
    }
}

#[test]
fn as_many_keys_fit_as_it_was_made_for_and_all_can_be_replaced_at_once() {
    for keys in [1, 31, 32, 100, 4096, 10_000, 52_428] {
        let mut directory = directory(keys);
        for version in 0..2 {
            let entries: Vec<_> = (0..keys).map(|number| (key(number), record(number + version))).collect();
            directory.put(&entries).unwrap();
            assert!(entries.iter().all(|(key, record)| find(&directory, key) == Some(*record)), "{keys}");
        }
        assert!((keys..2 * keys).all(|number| find(&directory, &key(number)).is_none()));
        assert_eq!(contents(&adopted(&directory)), contents(&directory));
    }
}

#[test]
fn keys_that_follow_a_pattern_fit_with_the_first_seeds() {
    let v4 = |bits: u32| IpAddr::from(Ipv4Addr::from_bits(bits));
    let v6 = |bits: u32| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(bits)));
    let patterns: [fn(u32) -> (u32, u16); 4] = [
        |number| (0xc612_0000 + number, 80),
        |number| (0xc612_0000 + number / 2, if number.is_multiple_of(2) { 80 } else { 443 }),
        |number| (0xc612_0000 + number % 16, (number / 16) as u16),
        |number| (number << 16, (number << 8) as u16),
    ];
    for (which, pattern) in patterns.iter().enumerate() {
        for to_ip in [v4, v6] {
            let keys = (1..=10_000u32).map(|number| {
                let (address, port) = pattern(number);
                (Endpoint::new(to_ip(address).into(), Port::new(port), Protocol::TCP), number)
            });
            let keys: Vec<_> = keys.collect();
            let built =
                (0..20).filter(|_| build(Header::new(8, 15, rand::random()), &keys).is_some()).count();
            assert!(built > 15, "pattern {which}: {built} of 20 seeds");
        }
    }
}

#[test]
fn a_small_change_of_a_large_table_leaves_the_table_where_it_is() {
    let mut directory = directory(20_000);
    let entries: Vec<_> = (0..10_000).map(|number| (key(number), record(number))).collect();
    directory.put(&entries).unwrap();
    let header = directory.header();
    for number in 0..10_000 {
        directory.put(&[(key(number), record(7))]).unwrap();
    }
    assert_eq!(directory.header(), header, "replacing a record is one word");
    let mut rebuilt = 0;
    for number in 10_000..10_500 {
        let before = directory.header();
        directory.put(&[(key(number), record(7))]).unwrap();
        rebuilt += u32::from(directory.header() != before);
    }
    assert!(rebuilt < 100, "most new keys find a free word: {rebuilt} of 500 did not");
}

#[test]
fn a_table_that_was_half_built_when_its_daemon_died_is_never_seen() {
    let mut directory = directory(300);
    let entries: Vec<_> = (0..200).map(|number| (key(number), record(number))).collect();
    directory.put(&entries).unwrap();
    let expected = contents(&directory);
    let header = directory.header();
    let current = header.base()..header.base() + header.size();
    for (at, word) in directory.words.all().iter().enumerate().skip(HEADER_WORDS as usize) {
        if !current.contains(&(at as u32)) {
            word.store(rand::random(), Ordering::Relaxed);
        }
    }
    // A record that was written but not published yet.
    let place = directory.take().unwrap();
    directory.records.write(place, Keyed { key: key(5), record: record(999) }).unwrap();
    let mut next = adopted(&directory);
    assert_eq!(contents(&next), expected);
    let more: Vec<_> = (200..300).map(|number| (key(number), record(number))).collect();
    next.put(&more).unwrap();
    for number in 0..300 {
        assert_eq!(find(&next, &key(number)), Some(record(number)));
    }
}

#[test]
fn another_key_s_record_is_not_taken_even_where_the_hashes_agree() {
    let mut directory = directory(300);
    let (mine, other) = (key(1), key(2));
    directory.put(&[(mine, record(1))]).unwrap();
    let header = directory.header();
    for at in header.hash(&other).places(header) {
        directory.store(at, header.hash(&other).word(directory.places[&mine]));
    }
    assert_eq!(find(&directory, &other), None);
}

#[test]
fn a_damaged_table_is_not_adopted() {
    let mut directory = directory(300);
    directory.put(&[(key(1), record(1))]).unwrap();
    let at = directory.word_of(&key(1)).unwrap();
    directory.store(at, directory.words.all()[at as usize].load(Ordering::Relaxed) ^ 1 << 50);
    let again = Directory::with_wait(directory.words.copy(), directory.records.copy(), || ());
    let message = format!("{:#}", again.err().expect("refused"));
    assert!(message.contains("is not where it belongs"), "{message}");
}

thread_local! {
    static WAITS: Cell<u32> = const { Cell::new(0) };
}

#[test]
fn what_was_given_up_stays_as_it_is_until_no_packet_reads_it() {
    let (words, records) = (Words::anonymous(words(50)), Records::anonymous(records(50)));
    let mut directory = Directory::with_wait(words, records, || WAITS.set(WAITS.get() + 1)).unwrap();
    let entries: Vec<_> = (0..50).map(|number| (key(number), record(number))).collect();
    directory.put(&entries).unwrap();
    let mut seen: Vec<(u32, Keyed<Record>)> = Vec::new();
    let mut waits = WAITS.get();
    for version in 1..2000 {
        let number = version * 7 % 50;
        let place = directory.places[&key(number)];
        seen.push((place, directory.records.read(place).unwrap()));
        if version % 3 == 0 {
            directory.remove(&[key(number)]);
        }
        let before = directory.header();
        directory.put(&[(key(number), record(1000 + version))]).unwrap();
        if WAITS.get() != waits {
            seen.clear();
            waits = WAITS.get();
        }
        assert!(directory.header() == before || directory.other_rests);
        for (place, record) in &seen {
            assert_eq!(directory.records.read(*place).unwrap(), *record, "place {place}");
        }
    }
    assert!((10..100).contains(&WAITS.get()), "{} waits", WAITS.get());
}

/// The number of lookups that the reader below has finished.
static LOOKUPS: AtomicU64 = AtomicU64::new(0);
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Replaces [`grace::wait`] for packets: after it, every lookup that was running has finished.
fn wait_for_the_reader() {
    let before = LOOKUPS.load(Ordering::SeqCst);
    while LOOKUPS.load(Ordering::SeqCst) < before + 2 && !IS_OVER.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

#[test]
fn a_reader_finds_every_key_whole_while_others_come_and_go() {
    const STAY: u32 = 100;
    let (words, records) = (Words::anonymous(words(1000)), Records::anonymous(records(1000)));
    // Like the kernel, the reader has its own view of the same memory.
    let (words_again, records_again) = (words.share(), records.share());
    let mut directory = Directory::with_wait(words, records, wait_for_the_reader).unwrap();
    let stay: Vec<_> = (0..STAY).map(|number| (key(number), record(number))).collect();
    directory.put(&stay).unwrap();
    let reader = std::thread::spawn(move || {
        let source = Reader::<Record>(&words_again, &records_again);
        let mut lost = 0;
        while !IS_OVER.load(Ordering::SeqCst) {
            for number in 0..STAY {
                let found = source.find(&key(number)).copied();
                let whole = found.is_some_and(|found| found == [found[0]; 6] && found[0] % 1000 == number);
                lost += u32::from(!whole);
                LOOKUPS.fetch_add(1, Ordering::SeqCst);
            }
        }
        lost
    });
    for version in 1..400 {
        let come: Vec<_> =
            (STAY..STAY + version * 13 % 800).map(|number| (key(number), record(number))).collect();
        let stay: Vec<_> = (0..STAY).map(|number| (key(number), record(version * 1000 + number))).collect();
        directory.put(&come).unwrap();
        directory.put(&stay).unwrap();
        directory.remove(&come.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    }
    IS_OVER.store(true, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap(), 0, "lookups that found nothing, or half a record");
    assert!(LOOKUPS.load(Ordering::SeqCst) > 1000);
}
