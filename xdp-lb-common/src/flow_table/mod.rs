//! The flow table: one record a flow, for both directions, found without a helper call.
//!
//! It is plain memory: BPF arrays, which the daemon maps. This code runs on it in the kernel and in the daemon:
//!
//! - **lines** of 64 bytes, a cache line each. A record takes one; that of an IPv6 flow takes two neighbours ([`record`]).
//! - **tags**: a word for every eight lines (a bucket), a byte for each line: 8 bits of the record's hash, or 0 where there is
//!   no record ([`tags`]). A flow has two buckets by its hash (two-choice hashing: Azar et al., 1994; with eight places each
//!   no insertion of 4 million found both full at half load), so a look-up reads two words, and a line where a tag agrees.
//!   The buckets belong to a [level](memory::Level). The first levels are small, so that in a large table, a small number of flows
//!   uses few cache lines and TLB entries.
//! - **ports**: a word for every SNAT port in use, which names the line of its flow ([`ports`]).
//!
//! # Concurrency
//!
//! Several CPUs handle packets of one flow, while other flows are added and removed, and the daemon reads. The first word of a line
//! ([`Life`](life::Life)) says whether it is free, a record, or *taken*. Only the CPU that has taken it, by compare-and-exchange,
//! writes the line, its neighbour if the record is IPv6, and their bytes of the tags. When the line becomes a record again, it has a
//! new version. So
//!
//! - a reader that finds the same version before and after reading the other words has read a consistent record;
//! - a packet updates the first word by compare-and-exchange: if the line has become another flow's record, nothing is written.
//!
//! If two CPUs insert the same flow, the lock of its hash ([`memory::Memory::lock`]) lets one look again and insert while the other
//! waits. Programs take it, which the kernel always runs to their end, and so does a daemon that copies flows from other tables. A
//! daemon that is killed meanwhile may leave a lock behind ([`walk::free_abandoned`]).
//!
//! # Memory order
//!
//! A compare-and-exchange is a full barrier in the kernel's JIT compilers (Documentation/bpf/standardization/instruction-set.rst;
//! arm64: LSE's acquire-release forms), so whoever sees the record also sees what was written before the line became a record.
//! On arm64, loads may be reordered unless an address depends on an earlier load (Arm Architecture Reference
//! Manual, B2.3): [`memory::Memory::after`] makes one that does. The tests run two CPUs through the orders
//! that matter, with loads that overtake each other (`interleavings`).

#[cfg(not(target_arch = "bpf"))]
pub mod carry;
pub mod claim;
pub mod find;
pub mod forget;
pub mod life;
mod lines;
pub mod memory;
#[cfg(not(target_arch = "bpf"))]
pub mod merge;
pub mod note;
pub mod outcome;
pub mod port_words;
pub mod ports;
pub mod record;
pub mod steps;
pub mod tags;
pub mod walk;

#[cfg(not(target_arch = "bpf"))]
mod atomic;
#[cfg(any(test, feature = "host"))]
pub mod host;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;

pub use self::memory::{LOCKS, Line, Memory, Steps, WAYS, Word, buckets, flows};
pub use self::record::LINE_WORDS;
