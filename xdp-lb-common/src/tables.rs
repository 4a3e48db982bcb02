//! The keys and values of the tables that both sides share, and the trait through which the
//! datapath reads them.
//!
//! Every type here is laid out by `repr(C)` without implicit padding: its bytes are a BPF map's.
//! A change to any of them is a new [`LAYOUT_VERSION`](crate::layout::LAYOUT_VERSION).

use core::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::directory::Keyed;
use crate::flow::Life;
use crate::hash::FlowHash;
use crate::headers::ETHERTYPE_VLAN;
use crate::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};
use crate::own_mac::{self, OwnMac, OwnMacs};
use crate::rate::Answer;
use crate::reason::Reason;
use crate::slot::Slot;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
                 FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name(pub u32);
    };
}

index!(
    /// A service's number; stable for as long as the service exists.
    ServiceIndex
);
index!(
    /// A backend's place in `BACKENDS`; stable for as long as the backend exists. At most 2^24 - 1.
    BackendIndex
);
index!(
    /// A place in `SLOTS`, the flat array of all rings.
    SlotIndex
);

/// How a packet reaches its backend, and how the reply returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Source and destination are rewritten; replies come back to the load balancer's own address.
    FullNat = 0,
    /// The destination is rewritten; the backend routes its replies through the load balancer.
    Nat = 1,
    /// Only the frame's Ethernet addresses are rewritten; the backend has the VIP and answers the client itself.
    Dsr = 2,
    /// The packet is put into another IP packet (RFC 2003, RFC 2473, RFC 4213); the backend answers the client itself.
    Ipip = 3,
    /// The packet is put into UDP (Generic UDP Encapsulation); the backend answers the client itself.
    Gue = 4,
}

/// [`Service::options`]: every flow is recorded, not only those of slots that move.
pub const RECORDS_FLOWS: u8 = 1;
/// [`Service::options`]: its flows are counted, since it or one of its backends has a `max_flows`.
pub const COUNTS_FLOWS: u8 = 2;
/// [`Service::options`]: whoever begins a flow while no backend takes any is told so. Costs other packets nothing: the short
/// way asks for all options but this one.
pub const REJECTS: u8 = 4;

/// The value of `SERVICES`: what the datapath needs to know of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// Its number.
    pub index: ServiceIndex,
    /// Where its ring begins in `SLOTS`.
    pub ring_offset: SlotIndex,
    /// How many slots its ring has; 0 where it has never had a backend that could take a flow.
    pub ring_len: u32,
    /// Where its SNAT addresses begin in `SNAT_ADDRESSES`.
    pub snat_offset: u32,
    /// How many SNAT addresses it has (`ipip` and `gue`: outer source addresses); 0: each backend's own
    /// [`Backend::source`] serves.
    pub snat_len: u16,
    /// The forwarding [`Mode`], as its number.
    pub mode: u8,
    /// What else is done for it: [`RECORDS_FLOWS`] and its like, a bit each.
    pub options: u8,
    /// How many flows one source may begin in a second; 0: any number.
    pub new_flow_rate: u32,
    /// How many of them it may begin at once.
    pub new_flow_burst: u32,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
    /// Which list of source ranges holds for it, the scope of its entries in `SOURCES`; 0: none.
    pub source_list: u32,
    /// How many first bits of the source address choose the slot (an IPv4 address is the last 32 of 128); 0:
    /// the whole 5-tuple does.
    pub affinity_bits: u8,
    /// QUIC: how many bytes of a connection id name the server, 1 to 15; 0: connection ids are not looked at.
    pub server_id_length: u8,
    /// QUIC: the configuration's number, in the upper three bits of a connection id's first byte.
    pub quic_config: u8,
    /// Unused, 0.
    pub padding: u8,
    /// The last port, where its key is that of a range.
    pub last_port: Port,
    /// Unused, 0.
    pub more_padding: [u8; 2],
}

// With its VIP, a cache line.
const _: () = assert!(size_of::<Keyed<Service>>() == 64);

/// Whether a backend may be given packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BackendState {
    /// There is no backend in this place.
    Vacant = 0,
    /// It takes new flows and keeps its flows.
    Up = 1,
    /// It keeps its flows and gets no new ones.
    Draining = 2,
    /// Health checks, its agent or its circuit breaker speak against it. It keeps its flows, as one that drains does,
    /// but takes no SYN, not even one that is sent again; and what clients [ask](Traffic::asked) of it is counted,
    /// which shows whether it is alive.
    Failing = 3,
    /// It gets no packet at all, and its flows end: whoever sends a packet of one is told so, by a reset (TCP) or by ICMP
    /// "port unreachable" (UDP; the next datagram begins a new flow). A flow is its own if its record says so; if it has
    /// no record and is TCP, a slot's prior owner (a settled slot's owner) tells. New flows choose another backend.
    Ending = 4,
    /// It gets no packet at all. A TCP flow with a record here ends as in [`BackendState::Ending`], and so does one
    /// without a record in a slot that it owns; all others begin anew at another backend, and nobody is told.
    Down = 5,
}

impl BackendState {
    /// Whether a backend in this state, as its number, keeps its flows.
    #[inline(always)]
    pub const fn keeps_flows(state: u8) -> bool {
        const _: () = assert!(BackendState::Failing as u8 - BackendState::Up as u8 == 2);
        state.wrapping_sub(Self::Up as u8) <= Self::Failing as u8 - Self::Up as u8
    }
}

/// The value of `BACKENDS`: one backend of one service, in one cache line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Backend {
    /// Where it listens.
    pub address: Address,
    /// This host's address towards it: the SNAT address where the service names none.
    pub source: Address,
    /// The interface through which it is reached (its VLAN's parent, where it is on a VLAN).
    pub ifindex: u32,
    /// The service that it belongs to.
    pub service: ServiceIndex,
    /// The port on which it listens; 0: the one that the client's packets are for.
    pub port: Port,
    /// The VLAN id (IEEE 802.1Q, 1 to 4094) of frames to it; 0 where they carry no tag.
    pub vlan: u16,
    /// The next hop's Ethernet address.
    pub destination_mac: MacAddress,
    /// The Ethernet address of the interface towards it.
    pub source_mac: MacAddress,
    /// A [`BackendState`], as its number.
    pub state: u8,
    /// `nat`, bits 0 to 6: how many first bits of the address (an IPv4 address is the last 32 of 128) its neighbours share
    /// with it, whose packets it would answer directly; 0: nobody is treated as one. Bit 7, [`SHARED`].
    pub neighbours: u8,
    /// The largest IP packet that the path to it takes, bytes; 0: any.
    pub mtu: u16,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
}

const _: () = assert!(size_of::<Backend>() == 64);

/// [`Backend::neighbours`]: several `nat` VIPs use this backend, so its flows need a record of their replies.
pub const SHARED: u8 = 1 << 7;

impl Backend {
    /// Whether several `nat` VIPs use it.
    #[inline(always)]
    pub fn is_shared(&self) -> bool {
        self.neighbours & SHARED != 0
    }

    /// Whether [`Backend::is_neighbour`] has to be asked: exact for IPv4, and for IPv6 by the first 64 bits, which a link's
    /// prefix rarely is shorter than.
    #[inline(always)]
    pub fn may_be_neighbour(&self, client: &Address, is_v4: bool) -> bool {
        if is_v4 {
            return self.is_neighbour(client, is_v4);
        }
        let bits = self.neighbours & !SHARED;
        let [first, _] = self.address.words();
        let [other, _] = client.words();
        (bits != 0) & ((first == other) | (bits < 64))
    }

    /// Whether it would answer this client directly, not through the load balancer: a neighbour on its network, or itself.
    #[inline(always)]
    pub fn is_neighbour(&self, client: &Address, is_v4: bool) -> bool {
        let bits = u32::from(self.neighbours & !SHARED);
        let [a, b, c, d] = self.address.0.map(Be32::get);
        let [e, f, g, h] = client.0.map(Be32::get);
        // How the addresses differ, in the last 64 bits and before; IPv4's do in the last 32 alone.
        let last = if is_v4 { u64::from(d ^ h) } else { u64::from(c ^ g) << 32 | u64::from(d ^ h) };
        let first = if is_v4 { 0 } else { u64::from(a ^ e) << 32 | u64::from(b ^ f) };
        // In two steps each: a shift by 64 would be none.
        let of_last = bits.saturating_sub(64);
        let of_first = bits.min(64);
        (bits != 0) & (last >> 1 >> (63 - of_last) == 0) & (first >> ((64 - of_first) % 64) == 0)
    }

    /// Where it listens, for this protocol.
    #[inline(always)]
    pub fn endpoint(&self, protocol: Protocol) -> Endpoint {
        Endpoint::new(self.address, self.port, protocol)
    }

    /// Where packets go that clients send to this endpoint.
    #[inline(always)]
    pub fn endpoint_for(&self, vip: &Endpoint) -> Endpoint {
        Endpoint::new(self.address, self.port_for(vip.port), vip.protocol)
    }

    /// The port of packets that clients send to this one.
    #[inline(always)]
    pub fn port_for(&self, port: Port) -> Port {
        if self.port.word() == 0 { port } else { self.port }
    }
}

/// The value of `REPLIES`, by a backend's endpoint (port 0: each of its ports that has no entry of its own): what to
/// do with a packet that comes from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// The VIP that replies without a record come from (`nat`; where several share the backend, the one
    /// that had it first).
    pub vip: Address,
    /// The VIP's port; where it is kept, the first one.
    pub port: Port,
    /// 1: replies may have a flow record, look there first (`full-nat`, or a backend that several
    /// VIPs share).
    pub by_record: u8,
    /// 1: a reply without a record is answered statelessly, in the name of `vip`.
    pub stateless: u8,
    /// The backend whose counters a stateless reply goes to.
    pub backend: BackendIndex,
    /// Since when every flow of the backend is recorded, in the seconds of [`Tables::now`]; 0: not every flow is. Once the flows
    /// from before have ended, a packet of a flow without a record is not a reply.
    pub recorded_since: u32,
    /// Where the port is kept: the last one.
    pub last_port: Port,
    /// 1: a reply without a record keeps its port, and is one only if that is from `port` to `last_port`.
    pub keeps_port: u8,
    /// 1: this is not a backend but a VIP through which its backends are checked: what comes from it may answer one of
    /// `CHECKS`.
    pub answers_checks: u8,
}

impl Reply {
    /// The port that a reply from this port of the backend leaves with, where it has no record.
    #[inline(always)]
    pub fn port_for(&self, port: Port) -> Port {
        if self.keeps_port != 0 { port } else { self.port }
    }

    /// Whether what comes from this port of the backend is a reply.
    #[inline(always)]
    pub fn is_from(&self, port: Port) -> bool {
        let number = port.get();
        (self.keeps_port == 0) | ((self.port.get() <= number) & (number <= self.last_port.get()))
    }
}

/// The value of `PORT_RANGES`, by VIP address and protocol (port 0): the ranges of ports on which it has services.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortRanges {
    /// Each its first and its last port (host order), the one that begins highest first, zeroes behind. That of all
    /// ports begins with 0, so it comes last.
    pub ranges: [[u16; 2]; Self::MOST],
}

impl PortRanges {
    /// How many ranges a VIP address may have for a protocol.
    pub const LIMIT: usize = 8;
    /// How many there is room for: the old and the new ones of a change, side by side.
    pub const MOST: usize = 2 * Self::LIMIT;

    /// The first port of the first range that has this one in it.
    #[inline(always)]
    pub fn find(&self, port: Port) -> Option<Port> {
        let number = i32::from(port.get());
        let mut found = -1;
        // Without a branch for each range: the verifier would follow them all.
        for [first, last] in self.ranges.into_iter().rev() {
            let (first, last) = (i32::from(first), i32::from(last));
            let outside = ((number - first) | (last - number)) >> 31;
            found = found & outside | first & !outside;
        }
        u16::try_from(found).ok().map(Port::new)
    }
}

/// The value of `VIPS`, by an address that some service has: of TCP and of UDP, a port of the one service that the address
/// has for that protocol (0: it has several, or none).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SolePorts {
    /// TCP.
    pub tcp: Port,
    /// UDP.
    pub udp: Port,
}

impl SolePorts {
    /// Those of an address whose services have these keys.
    pub fn of(services: impl Iterator<Item = Endpoint> + Clone) -> Self {
        let sole = |protocol| {
            let mut its = services.clone().filter(|vip| vip.protocol == protocol);
            match (its.next(), its.next()) {
                // Each port of a range will do, and 0 is none.
                (Some(vip), None) => Port::new(vip.port.get().max(1)),
                _ => Port::new(0),
            }
        };
        Self { tcp: sole(Protocol::TCP), udp: sole(Protocol::UDP) }
    }

    /// The port for this protocol.
    #[inline(always)]
    pub fn of_protocol(self, protocol: Protocol) -> Option<Port> {
        let port = match protocol {
            Protocol::TCP => self.tcp,
            Protocol::UDP => self.udp,
            _ => return None,
        };
        (port.word() != 0).then_some(port)
    }
}

/// The value of `CHECKS`, by the 5-tuple of the packets that the host sends: a health check that goes to the VIP, through
/// one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Check {
    /// The key of the service's record.
    pub service: Endpoint,
    /// The backend that is checked.
    pub backend: BackendIndex,
    /// The interface behind which the check's socket is.
    pub ifindex: u32,
}

/// The Ethernet address behind [`Check::ifindex`], of the checks' sockets. Locally administered: nobody else is there.
pub const CHECKS_MAC: MacAddress = MacAddress::new([0x02, 0x78, 0x64, 0x70, 0x00, 0x02]);

/// The Ethernet address of that interface.
pub const CHECKS_HOST_MAC: MacAddress = MacAddress::new([0x02, 0x78, 0x64, 0x70, 0x00, 0x01]);

/// The key of `FLOWS`: a packet's 5-tuple, as the packet has it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// The packet's source address.
    pub source: Address,
    /// The packet's destination address.
    pub destination: Address,
    /// The packet's source port.
    pub source_port: Port,
    /// The packet's destination port.
    pub destination_port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    // Not one array: zeroing three bytes at once is a call of memset.
    padding: u8,
    more_padding: u16,
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`; the protocol is the source's.
    #[inline(always)]
    pub const fn new(source: Endpoint, destination: Endpoint) -> Self {
        Self {
            source: source.address,
            destination: destination.address,
            source_port: source.port,
            destination_port: destination.port,
            protocol: source.protocol,
            padding: 0,
            more_padding: 0,
        }
    }

    /// The key of a packet the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.destination_endpoint(), self.source_endpoint())
    }

    /// The packet's sender.
    #[inline(always)]
    pub const fn source_endpoint(&self) -> Endpoint {
        Endpoint::new(self.source, self.source_port, self.protocol)
    }

    /// The packet's receiver.
    #[inline(always)]
    pub const fn destination_endpoint(&self) -> Endpoint {
        Endpoint::new(self.destination, self.destination_port, self.protocol)
    }
}

/// The value of `FLOWS`: what becomes of one direction of a flow.
///
/// A flow of a `full-nat` service, or of a backend that several VIPs share, has a pair of records:
/// one under the client's packets and one under the backend's. Each can be made from the other.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct FlowRecord {
    /// The source address that the packet leaves with.
    pub source: Address,
    /// The destination address that the packet leaves with.
    pub destination: Address,
    /// The source port that the packet leaves with.
    pub source_port: Port,
    /// The destination port that the packet leaves with.
    pub destination_port: Port,
    /// The flow's backend.
    pub backend: BackendIndex,
    /// How far the flow has come, and when it was last heard of.
    pub life: Life,
    /// Replies: the VLAN tags of the client's packets.
    pub tags: Tags,
    /// Replies: the interface that the client's packets come from.
    pub ifindex: u32,
    /// Replies: the Ethernet address that the client's packets come from.
    pub destination_mac: MacAddress,
    /// Replies: the Ethernet address that the client's packets are sent to.
    pub source_mac: MacAddress,
}

const _: () = assert!(size_of::<FlowRecord>() == 72);

/// A frame's VLAN tags, outermost first: each its EtherType (upper half) and its control field; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tags {
    /// The outer tag.
    pub outer: u32,
    /// The inner tag; 0 unless there is an outer one.
    pub inner: u32,
}

impl Tags {
    /// The tags of a frame on this VLAN (IEEE 802.1Q); 0: none.
    #[inline(always)]
    pub const fn vlan(id: u16) -> Self {
        let outer = if id == 0 { 0 } else { (ETHERTYPE_VLAN as u32) << 16 | id as u32 };
        Self { outer, inner: 0 }
    }

    /// How many bytes an Ethernet header with these tags has.
    #[inline(always)]
    pub const fn header_length(self) -> usize {
        match self {
            Self { outer: 0, .. } => 14,
            Self { inner: 0, .. } => 18,
            _ => 22,
        }
    }
}

/// [`Settings::options`]: a `full-nat` backend that goes on with a flow without a record is told that the flow is over. Set
/// while records are missing for no other reason: none may still be on its way into the tables, and none was evicted.
pub const RESETS_UNKNOWN: u32 = 1;
/// [`Settings::options`]: backends' packets may come in by another interface or VLAN than the one towards their backend.
pub const ASYMMETRIC_REPLIES: u32 = 2;

/// The key of `ROUTER_ADDRESSES`: an interface as packets come in by it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RouterInterface {
    /// The index of the interface that receives: a VLAN's parent.
    pub ifindex: u32,
    /// The VLAN id (IEEE 802.1Q, 1 to 4094); 0 where packets carry no tag.
    pub vlan: u32,
}

/// The value of `ROUTER_ADDRESSES`: this host's addresses behind an interface, in whose names it answers as a router (RFC 1812
/// section 4.3.2.4). All 0: none of that family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouterAddresses {
    /// The IPv4 address.
    pub v4: Address,
    /// The IPv6 address.
    pub v6: Address,
}

/// The one value of `SETTINGS`: what holds for every service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// The secret of the flow hash; see [`crate::hash`].
    pub hash_keys: [u64; crate::hash::KEYS],
    /// The first port that `full-nat` may give to a flow.
    pub snat_port_first: u16,
    /// How many ports `full-nat` may give out, from the first on; never 0.
    pub snat_port_count: u16,
    /// What else holds: [`RESETS_UNKNOWN`], [`ASYMMETRIC_REPLIES`].
    pub options: u32,
    /// Seconds without a packet after which a flow is over, by what it has come to: see
    /// [`crate::flow::patience`].
    pub patience: [u32; crate::flow::AGES],
    /// What marks a frame that the program at TC ingress is to send: see [`crate::process::handover`]. Random; 0: no such
    /// program is there.
    pub handover: u64,
    /// When the daemon's last heartbeat was, seconds of the monotonic clock; 0: there is none to wait for.
    pub heartbeat: u32,
    /// 1: the daemon has let no heartbeat come for [`SILENCE`], as the datapath has found.
    pub alone: u32,
    /// Some of the entries of `OWN_MACS`, all if they are few.
    pub own_macs: [OwnMac; own_mac::IN_SETTINGS],
}

/// The daemon is taken for dead or hung after so many seconds without a heartbeat.
pub const SILENCE: u32 = 8;

impl Settings {
    /// Whether `full-nat` may have given this port to a flow.
    #[inline(always)]
    pub fn is_snat_port(&self, port: Port) -> bool {
        port.get().wrapping_sub(self.snat_port_first) < self.snat_port_count
    }
}

/// What went to a backend and came from it: the value of `BACKEND_COUNTERS`, each CPU its own, and of
/// `FORMER_TRAFFIC`, where the control plane keeps what a service's former backends counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    /// Packets from clients, forwarded.
    pub packets_in: u64,
    /// Bytes of those packets, with their Ethernet header as received.
    pub bytes_in: u64,
    /// Packets to clients, forwarded.
    pub packets_out: u64,
    /// Bytes of those packets, with their Ethernet header as received.
    pub bytes_out: u64,
    /// Flows that began here.
    pub new_flows: u64,
    /// SYNs that the backend has accepted (SYN-ACKs), where its replies pass here.
    pub accepted: u64,
    /// Connections that it has refused or reset: resets with an ACK, where its replies pass here. One without answers a
    /// packet of no connection, which anybody can send.
    pub resets: u64,
    /// Packets from clients that [ask](crate::parse::Parsed::asks) for an answer, while the backend was
    /// [failing](BackendState::Failing). Packets on the fast path are not counted: a failing backend gets none of them.
    pub asked: u64,
}

impl Traffic {
    /// Counts a packet from a client.
    #[inline(always)]
    pub fn forwarded(&mut self, bytes: u64, is_new: bool) {
        self.packets_in += 1;
        self.bytes_in += bytes;
        self.new_flows += u64::from(is_new);
    }

    /// Counts a packet to a client.
    #[inline(always)]
    pub fn replied(&mut self, bytes: u64) {
        self.packets_out += 1;
        self.bytes_out += bytes;
    }

    /// Counts that the backend has accepted a connection, or reset it.
    #[inline(always)]
    pub fn answered(&mut self, is_reset: bool) {
        self.resets += u64::from(is_reset);
        self.accepted += u64::from(!is_reset);
    }
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.new_flows += other.new_flows;
        self.accepted += other.accepted;
        self.resets += other.resets;
        self.asked += other.asked;
    }
}

/// An entry of `EVENTS`: a neighbour whose Ethernet address the datapath needs and does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourWanted {
    /// The neighbour.
    pub address: Address,
    /// The interface that it is behind.
    pub ifindex: u32,
}

/// The value of `VLANS`, by a VLAN device's index: how frames through it leave. And by the index of a port of a bond, team
/// or bridge: what it is a port of, with the VLAN 0; nothing is routed through a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanDevice {
    /// The index of the device that it stands on, which transmits; or that it is a port of.
    pub parent: u32,
    /// The VLAN id, 1 to 4094; 0: a port.
    pub vlan: u32,
}

/// What a backend is called in the connection ids that it gives to its clients: up to 15 bytes, and zeroes behind.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct ServerId([Be32; 4]);

impl ServerId {
    /// The id of these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            Be32::from_word(u32::from_ne_bytes([a, b, c, d])),
            Be32::from_word(u32::from_ne_bytes([e, f, g, h])),
            Be32::from_word(u32::from_ne_bytes([i, j, k, l])),
            Be32::from_word(u32::from_ne_bytes([m, n, o, p])),
        ])
    }

    /// Its first `length` bytes, and zeroes behind.
    #[inline(always)]
    pub fn first_bytes(self, length: u8) -> Self {
        Self(Address(self.0).first_bits(length.saturating_mul(8)).0)
    }
}

/// The key of `QUIC_SERVERS`.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct ServerKey {
    /// The service.
    pub service: ServiceIndex,
    /// What its connection ids call the backend.
    pub id: ServerId,
}

/// A client of a service: the key of `SOURCE_RATES`, and, behind the length of a prefix, of `SOURCES`.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct SourceKey {
    /// `SOURCE_RATES`: the [`ServiceIndex`]. `SOURCES`: the list, [`Service::source_list`].
    pub scope: u32,
    /// The client's address, or its network's.
    pub address: Address,
}

impl SourceKey {
    /// How many bits of a key are its scope: a prefix in `SOURCES` is longer by so many than that of its addresses.
    pub const SCOPE_BITS: u32 = 32;
}

/// The value of `SOURCES`, as its number: what becomes of packets from a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum SourceVerdict {
    /// They are let in.
    Allow = 1,
    /// They are dropped.
    Deny = 2,
}

/// A packet to a client, for the routing table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteQuery {
    /// Who it comes from, in the client's eyes.
    pub source: Endpoint,
    /// The client.
    pub destination: Endpoint,
    /// Its length, bytes of IP.
    pub length: u16,
    /// The interface that it came in by.
    pub ingress: u32,
}

/// Where a packet to a client has to be sent, as the kernel's routing table has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Through this interface, to this neighbour.
    Via {
        /// The interface that transmits.
        ifindex: u32,
        /// The tags of frames to it.
        tags: Tags,
        /// The interface's Ethernet address.
        source_mac: MacAddress,
        /// The neighbour's Ethernet address.
        destination_mac: MacAddress,
    },
    /// To this host itself, or to no single host.
    Local,
    /// Through an interface behind which the neighbour is not known; user space has been asked.
    NeighbourMissing {
        /// The interface, a VLAN device where it is one.
        ifindex: u32,
    },
    /// The packet is larger than the route's MTU.
    TooBig {
        /// The largest IP packet that the route takes, bytes.
        mtu: u16,
    },
    /// Nowhere.
    Unroutable,
}

/// The key of `FRAGMENTS`: what the fragments of a packet have in common (RFC 791 section 3.2, RFC 8200
/// section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// The packet's source address.
    pub source: Address,
    /// The packet's destination address.
    pub destination: Address,
    /// Its identification; IPv4's has 16 bits.
    pub identification: Be32,
    /// IPv4: its protocol. IPv6: 0.
    pub protocol: Protocol,
    padding: u8,
    more_padding: u16,
}

impl FragmentKey {
    /// The key of these four.
    #[inline(always)]
    pub const fn new(
        source: Address,
        destination: Address,
        identification: Be32,
        protocol: Protocol,
    ) -> Self {
        Self { source, destination, identification, protocol, padding: 0, more_padding: 0 }
    }
}

/// Where the fragments of a packet go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FragmentCourse {
    /// To this host: the first one was passed on.
    Host = 0,
    /// To a backend.
    Forward = 1,
    /// To a client.
    Reply = 2,
}

/// The value of `FRAGMENTS`: what became of a packet's first fragment, and becomes of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fragment {
    /// The source address that they leave with.
    pub source: Address,
    /// The destination address that they leave with.
    pub destination: Address,
    /// The backend that they go to or come from.
    pub backend: BackendIndex,
    /// When the first one came, seconds of the monotonic clock.
    pub seen: u32,
    /// The source port of the first one, as it came.
    pub source_port: Port,
    /// The destination port of the first one, as it came.
    pub destination_port: Port,
    /// A [`FragmentCourse`], as its number.
    pub course: u8,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Unused, 0.
    pub padding: u16,
    /// The interface that they leave by.
    pub ifindex: u32,
    /// The VLAN tags that they leave with.
    pub tags: Tags,
    /// The Ethernet address that they are sent to.
    pub destination_mac: MacAddress,
    /// The Ethernet address that they are sent from.
    pub source_mac: MacAddress,
}

/// What became of a record that was to be put where none was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It is there.
    New,
    /// There was one already, and it is untouched.
    Occupied,
    /// There is no room.
    Full,
}

/// Where flows are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Book {
    /// `FLOWS`: flows that have shown that there is somebody behind them, by a second packet.
    Flows,
    /// `HALF_OPEN`: flows of which one packet has been seen. A flood of packets from made-up senders fills this one only.
    HalfOpen,
}

impl Book {
    /// Both, in the order in which a flow's record is looked for.
    pub const ALL: [Self; 2] = [Self::Flows, Self::HalfOpen];
}

/// The tables, wherever they are.
pub trait Tables: OwnMacs {
    /// A flow's record in its place.
    type Flow<'a>: Deref<Target = FlowRecord>
    where
        Self: 'a;

    /// A backend's counters in their place.
    type Traffic<'a>: DerefMut<Target = Traffic>
    where
        Self: 'a;

    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// What holds for every service.
    fn settings(&self) -> Option<&Settings>;
    /// Whose an address is, as [`crate::filter`] says: [`crate::filter::VIP`], [`crate::filter::BACKEND`]
    /// or both; where it is nobody's, mostly neither. An address of this host has at least one of them.
    fn roles(&self, address: &Address) -> u8;
    /// The service with this key.
    fn service(&self, vip: &Endpoint) -> Option<&Service>;
    /// Whether an address has ranges of ports; where it has none, mostly not.
    fn may_have_ranges(&self, vip: &Address) -> bool;
    /// The ranges of ports of a VIP's address and protocol, its port 0.
    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges>;
    /// A ring's slot.
    fn slot(&self, index: SlotIndex) -> Option<Slot>;
    /// A backend's record, vacant or not.
    fn backend(&self, index: BackendIndex) -> Option<&Backend>;
    /// A SNAT address.
    fn snat_address(&self, place: u32) -> Option<&Address>;
    /// Whether this is the address of some service.
    fn is_vip(&self, address: &Address) -> bool;
    /// A port of the one service that an address has for a protocol; nothing, where it has several or none.
    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port>;
    /// Whether this is an address of this host, or one that `full-nat` sends from.
    fn is_own(&self, address: &Address) -> bool;
    /// What to do with a packet that comes from the endpoint with this key.
    fn reply(&self, backend: &Endpoint) -> Option<&Reply>;

    /// What the device of this index stands on or is a port of.
    fn device_below(&self, ifindex: u32) -> Option<VlanDevice>;

    /// The health check that sends packets with these addresses and ports.
    fn check(&self, key: &FlowKey) -> Option<&Check>;

    /// A flow's record in this book.
    fn flow(&self, book: Book, key: &FlowKey) -> Option<Self::Flow<'_>>;
    /// Puts a flow's record where there is none.
    fn put_new_flow(&self, book: Book, key: &FlowKey, record: &FlowRecord) -> Inserted;
    /// Puts a flow's record, whatever is there; nothing, where there is no room.
    fn put_flow(&self, book: Book, key: &FlowKey, record: &FlowRecord) -> Option<()>;
    /// Forgets a flow's record, where there is one.
    fn remove_flow(&self, book: Book, key: &FlowKey);

    /// Whether one more answer of this kind may be sent now to a destination with this hash: takes tokens of its
    /// [`Buckets`](crate::rate::Bucketss).
    fn may_answer(&self, answer: Answer, destination: FlowHash) -> bool;
    /// The backend that a service's connection ids call so; 0: none.
    fn quic_server(&self, key: &ServerKey) -> BackendIndex;
    /// What the longest prefix says in which the key lies: a [`SourceVerdict`], as its number; 0 where it lies in none.
    fn source_verdict(&self, key: &SourceKey) -> u32;
    /// Nanoseconds of the monotonic clock.
    fn nanoseconds(&self) -> u64;
    /// When a source's bucket of new flows is full again, by that clock.
    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64>;
    /// Notes when it is; where there is no room, another source's is forgotten.
    fn set_bucket_full_at(&self, source: &SourceKey, at: u64);
    /// Reads what became of a packet's first fragment; nothing, where that is not known.
    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()>;
    /// Notes what became of a packet's first fragment; nothing, where there is no room.
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) -> Option<()>;

    /// How many flows a service has, where they are counted.
    fn service_flows(&self, service: ServiceIndex) -> Option<i64>;
    /// How many flows a backend has, where they are counted.
    fn backend_flows(&self, backend: BackendIndex) -> Option<i64>;
    /// Adds to both.
    fn add_flow(&self, service: ServiceIndex, backend: BackendIndex, by: i64);

    /// This host's addresses behind an interface; nothing, where none is known or wanted.
    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses>;

    /// Where a packet has to be sent.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Where packets to this backend have to be sent, if they come in by this interface.
    fn way(&self, backend: &Backend, ingress: u32) -> Route;
    /// Notes that the daemon lets no heartbeat come.
    fn set_alone(&self);

    /// A backend's counters. Asked for early, they come while the packet is worked on, where they are in no cache.
    fn traffic(&self, backend: BackendIndex) -> Option<Self::Traffic<'_>>;
    /// Counts a packet that is passed on or dropped.
    fn count(&self, reason: Reason);
}
