//! Removes records.

use super::life::Life;
use super::lines::vacate;
use super::memory::{Memory, Word};
use super::port_words::give_back;
use super::record::Record;
use crate::hash::KEYS;

/// Removes a record that was found, if `is_needless` still holds for its latest progress. Returns whether it is gone.
#[inline(always)]
pub fn forget<M: Memory>(
    memory: &M,
    keys: &[u64; KEYS],
    record: &Record,
    is_needless: impl Fn(Life) -> bool,
) -> bool {
    let Some(line) = memory.line(record.place) else { return false };
    let mut life = record.life();
    for _ in 0..M::TRIES {
        if !is_needless(life) {
            return false;
        }
        if line[0].replace(life.to_bits(), life.taken().to_bits()) {
            give_back(memory, keys, record);
            return vacate(memory, record.place, record.is_v6(), life.taken()).is_some();
        }
        let now = Life::from_bits(line[0].load());
        if !now.is_same_record(life) {
            return false;
        }
        life = now;
    }
    false
}
