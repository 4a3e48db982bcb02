//! What the tables are to say, before it has a place in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port};
use xdp_lb_common::tables::{Backend, BackendState, Mode, SHARED, ServerId, SourceVerdict};

use crate::net::NextHop;

/// A service as it is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedService {
    /// What clients connect to, and the key of its record.
    pub vip: Endpoint,
    /// Where the key is that of a range: the last port; else the port.
    pub last_port: Port,
    /// How packets reach the backends.
    pub mode: Mode,
    /// Whether every flow is recorded, not only those of slots that move.
    pub records_flows: bool,
    /// Whether what backends send without a record is left alone (`nat`): then clients can talk to them directly, too.
    pub only_recorded: bool,
    /// Whether whoever begins a flow is told that no backend takes any.
    pub rejects: bool,
    /// The addresses that backends see, or that packets to them are encapsulated from; empty: this host's address
    /// towards each.
    pub snat_addresses: Vec<Address>,
    /// How many first bits of the source address choose a client's slot, of the 128 that an address has in the
    /// tables; 0: address and ports of both ends do.
    pub affinity_bits: u8,
    /// QUIC: the configuration's number and the length of its server ids, where connection ids are looked at.
    pub quic: Option<(u8, u8)>,
    /// Whose packets are let in, and whose not, by range; empty: everybody's.
    pub sources: Sources,
    /// How many flows a client may begin in a second; 0: any number.
    pub new_flow_rate: u32,
    /// How many of them at once.
    pub new_flow_burst: u32,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
    /// Where its backends are checked at the VIP: the address and port that answer.
    pub checked_at: Option<Endpoint>,
    /// How many slots its ring is to have: [`crate::ring::length`] of the configured weights.
    pub ring_len: u32,
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
            hairpin: true,
            backends,
        }
    }

    /// Whether its flows are counted.
    pub fn counts_flows(&self) -> bool {
        self.max_flows != 0 || self.backends.iter().any(|backend| backend.max_flows != 0)
    }
}

/// The length of the ring of these backends, where their weights are the configured ones.
#[cfg(test)]
pub fn ring_len(backends: &[WantedBackend]) -> u32 {
    crate::ring::length(&backends.iter().map(|backend| backend.weight).collect::<Vec<_>>())
}

/// What becomes of packets from a range: its first address, how many of the 128 bits count that an address has in
/// the tables, and the verdict.
pub type Sources = BTreeMap<(Address, u8), SourceVerdict>;

/// A backend as it is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedBackend {
    /// Where it listens; port 0: where clients send to.
    pub address: SocketAddr,
    /// Its share of new flows relative to the others.
    pub weight: u16,
    /// What it gets of that share, in percent, 1 to 100: less than 100 while it comes into the ring.
    pub portion: u8,
    /// What the datapath is to do with it: never `Vacant`, and `Up` only where there is a path.
    pub state: BackendState,
    /// QUIC: what connection ids call it.
    pub server_id: Option<ServerId>,
    /// Maximum number of concurrent flows; 0: unlimited.
    pub max_flows: u32,
    /// How it is reached, where that is known.
    pub path: Option<Path>,
}

/// How a backend is reached, as the datapath needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Path {
    /// This host's address towards it.
    pub source: Address,
    /// The interface that transmits.
    pub ifindex: u32,
    /// The VLAN id of frames to it; 0 where they carry no tag.
    pub vlan: u16,
    /// The Ethernet address of the next hop.
    pub destination_mac: MacAddress,
    /// The Ethernet address of the interface.
    pub source_mac: MacAddress,
    /// The largest IP packet that it takes, bytes; 0: any.
    pub mtu: u16,
    /// How many first bits of its address its neighbours share with it, 1 to 127; see [`Backend::neighbours`].
    pub neighbours: u8,
}

impl Path {
    /// The path that a backend's record in the tables has.
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

/// Who is behind the same link as the backend; itself alone, where a router is in between.
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
