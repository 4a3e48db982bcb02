//! Writes a directory, which [`xdp_lb_common::tables::directory`] reads.
//!
//! Packets, and a daemon that takes over, may read it between any two stores, and always find it consistent:
//! - A record is written at an index that is not in use, and then published by one word.
//! - If both words of a new key are taken, a whole table is built beside the current one, and becomes current by one store of the
//!   header.
//! - An index or a table that was given up is only reused when no packet can be reading it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::directory::{HEADER_WORDS, Header, Keyed, place_of};

use super::grace;
use super::memory::{Records, Words};

/// The minimum size of a table: a page of lookup words is as cheap as a single one.
const LEAST_LOG2: u32 = 6;
/// The number of seeds to try for a table of one size. Few fail.
const SEEDS: u32 = 64;
/// The number of keys that are moved before another seed is tried.
const MOVES: usize = 500;

/// The number of words for the tables of a directory with this many keys: two tables, each at most two fifths full.
pub const fn words(keys: u32) -> u32 {
    HEADER_WORDS + 2 * capacity(keys)
}

/// The number of records: replacing every one at once needs twice as many, and index 0 stays vacant.
pub const fn records(keys: u32) -> u32 {
    2 * keys + 64
}

const fn capacity(keys: u32) -> u32 {
    // With two places for each key, a table can be built while less than half of it is in use.
    let wanted = (keys + keys / 4) * 2;
    if wanted < 1 << LEAST_LOG2 { 1 << LEAST_LOG2 } else { wanted.next_power_of_two() }
}

/// Endpoints and their records.
pub struct Directory<R> {
    words: Words,
    records: Records<R>,
    /// The index of each key's record.
    places: HashMap<Endpoint, u32>,
    /// Indices that no packet reads.
    free: VecDeque<u32>,
    /// Indices that a packet may still be reading.
    resting: Vec<u32>,
    /// Whether a packet may still be reading the table that is not current.
    other_rests: bool,
    wait: fn(),
}

impl<R: Copy> Directory<R> {
    /// The directory in these maps: an earlier daemon's, or an empty one.
    ///
    /// # Errors
    /// If it contains something that this daemon would not have written.
    pub fn new(words: Words, records: Records<R>) -> Result<Self> {
        Self::with_wait(words, records, grace::wait)
    }

    fn with_wait(words: Words, records: Records<R>, wait: fn()) -> Result<Self> {
        let mut directory = Self {
            words,
            records,
            places: HashMap::new(),
            free: VecDeque::new(),
            resting: Vec::new(),
            other_rests: true,
            wait,
        };
        directory.adopt().context("a directory of the pinned tables is damaged")?;
        Ok(directory)
    }

    fn adopt(&mut self) -> Result<()> {
        let header = self.header();
        if header.to_bits() == 0 {
            self.free = (1..self.records.length()).collect();
            self.other_rests = false;
            let header = Header::new(HEADER_WORDS, LEAST_LOG2, rand::random());
            self.words.all()[0].store(header.to_bits(), Ordering::Release);
            return Ok(());
        }
        let mut used = HashSet::new();
        for word in self.words.range(header.base(), header.size() as usize)? {
            let word = word.load(Ordering::Acquire);
            if word != 0 {
                let key = self.records.read(place_of(word))?.key;
                ensure!(header.hash(&key).fits(word), "{} is not where it belongs", key.socket());
                ensure!(self.places.insert(key, place_of(word)).is_none(), "{} twice", key.socket());
                used.insert(place_of(word));
            }
        }
        // It is not known what the former daemon gave up last.
        self.resting = (1..self.records.length()).filter(|place| !used.contains(place)).collect();
        Ok(())
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &Endpoint> {
        self.places.keys()
    }

    /// Every key with its record.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Endpoint, R)>> {
        self.places.iter().map(|(key, place)| Ok((*key, self.records.read(*place)?.record)))
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &Endpoint) -> bool {
        self.places.contains_key(key)
    }

    /// The record that packets find for this key.
    pub fn find(&self, key: &Endpoint) -> Option<R> {
        let header = self.header();
        if header.to_bits() == 0 {
            return None;
        }
        let words = self.words.all();
        let keyed = header.hash(key).places(header).into_iter().find_map(|place| {
            let word = words.get(place as usize)?.load(Ordering::Acquire);
            let keyed = self.records.read(place_of(word)).ok()?;
            (header.hash(key).fits(word) && keyed.key == *key).then_some(keyed)
        });
        keyed.map(|keyed| keyed.record)
    }

    /// Whether packets find exactly these keys.
    pub fn is_whole(&self) -> bool {
        let header = self.header();
        let Ok(table) = self.words.range(header.base(), header.size() as usize) else { return false };
        let words = table.iter().map(|word| word.load(Ordering::Relaxed)).filter(|word| *word != 0);
        header.to_bits() != 0 && words.count() == self.places.len()
    }

    /// Rebuilds the table of these keys, whatever the current one contains.
    ///
    /// # Errors
    /// If they do not fit, which they did before.
    pub fn restore(&mut self) -> Result<()> {
        let all: Vec<_> = self.places.iter().map(|(key, place)| (*key, *place)).collect();
        self.rebuild(&all)
    }

    /// Inserts or replaces the records of these keys: packets find either the old record or the new one, never a mixture.
    ///
    /// # Errors
    /// If there is no room. Records that were already written stay.
    pub fn put(&mut self, entries: &[(Endpoint, R)]) -> Result<()> {
        // Those that need a new table.
        let mut late = HashMap::new();
        for &(key, record) in entries {
            let place = self.take().context("no place is free for a record")?;
            self.records.write(place, Keyed { key, record })?;
            match self.word_of(&key) {
                Some(at) => {
                    self.store(at, self.header().hash(&key).word(place));
                    let before = self.places.insert(key, place);
                    self.resting.extend(before);
                }
                None => self.resting.extend(late.insert(key, place)),
            }
        }
        if !late.is_empty() {
            let all: Vec<_> = self.places.iter().chain(&late).map(|(key, place)| (*key, *place)).collect();
            self.rebuild(&all)?;
            self.places.extend(late);
        }
        Ok(())
    }

    /// Removes these keys. It is not an error if one does not exist.
    pub fn remove(&mut self, keys: &[Endpoint]) {
        for key in keys {
            if let Some(place) = self.places.remove(key) {
                if let Some(at) = self.word_with(key, |word| place_of(word) == place) {
                    self.store(at, 0);
                }
                self.resting.push(place);
            }
        }
    }

    fn header(&self) -> Header {
        Header::from_bits(self.words.all()[0].load(Ordering::Acquire))
    }

    /// The word of an existing key, or a free one for a new key. `None` if there is none.
    fn word_of(&self, key: &Endpoint) -> Option<u32> {
        match self.places.get(key) {
            Some(place) => self.word_with(key, |word| place_of(word) == *place),
            None => self.word_with(key, |word| word == 0),
        }
    }

    fn word_with(&self, key: &Endpoint, wanted: impl Fn(u64) -> bool) -> Option<u32> {
        let header = self.header();
        let words = self.words.all();
        let places = header.hash(key).places(header);
        places.into_iter().find(|place| wanted(words[*place as usize].load(Ordering::Relaxed)))
    }

    /// Publishes a word. What it refers to has been written before.
    fn store(&self, at: u32, word: u64) {
        self.words.all()[at as usize].store(word, Ordering::Release);
    }

    /// An index for a record.
    fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() && !self.resting.is_empty() {
            self.rest();
        }
        self.free.pop_front()
    }

    fn rest(&mut self) {
        (self.wait)();
        self.free.extend(self.resting.drain(..));
        self.other_rests = false;
    }

    /// Builds the other table with these keys, and makes it current.
    fn rebuild(&mut self, keys: &[(Endpoint, u32)]) -> Result<()> {
        if self.other_rests {
            self.rest();
        }
        let capacity = (self.words.length() - HEADER_WORDS) / 2;
        let first = HEADER_WORDS;
        let base = if self.header().base() == first { first + capacity } else { first };
        // A fifth to two fifths full: most new keys find a place, and the words of a lookup are likely in a near cache.
        let mut log2 = self::capacity(keys.len() as u32).min(capacity).ilog2();
        let (header, table) = loop {
            let seeds = std::iter::repeat_with(|| Header::new(base, log2, rand::random()));
            let built = seeds.take(SEEDS as usize).find_map(|header| Some((header, build(header, keys)?)));
            match built {
                Some(built) => break built,
                None => log2 += 1,
            }
            ensure!(1 << log2 <= capacity, "{} endpoints do not fit into {capacity} words", keys.len());
        };
        for (place, word) in self.words.range(base, table.len())?.iter().zip(&table) {
            place.store(*word, Ordering::Relaxed);
        }
        self.store(0, header.to_bits());
        self.other_rests = true;
        Ok(())
    }
}

/// A table under this header with a word for each of these keys. `None` if none can be built.
fn build(header: Header, keys: &[(Endpoint, u32)]) -> Option<Vec<u64>> {
    let mut table: Vec<Option<usize>> = vec![None; header.size() as usize];
    let places: Vec<_> = keys
        .iter()
        .map(|(key, _)| header.hash(key).places(header).map(|place| place - header.base()))
        .collect();
    for new in 0..keys.len() {
        let mut homeless = new;
        let mut at = places[new][0];
        let mut moves = 0;
        // Each key takes one of its places, and a key that was there moves to its other one.
        while let Some(evicted) = table[at as usize].replace(homeless) {
            moves += 1;
            if moves > MOVES {
                return None;
            }
            homeless = evicted;
            let [one, other] = places[homeless];
            at = if at == one { other } else { one };
        }
    }
    let word = |index: usize| header.hash(&keys[index].0).word(keys[index].1);
    Some(table.into_iter().map(|index| index.map_or(0, word)).collect())
}

#[cfg(test)]
mod tests;
