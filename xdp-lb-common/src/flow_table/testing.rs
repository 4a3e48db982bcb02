//! What the tests of the table share.

use super::record::Room;
use crate::hash::KEYS;
use crate::net::{Address, Be32, Endpoint, Port, Protocol};
use crate::own_mac::{IN_SETTINGS, OwnMac};
use crate::tables::flow::patience;
use crate::tables::{FlowKey, Settings};

pub const SETTINGS: Settings = Settings {
    hash_keys: keys(),
    snat_port_first: 1024,
    snat_port_count: 600,
    patience: patience(900, 60),
    options: 0,
    handover: 0,
    heartbeat: 0,
    flow_buckets: 0,
    flow_reach: 0,
    alone: 0,
    own_macs: [OwnMac::from_bits(0); IN_SETTINGS],
};

const fn keys() -> [u64; KEYS] {
    let mut keys = [0; KEYS];
    let mut at = 0;
    let mut state: u64 = 1;
    while at < KEYS {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        keys[at] = state ^ state >> 29;
        at += 1;
    }
    keys
}

pub fn address(is_v6: bool, number: u32) -> Address {
    if is_v6 {
        Address::v6([Be32::new(0x2001_0db8), Be32::new(number), Be32::new(!number), Be32::new(number * 7)])
    } else {
        Address::v4(Be32::new(0xc633_0000 + number))
    }
}

pub fn flow_key(is_v6: bool, flow: u16) -> FlowKey {
    let client =
        Endpoint::new(address(is_v6, 0x1000 + u32::from(flow) / 7), Port::new(20_000 + flow), Protocol::TCP);
    FlowKey::new(client, Endpoint::new(address(is_v6, 0xff), Port::new(80), Protocol::TCP))
}

/// Room for a packet of a flow that comes `now`.
pub fn room(key: &FlowKey, now: u32) -> Room {
    let mut room = Room { flow: *key, now, ..Room::default() };
    room.aim(&SETTINGS.hash_keys);
    room
}
