//! The contents of a record: the flow, and how its packets are forwarded in both directions.
//!
//! | word | bits, lowest first |
//! |---|---|
//! | 0 | the [`Life`] |
//! | 1 | IPv4: the client's address, the VIP's; IPv6: the client's first half |
//! | 2 | IPv4: the SNAT address, the backend's; IPv6: the client's second half |
//! | 3 | the client's port, the VIP's, the protocol (8), 1 for IPv6 (8), unused (16) |
//! | 4 | the SNAT port, the next hop's MAC towards the client (48) |
//! | 5 | the backend's index, the interface towards the client |
//! | 6 | the backend's port, this host's MAC towards the client (48) |
//! | 7 | the VLAN tags of the client's packets, the outer one, the inner one |
//!
//! IPv6 has a second line: from word 1 on, two words each for the VIP's address, the SNAT address and the backend's. Addresses and
//! ports are in network byte order.

use super::life::Life;
use crate::hash::{FlowHash, KEYS};
use crate::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};
use crate::tables::{BackendIndex, FlowKey, Tags};

/// Words in a line.
pub const LINE_WORDS: usize = 8;

/// A record's key: a flow, as in its client's packets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Key {
    first: u64,
    /// IPv6 only: for IPv4, this and the VIP's may be anything.
    second: u64,
    ports: u64,
    /// IPv6: the VIP's.
    vip: [u64; 2],
}

const V6: u64 = 1 << 40;

impl Key {
    /// The flow of a client's packet.
    #[inline(always)]
    pub fn new(key: &FlowKey) -> Self {
        let mut new = Self::default();
        new.set(key);
        new
    }

    /// Sets it to that of a client's packet.
    #[inline(always)]
    pub fn set(&mut self, key: &FlowKey) {
        self.ports = ports(key);
        if key.source.is_v4() & key.destination.is_v4() {
            self.first = pair(key.source.last(), key.destination.last());
        } else {
            self.ports |= V6;
            [self.first, self.second] = key.source.words();
            self.vip = key.destination.words();
        }
    }

    /// Whether it takes two lines.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.ports & V6 != 0
    }

    /// Whether the first line, with these words, matches this flow.
    #[inline(always)]
    pub const fn may_be(&self, words: &[u64; LINE_WORDS]) -> bool {
        let second = if self.is_v6() { self.second ^ words[2] } else { 0 };
        (self.first ^ words[1]) | second | (self.ports ^ words[3]) == 0
    }

    /// Whether the whole record matches.
    #[inline(always)]
    pub const fn is(&self, record: &Record) -> bool {
        let rest = (self.vip[0] ^ record.more[0]) | (self.vip[1] ^ record.more[1]);
        self.may_be(&record.words) & (!self.is_v6() | (rest == 0))
    }
}

/// The word of the ports and the protocol.
#[inline(always)]
fn ports(key: &FlowKey) -> u64 {
    key.source_port.word() as u64 | (key.destination_port.word() as u64) << 16 | (key.protocol.0 as u64) << 32
}

/// The protocol in a line's word 3.
#[inline(always)]
pub(super) const fn protocol_of(word: u64) -> Protocol {
    Protocol((word >> 32) as u8)
}

#[inline(always)]
const fn pair(first: Be32, second: Be32) -> u64 {
    first.word() as u64 | (second.word() as u64) << 32
}

/// Words in use in an IPv6 record's second line.
pub const MORE: usize = 6;

/// A consistent snapshot of a record, and its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Record {
    /// The line.
    pub place: u32,
    /// Unused.
    pub padding: u32,
    /// The line's words.
    pub words: [u64; LINE_WORDS],
    /// IPv6: the second line's, from word 1 on.
    pub more: [u64; MORE],
}

/// The input and output of lookups and insertions for one packet. In the kernel it is in a map: a program's stack is 512 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Room {
    /// The flow to look up, as in its client's packets.
    pub flow: FlowKey,
    /// Its key.
    pub key: Key,
    /// Its hash.
    pub hash: FlowHash,
    /// Seconds of the monotonic clock.
    pub now: u32,
    /// The source of the backend's packet whose flow is looked up.
    pub backend: Endpoint,
    /// Its destination.
    pub client: Endpoint,
    /// The client as the packet's backend sees it: SNAT address and port.
    pub source: Endpoint,
    /// The record that was found.
    pub record: Record,
    /// The record to insert.
    pub new: Record,
    /// Another flow's record, which may be evicted.
    pub other: Record,
}

impl Room {
    /// Sets key and hash to those of the flow.
    #[inline(always)]
    pub fn aim(&mut self, keys: &[u64; KEYS]) {
        let Self { flow, key, hash, .. } = self;
        key.set(flow);
        *hash =
            FlowHash::new(keys, (&flow.source, flow.source_port), (&flow.destination, flow.destination_port));
    }
}

/// The way back to a flow's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WayBack {
    /// The interface on which the client's packets arrive.
    pub ifindex: u32,
    /// Their VLAN tags.
    pub tags: Tags,
    /// Their source MAC.
    pub destination_mac: MacAddress,
    /// Their destination MAC.
    pub source_mac: MacAddress,
}

impl Record {
    /// Sets it to that of a client's flow that leaves from `source` to a backend.
    #[inline(always)]
    pub fn set(
        &mut self,
        key: &FlowKey,
        source: &Endpoint,
        index: BackendIndex,
        backend: &Endpoint,
        way: &WayBack,
    ) {
        let ports = ports(key);
        if key.source.is_v4() & key.destination.is_v4() {
            self.words[1] = pair(key.source.last(), key.destination.last());
            self.words[2] = pair(source.address.last(), backend.address.last());
            self.words[3] = ports;
        } else {
            [self.words[1], self.words[2]] = key.source.words();
            self.words[3] = ports | V6;
            [self.more[0], self.more[1]] = key.destination.words();
            [self.more[2], self.more[3]] = source.address.words();
            [self.more[4], self.more[5]] = backend.address.words();
        }
        self.words[5] = index.0 as u64;
        self.words[6] = backend.port.word() as u64;
        self.words[4] = source.port.word() as u64;
        self.set_way_back(way);
    }

    /// Replaces the way back to the client.
    #[inline(always)]
    pub fn set_way_back(&mut self, way: &WayBack) {
        const LOW: u64 = 0xffff;
        self.words[4] = self.words[4] & LOW | mac_word(way.destination_mac) << 16;
        self.words[5] = self.words[5] & 0xffff_ffff | (way.ifindex as u64) << 32;
        self.words[6] = self.words[6] & LOW | mac_word(way.source_mac) << 16;
        self.words[7] = way.tags.outer as u64 | (way.tags.inner as u64) << 32;
    }

    /// Replaces the SNAT port.
    #[inline(always)]
    pub fn set_source_port(&mut self, port: Port) {
        self.words[4] = self.words[4] >> 16 << 16 | port.word() as u64;
    }

    /// Its first word.
    #[inline(always)]
    pub const fn life(&self) -> Life {
        Life::from_bits(self.words[0])
    }

    /// Whether its addresses are IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.words[3] & V6 != 0
    }

    /// TCP or UDP.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        protocol_of(self.words[3])
    }

    /// The SNAT port.
    #[inline(always)]
    pub const fn source_port(&self) -> Port {
        Port::from_word(self.words[4] as u16)
    }

    /// The flow's backend.
    #[inline(always)]
    pub const fn backend(&self) -> BackendIndex {
        BackendIndex(self.words[5] as u32)
    }

    /// The client.
    #[inline(always)]
    pub fn client(&self) -> Endpoint {
        self.endpoint(self.words[1] as u32, [self.words[1], self.words[2]], self.words[3] as u16)
    }

    /// The VIP.
    #[inline(always)]
    pub fn vip(&self) -> Endpoint {
        let last = (self.words[1] >> 32) as u32;
        self.endpoint(last, [self.more[0], self.more[1]], (self.words[3] >> 16) as u16)
    }

    /// The client as the backend sees it: SNAT address and port.
    #[inline(always)]
    pub fn source(&self) -> Endpoint {
        self.endpoint(self.words[2] as u32, [self.more[2], self.more[3]], self.words[4] as u16)
    }

    /// The backend's endpoint.
    #[inline(always)]
    pub fn destination(&self) -> Endpoint {
        let last = (self.words[2] >> 32) as u32;
        self.endpoint(last, [self.more[4], self.more[5]], self.words[6] as u16)
    }

    /// The way back to the client.
    #[inline(always)]
    pub fn way_back(&self) -> WayBack {
        WayBack {
            ifindex: (self.words[5] >> 32) as u32,
            tags: Tags { outer: self.words[7] as u32, inner: (self.words[7] >> 32) as u32 },
            destination_mac: mac(self.words[4] >> 16),
            source_mac: mac(self.words[6] >> 16),
        }
    }

    /// The flow, as in the client's packets.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey::new(self.client(), self.vip())
    }

    #[inline(always)]
    fn endpoint(&self, last: u32, words: [u64; 2], port: u16) -> Endpoint {
        let address =
            if self.is_v6() { Address::from_words(words) } else { Address::v4(Be32::from_word(last)) };
        Endpoint::new(address, Port::from_word(port), self.protocol())
    }
}

#[inline(always)]
fn mac_word(mac: MacAddress) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

#[inline(always)]
fn mac(word: u64) -> MacAddress {
    let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
    MacAddress::new([a, b, c, d, e, f])
}
