//! Packets that the host's neighbour table is to send: those whose next hop's Ethernet address is not known, and, without a
//! daemon that keeps them up to date, now and then one of the others.
//!
//! The packet is as it is to leave, but for its Ethernet addresses. They say that, and where to, and the packet is passed to the
//! host. There the program at TC ingress meets it before anybody else, and has the kernel resolve the neighbour, keep the
//! packet meanwhile, and send it (`bpf_redirect_neigh`, 5.10). Passed on without that it would be dropped: its source, a VIP, is
//! an address of this host (a martian source, RFC 1812 section 5.3.7).
//!
//! Nobody on the wire can make such a frame: most of the addresses is a random number, which never leaves the host.

use super::context::Scratch;
use super::rewrite::{Departure, write_ethernet};
use crate::net::{Address, Be16, MacAddress};
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{Backend, BackendIndex, Route, SILENCE, Settings, Tables, Tags};

/// Set in what a mark says where that is a backend's place, and no interface's index.
const IS_BACKEND: u32 = 1 << 31;

/// Of so many packets to a backend on one CPU, one looks for the daemon's heartbeat.
const LOOK_EVERY: u64 = 64;

/// Without a daemon, of each second or so (2^30 ns) so much is sent by the neighbour table, though its addresses are known
/// (2^24 ns, 1.6 %): the kernel verifies only those that it uses itself.
const PERIOD: u64 = 1 << 30;
const PART: u64 = 1 << 24;

/// Who is to send a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The interface of this index, to the next hop that the routes have for the packet.
    Interface(u32),
    /// Whichever leads to the backend in this place.
    Backend(BackendIndex),
}

/// Bits of [`Settings::handover`] that have to be 0, and those that have to be 1: both addresses are locally administered, and
/// no group's (IEEE 802, the two lowest bits of the first byte).
pub const CLEAR: u64 = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 1, 0]);
/// See [`CLEAR`].
pub const SET: u64 = u64::from_ne_bytes([2, 0, 0, 0, 0, 0, 2, 0]);

/// Has a packet leave so that the program at TC ingress sends it there.
#[inline(always)]
fn mark(departure: &mut Departure, settings: &Settings, target: Target) {
    let [a, b, c, d, e, f, g, h] = settings.handover.to_ne_bytes();
    let target = match target {
        Target::Interface(index) => index,
        Target::Backend(BackendIndex(index)) => index | IS_BACKEND,
    };
    let [i, j, k, l] = target.to_ne_bytes();
    departure.ifindex = 0;
    departure.tags = Tags::default();
    departure.destination_mac = MacAddress::new([a, b, c, d, e, f]);
    departure.source_mac = MacAddress::new([g, h, i, j, k, l]);
}

/// Where this frame is to be sent, if it bears the mark.
#[inline(always)]
pub fn target<P: Packet>(packet: &P, settings: &Settings) -> Option<Target> {
    let words: [u16; 6] = packet.read(0)?;
    let bytes = |word: u16| word.to_ne_bytes();
    let ([a, b], [c, d], [e, f], [g, h]) =
        (bytes(words[0]), bytes(words[1]), bytes(words[2]), bytes(words[3]));
    let is_marked = u64::from_ne_bytes([a, b, c, d, e, f, g, h]) == settings.handover;
    if settings.handover == 0 || !is_marked {
        return None;
    }
    let ([i, j], [k, l]) = (bytes(words[4]), bytes(words[5]));
    let target = u32::from_ne_bytes([i, j, k, l]);
    Some(if target & IS_BACKEND == 0 {
        Target::Interface(target)
    } else {
        Target::Backend(BackendIndex(target & !IS_BACKEND))
    })
}

/// Has a packet leave by an interface behind which its next hop is not known.
///
/// A call of its own in the kernel, not inlined: it is rare, and a program's stack is 512 bytes.
#[inline(never)]
pub fn by_interface<T: Tables>(tables: &T, departure: &mut Departure, ifindex: u32) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if settings.handover == 0 {
        return Err(Reason::ReplyNeighbourMissing);
    }
    mark(departure, settings, Target::Interface(ifindex));
    Ok(())
}

/// Whether the way to a backend is to be looked at, of which so many packets were forwarded.
#[inline(always)]
pub fn is_due(settings: &Settings, packets: u64) -> bool {
    (settings.alone != 0) | packets.is_multiple_of(LOOK_EVERY)
}

/// Whether no daemon keeps next hops up to date, as far as the packet after so many has to know.
#[inline(always)]
pub fn is_alone<T: Tables>(tables: &T, settings: &Settings, packets: u64) -> bool {
    settings.alone != 0 || packets.is_multiple_of(LOOK_EVERY) && is_silent(tables, settings)
}

/// Whether the daemon has let no heartbeat come for too long.
#[inline(always)]
fn is_silent<T: Tables>(tables: &T, settings: &Settings) -> bool {
    settings.heartbeat != 0 && tables.now().saturating_sub(settings.heartbeat) >= SILENCE
}

/// Has a packet that is ready to leave for a backend (`PacketMeta::aimed`) leave by the way that the kernel knows, where no daemon
/// keeps the one in the tables up to date.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
pub fn freshen<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    let Scratch { parsed, departure, meta, .. } = scratch;
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if settings.alone == 0 {
        if !is_silent(tables, settings) {
            return Ok(());
        }
        tables.set_alone();
    }
    let index = meta.aimed.get();
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    let l3 = P::in_bytes(departure.tags).header_length();
    let is_resolved = match tables.way(backend, parsed.ingress) {
        Route::Via { ifindex, tags, source_mac, destination_mac } => {
            departure.ifindex = ifindex;
            departure.tags = tags;
            departure.source_mac = source_mac;
            departure.destination_mac = destination_mac;
            tables.nanoseconds() % PERIOD >= PART
        }
        Route::NeighbourMissing { .. } => false,
        // Where this host forwards nothing, the kernel tells nothing; it may send all the same.
        Route::Unroutable => backend.vlan != 0,
        Route::Local | Route::TooBig { .. } => true,
    };
    if !is_resolved && settings.handover != 0 {
        mark(departure, settings, Target::Backend(index));
    }
    let ethertype = match l3 {
        14 => packet.read::<Be16>(12),
        18 => packet.read::<Be16>(16),
        _ => packet.read::<Be16>(20),
    };
    write_ethernet(packet, l3, Before::Nothing, ethertype.ok_or(Reason::Internal)?.get(), departure)
}

/// Whether packets to a backend bear its address as their destination, in this part of a frame that is to be sent to it.
pub fn is_to<P: Packet>(packet: &P, backend: &Backend) -> bool {
    match packet.read::<Be16>(12).map(Be16::get) {
        Some(ETHERTYPE_IPV4) => {
            packet.read::<Ipv4>(14).is_some_and(|ip| Address::v4(ip.destination) == backend.address)
        }
        Some(ETHERTYPE_IPV6) => {
            packet.read::<Ipv6>(14).is_some_and(|ip| Address::v6(ip.destination) == backend.address)
        }
        _ => false,
    }
}
