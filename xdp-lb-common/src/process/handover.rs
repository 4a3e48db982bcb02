//! Packets that the host's neighbour table must send: those whose next hop's MAC is not known, and, without a daemon that keeps
//! the MACs up to date, some of the others.
//!
//! The packet is complete except for its MACs. These mark it and name its target, and the packet is passed to the host. There the
//! program at TC ingress sees it first, and has the kernel resolve the neighbour, queue the packet meanwhile, and send it
//! (`bpf_redirect_neigh`, 5.10). Otherwise the host would drop it: its source, a VIP, is an address of this host (a martian
//! source, RFC 1812 section 5.3.7).
//!
//! Such a frame cannot be forged on the wire: most of the MACs is a random number, which never leaves the host.

use super::context::Scratch;
use super::rewrite::{Departure, write_ethernet};
use crate::net::{Address, Be16, MacAddress};
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6};
use crate::packet::{Before, Packet};
use crate::reason::Reason;
use crate::tables::{Backend, BackendIndex, Route, SILENCE, Settings, Tables, Tags};

/// Set if the number in a mark is a backend's index, not an interface's.
const IS_BACKEND: u32 = 1 << 31;

/// One of this many packets to a backend on one CPU checks the daemon's heartbeat.
const LOOK_EVERY: u64 = 64;

/// Without a daemon, the neighbour table sends this part of each period of about a second (2^30 ns), even if the MACs are known
/// (2^24 ns, 1.6 %): the kernel only verifies entries that it uses itself.
const PERIOD: u64 = 1 << 30;
const PART: u64 = 1 << 24;

/// Where to send a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The interface with this index, to the packet's next hop by the routes.
    Interface(u32),
    /// The interface that leads to the backend with this index.
    Backend(BackendIndex),
}

/// The bits of [`Settings::handover`] that must be 0, and those that must be 1: both MACs are locally administered unicast
/// addresses (IEEE 802, the two lowest bits of the first byte).
pub const CLEAR: u64 = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 1, 0]);
/// See [`CLEAR`].
pub const SET: u64 = u64::from_ne_bytes([2, 0, 0, 0, 0, 0, 2, 0]);

/// Marks a packet, so that the program at TC ingress sends it to this target.
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

/// The target of this frame, if it has the mark.
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

/// Makes a packet leave by an interface on which its next hop is not known.
///
/// Not inlined: this is rare, and a program's stack is 512 bytes.
#[inline(never)]
pub fn by_interface<T: Tables>(tables: &T, departure: &mut Departure, ifindex: u32) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if settings.handover == 0 {
        return Err(Reason::ReplyNeighbourMissing);
    }
    mark(departure, settings, Target::Interface(ifindex));
    Ok(())
}

/// Whether to check the next hop of a backend after this many packets.
#[inline(always)]
pub fn is_due(settings: &Settings, packets: u64) -> bool {
    (settings.alone != 0) | packets.is_multiple_of(LOOK_EVERY)
}

/// Whether no daemon keeps next hops up to date, as far as the packet after this many must know.
#[inline(always)]
pub fn is_alone<T: Tables>(tables: &T, settings: &Settings, packets: u64) -> bool {
    settings.alone != 0 || packets.is_multiple_of(LOOK_EVERY) && is_silent(tables, settings)
}

/// Whether the daemon's last heartbeat is too old.
#[inline(always)]
fn is_silent<T: Tables>(tables: &T, settings: &Settings) -> bool {
    settings.heartbeat != 0 && tables.now().saturating_sub(settings.heartbeat) >= SILENCE
}

/// Makes a packet that is ready to leave for a backend (`PacketMeta::aimed`) take the kernel's next hop, if no daemon keeps the
/// one in the tables up to date.
///
/// Not inlined, since it is rare.
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
        // If this host does not forward, the kernel returns no next hop, but it may still send the packet.
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

/// Whether packets to a backend have its address as their destination, in this part of a frame that is to be sent to it.
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
