//! IP fragments. The first one of a packet has its ports, and is treated as any packet is; what became of it
//! is noted, and the others go the same way. Fragments that come before their first are not kept, and go their way only where
//! the client's address says to whom.

use super::affinity::slot_hash;
use super::choose::{is_hairpin, keeps_flows, owner};
use super::context::{Context, Scratch};
use super::rewrite::{check_hops, fits, rewrite_addresses};
use super::{acl, arrival, forward, martian, ports, records};
use crate::flow_table::outcome::Found;
use crate::net::{Endpoint, Protocol};
use crate::packet::Packet;
use crate::packet::parse::Parsed;
use crate::reason::{Kind, Reason};
use crate::tables::{Fragment, FragmentKey, FragmentTarget, Tables, Tags};

/// Seconds for which fragments follow their first: as long as Linux puts them together
/// (`net.ipv4.ipfrag_time`, and `net.ipv6.ip6frag_time`, which is RFC 8200's).
const PATIENCE_V4: u32 = 30;
const PATIENCE_V6: u32 = 60;

/// What all fragments of a packet have in common. IPv6's may differ in what their fragment headers say
/// to follow (RFC 8200 section 4.5).
#[inline(always)]
fn key(parsed: &Parsed) -> FragmentKey {
    let protocol = if parsed.is_v4 { parsed.key.protocol } else { Protocol(0) };
    FragmentKey::new(parsed.key.source, parsed.key.destination, parsed.identification, protocol)
}

/// Notes what became of a first fragment, for those that follow it.
///
/// A call of its own in the kernel, not inlined: it is rare, and a program's stack is 512 bytes.
#[inline(never)]
pub fn note<T: Tables>(tables: &T, scratch: &mut Scratch, refused: Option<Reason>) {
    let Scratch { parsed, departure, meta, fragment, fragment_key, vip, room, .. } = scratch;
    *vip = parsed.key.destination_endpoint();
    let target = match refused {
        None if ports::at(tables, vip).is_some() => FragmentTarget::Backend,
        None => FragmentTarget::Client,
        // Later fragments to no VIP are the host's anyway.
        Some(reason) if reason.kind() == Kind::Pass && tables.is_vip(&parsed.key.destination) => {
            FragmentTarget::Host
        }
        Some(_) => return,
    };
    let backend = match target {
        FragmentTarget::Host => None,
        FragmentTarget::Backend => {
            let (Some(service), Some(settings)) = (ports::at(tables, vip), tables.settings()) else { return };
            let context = Context { tables, settings, parsed, meta };
            forward::find(&context, service, room).map(|(backend, _)| backend)
        }
        FragmentTarget::Client => match records::of_backend(tables, &parsed.key, room) {
            Found::Record => Some(room.record.backend()),
            _ => ports::reply(tables, &parsed.key).map(|rule| rule.backend),
        },
    };
    let index = backend.unwrap_or_default();
    if target == FragmentTarget::Backend {
        // By which it is known again, in the modes too that leave the packet's addresses as they are.
        let Some(backend) = tables.backend(index) else { return };
        departure.key.destination = backend.address;
    }
    *fragment_key = key(parsed);
    *fragment = Fragment {
        source: departure.key.source,
        destination: departure.key.destination,
        backend: index,
        seen: tables.now(),
        source_port: parsed.key.source_port,
        destination_port: parsed.key.destination_port,
        target: target.into(),
        protocol: parsed.key.protocol,
        padding: 0,
        ifindex: departure.ifindex,
        tags: departure.tags,
        destination_mac: departure.destination_mac,
        source_mac: departure.source_mac,
    };
    // Where there is no room, the later ones are dropped, and say so.
    let _ = tables.put_fragment(fragment_key, fragment);
}

/// How a later fragment goes after its first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// To a backend, as it is.
    Deliver,
    /// With other addresses.
    Rewrite,
}

/// Finds where a later fragment's first went.
///
/// Like the step that follows, a call of its own in the kernel, as above.
#[inline(never)]
pub fn find<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<Treatment, Reason> {
    let Scratch { parsed, fragment, fragment_key, .. } = &mut *scratch;
    *fragment_key = key(parsed);
    let patience = if parsed.is_v4 { PATIENCE_V4 } else { PATIENCE_V6 };
    if tables.fragment(fragment_key, fragment).is_none()
        || tables.now().saturating_sub(fragment.seen) > patience
    {
        if !tables.is_vip(&parsed.key.destination) {
            return Err(Reason::Fragment);
        }
        note_without_first(tables, scratch)?;
    }
    let Scratch { parsed, departure, meta, fragment, vip, backend: index, .. } = scratch;
    if fragment.target == FragmentTarget::Host {
        return Err(Reason::Fragment);
    }
    check_hops(parsed)?;
    *index = fragment.backend;
    departure.key.source = fragment.source;
    departure.key.destination = fragment.destination;
    departure.ifindex = fragment.ifindex;
    departure.tags = fragment.tags;
    departure.source_mac = fragment.source_mac;
    departure.destination_mac = fragment.destination_mac;
    if fragment.target == FragmentTarget::Client {
        // The answers to checks are nobody's.
        if index.0 != 0 {
            arrival::check(tables, parsed, *index)?;
        }
        return Ok(Treatment::Rewrite);
    }
    meta.aimed.set(*index);
    // With the ports, it is the same flow, and its tunnel the same.
    parsed.key.source_port = fragment.source_port;
    parsed.key.destination_port = fragment.destination_port;
    parsed.key.protocol = fragment.protocol;
    *vip = parsed.key.destination_endpoint();
    let service = ports::at(tables, vip).ok_or(Reason::FragmentWithoutFirst)?;
    let backend = tables.backend(*index).ok_or(Reason::Internal)?;
    // The place may be another's by now, or its backend down.
    if (backend.address != fragment.destination) | !keeps_flows(service, backend) {
        return Err(Reason::BackendUnusable);
    }
    if service.mode.keeps_addresses() {
        return Ok(Treatment::Deliver);
    }
    if !fits(parsed.ip_length, 0, backend) {
        return Err(Reason::TooBig);
    }
    Ok(Treatment::Rewrite)
}

/// Makes the note of a first fragment that has not come: where one service has all of the VIP's packets of the protocol,
/// and its settled slots go by the client's address, all of a client's packets go to one backend.
///
/// A call of its own in the kernel, as above.
#[inline(never)]
fn note_without_first<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<(), Reason> {
    let Scratch { parsed, fragment, vip, .. } = scratch;
    let key = &parsed.key;
    let port = tables.sole_port(&key.destination, key.protocol).ok_or(Reason::FragmentWithoutFirst)?;
    *vip = Endpoint::new(key.destination, port, key.protocol);
    let service = ports::at(tables, vip).ok_or(Reason::FragmentWithoutFirst)?;
    let goes_by_client = (service.affinity_bits != 0) & (service.server_id_length == 0);
    if !goes_by_client || service.records_flows() {
        return Err(Reason::FragmentWithoutFirst);
    }
    martian::check(tables, parsed)?;
    acl::check_source(tables, service, &key.source)?;
    let hash = slot_hash(tables.settings().ok_or(Reason::Internal)?, service, key);
    let (index, backend) = owner(tables, service, hash).ok_or(Reason::FragmentWithoutFirst)?;
    // Its packets leave from an address of this host, by their flow's record.
    if is_hairpin(service, backend, parsed) {
        return Err(Reason::FragmentWithoutFirst);
    }
    *fragment = Fragment {
        source: key.source,
        destination: backend.address,
        backend: index,
        seen: 0,
        source_port: key.source_port,
        destination_port: port,
        target: FragmentTarget::Backend.into(),
        protocol: key.protocol,
        padding: 0,
        ifindex: backend.ifindex,
        tags: Tags::vlan(backend.vlan),
        destination_mac: backend.destination_mac,
        source_mac: backend.source_mac,
    };
    Ok(())
}

/// Sends a later fragment off with the addresses that its first left with, and counts it.
#[inline(never)]
pub fn send<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Result<(), Reason> {
    let Scratch { parsed, departure, fragment, backend, .. } = scratch;
    let bytes = packet.length() as u64;
    rewrite_addresses(packet, parsed, departure)?;
    let mut traffic = tables.traffic(*backend).ok_or(Reason::Internal)?;
    if fragment.target == FragmentTarget::Backend {
        traffic.forwarded(bytes, false);
    } else {
        traffic.replied(bytes);
    }
    Ok(())
}
