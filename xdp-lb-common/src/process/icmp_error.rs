//! ICMP errors about a flow (RFC 5508 section 4 says what a NAT does with them): path MTU discovery and
//! "port unreachable" work through the load balancer as if it were not there.
//!
//! An error quotes the packet that it is about, as that packet was where the error was made. Towards a
//! backend, and towards a client, the quote becomes that packet as its sender knows it, and all checksums
//! follow: those of the quote, where it is long enough to have them, and ICMP's own, which covers it.
//! Nothing about the quote is trusted; no record is made or kept alive by an error.

use super::context::{Context, Scratch};
use super::forward::find;
use super::rewrite::{Departure, check_hops, ethertype, rewrite_ip, write_ethernet};
use super::{arrival, martian, ports, records, reply};
use crate::flow_table::outcome::Found;
use crate::net::{Be16, Be32, Port, Protocol};
use crate::packet::checksum::Change;
use crate::packet::headers::{
    ICMP_FRAGMENTATION_NEEDED, ICMP_UNREACHABLE, ICMPV6_PACKET_TOO_BIG, Icmp, Ipv4, Ipv6, checksum_offset,
};
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{BackendIndex, FlowKey, Tables};

/// Whose packet an ICMP error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One that a VIP sent to a client: a backend's.
    Backend,
    /// One that was sent to a backend: a client's.
    Client,
}

/// Says whose packet the error quotes, once that is read.
///
/// Like the steps that follow, a call of its own in the kernel, not inlined, and one that leaves what it
/// finds in the scratch: a program's stack is 512 bytes, and all calls under way share it.
#[inline(never)]
pub fn about<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<About, Reason> {
    let Scratch { parsed, quoted, vip, .. } = scratch;
    // An error goes to the sender of the packet that it quotes.
    if parsed.key.destination != quoted.key.source {
        return Err(Reason::NotTcpOrUdp);
    }
    *vip = quoted.key.source_endpoint();
    let about = if ports::at(tables, vip).is_some() {
        About::Backend
    } else if ports::is_to_backend(tables, &quoted.key) {
        About::Client
    } else {
        return Err(Reason::NotTcpOrUdp);
    };
    martian::check(tables, parsed)?;
    Ok(about)
}

/// The smallest MTU that a backend is told, bytes of IP: IPv6's least (RFC 8200 section 5), of IPv4 too. A backend of
/// `full-nat` knows all clients by one address, so what one of them says holds for all.
const LEAST_MTU: u16 = 1280;

/// "Fragmentation needed" (RFC 1191 section 4) and "packet too big" (RFC 4443 section 3.2), which have the MTU in the last
/// 16 bits of their header.
#[inline(always)]
fn tells_mtu(is_v4: bool, message: &Icmp) -> bool {
    if is_v4 {
        message.kind == ICMP_UNREACHABLE && message.code == ICMP_FRAGMENTATION_NEEDED
    } else {
        message.kind == ICMPV6_PACKET_TOO_BIG
    }
}

/// Sees to it that an error does not tell a backend a smaller MTU than [`LEAST_MTU`].
#[inline(never)]
pub fn bound_mtu<P: Packet>(packet: &mut P, parsed: &Parsed) -> Result<(), Reason> {
    // Else LLVM makes arguments of the packet's two ends, 32 bits wide, which the verifier takes for no pointers.
    let packet = core::hint::black_box(packet);
    let mut message: Icmp = packet.read(parsed.l4).ok_or(Reason::Internal)?;
    // In IPv4 the upper half has another meaning (RFC 4884 section 4.1).
    let mtu = if parsed.is_v4 { message.rest.get() & 0xffff } else { message.rest.get() };
    if !tells_mtu(parsed.is_v4, &message) || mtu >= u32::from(LEAST_MTU) {
        return Ok(());
    }
    let mut change = Change::default();
    change.word(Be16::new(mtu as u16).word(), Be16::new(LEAST_MTU).word());
    message.rest = Be32::new(message.rest.get() & !0xffff | u32::from(LEAST_MTU));
    message.checksum = change.apply(message.checksum);
    packet.write(parsed.l4, message).ok_or(Reason::Internal)
}

/// Finds the backend whose packet is quoted, and how the error leaves for it. Says whether the backend sent that packet
/// in the VIP's name itself (`dsr`, `ipip`, `gue`), so that it gets the error as it is.
#[inline(never)]
pub fn to_backend<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<bool, Reason> {
    let Scratch { parsed, quoted, requoted, departure, meta, backend: place, vip, room, .. } = scratch;
    check_hops(parsed)?;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    let service = ports::at(tables, vip).ok_or(Reason::Internal)?;
    // The backend is the one that the client's own packets go to.
    quoted.key = quoted.key.reversed();
    // What is quoted holds no more of a packet than its ports.
    meta.named = BackendIndex(0);
    meta.skipped = 0;
    let context = Context { tables, settings, parsed: quoted, meta };
    let (index, client) = find(&context, service, room).ok_or(Reason::IcmpWithoutFlow)?;
    quoted.key = quoted.key.reversed();
    *place = index;
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    *requoted = FlowKey::new(backend.endpoint_for(&quoted.key.source_endpoint()), client);
    departure.key = requoted.reversed();
    if client.address == quoted.key.destination {
        // A backend of `full-nat` need not know a way to anybody but this host; others see who made the error.
        departure.key.source = parsed.key.source;
    }
    departure.aim(backend);
    meta.aimed.set(index);
    Ok(service.mode.keeps_addresses())
}

/// Finds the client whose packet is quoted, and how the error leaves for it: in the VIP's name, from which
/// the client's firewall expects it. Says whether the flow's record tells; else the routes do.
#[inline(never)]
pub fn to_client<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<bool, Reason> {
    let Scratch { parsed, quoted, requoted, departure, backend, room, .. } = scratch;
    check_hops(parsed)?;
    *requoted = quoted.key.reversed();
    let rule = ports::reply(tables, requoted).ok_or(Reason::Internal)?;
    *backend = rule.backend;
    if reply::may_have_record(tables, rule, requoted)
        && records::of_backend(tables, requoted, room) == Found::Record
    {
        *backend = room.record.backend();
        arrival::check(tables, parsed, *backend)?;
        reply::recorded(&room.record, departure);
        *requoted = departure.key.reversed();
        Ok(true)
    } else if rule.stateless != 0
        && rule.is_from(requoted.source_port)
        && !reply::is_of_no_flow(tables, requoted, rule, room)
    {
        Ok(false)
    } else {
        Err(Reason::NotAReply)
    }
}

/// The same, where the routes tell.
#[inline(never)]
pub fn to_client_by_route<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<(), Reason> {
    let Scratch { parsed, requoted, query, departure, .. } = scratch;
    let rule = ports::reply(tables, requoted).ok_or(Reason::Internal)?;
    reply::routed(tables, parsed, rule, requoted, parsed.ip_length, query, departure)?;
    arrival::check(tables, parsed, rule.backend)?;
    *requoted = departure.key.reversed();
    Ok(())
}

/// Sends the error off as it is to leave, and counts it.
#[inline(never)]
pub fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &Scratch,
    about: About,
) -> Result<(), Reason> {
    let Scratch { parsed, quoted, requoted, departure, backend, .. } = scratch;
    rewrite_error(packet, parsed, quoted, requoted, departure)?;
    // As received: kept over the rewriting, the number would take room on the stack.
    let bytes = (packet.length() + parsed.l3 - P::in_bytes(departure.tags).header_length()) as u64;
    let mut traffic = tables.traffic(*backend).ok_or(Reason::Internal)?;
    match about {
        About::Backend => traffic.forwarded(bytes, false),
        About::Client => traffic.replied(bytes),
    }
    Ok(())
}

/// Gives the error its new addresses, its quote those that its receiver knows, and a new Ethernet header.
#[inline(always)]
fn rewrite_error<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    quoted: &Parsed,
    requoted: &FlowKey,
    departure: &Departure,
) -> Result<(), Reason> {
    let mut addresses = Change::default();
    rewrite_ip(packet, parsed, &departure.key, &mut addresses)?;
    // ICMPv6's checksum covers the addresses, ICMP's does not.
    let mut message = if parsed.is_v4 { Change::default() } else { addresses };
    rewrite_quote(packet, quoted, requoted, &mut message)?;
    let at = parsed.l4 + 2;
    let old: Be16 = packet.read(at).ok_or(Reason::Internal)?;
    packet.write(at, message.apply(old)).ok_or(Reason::Internal)?;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), departure)
}

/// The quoted packet: its addresses, ports and checksums, and what that changes under the message's checksum.
#[inline(always)]
fn rewrite_quote<P: Packet>(
    packet: &mut P,
    quoted: &Parsed,
    new: &FlowKey,
    message: &mut Change,
) -> Result<(), Reason> {
    let key = &quoted.key;
    let mut change = Change::default();
    if quoted.is_v4 {
        let mut ip: Ipv4 = packet.read(quoted.l3).ok_or(Reason::Internal)?;
        change.v4(&key.source, &new.source);
        change.v4(&key.destination, &new.destination);
        let checksum = change.apply(ip.checksum);
        message.checksum(ip.checksum, checksum);
        ip.source = new.source.last();
        ip.destination = new.destination.last();
        ip.checksum = checksum;
        packet.write(quoted.l3, ip).ok_or(Reason::Internal)?;
    } else {
        let mut ip: Ipv6 = packet.read(quoted.l3).ok_or(Reason::Internal)?;
        change.v6(&key.source, &new.source);
        change.v6(&key.destination, &new.destination);
        ip.source = new.source.0;
        ip.destination = new.destination.0;
        packet.write(quoted.l3, ip).ok_or(Reason::Internal)?;
    }
    change.port(key.source_port, new.source_port);
    change.port(key.destination_port, new.destination_port);
    packet.write::<[Port; 2]>(quoted.l4, [new.source_port, new.destination_port]).ok_or(Reason::Internal)?;
    message.also(change);
    let is_tcp = key.protocol == Protocol::TCP;
    let at = quoted.l4 + checksum_offset(is_tcp);
    if at + size_of::<Be16>() > quoted.l3 + quoted.ip_length as usize {
        return Ok(());
    }
    let old: Be16 = packet.read(at).ok_or(Reason::Internal)?;
    let new = if is_tcp { change.apply(old) } else { change.apply_udp(old) };
    message.checksum(old, new);
    packet.write(at, new).ok_or(Reason::Internal)
}
