//! Processes one packet, from its arrival to its verdict.

use anyhow::Result;
use xdp_lb_common::flow_table::Steps as _;
use xdp_lb_common::flow_table::outcome::Found;
use xdp_lb_common::flow_table::record::{Record, Room};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::process::{Scratch, Verdict, process};
use xdp_lb_common::tables::FlowKey;

use super::live::LiveTables;
use super::lookup::Lookup;
use super::view::View;

/// What would happen to a packet.
#[derive(Clone, Debug)]
pub struct Processed {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame as it would leave.
    pub frame: Vec<u8>,
    /// The lookups, in order, without duplicates.
    pub lookups: Vec<Lookup>,
    /// Whether the flow's record was looked up.
    pub wants_record: bool,
    /// The flow's record, if there is one.
    pub record: Option<Record>,
    /// Seconds of the clock of flow records.
    pub now: u32,
}

impl LiveTables {
    /// Processes this frame, which arrives on the interface with this index, and whose flow has this key.
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
