//! Frames, made of the fuzzer's bytes.

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};

use crate::dissect::{ICMP, ICMPV6, dissect, sum};
use crate::world::{BACKENDS, CLIENTS, OWN, VIPS, World, address, mac, port, protocol, server_id_bytes};

/// A frame towards the tables' services, from one of their backends, from or to anybody; whole or damaged.
pub fn any(u: &mut Unstructured<'_>, world: &World) -> Result<Vec<u8>> {
    if u.ratio(1, 16)? {
        let length = u.int_in_range(0..=200)?;
        return Ok(u.bytes(length.min(u.len()))?.to_vec());
    }
    let (source, destination) = ends(u, world)?;
    let mut frame = match u.int_in_range(0..=7)? {
        0 => echo(u, source, destination)?,
        1 => icmp_error(u, world)?,
        2 => quic(u, world, source, destination)?,
        _ => between(u, source, destination)?,
    };
    damage(u, &mut frame)?;
    Ok(frame)
}

/// Changes some bytes, or cuts some off; mostly neither.
fn damage(u: &mut Unstructured<'_>, frame: &mut Vec<u8>) -> Result<()> {
    if u.ratio(1, 4)? {
        for _ in 0..u.int_in_range(1..=4)? {
            let place = u.choose_index(frame.len())?;
            frame[place] = u.arbitrary()?;
        }
    }
    if u.ratio(1, 8)? {
        frame.truncate(u.int_in_range(0..=frame.len())?);
    }
    Ok(())
}

/// A packet in another, as it comes to a backend of `ipip` or `gue`, whole or damaged.
pub fn tunnelled(u: &mut Unstructured<'_>, gue_port: u16) -> Result<Vec<u8>> {
    let (is_v6, protocol) = (u.arbitrary()?, protocol(u)?);
    let client = Endpoint::new(address(u, &CLIENTS, is_v6)?, port(u)?, protocol);
    let vip = Endpoint::new(address(u, &VIPS, is_v6)?, port(u)?, protocol);
    let mut inside = between(u, client, vip)?;
    if u.ratio(1, 4)? {
        damage(u, &mut inside)?;
    }
    let ip = inside.get(dissect(&inside).map_or(14, |found| found.l3)..).unwrap_or_default();
    let number = if is_v6 { 41 } else { 4 };
    let gue = match u.int_in_range(0..=3)? {
        0 | 1 => None,
        // Variant 1: nothing between UDP and the packet.
        2 => Some(Vec::new()),
        // Variant 0: a header, and private data.
        _ => {
            let words = u.int_in_range(0..=3)?;
            let flags = if u.ratio(1, 8)? { u.arbitrary()? } else { [0, 0] };
            let mut header = vec![words, number, flags[0], flags[1]];
            header.resize(4 + usize::from(words) * 4, 0);
            Some(header)
        }
    };
    let (protocol, payload) = match gue {
        None => (Protocol(number), ip.to_vec()),
        Some(header) => {
            let length = (8 + header.len() + ip.len()) as u16;
            let mut payload = u.arbitrary::<[u8; 2]>()?.to_vec();
            payload.extend(gue_port.to_be_bytes());
            payload.extend(length.to_be_bytes());
            payload.extend([0, 0]);
            payload.extend(header);
            payload.extend(ip);
            (Protocol::UDP, payload)
        }
    };
    let is_v6 = u.arbitrary()?;
    let from = Endpoint::new(address(u, &OWN, is_v6)?, Port::new(0), protocol);
    let to = Endpoint::new(address(u, &BACKENDS, is_v6)?, Port::new(0), protocol);
    let mut frame = around(u, from, to, payload)?;
    damage(u, &mut frame)?;
    Ok(frame)
}

/// Who it comes from, and who it goes to.
fn ends(u: &mut Unstructured<'_>, world: &World) -> Result<(Endpoint, Endpoint)> {
    let client = |u: &mut Unstructured<'_>, like: &Endpoint| {
        Ok(Endpoint::new(address(u, &CLIENTS, !like.address.is_v4())?, port(u)?, like.protocol))
    };
    Ok(match u.int_in_range(0..=9)? {
        // To a service.
        0..=4 => {
            let (vip, service) = u.choose(&world.services)?;
            (client(u, vip)?, world.any_port(u, vip, service)?)
        }
        // As a flow that is recorded: either way.
        5 | 6 if !world.flows().is_empty() => {
            let flows = world.flows();
            let record = u.choose(&flows)?;
            if u.arbitrary()? {
                (record.client(), record.vip())
            } else {
                (record.destination(), record.source())
            }
        }
        // From a backend.
        7 | 8 => {
            let backend = u.choose(&world.tables.backends[1..])?;
            let protocol = protocol(u)?;
            let backend = world.any_end(u, backend, protocol)?;
            let own = Endpoint::new(address(u, &OWN, !backend.address.is_v4())?, port(u)?, backend.protocol);
            let client = client(u, &backend)?;
            (backend, if u.arbitrary()? { own } else { client })
        }
        // Of a check that goes to a VIP, or the answer to one.
        _ if !world.tables.checks.is_empty() && u.arbitrary()? => {
            let mut checks: Vec<_> = world.tables.checks.keys().copied().collect();
            checks.sort();
            let key = u.choose(&checks)?;
            let key = if u.arbitrary()? { *key } else { key.reversed() };
            (key.source_endpoint(), key.destination_endpoint())
        }
        _ => {
            let (is_v6, protocol) = (u.arbitrary()?, protocol(u)?);
            let any = |u: &mut Unstructured<'_>| -> Result<Endpoint> {
                let address = match u.int_in_range(0..=3)? {
                    0 => address(u, &CLIENTS, is_v6)?,
                    1 => address(u, &BACKENDS, is_v6)?,
                    2 => address(u, &VIPS, is_v6)?,
                    _ => address(u, &OWN, is_v6)?,
                };
                Ok(Endpoint::new(address, port(u)?, protocol))
            };
            (any(u)?, any(u)?)
        }
    })
}

/// A whole frame of TCP or UDP from one end to another.
pub fn between(u: &mut Unstructured<'_>, source: Endpoint, destination: Endpoint) -> Result<Vec<u8>> {
    let length = u.int_in_range(0..=40)?;
    let payload = u.bytes(length.min(u.len()))?;
    let transport = transport(u, source, destination, payload)?;
    around(u, source, destination, transport)
}

/// A packet whose connection id names a backend, or nearly does; where it is for no QUIC service, any other.
fn quic(u: &mut Unstructured<'_>, world: &World, source: Endpoint, destination: Endpoint) -> Result<Vec<u8>> {
    let Some(service) = world.service_at(&destination).filter(|service| service.server_id_length != 0) else {
        return between(u, source, destination);
    };
    let place: u8 = u.int_in_range(1..=world.tables.backends.len() as u8)?;
    let config = if u.ratio(1, 8)? { u.arbitrary()? } else { service.quic_config << 5 };
    let mut id = vec![config];
    id.extend(&server_id_bytes(place)[..usize::from(service.server_id_length).min(15)]);
    let mut payload = if u.arbitrary()? {
        // A long header: its first byte, the version, and how long the connection id is.
        vec![0xc3, 0, 0, 0, 1, id.len() as u8]
    } else {
        vec![0x43]
    };
    payload.extend(id);
    let rest = if u.ratio(1, 8)? { u.int_in_range(0..=20)? } else { 20 };
    payload.resize(payload.len() + rest, 7);
    let transport = transport(u, source, destination, &payload)?;
    around(u, source, destination, transport)
}

/// An echo request or reply.
fn echo(u: &mut Unstructured<'_>, source: Endpoint, destination: Endpoint) -> Result<Vec<u8>> {
    let kind = *u.choose(if source.address.is_v4() { &[8, 8, 8, 0] } else { &[128, 128, 128, 129] })?;
    let mut message = vec![kind, 0, 0, 0];
    let length = u.int_in_range(4..=40)?;
    message.extend(u.bytes(length.min(u.len()))?);
    icmp(u, source, destination, message)
}

/// An error about a packet: about one that the load balancer sent, where there are flows.
fn icmp_error(u: &mut Unstructured<'_>, world: &World) -> Result<Vec<u8>> {
    let (mut source, mut destination) = ends(u, world)?;
    let flows = world.flows();
    if !flows.is_empty() && !u.ratio(1, 4)? {
        let record = u.choose(&flows)?;
        (source, destination) = if u.arbitrary()? {
            (record.source(), record.destination())
        } else {
            (record.vip(), record.client())
        };
    }
    let about = between(u, source, destination)?;
    let Some(found) = dissect(&about) else { return Ok(about) };
    let kinds: &[[u8; 2]] = if source.address.is_v4() {
        &[[3, 4], [3, 1], [3, 3], [11, 0], [12, 0], [5, 0]]
    } else {
        &[[2, 0], [1, 0], [1, 4], [3, 0], [4, 1], [137, 0]]
    };
    let mut message = u.choose(kinds)?.to_vec();
    message.extend([0, 0, 0, 0]);
    message.extend(u.arbitrary::<[u8; 2]>()?);
    // A router quotes as much as it likes.
    let most = found.end - found.l3;
    let quoted = if u.arbitrary()? { most } else { u.int_in_range(0..=most)? };
    message.extend(&about[found.l3..found.l3 + quoted]);
    let is_v6 = !source.address.is_v4();
    let from = match u.int_in_range(0..=2)? {
        0 => address(u, &CLIENTS, is_v6)?,
        1 => address(u, &BACKENDS, is_v6)?,
        _ => destination.address,
    };
    icmp(u, Endpoint::new(from, destination.port, source.protocol), source, message)
}

fn icmp(u: &mut Unstructured<'_>, from: Endpoint, to: Endpoint, message: Vec<u8>) -> Result<Vec<u8>> {
    let number = Protocol(if from.address.is_v4() { ICMP } else { ICMPV6 });
    around(u, Endpoint::new(from.address, from.port, number), to, message)
}

/// A whole frame with this in it, and with all that may stand around the headers.
fn around(
    u: &mut Unstructured<'_>,
    source: Endpoint,
    destination: Endpoint,
    transport: Vec<u8>,
) -> Result<Vec<u8>> {
    let mut frame = [mac(2).octets(), mac(1).octets()].concat();
    for _ in 0..*u.choose(&[0, 0, 0, 0, 1, 2, 3])? {
        let ethertype: u16 = if u.arbitrary()? { 0x8100 } else { 0x88a8 };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(u.arbitrary::<[u8; 2]>()?);
    }
    let protocol = if u.ratio(1, 16)? { u.arbitrary()? } else { source.protocol.0 };
    let l3 = frame.len() + 2;
    match (plain(&source.address), plain(&destination.address)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let options = if u.ratio(1, 4)? { u.int_in_range(0..=10)? } else { 0 };
            let fragment: u16 = if u.ratio(1, 16)? { u.arbitrary()? } else { 0x4000 };
            frame.extend(0x0800_u16.to_be_bytes());
            frame.extend([0x45 + options as u8, u.arbitrary()?]);
            frame.extend(((20 + options * 4 + transport.len()) as u16).to_be_bytes());
            frame.extend(u.arbitrary::<[u8; 2]>()?);
            frame.extend(fragment.to_be_bytes());
            frame.extend([hops(u)?, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            for _ in 0..options {
                frame.extend(u.arbitrary::<[u8; 4]>()?);
            }
            let checksum = checksum(sum(&frame[l3..]));
            frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let (first, extensions) = extensions(u, protocol)?;
            frame.extend(0x86dd_u16.to_be_bytes());
            frame.extend([0x60, u.arbitrary()?, u.arbitrary()?, u.arbitrary()?]);
            frame.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
            frame.extend([first, hops(u)?]);
            frame.extend(octets(source));
            frame.extend(octets(destination));
            frame.extend(extensions);
        }
    }
    frame.extend(transport);
    seal(u, &mut frame)?;
    if u.ratio(1, 8)? {
        let padding = u.int_in_range(0..=20)?;
        frame.extend(u.bytes(padding.min(u.len()))?);
    }
    Ok(frame)
}

/// The fragments of a frame's packet, some of them perhaps; the frame itself, where it cannot be cut.
pub fn fragments(u: &mut Unstructured<'_>, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
    let Some(found) = dissect(frame).filter(|found| !found.piece.is_fragment()) else {
        return Ok(vec![frame.to_vec()]);
    };
    let is_v4 = found.source.is_ipv4();
    let (start, payload) = frame[..found.end].split_at(if is_v4 { found.l4 } else { found.l3 + 40 });
    let size = u.int_in_range(1..=6)? * 8;
    let mut fragments = Vec::new();
    for (place, part) in payload.chunks(size).enumerate() {
        let more = (place + 1) * size < payload.len();
        let mut fragment = start.to_vec();
        let l3 = found.l3;
        if is_v4 {
            let word = (place * size / 8) as u16 | if more { 0x2000 } else { 0 };
            let total = (start.len() - l3 + part.len()) as u16;
            fragment[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
            fragment[l3 + 6..l3 + 8].copy_from_slice(&word.to_be_bytes());
            fragment[l3 + 10..l3 + 12].fill(0);
            let checksum = checksum(sum(&fragment[l3..]));
            fragment[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            fragment[l3 + 4..l3 + 6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            let next = std::mem::replace(&mut fragment[l3 + 6], 44);
            fragment.extend([next, 0]);
            fragment.extend(((place * size) as u16 | u16::from(more)).to_be_bytes());
            fragment.extend(7u32.to_be_bytes());
        }
        fragment.extend(part);
        if !u.ratio(1, 8)? {
            fragments.push(fragment);
        }
    }
    Ok(fragments)
}

fn plain(address: &Address) -> IpAddr {
    IpAddr::from(*address)
}

fn hops(u: &mut Unstructured<'_>) -> Result<u8> {
    if u.ratio(1, 8)? { u.arbitrary() } else { Ok(64) }
}

/// A TCP or UDP header and its payload, the checksum still to be set.
fn transport(
    u: &mut Unstructured<'_>,
    source: Endpoint,
    destination: Endpoint,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let is_large = u.ratio(1, 16)?;
    let mut bytes = [source.port.get().to_be_bytes(), destination.port.get().to_be_bytes()].concat();
    if source.protocol == Protocol::TCP {
        bytes.extend(u.arbitrary::<[u8; 8]>()?);
        let options = if u.ratio(1, 4)? { u.int_in_range(0..=10)? } else { 0 };
        let flags = *u.choose(&[0x02, 0x10, 0x18, 0x11, 0x04, 0x14, 0x12, 0x01, 0xff])?;
        bytes.extend([0x50 + (options << 4), flags, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend(std::iter::repeat_n(1, usize::from(options) * 4));
    } else {
        // A datagram may be shorter than what IP carries.
        let length = 8 + payload.len() + if is_large { 1300 } else { 0 }
            - if u.ratio(1, 16)? { payload.len().min(3) } else { 0 };
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend(payload);
    if is_large {
        bytes.resize(bytes.len() + 1300, 0);
    }
    Ok(bytes)
}

/// Some IPv6 extension headers, and the number of the first (RFC 8200 section 4).
fn extensions(u: &mut Unstructured<'_>, protocol: u8) -> Result<(u8, Vec<u8>)> {
    let mut first = protocol;
    let mut bytes = Vec::new();
    for _ in 0..if u.ratio(1, 4)? { u.int_in_range(1..=5)? } else { 0 } {
        let number = *u.choose(&[0, 43, 60, 60, 44, 51])?;
        let words = if number == 44 { 0 } else { u.int_in_range(0..=2)? };
        let mut header = vec![first, words];
        header.resize(8 * (usize::from(words) + 1), 0);
        if number == 43 {
            header[3] = u8::from(u.ratio(1, 4)?);
        }
        bytes.splice(..0, header);
        first = number;
    }
    Ok((first, bytes))
}

/// Sets the checksum of a TCP, UDP or ICMP packet: the right one, mostly; none, or a wrong one.
fn seal(u: &mut Unstructured<'_>, frame: &mut [u8]) -> Result<()> {
    let Some(found) = dissect(frame) else { return Ok(()) };
    let (at, right) = match found.transport(frame) {
        Some(transport) => (transport.checksum, found.transport_error(frame, &transport)),
        None if found.is_icmp() => (found.l4 + 2, found.icmp_error(frame)),
        None => return Ok(()),
    };
    let value = match u.int_in_range(0..=7)? {
        0 => 0,
        1 => u.arbitrary()?,
        _ => checksum(u64::from(right)),
    };
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// The checksum over words of this sum; never 0, which for UDP is none: 0xffff is the same number.
fn checksum(sum: u64) -> u16 {
    !((sum % 0xffff) as u16)
}
