//! Decapsulation on a backend of mode `ipip` or `gue`: removes the outer header, and passes the inner packet to the host's
//! network stack.
//!
//! A separate program on the backend. It also accepts what Linux and other load balancers send: an IPv6 destination options
//! header (RFC 2473 section 4.1.1), and both variants of GUE.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::{Address, Be32, Port, Protocol};
use crate::packet::checksum::Change;
use crate::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ExtensionHeader, Gue, Ipv4, Ipv6, Udp};
use crate::packet::parse::{Link, parse_link};
use crate::packet::{Before, Packet};
use crate::process::rewrite::{Departure, Limit, ethertype, write_ethernet};
use crate::tables::FlowKey;

macro_rules! outcomes {
    ($($variant:ident = $number:literal, $is_drop:literal, $words:literal;)*) => {
        /// The outcome for a packet that arrives at a backend.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum Outcome {
            $(#[doc = $words] $variant = $number,)*
        }

        impl Outcome {
            /// Every outcome, in the order of their counters.
            pub const ALL: &[Outcome] = &[$(Outcome::$variant),*];

            /// What it means.
            pub const fn words(self) -> &'static str {
                match self { $(Outcome::$variant => $words,)* }
            }

            /// Whether the packet is dropped; otherwise it is passed to the host's network stack.
            pub const fn is_drop(self) -> bool {
                match self { $(Outcome::$variant => $is_drop,)* }
            }
        }
    };
}

outcomes! {
    NotTunnelled = 0, false, "not tunnelled to this host: left alone";
    Ipip = 1, false, "decapsulated: IP in IP";
    Gue = 2, false, "decapsulated: GUE";
    SourceRefused = 3, true, "dropped: the outer source address is not in --from";
    Malformed = 4, true, "dropped: the inner packet is not a complete IP packet";
    UnknownGue = 5, true, "dropped: a GUE control message, or GUE with unknown flags";
    Congested = 6, true, "dropped: marked by congestion (CE) outside, but the inner packet does not support \
        ECN (RFC 6040)";
    Stuck = 7, true, "dropped: the driver did not allow the packet's head to be moved";
}

/// How many outcomes there are: the size of the table of their counters.
pub const OUTCOMES: u32 = Outcome::ALL.len() as u32;

/// [`Settings::accepts`]: IP in IP.
pub const ACCEPTS_IPIP: u8 = 1;
/// [`Settings::accepts`]: Generic UDP Encapsulation.
pub const ACCEPTS_GUE: u8 = 2;

/// Which tunnels a backend decapsulates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// The UDP port of GUE.
    pub gue_port: Port,
    /// [`ACCEPTS_IPIP`], [`ACCEPTS_GUE`] or both.
    pub accepts: u8,
    /// 1: only from certain sources.
    pub checks_source: u8,
}

/// The tables of a backend, in the kernel or on the host.
pub trait Tables {
    /// The settings.
    fn settings(&self) -> Option<&Settings>;
    /// Whether tunnelled packets to this address are for this host.
    fn is_local(&self, address: &Address) -> bool;
    /// Whether tunnelled packets may come from here.
    fn is_allowed(&self, source: &Address) -> bool;
    /// Counts a packet.
    fn count(&self, outcome: Outcome);
}

/// Processes a packet that arrives at a backend, and counts its outcome. A packet that is not dropped is passed to the host.
#[inline(always)]
pub fn decapsulate<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let outcome = match take_off(packet, tables) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    tables.count(outcome);
    outcome
}

#[inline(always)]
fn take_off<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Outcome, Outcome> {
    let settings = tables.settings().ok_or(Outcome::NotTunnelled)?;
    let link = parse_link(packet).map_err(|_| Outcome::NotTunnelled)?;
    let outer = parse_outer(packet, &link).ok_or(Outcome::NotTunnelled)?;
    let is_gue = outer.protocol == Protocol::UDP;
    let wanted = if is_gue { ACCEPTS_GUE } else { ACCEPTS_IPIP };
    if settings.accepts & wanted == 0 {
        return Err(Outcome::NotTunnelled);
    }
    if is_gue {
        let udp: Udp = packet.read(outer.payload).ok_or(Outcome::NotTunnelled)?;
        if udp.destination != settings.gue_port {
            return Err(Outcome::NotTunnelled);
        }
    }
    if !tables.is_local(&outer.destination) {
        return Err(Outcome::NotTunnelled);
    }
    if settings.checks_source != 0 && !tables.is_allowed(&outer.source) {
        return Err(Outcome::SourceRefused);
    }
    let (at, protocol) = if is_gue { open_gue(packet, &outer)? } else { (outer.payload, outer.protocol) };
    let is_v4 = match protocol {
        Protocol::IPV4 => true,
        Protocol::IPV6 => false,
        _ => return Err(Outcome::UnknownGue),
    };
    let room = outer.end.checked_sub(at).ok_or(Outcome::Malformed)?;
    if is_v4 {
        open_v4(packet, at, room, outer.traffic_class)?;
    } else {
        open_v6(packet, at, room, outer.traffic_class)?;
    }
    let same = Departure {
        key: FlowKey::default(),
        ifindex: 0,
        tags: link.tags,
        source_mac: link.ethernet.source,
        destination_mac: link.ethernet.destination,
        limit: Limit::default(),
    };
    write_ethernet(packet, at, Before::Nothing, ethertype(is_v4), &same).map_err(|_| Outcome::Stuck)?;
    Ok(if is_gue { Outcome::Gue } else { Outcome::Ipip })
}

/// An outer packet that may hold another.
struct Outer {
    source: Address,
    destination: Address,
    /// IPv4, IPv6 or UDP.
    protocol: Protocol,
    traffic_class: u8,
    /// Where its payload begins.
    payload: usize,
    /// Where it ends, by its length field and at most at the end of the frame.
    end: usize,
}

/// Reads the outer header; `None` if the packet is incomplete, or cannot contain another one.
#[inline(always)]
fn parse_outer<P: Packet>(packet: &P, link: &Link) -> Option<Outer> {
    let l3 = link.l3;
    let outer = match link.ethertype {
        ETHERTYPE_IPV4 => {
            let ip: Ipv4 = packet.read(l3)?;
            let header = usize::from(ip.version_and_length & 0xf) * 4;
            // The host puts fragments together.
            if ip.version_and_length >> 4 != 4
                || header < size_of::<Ipv4>()
                || ip.fragment.get() & 0x3fff != 0
            {
                return None;
            }
            Outer {
                source: Address::v4(ip.source),
                destination: Address::v4(ip.destination),
                protocol: ip.protocol,
                traffic_class: ip.traffic_class,
                payload: l3 + header,
                end: l3 + usize::from(ip.total_length.get()),
            }
        }
        ETHERTYPE_IPV6 => {
            let ip: Ipv6 = packet.read(l3)?;
            if ip.version_and_flow.get() >> 28 != 6 {
                return None;
            }
            let mut payload = l3 + size_of::<Ipv6>();
            let mut protocol = ip.next_header;
            if protocol == Protocol::DESTINATION_OPTIONS {
                let options: ExtensionHeader = packet.read(payload)?;
                protocol = options.next_header;
                payload += (usize::from(options.length) + 1) * 8;
            }
            Outer {
                source: Address::v6(ip.source),
                destination: Address::v6(ip.destination),
                protocol,
                traffic_class: ip.traffic_class(),
                payload,
                end: l3 + size_of::<Ipv6>() + usize::from(ip.payload_length.get()),
            }
        }
        _ => return None,
    };
    let may_hold = matches!(outer.protocol, Protocol::IPV4 | Protocol::IPV6 | Protocol::UDP);
    (may_hold && outer.payload < outer.end && packet.reaches(outer.end)).then_some(outer)
}

/// The offset and protocol of the packet inside GUE (draft-ietf-intarea-gue section 3).
#[inline(always)]
fn open_gue<P: Packet>(packet: &P, outer: &Outer) -> Result<(usize, Protocol), Outcome> {
    let at = outer.payload + size_of::<Udp>();
    let gue: Gue = packet.read(at).ok_or(Outcome::Malformed)?;
    match gue.variant_and_length >> 4 {
        // Variant 1: the IP packet itself; its version field tells IPv4 from IPv6.
        4 => Ok((at, Protocol::IPV4)),
        6 => Ok((at, Protocol::IPV6)),
        // Variant 0, not a control message: a header with unknown private data.
        0 | 1 if gue.flags.get() == 0 => {
            let private = usize::from(gue.variant_and_length & 0x1f) * 4;
            Ok((at + size_of::<Gue>() + private, gue.protocol))
        }
        _ => Err(Outcome::UnknownGue),
    }
}

/// Reads the inner packet, of at most `room` bytes, and applies the outer packet's ECN.
#[inline(always)]
fn open_v4<P: Packet>(packet: &mut P, at: usize, room: usize, outer: u8) -> Result<(), Outcome> {
    let mut ip: Ipv4 = packet.read(at).ok_or(Outcome::Malformed)?;
    let header = usize::from(ip.version_and_length & 0xf) * 4;
    let total = usize::from(ip.total_length.get());
    if ip.version_and_length >> 4 != 4 || header < size_of::<Ipv4>() || total < header || total > room {
        return Err(Outcome::Malformed);
    }
    let traffic_class = congestion(ip.traffic_class, outer).ok_or(Outcome::Congested)?;
    if traffic_class != ip.traffic_class {
        let word = |traffic_class| u16::from_ne_bytes([ip.version_and_length, traffic_class]);
        let mut change = Change::default();
        change.word(word(ip.traffic_class), word(traffic_class));
        ip.checksum = change.apply(ip.checksum);
        ip.traffic_class = traffic_class;
        packet.write(at, ip).ok_or(Outcome::Malformed)?;
    }
    Ok(())
}

/// The same for IPv6.
#[inline(always)]
fn open_v6<P: Packet>(packet: &mut P, at: usize, room: usize, outer: u8) -> Result<(), Outcome> {
    let mut ip: Ipv6 = packet.read(at).ok_or(Outcome::Malformed)?;
    let total = size_of::<Ipv6>() + usize::from(ip.payload_length.get());
    if ip.version_and_flow.get() >> 28 != 6 || total > room {
        return Err(Outcome::Malformed);
    }
    let present = ip.traffic_class();
    let traffic_class = congestion(present, outer).ok_or(Outcome::Congested)?;
    if traffic_class != present {
        let change = u32::from(present ^ traffic_class) << 20;
        ip.version_and_flow = Be32::new(ip.version_and_flow.get() ^ change);
        packet.write(at, ip).ok_or(Outcome::Malformed)?;
    }
    Ok(())
}

/// ECN's code points (RFC 3168 section 5).
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The inner packet's new traffic class, by RFC 6040 section 4.2; `None` if it must be dropped.
#[inline(always)]
fn congestion(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(inner | CE),
        (ECT_0, ECT_1) => Some(inner & !3 | ECT_1),
        _ => Some(inner),
    }
}
