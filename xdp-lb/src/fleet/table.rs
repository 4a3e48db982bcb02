//! The flow table of this node, as the exchange with its peers uses it.

use std::fmt;
use std::time::Duration;

use tokio::sync::oneshot;
use xdp_lb_common::net::Endpoint;

use super::flow::SharedFlow;

/// The slots of a ring in which a node goes by flows' records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackedRing {
    /// The service's key: its VIP, or the first port of its range.
    pub vip: Endpoint,
    /// How many slots its ring has.
    pub length: u32,
    /// The slots.
    pub slots: Vec<TrackedSlot>,
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackedSlot {
    /// Its number in the ring.
    pub number: u32,
    /// The backend that flows without a record belong to, where that is not the owner.
    pub prior: Option<Endpoint>,
    /// How far it is.
    pub step: SlotStep,
}

/// How far a slot is on its way to being settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotStep {
    /// Nobody knows.
    Unknown,
    /// It has been moving for so long: nodes that begin to count at different times do not stop at the same one.
    Moving(Duration),
    /// Each of its flows has a record.
    Recorded,
}

impl TrackedSlot {
    /// One of which nothing but the number is known.
    pub const fn of(number: u32) -> Self {
        Self { number, prior: None, step: SlotStep::Unknown }
    }
}

/// What the exchange has to do with this node's rings.
#[derive(Debug)]
pub enum RingWord {
    /// Peers go by records in these slots: this node has to, too.
    Told(Vec<TrackedRing>),
    /// Peers ask in which this one does.
    Asked(oneshot::Sender<Vec<TrackedRing>>),
}

/// Why a peer's flow is not taken in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// This node has no such service or backend, or they take no such flow.
    Unknown,
    /// The flow has another backend here, and its record here is the better one.
    Differs,
    /// Its source port belongs to another flow here: it is taken in, but replies to it do not find it.
    PortTaken,
    /// The flow table is full.
    Full,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Differs, Self::PortTaken, Self::Full];

    /// A short name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_backend",
            Self::Differs => "differs",
            Self::PortTaken => "port_taken",
            Self::Full => "table_full",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no such service or backend here: do the nodes have the same services?",
            Self::Differs => "the flow has another backend here",
            Self::PortTaken => {
                "another flow here has its source port, so replies would not find it: give each node snat_addresses of its own, \
                 and all the same limits.flows"
            }
            Self::Full => {
                "the flow table is full: raise limits.flows, which has to hold the flows of all nodes"
            }
        })
    }
}

/// The flow table of this node.
pub trait FlowTable: Send {
    /// Walks on over a part of the table, and appends the flows that peers should know and have not been told of, at most so many.
    /// Returns whether the walk is through; the next call begins another one.
    ///
    /// # Errors
    /// Where the table cannot be read.
    fn news(&mut self, room: usize, flows: &mut Vec<SharedFlow>) -> anyhow::Result<bool>;

    /// Appends all flows of a part of the table that peers should know, from a place on. Returns where to go on; nothing at the end.
    ///
    /// # Errors
    /// Where the table cannot be read.
    fn page(&mut self, from: u32, flows: &mut Vec<SharedFlow>) -> anyhow::Result<Option<u32>>;

    /// A number that changes with the backends that there are.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    fn backends(&mut self) -> anyhow::Result<u64>;

    /// Takes in a flow of a peer's.
    ///
    /// # Errors
    /// Where the table cannot be read; within, why the flow is refused.
    fn take(&mut self, flow: &SharedFlow) -> anyhow::Result<Result<(), Refusal>>;

    /// The settled slots in which flows were taken in since the last call that have another backend than the slot says.
    fn differing(&mut self) -> Vec<TrackedRing>;
}
