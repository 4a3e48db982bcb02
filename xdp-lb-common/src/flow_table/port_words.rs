//! SNAT ports, and the flows that have them.
//!
//! The flow of a backend's reply is found by the reply's source, and its destination address and port. Each such port has one word,
//! at a place computed from these; eight consecutive ports share a cache line. The word names the line of the flow's record, so a
//! reply reads one word and then the record. A port is handed out by compare-and-exchange of its word, so two flows never get the
//! same one.
//!
//! Ports towards different backends may share a word. Such a port counts as in use: a new flow tries eight ports a line. A word is
//! valid only if the record agrees; a word whose record is gone is free.

use super::find::read;
use super::memory::{Memory, WAYS, Word};
use super::outcome::Found;
use super::record::{Record, Room};
use crate::hash::{FlowHash, KEYS};
use crate::net::{Address, Endpoint, Port, Protocol};
use crate::tables::flow::PAIRED;

/// The hash of the eight ports around this one, from an address to a backend.
#[inline(always)]
fn hash(keys: &[u64; KEYS], backend: &Endpoint, source: &Address, port: Port) -> FlowHash {
    let line = port.get() & !7 | u16::from(backend.protocol == Protocol::UDP);
    FlowHash::new(keys, (&backend.address, backend.port), (source, Port::new(line)))
}

/// The same for the SNAT port of this record.
///
/// Not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn hash_of(keys: &[u64; KEYS], record: &Record, port: Port) -> FlowHash {
    hash(keys, &record.destination(), &record.source().address, port)
}

/// The word of a port.
#[inline(always)]
pub fn word_of<M: Memory>(memory: &M, hash: FlowHash, port: Port) -> Option<&M::Word> {
    memory.port(hash.reduce(memory.buckets()) * WAYS + u32::from(port.get() & 7))
}

/// The word of a port whose flow is in this line.
#[inline(always)]
pub fn entry(hash: FlowHash, place: u32) -> u64 {
    (u64::from(hash.bits()) << 32) | (u64::from(place) + 1)
}

/// The line that a word names.
#[inline(always)]
pub fn place_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

/// Finds the flow whose backend sends from `Room::backend` to `Room::client` (its SNAT address and port), and copies its record.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, keys: &[u64; KEYS], room: &mut Room) -> Found {
    let Room { backend, client, record, .. } = room;
    let hash = hash(keys, backend, &client.address, client.port);
    let Some(word) = word_of(memory, hash, client.port) else { return Found::Nothing };
    let entry = word.load();
    if entry == 0 || (entry >> 32) as u32 != hash.bits() {
        return Found::Nothing;
    }
    match read(memory, place_of(entry), record, |record| record.source_port() == client.port) {
        Found::Record if !is_between(record, backend, client) => Found::Nothing,
        found => found,
    }
}

/// Whether the record's flow has these endpoints on the backend's side.
#[inline(always)]
fn is_between(record: &Record, backend: &Endpoint, client: &Endpoint) -> bool {
    record.source().is(client) & record.destination().is(backend) & (record.life().progress() & PAIRED != 0)
}

/// Frees the port of a record whose lines this CPU has taken.
#[inline(always)]
pub fn give_back<M: Memory>(memory: &M, keys: &[u64; KEYS], record: &Record) {
    let port = record.source_port();
    let hash = hash_of(keys, record, port);
    if record.life().progress() & PAIRED != 0
        && let Some(word) = word_of(memory, hash, port)
    {
        // If it is another flow's by now, that one keeps it.
        let _ = word.replace(entry(hash, record.place), 0);
    }
}
