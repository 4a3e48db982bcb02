//! Finds and updates flows' records in [`crate::flow_table`] for packets.

use super::flow_count;
use crate::flow_table::Steps as _;
use crate::flow_table::note::redirect;
use crate::flow_table::outcome::Found;
use crate::flow_table::outcome::Noted;
use crate::flow_table::record::{Room, WayBack};
use crate::packet::parse::Parsed;
use crate::tables::flow::Direction;
use crate::tables::{Backend, BackendIndex, FlowKey, Settings, Tables};

/// Finds the record of the flow to which a client's packet belongs.
#[inline(always)]
pub fn of_client<T: Tables>(tables: &T, settings: &Settings, key: &FlowKey, room: &mut Room) -> Found {
    room.flow = *key;
    tables.flow_table().find_flow(settings, room)
}

/// Finds the record of the flow to which a backend's packet belongs, by its SNAT port.
#[inline(never)]
pub fn of_backend<T: Tables>(tables: &T, key: &FlowKey, room: &mut Room) -> Found {
    room.backend = key.source_endpoint();
    room.client = key.destination_endpoint();
    let Some(settings) = tables.settings() else { return Found::Nothing };
    tables.flow_table().find_flow_of_reply(settings, room)
}

/// Prepares the new record from a client's packet that leaves from `Room::source` to this backend.
#[inline(never)]
pub fn prepare(parsed: &Parsed, index: BackendIndex, backend: &Backend, room: &mut Room) {
    let Room { new, source, backend: endpoint, .. } = room;
    *endpoint = backend.endpoint_for(&parsed.key.destination_endpoint());
    new.set(&parsed.key, source, index, endpoint, &way_back(parsed));
}

/// Makes replies take the way of the client's packets, if that has changed.
#[inline(never)]
pub fn turn<T: Tables>(tables: &T, parsed: &Parsed, room: &mut Room) {
    let way = way_back(parsed);
    if room.record.way_back() != way {
        // If another CPU has changed the record meanwhile, the next packet will do it.
        let _ = redirect(tables.flow_table(), &mut room.record, &way);
    }
}

/// The way back to the packet's sender.
#[inline(always)]
fn way_back(parsed: &Parsed) -> WayBack {
    WayBack {
        ifindex: parsed.ingress,
        tags: parsed.tags,
        destination_mac: parsed.source_mac,
        source_mac: parsed.destination_mac,
    }
}

/// Notes a packet with these TCP control bits (none for UDP) in its flow's record. If it ends the flow, the flow no longer
/// counts.
#[inline(always)]
pub fn note_packet<T: Tables>(tables: &T, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted {
    let noted = tables.flow_table().note_packet(room, direction, tcp_flags);
    if noted == Noted::End {
        flow_count::ended(tables, room.record.backend());
    }
    noted
}
