//! The datapath, for every packet. The same code runs in the kernel and on the host.

#![forbid(unsafe_code)]

mod acl;
mod affinity;
mod answer;
mod arrival;
mod check;
mod choose;
mod context;
mod depart;
mod encapsulate;
mod fast_path;
mod flow_count;
mod flow_limit;
mod forward;
mod fragments;
pub mod handover;
mod icmp;
mod icmp_answer;
mod icmp_error;
mod martian;
mod mss;
mod own_address;
mod owners;
mod ports;
mod quic;
mod rate_limit;
mod records;
mod refused;
mod reply;
pub(crate) mod rewrite;
mod roles;
mod tcp_reset;

pub use self::affinity::slot_hash;
pub use self::check::send_check;
use self::context::Context;
pub use self::context::{Scratch, Scratchpad, Verdict};
pub use self::encapsulate::GUE_PORT;
use self::fast_path::{NOBODYS, fast_path, recorded};
use self::fragments::Treatment;
use self::icmp_error::About;

use crate::own_mac::is_for_this_host;
use crate::packet::Packet;
use crate::packet::parse::{self, parse, parse_quoted};
use crate::reason::{Kind, Reason};
use crate::tables::filter::VIP;
use crate::tables::flow::{Direction, advance};
use crate::tables::{BackendIndex, Tables};

/// Processes one packet from its arrival to its verdict, and counts it. Most packets need no scratch, so it is lent on demand.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut impl Scratchpad) -> Verdict {
    let roles = roles::roles(packet, tables);
    if roles == 0 {
        return conclude(tables, Reason::NoService);
    }
    if roles == VIP {
        let mut recorded_of = None;
        let mut ifindex = fast_path(packet, tables, &mut recorded_of);
        if let Some(service) = recorded_of
            && let Some(scratch) = scratch.lend()
        {
            ifindex = recorded(packet, tables, service, scratch);
        }
        if ifindex == NOBODYS {
            return conclude(tables, Reason::NoService);
        }
        if ifindex != 0 {
            return leave_by(ifindex, packet.ingress());
        }
    }
    match scratch.lend() {
        Some(scratch) => slow_path(packet, tables, roles, scratch),
        None => conclude(tables, Reason::Internal),
    }
}

/// The same without the [fast path](fast_path), for comparison.
pub fn process_slow_path<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Verdict {
    let roles = roles::roles(packet, tables);
    if roles == 0 {
        return conclude(tables, Reason::NoService);
    }
    slow_path(packet, tables, roles, scratch)
}

/// For packets that concern the load balancer, which each caller has checked: checked here, the compiler would duplicate the code
/// that follows for each role.
#[inline(always)]
fn slow_path<P: Packet, T: Tables>(packet: &mut P, tables: &T, roles: u8, scratch: &mut Scratch) -> Verdict {
    scratch.roles = roles;
    scratch.meta.owners.forget();
    match balance(packet, tables, scratch) {
        Ok(verdict) => verdict,
        Err(reason) => {
            scratch.refused = Some(reason);
            verdict(answer::end(packet, tables, scratch))
        }
    }
}

/// Counts why a packet is not forwarded, and returns its verdict.
#[inline(always)]
fn conclude<T: Tables>(tables: &T, reason: Reason) -> Verdict {
    tables.count(reason);
    verdict(reason)
}

/// The verdict on a packet that is not forwarded.
#[inline(always)]
fn verdict(reason: Reason) -> Verdict {
    match reason.kind() {
        Kind::Pass => Verdict::Pass(reason),
        Kind::Drop => Verdict::Drop(reason),
        Kind::Answer => Verdict::Transmit,
    }
}

#[inline(always)]
fn balance<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<Verdict, Reason> {
    parse(packet, &mut scratch.parsed)?;
    if !is_for_this_host(packet, tables) {
        return Err(Reason::OtherHost);
    }
    scratch.meta.aimed.set(BackendIndex(0));
    match scratch.parsed.kind {
        parse::Kind::Icmp => answer_or_translate(packet, tables, scratch)?,
        parse::Kind::LaterFragment => {
            if fragments::find(tables, scratch)? == Treatment::Deliver {
                depart::deliver(packet, tables, scratch)?;
            } else {
                fragments::send(packet, tables, scratch)?;
            }
        }
        kind => {
            let steered = steer(packet, tables, scratch);
            if kind == parse::Kind::FirstFragment {
                fragments::note(tables, scratch, steered.err());
            }
            steered?;
        }
    }
    if scratch.meta.aimed.get().0 != 0 {
        handover::freshen(packet, tables, scratch)?;
    }
    if scratch.departure.ifindex == 0 {
        return Err(Reason::HandedToHost);
    }
    Ok(leave_by(scratch.departure.ifindex, scratch.parsed.ingress))
}

/// Handles an ICMP message up to its departure: an error about a flow, or a ping.
///
/// Not inlined, like [`steer`]: a program's stack is 512 bytes.
#[inline(never)]
fn answer_or_translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    if icmp::icmp(packet, tables, scratch)? != icmp::Message::Error {
        return Ok(());
    }
    parse_quoted(packet, &scratch.parsed, &mut scratch.quoted)?;
    let about = icmp_error::about(tables, scratch)?;
    let goes_as_it_is = match about {
        About::Backend => {
            let goes_as_it_is = icmp_error::to_backend(tables, scratch)?;
            icmp_error::bound_mtu(packet, &scratch.parsed)?;
            goes_as_it_is
        }
        About::Client => {
            if !icmp_error::to_client(tables, scratch)? {
                icmp_error::to_client_by_route(tables, scratch)?;
            }
            false
        }
    };
    if goes_as_it_is {
        depart::deliver(packet, tables, scratch)
    } else {
        icmp_error::send(packet, tables, scratch, about)
    }
}

/// The verdict by the interface on which a packet leaves.
#[inline(always)]
fn leave_by(ifindex: u32, ingress: u32) -> Verdict {
    if ifindex == ingress { Verdict::Transmit } else { Verdict::Redirect(ifindex) }
}

/// Handles a packet of a flow up to its departure.
#[inline(never)]
fn steer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Result<(), Reason> {
    let Scratch { parsed, departure, query, meta, roles, room, .. } = scratch;
    let parsed = &*parsed;
    if *roles & VIP != 0
        && let Some(service) = ports::service(tables, &parsed.key)
    {
        let settings = tables.settings().ok_or(Reason::Internal)?;
        meta.progress = advance(0, Direction::Forward, parsed.tcp_flags);
        meta.named = quic::named(packet, tables, service, parsed)?;
        meta.skipped = 0;
        meta.owners.set_service(service.index);
        if service.counts_flows() {
            flow_limit::find(tables, service, parsed, meta, room)?;
        }
        let context = Context { tables, settings, parsed, meta };
        forward::forward(packet, &context, service, departure, room)
    } else if let Some(rule) = ports::reply(tables, &parsed.key) {
        meta.owners.set_backend(rule.backend);
        reply::reply(packet, tables, parsed, rule, query, departure, room)
    } else {
        Err(Reason::NoService)
    }
}
