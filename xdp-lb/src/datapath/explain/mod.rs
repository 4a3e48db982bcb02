//! The datapath in this process, over the live tables, which it reads and does not change: what would become of a packet.
//!
//! It is the very [`process`] that the kernel runs. What it would write, it writes into copies that are dropped with the answer, and each
//! table that it asks is noted, so that its way through the tables can be told.

#![forbid(unsafe_code)]

mod copies;
mod flows;
mod kept;
mod live;
mod view;

use anyhow::Result;
use xdp_lb_common::flow_table::Steps as _;
use xdp_lb_common::flow_table::outcome::Found;
use xdp_lb_common::flow_table::record::{Record, Room};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::process::{Scratch, Verdict, process};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, FlowKey, Service, SlotIndex};

pub use self::live::LiveTables;
use self::view::View;

/// What a packet's way through the tables asked, and was told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lookup {
    /// Whose an address may be: bits of [`filter`](xdp_lb_common::tables::filter).
    Roles(Address, u8),
    /// The service at an endpoint.
    Service(Endpoint, Option<Service>),
    /// Whether a backend's packets come from an endpoint.
    Reply(Endpoint, bool),
    /// A slot of a ring.
    Slot(SlotIndex, Slot),
    /// A backend's record.
    Backend(BackendIndex, Backend),
    /// What a service's source ranges say of a client: a [`SourceVerdict`](xdp_lb_common::tables::SourceVerdict), as its number.
    SourceRange(u32),
    /// When a client's bucket of new flows is full again, and the time now: nanoseconds of the monotonic clock.
    Bucket(Option<u64>, u64),
    /// The backend that a QUIC connection id names.
    QuicServer(BackendIndex),
    /// How many flows a backend or a service has that limits them.
    Flows(i64),
    /// Whose record a fragment would find.
    Fragment,
    /// The kernel's routes, which are not asked here.
    Route(Address),
    /// The packet is counted as sent to a backend, or coming from it.
    Traffic(BackendIndex),
    /// The packet is counted by its reason.
    Reason(Reason),
}

/// What would become of a packet.
#[derive(Clone, Debug)]
pub struct Processed {
    /// What is done with it.
    pub verdict: Verdict,
    /// The frame as it would leave.
    pub frame: Vec<u8>,
    /// What was asked on the way, in order; an answer that was given twice is here once.
    pub lookups: Vec<Lookup>,
    /// Whether the flow's record was looked for.
    pub wants_record: bool,
    /// The flow's record, if there is one.
    pub record: Option<Record>,
    /// Seconds of the clock that records have.
    pub now: u32,
}

impl LiveTables {
    /// What would become of this frame, which comes in by the interface of this index; its flow has this key.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn process(&self, frame: &[u8], ingress: u32, flow: &FlowKey) -> Result<Processed> {
        let record = self.record(flow)?;
        let view = View::new(self)?;
        let mut packet = Buffer::new(frame, ingress);
        let verdict = process(&mut packet, &view, &mut Scratch::default());
        let (lookups, wants_record, now) = view.finish()?;
        Ok(Processed { verdict, frame: packet.bytes().to_vec(), lookups, wants_record, record, now })
    }

    /// The record of a client's flow.
    fn record(&self, flow: &FlowKey) -> Result<Option<Record>> {
        let view = View::new(self)?;
        let mut room = Room { flow: *flow, now: view.seconds(), ..Room::default() };
        let found = view.flows().find_flow(view.present_settings(), &mut room);
        Ok((found == Found::Record).then_some(room.record))
    }
}
