//! The datapath: what happens to every packet. The same code runs in the kernel and on the host.

mod affinity;
mod forward;
mod icmp;
mod pair;
mod reply;
mod rewrite;

pub use self::affinity::slot_hash;
pub use self::forward::records_flows;
use self::rewrite::Departure;
use crate::flow::{Direction, advance};
use crate::packet::Packet;
use crate::parse::{self, Parsed, parse};
use crate::reason::{Kind, Reason};
use crate::tables::{Settings, Tables};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The host's own network stack gets it; it is unchanged.
    Pass(Reason),
    /// It ends here.
    Drop(Reason),
    /// It leaves through the interface that it came in by.
    Transmit,
    /// It leaves through the interface of this index.
    Redirect(u32),
}

/// Room for what is known of the packet in hand; what it held before does not matter. In the kernel
/// it lies in a map: a program's stack is 512 bytes.
#[derive(Default)]
pub struct Scratch {
    parsed: Parsed,
    departure: Departure,
    /// How far a flow has come that begins with this packet.
    progress: u8,
}

/// Takes one packet from its arrival to its verdict, and counts it.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Verdict {
    match balance(packet, tables, scratch) {
        Ok(verdict) => verdict,
        Err(reason) => {
            tables.count(reason);
            match reason.kind() {
                Kind::Pass => Verdict::Pass(reason),
                Kind::Drop => Verdict::Drop(reason),
            }
        }
    }
}

/// What the steps of one packet's way have in common.
struct Context<'t, T> {
    tables: &'t T,
    settings: &'t Settings,
    parsed: &'t Parsed,
    now: u32,
    /// Lies in the scratch: each value that the verifier knew would be another way through all that follows.
    progress: &'t u8,
}

#[inline(always)]
fn balance<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<Verdict, Reason> {
    let Scratch { parsed, departure, progress } = scratch;
    parse(packet, parsed)?;
    let parsed = &*parsed;
    if parsed.kind == parse::Kind::Icmp {
        icmp::icmp(packet, tables, parsed, departure)?;
    } else if let Some(service) = tables.service(&parsed.key.destination_endpoint()) {
        let settings = tables.settings().ok_or(Reason::Internal)?;
        *progress = advance(0, Direction::Forward, parsed.tcp_flags);
        let context = Context { tables, settings, parsed, now: tables.now(), progress };
        forward::forward(packet, &context, service, departure)?
    } else if let Some(rule) = tables.reply(&parsed.key.source_endpoint()) {
        reply::reply(packet, tables, parsed, rule, departure)?
    } else {
        return Err(Reason::NoService);
    }
    Ok(if departure.ifindex == parsed.ingress {
        Verdict::Transmit
    } else {
        Verdict::Redirect(departure.ifindex)
    })
}
