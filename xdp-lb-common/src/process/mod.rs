//! The datapath: what happens to every packet. The same code runs in the kernel and on the host.

mod forward;
mod pair;
mod reply;
mod rewrite;

use crate::packet::Packet;
use crate::parse::{Parsed, parse};
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

/// Takes one packet from its arrival to its verdict, and counts it.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match balance(packet, tables) {
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
}

/// Leaves through this interface.
#[inline(always)]
fn leave(parsed: &Parsed, ifindex: u32) -> Verdict {
    if ifindex == parsed.ingress { Verdict::Transmit } else { Verdict::Redirect(ifindex) }
}

#[inline(always)]
fn balance<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Reason> {
    let parsed = parse(packet)?;
    if let Some(service) = tables.service(&parsed.key.destination_endpoint()) {
        let settings = tables.settings().ok_or(Reason::Internal)?;
        let context = Context { tables, settings, parsed: &parsed, now: tables.now() };
        forward::forward(packet, &context, service)
    } else if let Some(rule) = tables.reply(&parsed.key.source_endpoint()) {
        reply::reply(packet, tables, &parsed, rule)
    } else {
        Err(Reason::NoService)
    }
}
