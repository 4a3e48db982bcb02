//! The flow table as one packet would find and change it, on copies of what it accesses.

use std::array::from_fn;
use std::cell::Cell;

use xdp_lb_common::flow_table::steps::Plain;
use xdp_lb_common::flow_table::{LINE_WORDS, Line, Memory, Word};
use xdp_lb_common::hash::FlowHash;

use super::copies::{Copied, Copies};
use crate::datapath::memory::FlowMemory;

/// How often to retry copying a line that is being written.
const TRIES: u32 = 8;

/// The flow table, copied on access.
pub struct CopiedFlows<'a> {
    live: &'a FlowMemory,
    tags: Copies<Copied>,
    lines: Copies<Line<Copied>>,
    ports: Copies<Copied>,
    locks: Copies<Copied>,
    is_touched: Cell<bool>,
}

impl<'a> CopiedFlows<'a> {
    /// Without any copies yet.
    pub fn new(live: &'a FlowMemory) -> Self {
        Self {
            live,
            tags: Copies::default(),
            lines: Copies::default(),
            ports: Copies::default(),
            locks: Copies::default(),
            is_touched: Cell::default(),
        }
    }

    /// Whether a record was looked up.
    pub fn is_touched(&self) -> bool {
        self.is_touched.get()
    }
}

impl Memory for CopiedFlows<'_> {
    type Word = Copied;

    fn buckets(&self) -> u32 {
        self.live.buckets()
    }

    fn tags(&self, bucket: u32) -> Option<&Copied> {
        self.is_touched.set(true);
        let shared = self.live.tags(bucket)?;
        Some(self.tags.at(bucket, || Copied::of(shared)))
    }

    fn line(&self, place: u32) -> Option<&Line<Copied>> {
        let shared = self.live.line(place)?;
        Some(self.lines.at(place, || copy(shared)))
    }

    /// Nobody else holds a lock among these copies.
    fn lock(&self, hash: FlowHash) -> Option<&Copied> {
        Some(self.locks.at(hash.bits(), Copied::default))
    }

    fn port(&self, place: u32) -> Option<&Copied> {
        let shared = self.live.port(place)?;
        Some(self.ports.at(place, || Copied::of(shared)))
    }
}

impl Plain for CopiedFlows<'_> {}

/// A consistent copy of a line: its first word changes with each write to the others.
fn copy<W: Word>(shared: &Line<W>) -> Line<Copied> {
    let mut copied: Line<Copied> = from_fn(|word| Copied::of(&shared[word]));
    for _ in 1..TRIES {
        if shared[0].load() == copied[0].load() {
            break;
        }
        copied = from_fn::<_, LINE_WORDS, _>(|word| Copied::of(&shared[word]));
    }
    copied
}
