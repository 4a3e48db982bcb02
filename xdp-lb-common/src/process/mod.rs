//! The datapath: what happens to every packet. The same code runs in the kernel and on the host.

mod affinity;
mod answer;
mod arrival;
mod check;
pub mod decap;
mod depart;
mod encapsulate;
mod fast_path;
mod forward;
mod fragments;
mod guard;
pub mod handover;
mod icmp;
mod icmp_answer;
mod icmp_error;
mod martian;
mod mss;
mod own_address;
mod pair;
mod ports;
mod quic;
mod reply;
mod rewrite;
mod roles;
mod room;
mod tcp_reset;

pub use self::affinity::slot_hash;
pub use self::check::send_check;
pub use self::encapsulate::GUE_PORT;
pub use self::forward::records_flows;
use self::fragments::Course;
use self::icmp_answer::Message;
use self::icmp_error::About;
use self::rewrite::Departure;
use core::cell::Cell;

use crate::filter::VIP;
use crate::flow::{Direction, advance};
use crate::net::Endpoint;
use crate::own_mac::is_for_this_host;
use crate::packet::Packet;
use crate::parse::{self, Parsed, parse, parse_quoted};
use crate::reason::{Kind, Reason};
use crate::tables::{BackendIndex, FlowKey, Fragment, FragmentKey, RouteQuery, Settings, Tables};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The host's own network stack gets it; it is unchanged, but for [`Reason::HandedToHost`].
    Pass(Reason),
    /// It ends here.
    Drop(Reason),
    /// It, or an answer in its place, leaves through the interface that it came in by.
    Transmit,
    /// It leaves through the interface of this index.
    Redirect(u32),
}

/// Room for what is known of the packet in hand; what it held before does not matter. In the kernel
/// it lies in a map: a program's stack is 512 bytes.
#[derive(Default)]
pub struct Scratch {
    parsed: Parsed,
    /// The packet that an ICMP error quotes.
    quoted: Parsed,
    /// The addresses and ports that the receiver of the error knows that packet by.
    requoted: FlowKey,
    /// The service and the backend of the flow that an error is about, or a fragment of.
    vip: Endpoint,
    backend: BackendIndex,
    /// What a packet's fragments have in common.
    fragment_key: FragmentKey,
    /// What becomes of them.
    fragment: Fragment,
    departure: Departure,
    /// Why the packet goes no further.
    refused: Option<Reason>,
    /// What its sender is told.
    message: Message,
    /// What the routing table is asked.
    query: RouteQuery,
    moment: Moment,
    /// Whose the packet's addresses may be.
    roles: u8,
}

/// What a client's packet brings besides its headers. In the scratch: each value that the verifier knew would be another
/// way through all that follows.
#[derive(Default)]
struct Moment {
    /// When it came, seconds of the monotonic clock; read where a flow's record is looked for.
    now: Cell<u32>,
    /// How far a flow has come that begins with it.
    progress: u8,
    /// The backend that its QUIC connection id names; 0: none.
    named: BackendIndex,
    /// How many slots lie between the one of its hash and the first whose owner has room for the flow.
    skipped: u32,
    /// The backend whose way is to be looked at before the packet leaves; 0: none.
    aimed: Cell<BackendIndex>,
}

/// Takes one packet from its arrival to its verdict, and counts it. Most packets need no scratch: it is asked for
/// where one does.
#[inline(always)]
pub fn process<'s, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Verdict {
    let roles = roles::roles(packet, tables);
    if roles == 0 {
        return conclude(tables, Reason::NoService);
    }
    if roles == VIP {
        let ifindex = fast_path::fast_path(packet, tables);
        if ifindex != 0 {
            return leave_by(ifindex, packet.ingress());
        }
    }
    slow_path(packet, tables, roles, scratch)
}

/// The same without the [fast path](fast_path), for comparison.
pub fn process_slow_path<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Verdict {
    let roles = roles::roles(packet, tables);
    if roles == 0 {
        return conclude(tables, Reason::NoService);
    }
    slow_path(packet, tables, roles, || Some(scratch))
}

/// For packets that are ours, as each caller has seen: were it looked at here, the compiler would make all that follows once
/// for each of the roles.
#[inline(always)]
fn slow_path<'s, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    roles: u8,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Verdict {
    let Some(scratch) = scratch() else { return conclude(tables, Reason::Internal) };
    scratch.roles = roles;
    match balance(packet, tables, scratch) {
        Ok(verdict) => verdict,
        Err(reason) => {
            scratch.refused = Some(reason);
            verdict(answer::end(packet, tables, scratch))
        }
    }
}

/// Counts why a packet is not forwarded, and says what becomes of it.
#[inline(always)]
fn conclude<T: Tables>(tables: &T, reason: Reason) -> Verdict {
    tables.count(reason);
    verdict(reason)
}

/// What becomes of a packet that is not forwarded.
#[inline(always)]
fn verdict(reason: Reason) -> Verdict {
    match reason.kind() {
        Kind::Pass => Verdict::Pass(reason),
        Kind::Drop => Verdict::Drop(reason),
        Kind::Answer => Verdict::Transmit,
    }
}

/// What the steps of one packet's way have in common. It lies on the program's stack under all calls, which have what is
/// left of 512 bytes, and on kernels before 6.8 in frames rounded up to 32.
struct Context<'t, T> {
    tables: &'t T,
    settings: &'t Settings,
    parsed: &'t Parsed,
    moment: &'t Moment,
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
    scratch.moment.aimed.set(BackendIndex(0));
    if scratch.parsed.kind == parse::Kind::Icmp {
        if icmp::icmp(packet, tables, scratch)? == icmp::Message::Error {
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
                depart::deliver(packet, tables, scratch)?;
            } else {
                icmp_error::send(packet, tables, scratch, about)?;
            }
        }
    } else if scratch.parsed.kind == parse::Kind::LaterFragment {
        if fragments::find(tables, scratch)? == Course::Deliver {
            depart::deliver(packet, tables, scratch)?;
        } else {
            fragments::send(packet, tables, scratch)?;
        }
    } else {
        let steered = steer(packet, tables, scratch);
        if scratch.parsed.kind == parse::Kind::FirstFragment {
            fragments::note(tables, scratch, steered.err());
        }
        steered?;
    }
    if scratch.moment.aimed.get().0 != 0 {
        handover::freshen(packet, tables, scratch)?;
    }
    if scratch.departure.ifindex == 0 {
        return Err(Reason::HandedToHost);
    }
    Ok(leave_by(scratch.departure.ifindex, scratch.parsed.ingress))
}

/// By which interface a packet leaves.
#[inline(always)]
fn leave_by(ifindex: u32, ingress: u32) -> Verdict {
    if ifindex == ingress { Verdict::Transmit } else { Verdict::Redirect(ifindex) }
}

/// Takes a packet of a flow to its departure.
#[inline(always)]
fn steer<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Result<(), Reason> {
    let Scratch { parsed, departure, query, moment, roles, .. } = scratch;
    let parsed = &*parsed;
    if *roles & VIP != 0
        && let Some(service) = ports::service(tables, &parsed.key)
    {
        let settings = tables.settings().ok_or(Reason::Internal)?;
        moment.progress = advance(0, Direction::Forward, parsed.tcp_flags);
        moment.named = quic::named(packet, tables, service, parsed)?;
        moment.skipped = 0;
        if room::counts_flows(service) {
            room::find(tables, service, parsed, moment)?;
        }
        let context = Context { tables, settings, parsed, moment };
        forward::forward(packet, &context, service, departure)
    } else if let Some(rule) = ports::reply(tables, &parsed.key) {
        reply::reply(packet, tables, parsed, rule, query, departure)
    } else {
        Err(Reason::NoService)
    }
}
