//! The flow table: one record a flow, for both directions, found without a helper call.
//!
//! It is plain memory, BPF arrays that the kernel side and the daemon both map, and this is the whole of it in both homes:
//!
//! - **lines** of 64 bytes, a cache line each. A record takes one; that of an IPv6 flow takes two neighbours ([`record`]).
//! - **tags**: a word for every eight lines (a bucket), a byte for each line: 8 bits of the record's hash, or 0 where there is
//!   no record ([`tags`]). A flow has two buckets by its hash (two-choice hashing: Azar et al., 1994; with eight places each
//!   no insertion of 4 million found both full at half load), so a look-up reads two words, and a line where a tag agrees.
//!   The buckets are of a [level](memory::Level): a part of the table that begins small, so that few flows need little of
//!   the cache, and of the processor's table of pages, in a table for many.
//! - **ports**: a word for every port that was handed out, which names the line of its flow ([`ports`]).
//!
//! # Who may write what
//!
//! Packets of one flow are worked on by several CPUs, others come and go meanwhile, and the daemon reads. The first word of a
//! line says whose it is ([`Life`](life::Life)): free, a record, or *taken*. Whoever turns it into taken, by
//! compare-and-swap, and nobody else, writes the line, its neighbour if it is IPv6's, and their bytes of the tags. What turns
//! back into a record has a new version, so that
//!
//! - a reader that finds the same version before and after it has read the others has read one record, whole;
//! - a packet notes itself by compare-and-swap of the first word: if the record has become another flow's meanwhile, nothing
//!   is noted.
//!
//! Of two CPUs that begin the same flow, the lock of its hash ([`memory::Memory::lock`]) lets one look again and insert while the other
//! waits. Programs, which the kernel runs to their end, take it, and a daemon that copies flows from other tables: one that is killed
//! then may leave one behind ([`walk::free_abandoned`]).
//!
//! # Order
//!
//! A compare-and-swap is a full barrier in the kernel's JIT compilers (Documentation/bpf/standardization/instruction-set.rst;
//! arm64: LSE's acquire-release forms), so what was written before a line becomes a record is seen by whoever sees the record.
//! Loads may overtake each other on arm64 unless an address depends on what was loaded before (Arm Architecture Reference
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
