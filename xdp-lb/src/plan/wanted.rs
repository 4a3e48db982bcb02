//! The wanted contents of the tables, before they have indices.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port};
use xdp_lb_common::tables::{Backend, BackendState, Mode, SHARED, ServerId, SourceVerdict};

use crate::net::NextHop;

/// A wanted service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedService {
    /// What clients connect to, and the key of its record.
    pub vip: Endpoint,
    /// If the key is that of a range: the last port; else the port.
    pub last_port: Port,
    /// How packets reach the backends.
    pub mode: Mode,
    /// Whether every flow is recorded, not only those of moving slots.
    pub records_flows: bool,
    /// Whether backends' packets without a record are not replies (`nat`), so that clients can also connect to them directly.
    pub only_recorded: bool,
    /// Whether new flows are answered while no backend takes any.
    pub rejects: bool,
    /// The source addresses that backends see, or the outer ones of encapsulated packets; empty: this host's address towards each.
    pub snat_addresses: Vec<Address>,
    /// How many leading bits of the source address choose the slot, of the 128 bits in the tables; 0: the whole 5-tuple does.
    pub affinity_bits: u8,
    /// QUIC: the config ID and the length of the server IDs, if connection IDs are used.
    pub quic: Option<(u8, u8)>,
    /// The allowed and denied ranges of clients; empty: all are allowed.
    pub sources: Sources,
    /// Maximum number of new flows per second from one client; 0: unlimited.
    pub new_flow_rate: u32,
    /// How many of them may come in one burst.
    pub new_flow_burst: u32,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
    /// If its backends are checked at the VIP: the address and port that answer.
    pub checked_at: Option<Endpoint>,
    /// The length of its ring: [`crate::ring::length`] of the configured weights.
    pub ring_len: u32,
    /// Whether it has a ring even before a backend has taken flows: other load balancers have flows of backends that take none.
    pub has_ring: bool,
    /// Whether clients that a backend would answer directly reach it from an address of this host (`nat`).
    pub hairpin: bool,
    /// All of its backends, whatever their state. No two share an address.
    pub backends: Vec<WantedBackend>,
}

impl WantedService {
    /// A service on one port, with defaults for everything else.
    pub fn new(vip: Endpoint, mode: Mode, ring_len: u32, backends: Vec<WantedBackend>) -> Self {
        Self {
            vip,
            last_port: vip.port,
            mode,
            records_flows: false,
            only_recorded: false,
            rejects: true,
            snat_addresses: Vec::new(),
            affinity_bits: 0,
            quic: None,
            sources: Sources::new(),
            new_flow_rate: 0,
            new_flow_burst: 0,
            max_flows: 0,
            checked_at: None,
            ring_len,
            has_ring: false,
            hairpin: true,
            backends,
        }
    }

    /// Whether its flows are counted.
    pub fn counts_flows(&self) -> bool {
        self.max_flows != 0 || self.backends.iter().any(|backend| backend.max_flows != 0)
    }
}

/// The length of the ring of these backends, if their weights are the configured ones.
#[cfg(test)]
pub fn ring_len(backends: &[WantedBackend]) -> u32 {
    crate::ring::length(&backends.iter().map(|backend| backend.weight).collect::<Vec<_>>())
}

/// The verdicts of ranges: by the first address, and the prefix length of the 128 bits in the tables.
pub type Sources = BTreeMap<(Address, u8), SourceVerdict>;

/// A wanted backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedBackend {
    /// Its address; port 0: the destination port of the client's packets.
    pub address: SocketAddr,
    /// Its share of new flows relative to the others.
    pub weight: u16,
    /// The part of that share, 1 to 100 percent: less than 100 during slow start.
    pub portion: u8,
    /// Its state: never `Vacant`, and `Up` only with a path.
    pub state: BackendState,
    /// QUIC: its server ID.
    pub server_id: Option<ServerId>,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
    /// The path to it, if known.
    pub path: Option<Path>,
}

/// The path to a backend, as the datapath needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Path {
    /// This host's address towards it.
    pub source: Address,
    /// The interface that transmits.
    pub ifindex: u32,
    /// The VLAN ID of frames to it; 0: untagged.
    pub vlan: u16,
    /// The Ethernet address of the next hop.
    pub destination_mac: MacAddress,
    /// The Ethernet address of the interface.
    pub source_mac: MacAddress,
    /// Its MTU, bytes of IP; 0: unlimited.
    pub mtu: u16,
    /// The prefix length of the backend's network, 1 to 127; see [`Backend::neighbours`].
    pub neighbours: u8,
}

impl Path {
    /// The path in a backend's record of the tables.
    pub fn of(backend: &Backend) -> Option<Self> {
        (backend.ifindex != 0).then_some(Self {
            source: backend.source,
            ifindex: backend.ifindex,
            vlan: backend.vlan,
            destination_mac: backend.destination_mac,
            source_mac: backend.source_mac,
            mtu: backend.mtu,
            neighbours: backend.neighbours & !SHARED,
        })
    }
}

/// The prefix length of the link that the backend is on; behind a router, almost that of the backend alone.
fn neighbours(hop: &NextHop) -> u8 {
    let before = if hop.source.is_ipv4() { 96 } else { 0 };
    hop.on_link_bits.map_or(127, |bits| (before + bits).clamp(1, 127))
}

impl From<&NextHop> for Path {
    fn from(hop: &NextHop) -> Self {
        Self {
            source: hop.source.into(),
            ifindex: hop.ifindex,
            vlan: hop.vlan.unwrap_or(0),
            destination_mac: hop.destination_mac,
            source_mac: hop.source_mac,
            mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX),
            neighbours: neighbours(hop),
        }
    }
}
