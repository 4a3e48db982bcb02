//! Records that another load balancer of the same fleet hands over.

use super::find::find;
use super::forget::forget;
use super::life::Life;
use super::memory::Steps;
use super::note::note;
use super::outcome::{Begun, Found, Manner};
use super::record::{Record, Room, WayBack};
use crate::net::Protocol;
use crate::tables::Settings;
use crate::tables::flow::{CONFIRMED, COUNTED, PAIRED, is_closing, is_surely_closed};

/// What became of a record that was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merged {
    /// The flow has a record in this place now, with this life.
    There(u32, Life),
    /// It has one, but the port that its backend knows the client by is another flow's here: the backend's packets do not find it, as
    /// long as that is so.
    WithoutPort,
    /// The flow has another backend or another port here, and its record here is the better one.
    Other,
    /// There is no room.
    Full,
}

/// Takes in the record of a flow that another load balancer has. Where the flow has the same record here, what the packets noted there and
/// here counts. The way back to the client is the next packet's to fill in: the other one's means nothing here.
///
/// `record` has the seconds of this host's clock. `now`: as well. `is_of_use`: whether a record here still names a backend that there is.
pub fn merge<M: Steps>(
    memory: &M,
    settings: &Settings,
    record: &Record,
    now: u32,
    is_of_use: impl Fn(&Record) -> bool,
) -> Merged {
    let mut room = Room { flow: record.key(), now, ..Room::default() };
    if find(memory, settings, &mut room) != Found::Record {
        return begin(memory, settings, &mut room, record, record.life(), &WayBack::default());
    }
    let here = room.record;
    if is_alike(&here, record) {
        return match note(memory, &here, |life| joined(life, record.life())) {
            Some((_, life)) => Merged::There(here.place, life),
            // It has become another flow's meanwhile.
            None => Merged::Other,
        };
    }
    let may_get_port = is_paired(record) && !is_paired(&here) && is_between_the_same(&here, record);
    let stays = is_of_use(&here) && !gives_way(here.life(), record.life(), record.protocol(), now, settings);
    if !may_get_port && stays {
        return Merged::Other;
    }
    let (life, way) = match may_get_port {
        true => (joined(here.life(), record.life()), here.way_back()),
        false => (record.life(), WayBack::default()),
    };
    forget(memory, &settings.hash_keys, &here, |_| true);
    begin(memory, settings, &mut room, record, life, &way)
}

/// Records the flow with this life and way back.
fn begin<M: Steps>(
    memory: &M,
    settings: &Settings,
    room: &mut Room,
    record: &Record,
    life: Life,
    way: &WayBack,
) -> Merged {
    room.new = Record { place: 0, padding: 0, ..*record };
    room.new.set_way_back(way);
    // The limits of this host count the flows whose first packet came here.
    let progress = life.progress() & !COUNTED & !PAIRED;
    let own_port = if is_paired(record) { Manner::OWN_PORT } else { 0 };
    match memory.begin_flow(settings, room, Manner(u32::from(progress) | own_port)) {
        Begun::New => {}
        Begun::Full => return Merged::Full,
        Begun::Already | Begun::NoPort | Begun::Busy => return Merged::Other,
    }
    let paired = room.new.life().progress() & PAIRED;
    let place = room.new.place;
    let with_notes = |begun: Life| begun.joined(life.last_seen(), progress | paired, life.proof());
    match note(memory, &room.new, with_notes) {
        Some(_) if is_paired(record) && paired == 0 => Merged::WithoutPort,
        Some((_, life)) => Merged::There(place, life),
        None => Merged::Other,
    }
}

/// Whether two records of a flow say the same to its packets.
pub(super) fn is_alike(one: &Record, other: &Record) -> bool {
    is_between_the_same(one, other) && is_paired(one) == is_paired(other)
}

/// Whether the backend of both is the same, and knows the client by the same address and port.
fn is_between_the_same(one: &Record, other: &Record) -> bool {
    one.backend() == other.backend()
        && one.source() == other.source()
        && one.destination() == other.destination()
}

fn is_paired(record: &Record) -> bool {
    record.life().progress() & PAIRED != 0
}

/// What is known of a flow by both: each may have seen one direction of it only.
fn joined(here: Life, there: Life) -> Life {
    let is_later = there.last_seen() > here.last_seen();
    // Whoever opens a connection again between the same ends has closed the one before.
    let is_new_connection = is_later && is_surely_closed(here.progress()) && !is_closing(there.progress());
    let kept = if is_new_connection { here.progress() & (COUNTED | PAIRED) } else { here.progress() };
    let progress = kept | there.progress() & !(COUNTED | PAIRED);
    let seen = if is_later { there.last_seen() } else { here.last_seen() };
    here.joined(seen, progress, there.proof())
}

/// Whether this host's record of a flow makes way for a different one. One that is over does, and one that a single packet speaks
/// for; else the one whose packet came last counts.
fn gives_way(here: Life, there: Life, protocol: Protocol, now: u32, settings: &Settings) -> bool {
    let is_confirmed = |life: Life| life.progress() & CONFIRMED != 0;
    if !here.is_live(protocol, now, settings) {
        return true;
    }
    match (is_confirmed(here), is_confirmed(there)) {
        (false, true) => true,
        (true, false) => false,
        _ => there.last_seen() > here.last_seen(),
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::super::claim;
    use super::super::host::HostMemory;
    use super::super::life::ANSWERED;
    use super::super::note::redirect;
    use super::super::port_words;
    use super::super::testing::{SETTINGS, address, flow_key, room};
    use super::super::walk::records;
    use super::*;
    use crate::net::{Endpoint, MacAddress, Port};
    use crate::tables::flow::{BACKEND_FIN, CLIENT_FIN, ESTABLISHED};
    use crate::tables::{BackendIndex, FlowKey};

    const NOW: u32 = 200;
    const OPEN: u8 = ESTABLISHED | CONFIRMED;

    fn key_of(flow: u16) -> FlowKey {
        flow_key(flow % 2 == 1, flow)
    }

    fn table() -> HostMemory {
        HostMemory::new(128, AtomicU64::default)
    }

    /// Records a flow whose last packet came at 100.
    fn put(memory: &HostMemory, flow: u16, backend: u32, progress: u8, port: u32) -> Record {
        let key = key_of(flow);
        let mut room = room(&key, 100);
        let end = |number| Endpoint::new(address(flow % 2 == 1, number), Port::new(8080), key.protocol);
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let way = WayBack { ifindex: 7, destination_mac: mac, ..WayBack::default() };
        room.new.set(&key, &end(1), BackendIndex(backend), &end(2), &way);
        assert_eq!(claim::begin(memory, &SETTINGS, &mut room, Manner(port)), Begun::New);
        note(memory, &room.new, |life| life.noted(100, life.progress() | progress, ANSWERED)).unwrap();
        look(memory, flow).unwrap()
    }

    fn look(memory: &HostMemory, flow: u16) -> Option<Record> {
        let mut room = room(&key_of(flow), 100);
        (find(memory, &SETTINGS, &mut room) == Found::Record).then_some(room.record)
    }

    fn take(memory: &HostMemory, record: &Record) -> Merged {
        merge(memory, &SETTINGS, record, NOW, |_| true)
    }

    #[test]
    fn a_record_is_found_from_both_sides_and_leaves_the_way_back_to_the_next_packet() {
        let (from, to) = (table(), table());
        for flow in 0..200 {
            let record =
                put(&from, flow, u32::from(flow), OPEN, if flow % 3 == 0 { Manner::PORT } else { 0 });
            assert!(matches!(take(&to, &record), Merged::There(..)));
            let there = look(&to, flow).unwrap();
            assert_eq!((there.source(), there.destination()), (record.source(), record.destination()));
            assert_eq!(there.way_back(), WayBack::default());
            assert_eq!(there.life().to_bits() << 16, record.life().to_bits() << 16, "all but the version");
            let mut room = room(&key_of(flow), NOW);
            (room.backend, room.client) = (record.destination(), record.source());
            let found = port_words::find(&to, &SETTINGS.hash_keys, &mut room);
            assert_eq!(found == Found::Record, record.life().progress() & PAIRED != 0);
        }
        assert_eq!(records(&to).count(), 200);
    }

    #[test]
    fn what_both_have_seen_of_a_flow_counts() {
        let (from, to) = (table(), table());
        let record = put(&from, 4, 1, OPEN | CLIENT_FIN, Manner::PORT);
        let mut here = Record { place: 0, ..record };
        here.words[0] = Life::default().taken().begun(150, OPEN | BACKEND_FIN | PAIRED).to_bits();
        take(&to, &here);
        let Merged::There(_, life) = take(&to, &record) else { panic!("it is the same flow") };
        assert_eq!(life.progress(), OPEN | CLIENT_FIN | BACKEND_FIN | PAIRED);
        assert_eq!((life.last_seen(), life.proof() & ANSWERED), (150, ANSWERED));
        assert_eq!(take(&to, &record), take(&to, &record), "once more changes nothing");
    }

    #[test]
    fn the_way_back_of_a_flow_that_is_known_here_stays() {
        let (from, to) = (table(), table());
        let here = put(&to, 4, 1, OPEN, Manner::PORT);
        take(&to, &put(&from, 4, 1, OPEN, Manner::PORT));
        assert_eq!(look(&to, 4).unwrap().way_back(), here.way_back());
    }

    #[test]
    fn a_connection_between_the_ends_of_a_closed_one_is_open() {
        let (from, to) = (table(), table());
        put(&to, 4, 1, OPEN | CLIENT_FIN | BACKEND_FIN, Manner::PORT);
        let record = put(&from, 4, 1, OPEN, Manner::PORT);
        note(&from, &record, |life| life.noted(110, life.progress(), 0)).unwrap();
        take(&to, &look(&from, 4).unwrap());
        assert!(!is_closing(look(&to, 4).unwrap().life().progress()));
    }

    #[test]
    fn of_two_backends_the_one_counts_that_more_packets_or_the_later_ones_speak_for() {
        let backend_after = |here: (u8, u32), there: (u8, u32)| {
            let (from, to) = (table(), table());
            let own = put(&to, 4, 1, here.0, Manner::PORT);
            note(&to, &own, |life| life.noted(here.1, life.progress(), 0)).unwrap();
            let record = put(&from, 4, 2, there.0, Manner::PORT);
            note(&from, &record, |life| life.noted(there.1, life.progress(), 0)).unwrap();
            take(&to, &look(&from, 4).unwrap());
            assert_eq!(records(&to).count(), 1);
            look(&to, 4).unwrap().backend()
        };
        assert_eq!(backend_after((ESTABLISHED, 150), (OPEN, 140)), BackendIndex(2), "a guess");
        assert_eq!(backend_after((OPEN, 150), (OPEN, 140)), BackendIndex(1));
        assert_eq!(backend_after((OPEN, 150), (OPEN, 160)), BackendIndex(2));
        assert_eq!(
            backend_after((OPEN | CLIENT_FIN | BACKEND_FIN, 150), (OPEN, 140)),
            BackendIndex(2),
            "closed"
        );
    }

    #[test]
    fn a_flow_whose_port_another_has_is_without_it_until_that_ends() {
        let (from, to) = (table(), table());
        let record = put(&from, 4, 1, OPEN, Manner::PORT);
        let mut other = put(&from, 6, 1, OPEN, Manner::PORT);
        other.set_source_port(record.source_port());
        let Merged::There(..) = take(&to, &record) else { panic!("the port is free") };
        assert_eq!(take(&to, &other), Merged::WithoutPort);
        let there = look(&to, 6).unwrap();
        assert_eq!((there.source(), there.life().progress() & PAIRED), (other.source(), 0));
        assert_eq!(take(&to, &other), Merged::WithoutPort);
        let way = WayBack { ifindex: 7, ..WayBack::default() };
        redirect(&to, &mut look(&to, 6).unwrap(), &way).unwrap();
        forget(&to, &SETTINGS.hash_keys, &look(&to, 4).unwrap(), |_| true);
        let Merged::There(..) = take(&to, &other) else { panic!("the port is free again") };
        let there = look(&to, 6).unwrap();
        assert_eq!((there.way_back(), there.life().progress() & PAIRED), (way, PAIRED));
        assert_eq!(records(&to).count(), 1);
    }

    #[test]
    fn limits_count_no_flow_of_another_load_balancer() {
        let (from, to) = (table(), table());
        take(&to, &put(&from, 4, 1, OPEN | COUNTED, 0));
        assert_eq!(look(&to, 4).unwrap().life().progress() & COUNTED, 0);
    }
}
