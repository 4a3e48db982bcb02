//! What must hold of every packet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::flow_table::life::Life;
use xdp_lb_common::flow_table::outcome::Found;
use xdp_lb_common::flow_table::record::{Record, Room, WayBack};
use xdp_lb_common::flow_table::{Memory as _, WAYS, Word, port_words, tags};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::process::handover::{Target, target};
use xdp_lb_common::process::{Scratch, Verdict, process, send_check, slot_hash};
use xdp_lb_common::reason::{Kind, Reason};
use xdp_lb_common::tables::flow::PAIRED;
use xdp_lb_common::tables::{
    ASYMMETRIC_REPLIES, Backend, BackendIndex, CHECKS_HOST_MAC, CHECKS_MAC, Check, FlowKey, Fragment,
    FragmentKey, FragmentTarget, Mode, Reply, Route, RouteQuery, Service, SourceVerdict, Tables, Tags,
};

use crate::decap;
use crate::dissect::{
    Dissection, Header, TCP, Transport, UDP, address_sum, dissect, error, header, sum, word,
};
use crate::world::{self, World, server_id_bytes};

/// TCP's control bits.
const FIN: u8 = 1;
const RST: u8 = 4;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The index of `lo`, by which this host's own packets may come in.
const LOOPBACK: u32 = 1;

/// What became of a packet.
pub struct Outcome {
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
    /// Why it is an answer to the packet, if it is one.
    answer: Option<Reason>,
}

impl Outcome {
    /// Whether something leaves: the packet, or an answer to it.
    fn is_sent(&self) -> bool {
        matches!(self.verdict, Verdict::Transmit | Verdict::Redirect(_))
    }

    /// Whether the packet was sent on.
    pub fn is_forwarded(&self) -> bool {
        self.is_sent() && self.answer.is_none()
    }
}

/// Sends a frame through the datapath, and looks at what becomes of it and of the tables.
pub fn send(world: &World, scratch: &mut Scratch, frame: &[u8], ingress: u32) -> Outcome {
    let flows = snapshot(world);
    check_other_host(world, scratch, frame, ingress);
    let counted = counted(world);
    let held = world.tables.backend_flows.borrow().clone();
    let mut packet = Buffer::new(frame, ingress);
    let reasons = *world.tables.reasons.borrow();
    let verdict = process(&mut packet, &world.tables, scratch);
    let is_answer = |reason: &&Reason| {
        let now = world.tables.reasons.borrow()[**reason as usize];
        reason.kind() == Kind::Answer && now > reasons[**reason as usize]
    };
    let answer = Reason::ALL.iter().find(is_answer).copied();
    let mut outcome = Outcome { verdict, bytes: packet.bytes().to_vec(), answer };
    let is_handed = verdict == Verdict::Pass(Reason::HandedToHost);
    if is_handed {
        outcome = sent_by_host(world, &outcome, ingress);
    }
    let verdict = outcome.verdict;
    let arrived = dissect(frame);
    let is_pong = outcome.is_sent() && arrived.as_ref().is_some_and(|packet| is_echo(frame, packet));
    let is_of_check = outcome.is_sent() && answered_check(world, frame).is_some();
    // An answered echo request is not a service's, and a check's packets are no client's.
    let count = counted + u64::from(!is_pong && !is_of_check) + u64::from(is_handed);
    assert_eq!(count, self::counted(world), "each packet is counted once: {verdict:?}");
    let now = snapshot(world);
    check_table(world);
    assert_ne!(verdict, Verdict::Drop(Reason::FlowBusy), "nobody else is at work on the flow table");
    if let Verdict::Pass(_) = verdict {
        assert_eq!(outcome.bytes, frame, "a packet that is passed is unchanged");
        // A backend's FIN or reset is noted, whether or not the packet is for this host: that to a spoofed client's address may be.
        let is_end = arrived.as_ref().is_some_and(|packet| {
            packet.protocol == TCP
                && packet.transport(frame).is_some_and(|transport| {
                    transport.flags & (RST | FIN) != 0
                        && world.rule_at(&key(packet, &transport).source_endpoint()).is_some()
                })
        });
        assert!(is_end || now == flows, "a packet that is passed leaves the flows alone: {verdict:?}");
    }
    if let Some(arrived) = &arrived
        && arrived.protocol == TCP
        && let Some(transport) = arrived.transport(frame)
        && transport.flags & RST != 0
    {
        assert!(now.clients.keys().all(|key| flows.clients.contains_key(key)), "a reset begins no flow");
    }
    if let Some(arrived) = &arrived {
        check_source(world, frame, arrived, &outcome);
    }
    check_room(world, &held, &flows, frame, arrived.as_ref(), outcome.verdict);
    // A later fragment bears the mark of its first, which was looked at.
    let is_marked_before = is_handed && arrived.as_ref().is_some_and(|packet| packet.piece.offset != 0);
    if outcome.is_sent() && !is_marked_before {
        check_sent(world, frame, ingress, &outcome, &flows);
    }
    outcome
}

/// That a frame for another host is passed.
fn check_other_host(world: &World, scratch: &mut Scratch, frame: &[u8], ingress: u32) {
    let mut others = frame.to_vec();
    let Some(last) = others.get_mut(5) else { return };
    *last ^= 0x80;
    if others[..6] == world::mac(2).octets() {
        return;
    }
    let mut packet = Buffer::new(&others, ingress);
    let verdict = process(&mut packet, &world.tables, scratch);
    assert!(matches!(verdict, Verdict::Pass(_)), "a frame for another host is passed: {verdict:?}");
    assert_eq!(packet.bytes(), others);
}

/// What the host's neighbour table sends of a packet that was marked for it.
fn sent_by_host(world: &World, outcome: &Outcome, ingress: u32) -> Outcome {
    let target = target(&Buffer::new(&outcome.bytes, ingress), &world.tables.settings);
    let mut bytes = outcome.bytes.clone();
    let ifindex = match target.expect("a packet for the host's neighbour table is marked") {
        Target::Interface(ifindex) => ifindex,
        Target::Backend(index) => {
            let backend = &world.tables.backends[index.0 as usize];
            bytes[..6].copy_from_slice(&backend.destination_mac.octets());
            bytes[6..12].copy_from_slice(&backend.source_mac.octets());
            backend.ifindex
        }
    };
    let verdict = if ifindex == ingress { Verdict::Transmit } else { Verdict::Redirect(ifindex) };
    Outcome { verdict, bytes, answer: None }
}

/// Whether the records of a service's flow are looked at: in a settled slot they are not, unless every flow has one.
fn looks_at_records(world: &World, service: &Service, flow: &FlowKey) -> bool {
    let place = slot_hash(&world.tables.settings, service, flow).reduce(service.ring_len.max(1));
    let slot = world.tables.slots.get((service.ring_offset.0 + place) as usize);
    service.records_flows() || slot.is_some_and(|slot| slot.is_tracked())
}

/// That no packet takes a backend or a service over its limit of flows, and that a flow is refused for a limit only where
/// there is one that is reached.
fn check_room(
    world: &World,
    held: &BTreeMap<BackendIndex, i64>,
    flows: &Flows,
    frame: &[u8],
    arrived: Option<&Dissection>,
    verdict: Verdict,
) {
    let tables = &world.tables;
    let of_backend = |flows: &BTreeMap<BackendIndex, i64>, place: usize| {
        flows.get(&BackendIndex(place as u32)).copied().unwrap_or(0)
    };
    let of_service = |flows: &BTreeMap<BackendIndex, i64>, service: &Service| -> i64 {
        let its = tables.backends.iter().enumerate().filter(|(_, backend)| backend.service == service.index);
        its.map(|(place, _)| of_backend(flows, place)).sum()
    };
    let now = tables.backend_flows.borrow();
    let changed = |place: usize| of_backend(&now, place) - of_backend(held, place);
    assert!(
        (0..tables.backends.len()).all(|place| changed(place).abs() <= 1),
        "a packet begins or ends one flow"
    );
    if !world.is_coherent {
        return;
    }
    let services = || world.services.iter().map(|(_, service)| service);
    let is_reached = |limit: u32, flows: i64| limit != 0 && flows >= i64::from(limit);
    if let Some(place) = (0..tables.backends.len()).find(|place| changed(*place) > 0)
        && let Some(service) = services().find(|service| service.index == tables.backends[place].service)
        && let Some(arrived) = arrived
        && let Some(transport) = arrived.transport(frame)
        && (arrived.protocol == UDP || transport.flags & (SYN | ACK) == SYN)
        && named(world, service, frame, arrived).is_none()
        // One that begins anew is not held up.
        && recall(flows, &key(arrived, &transport)).is_none()
    {
        assert!(
            !is_reached(tables.backends[place].max_flows, of_backend(held, place)),
            "a full backend gets no flow"
        );
        assert!(!is_reached(service.max_flows, of_service(held, service)), "a full service gets no flow");
    }
    match verdict {
        Verdict::Drop(Reason::ServiceFull) => {
            assert!(services().any(|service| is_reached(service.max_flows, of_service(held, service))));
        }
        Verdict::Drop(Reason::BackendsFull) => {
            let mut all = tables.backends.iter().enumerate();
            assert!(all.any(|(place, backend)| is_reached(backend.max_flows, of_backend(held, place))));
        }
        _ => {}
    }
}

/// The check that a packet answers, if it is sent on at all.
fn answered_check<'w>(world: &'w World, frame: &[u8]) -> Option<&'w Check> {
    let packet = dissect(frame).filter(|packet| packet.piece.offset == 0)?;
    let key = key(&packet, &packet.transport(frame)?);
    let rule = world.rule_at(&key.source_endpoint())?;
    let is_to_service = world.service_at(&key.destination_endpoint()).is_some();
    if rule.answers_checks == 0 || is_to_service { None } else { world.tables.checks.get(&key.reversed()) }
}

/// Sends a frame as one of a check's, and looks at what becomes of it: a check's leaves whole, nothing else does.
pub fn send_as_check(world: &World, scratch: &mut Scratch, frame: &[u8]) {
    let counted = counted(world);
    let mut packet = Buffer::new(frame, 9);
    let verdict = send_check(&mut packet, &world.tables, scratch);
    assert_eq!(counted, self::counted(world), "it is not counted");
    let Verdict::Redirect(ifindex) = verdict else {
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        return;
    };
    let before = dissect(frame).expect("what leaves was whole");
    let transport = before.transport(frame).expect("what leaves was TCP or UDP");
    let check = world.tables.checks.get(&key(&before, &transport)).expect("what leaves is a check's");
    let service = world.tables.service(&check.service).expect("of a service");
    let backend = &world.tables.backends[check.backend.0 as usize];
    assert_eq!(
        (backend.service, backend.ifindex),
        (service.index, ifindex),
        "it goes to the service's backend"
    );
    let after = dissect(packet.bytes()).expect("what leaves is whole");
    if !service.mode.is_tunnel() {
        check_relayed(frame, &before, &packet.bytes()[after.l3..after.end]);
    }
}

/// That a client is refused where the longest range that it is in says so, and nowhere else.
fn check_source(world: &World, frame: &[u8], arrived: &Dissection, outcome: &Outcome) {
    let list = arrived.transport(frame).and_then(|transport| {
        Some(world.service_at(&key(arrived, &transport).destination_endpoint())?.source_list)
    });
    // A later fragment has no ports: where it needs no first, its service is the only one.
    let is_later = arrived.piece.offset != 0;
    let sole = || {
        let destination = Address::from(arrived.destination);
        let mut services = world.tables.services.iter();
        services.find(|(vip, _)| vip.address == destination && vip.protocol.0 == arrived.protocol)
    };
    let list = list.or_else(|| sole().filter(|_| is_later).map(|(_, service)| service.source_list));
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let source = bits(arrived.source);
    let its = world.tables.sources.iter().filter(|((range, length), _)| {
        let differs = bits(range.address.into()) ^ source;
        list == Some(range.scope) && differs.leading_zeros() >= u32::from(*length)
    });
    let longest = its.max_by_key(|((_, length), _)| *length);
    let is_denied = longest.is_some_and(|(_, verdict)| *verdict == SourceVerdict::Deny);
    // One that follows its first goes where that went.
    if is_denied && !is_later {
        assert!(!outcome.is_forwarded(), "who is denied does not get in");
    } else if !is_denied {
        assert_ne!(outcome.verdict, Verdict::Drop(Reason::SourceDenied), "who is not denied gets in");
    }
}

/// The backend that a packet's connection id names, where that may have packets (draft-ietf-quic-load-balancers-21).
fn named(world: &World, service: &Service, frame: &[u8], packet: &Dissection) -> Option<usize> {
    let transport = packet.transport(frame).filter(|_| packet.protocol == UDP)?;
    let datagram = &frame[packet.l4 + 8..packet.l4 + transport.length];
    let length = usize::from(service.server_id_length);
    let id = match *datagram {
        [first, _, _, _, _, id_length, ref id @ ..] if first & 0x80 != 0 => {
            (usize::from(id_length) > length).then_some(id)?
        }
        [first, ref id @ ..] if first & 0x80 == 0 => id,
        _ => return None,
    };
    let (config, id) = id.split_first()?;
    // At least 20 bytes are behind a connection id, of which the datapath wants to see as many as it reads.
    if length == 0 || config >> 5 != service.quic_config || id.len() < 16 {
        return None;
    }
    let place = id[0];
    let backend = world.tables.backends.get(usize::from(place))?;
    let keeps = backend.state.keeps_flows();
    let is_named = backend.service == service.index && id[..length] == server_id_bytes(place)[..length];
    (keeps && is_named).then_some(usize::from(place))
}

/// The recorded flows.
#[derive(PartialEq, Eq, Debug)]
struct Flows {
    /// By their clients' packets.
    clients: BTreeMap<FlowKey, Record>,
    /// Their clients' packets, by those of their backends.
    backends: BTreeMap<FlowKey, FlowKey>,
}

fn snapshot(world: &World) -> Flows {
    let clients: BTreeMap<_, _> = world.flows().into_iter().map(|record| (record.key(), record)).collect();
    let paired = clients.values().filter(|record| record.life().progress() & PAIRED != 0);
    let backends = paired.map(|record| (FlowKey::new(record.destination(), record.source()), record.key()));
    Flows { backends: backends.collect(), clients }
}

/// That the flow table is whole: every line is what its tag says, no two flows have the same port towards a backend, and each
/// is found by its own.
fn check_table(world: &World) {
    let tables = &world.tables;
    for bucket in 0..tables.flows.buckets() {
        let word = Word::load(tables.flows.tags(bucket).expect("a bucket"));
        for way in 0..WAYS {
            let life =
                Life::from_bits(Word::load(&tables.flows.line(bucket * WAYS + way).expect("a line")[0]));
            assert!(!life.is_taken(), "nothing is held");
            let tag = tags::of(word, way);
            assert_eq!((life.is_free(), life.belongs()), (tag == tags::NONE, tag == tags::BELONGS));
        }
    }
    let flows = world.flows();
    let is_double = flows.windows(2).any(|two| two[0].key() == two[1].key());
    assert!(!is_double, "a flow has one record");
    for record in flows.iter().filter(|record| record.life().progress() & PAIRED != 0) {
        let mut room = Room { backend: record.destination(), client: record.source(), ..Room::default() };
        let found = port_words::find(&tables.flows, &tables.settings.hash_keys, &mut room);
        assert_eq!((found, &room.record), (Found::Record, record), "its backend's packets find it");
    }
}

/// The record of a client's flow.
fn recall<'f>(flows: &'f Flows, key: &FlowKey) -> Option<&'f Record> {
    flows.clients.get(key)
}

/// The record that a packet of a backend with this rule goes by.
fn record_of_reply<'f>(world: &World, rule: &Reply, came: &FlowKey, flows: &'f Flows) -> Option<&'f Record> {
    let tables = &world.tables;
    let is_to_hairpin = tables.settings.is_snat_port(came.destination_port)
        && tables.backends[rule.backend.0 as usize].source == came.destination;
    let key = flows.backends.get(came).filter(|_| rule.by_record != 0 || is_to_hairpin)?;
    recall(flows, key)
}

/// How many packets all counters have seen.
fn counted(world: &World) -> u64 {
    let sent: u64 = world
        .tables
        .backend_traffic
        .borrow()
        .values()
        .map(|traffic| traffic.packets_in + traffic.packets_out)
        .sum();
    sent + world.tables.reasons.borrow().iter().sum::<u64>()
}

/// The 5-tuple of a packet.
pub fn key(packet: &Dissection, transport: &Transport) -> FlowKey {
    let end =
        |address: IpAddr, port| Endpoint::new(address.into(), Port::new(port), Protocol(packet.protocol));
    FlowKey::new(end(packet.source, transport.source), end(packet.destination, transport.destination))
}

/// How a packet leaves.
#[derive(PartialEq, Eq, Debug)]
struct Way {
    ifindex: u32,
    tags: Tags,
    source_mac: MacAddress,
    destination_mac: MacAddress,
}

fn check_sent(world: &World, frame: &[u8], ingress: u32, outcome: &Outcome, flows: &Flows) {
    let before = dissect(frame).expect("what is sent on was whole");
    let after = dissect(&outcome.bytes).expect("what is sent on is whole");
    if let Some(reason) = outcome.answer {
        check_answered(frame, &before, outcome, &after, reason);
        return;
    }
    let bounded = bounded(world, frame, &before, &outcome.bytes, &after);
    let frame = bounded.as_slice();
    let fragment =
        (before.piece.offset != 0).then(|| followed(world, &before, &after, way(ingress, outcome, &after)));
    // A packet to a service, a fragment of one, or an error about one from it.
    let mut flow = None;
    let about = match before.transport(frame) {
        _ if fragment.is_some() => fragment.as_ref().and_then(|first| first.vip),
        Some(transport) => {
            flow = Some(key(&before, &transport));
            flow.map(|key| key.destination_endpoint())
        }
        None => quoted_source(frame, &before),
    };
    let service = about.and_then(|vip| world.service_at(&vip));
    if service.is_some() && ingress != LOOPBACK {
        assert!(
            !Address::from(before.source).is_martian(),
            "nobody speaks in the name of an address that no host has"
        );
        assert_ne!(before.source, before.destination, "nor in that of the one that is spoken to");
    }
    if let Some(check) = answered_check(world, frame) {
        assert_eq!(outcome.bytes[after.l3..], frame[before.l3..], "an answer to a check comes as it is");
        assert_eq!(way(ingress, outcome, &after), to_checks(check.ifindex));
        return;
    }
    if let (Some(service), Some(flow)) = (service, flow)
        && world.is_coherent
    {
        check_bound(world, service, (frame, &before), &flow, &way(ingress, outcome, &after), flows);
    }
    if let Some(service) = service
        && service.mode.keeps_addresses()
        && !is_echo(frame, &before)
    {
        let way = way(ingress, outcome, &after);
        let check = if service.mode.is_tunnel() { check_tunnelled } else { check_direct };
        check(world, service, frame, &before, outcome, &after, &way);
        return;
    }
    if before.is_icmp() {
        if is_echo(frame, &before) {
            check_answer(world, frame, &before, outcome, &after);
        } else {
            check_error(frame, &before, &outcome.bytes, &after);
        }
        return;
    }
    if let Some(first) = fragment {
        check_later(&first, frame, &before, &outcome.bytes, &after, &way(ingress, outcome, &after));
        return;
    }
    let (old, new) = (
        before.transport(frame).expect("what is sent on was TCP or UDP"),
        after.transport(&outcome.bytes).expect("what is sent on is TCP or UDP"),
    );
    check_bytes(frame, &before, &old, &outcome.bytes, &after, &new);
    if world.is_coherent {
        let sent = key(&after, &new);
        let way = way(ingress, outcome, &after);
        check_course(world, &before, &key(&before, &old), &sent, &way, flows);
        check_arrival(world, ingress, &before, &key(&before, &old), flows);
    }
}

/// The way to the checks, behind this interface.
fn to_checks(ifindex: u32) -> Way {
    Way { ifindex, tags: Tags::default(), source_mac: CHECKS_HOST_MAC, destination_mac: CHECKS_MAC }
}

/// That a packet goes to the backend that it belongs to: by its connection ID, or by its flow's record.
fn check_bound(
    world: &World,
    service: &Service,
    (frame, before): (&[u8], &Dissection),
    flow: &FlowKey,
    way: &Way,
    flows: &Flows,
) {
    let Some(record) = recall(flows, flow) else {
        if let Some(place) = named(world, service, frame, before) {
            let is_named = |backend: &Backend| std::ptr::eq(backend, &raw const world.tables.backends[place]);
            assert!(
                goes_to(world, service, way, is_named),
                "a packet goes to the backend that its connection id names"
            );
        }
        return;
    };
    if looks_at_records(world, service, flow)
        && before.protocol == TCP
        && before.transport(frame).is_some_and(|transport| transport.flags & (SYN | ACK) != SYN)
    {
        let backend = world.tables.backends.get(record.backend().0 as usize);
        let keeps = backend.is_some_and(|backend| backend.state.keeps_flows());
        assert!(keeps, "no packet of an established connection goes to another backend than its own");
    }
}

/// What became of a fragment's first.
struct First {
    fragment: Fragment,
    /// The service that it was for; nothing, where a backend sent it.
    vip: Option<Endpoint>,
}

/// The first fragment that a later one, which was sent on, has followed; or, where none has come, what follows from the
/// one service that all of the VIP's packets of the protocol are for.
fn followed(world: &World, later: &Dissection, sent: &Dissection, way: Way) -> First {
    let protocol = if later.source.is_ipv4() { later.protocol } else { 0 };
    let key = FragmentKey::new(
        later.source.into(),
        later.destination.into(),
        Be32::new(later.piece.identification),
        Protocol(protocol),
    );
    let patience = if later.source.is_ipv4() { 30 } else { 60 };
    let noted = world.tables.fragments.borrow().get(&key).copied();
    if let Some(fragment) = noted.filter(|noted| world.tables.now.saturating_sub(noted.seen) <= patience) {
        assert_ne!(fragment.target, FragmentTarget::Host, "the host's is the host's");
        let vip = Endpoint::new(key.destination, fragment.destination_port, fragment.protocol);
        return First { fragment, vip: (fragment.target == FragmentTarget::Backend).then_some(vip) };
    }
    let at_vip = |vip: &&Endpoint| vip.address == key.destination && vip.protocol.0 == later.protocol;
    let mut its = world.tables.services.iter().filter(|(vip, _)| at_vip(vip));
    let (vip, service) = its.next().expect("a fragment without its first goes to a service");
    assert!(
        its.next().is_none() && service.affinity_bits != 0,
        "that has all packets, by the client's address"
    );
    if world.is_coherent && !service.mode.is_tunnel() {
        let rewrites = service.mode == Mode::Nat;
        let destination = Address::from(sent.destination);
        let its = |backend: &Backend| !rewrites || backend.address == destination;
        assert!(goes_to(world, service, &way, its), "to one of its backends");
    }
    let Way { ifindex, tags, source_mac, destination_mac } = way;
    let (source, destination) = (later.source.into(), sent.destination.into());
    let fragment =
        Fragment { source, destination, ifindex, tags, source_mac, destination_mac, ..Fragment::default() };
    let vip = Endpoint::new(vip.address, Port::new(vip.port.get().max(1)), vip.protocol);
    First { fragment, vip: Some(vip) }
}

/// The frame with what the datapath bounds in it, where it has, and with checksums that are as right: the MTU that a
/// backend is told, and the segments that a SYN announces.
fn bounded(world: &World, frame: &[u8], before: &Dissection, sent: &[u8], after: &Dissection) -> Vec<u8> {
    let mut bounded = frame.to_vec();
    let mut put = |at: usize, checksum: usize, value: u16| {
        let word = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let (old, old_sum) = (word(frame, at), word(frame, checksum));
        // By RFC 1624; behind an odd number of bytes, of the halves of two words.
        let swap = |value: u32| {
            if (at - before.l4).is_multiple_of(2) { value } else { u32::from((value as u16).swap_bytes()) }
        };
        let mut sum = (!old_sum & 0xffff) + (!swap(old) & 0xffff) + swap(u32::from(value));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bounded[at..at + 2].copy_from_slice(&value.to_be_bytes());
        bounded[checksum..checksum + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
    };
    if let Some(vip) = quoted_source(frame, before)
        && world.service_at(&vip).is_some()
    {
        let message = &frame[before.l4..before.l4 + 8];
        let tells_mtu = match before.source {
            IpAddr::V4(_) => message[..2] == [3, 4],
            IpAddr::V6(_) => message[0] == 2 && message[4..6] == [0, 0],
        };
        if tells_mtu && u16::from_be_bytes([message[6], message[7]]) < 1280 {
            put(before.l4 + 6, before.l4 + 2, 1280);
        }
        return bounded;
    }
    let Some(transport) = before.transport(frame).filter(|_| before.protocol == TCP) else { return bounded };
    let is_tunnelled = (after.protocol, after.source, after.destination)
        != (before.protocol, before.source, before.destination)
        && after.end - after.l3 != before.end - before.l3;
    if transport.flags & SYN == 0 || is_tunnelled {
        return bounded;
    }
    let end = before.l4 + usize::from(frame[before.l4 + 12] >> 4) * 4;
    let mut at = before.l4 + 20;
    while at + 4 <= end {
        match frame[at..at + 2] {
            [1, _] => at += 1,
            [2, 4] => {
                let size = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);
                let (old, new) = (size(frame, at), size(sent, at - before.l3 + after.l3));
                if old != new {
                    let (headers, least) = if before.source.is_ipv4() { (40, 536) } else { (60, 1220) };
                    let of = |backend: &Backend| backend.mtu.saturating_sub(headers).max(least);
                    assert!(new < old, "a bound makes nothing larger");
                    assert!(
                        world.tables.backends.iter().any(|backend| backend.mtu != 0 && of(backend) == new)
                    );
                    put(at + 2, before.l4 + 16, new);
                }
                break;
            }
            [0, _] | [_, 0 | 1] => break,
            [_, length] => at += usize::from(length),
            _ => break,
        }
    }
    bounded
}

/// That a backend's packet came in where packets to that backend leave.
fn check_arrival(world: &World, ingress: u32, before: &Dissection, came: &FlowKey, flows: &Flows) {
    if world.service_at(&came.destination_endpoint()).is_some() {
        return;
    }
    let rule =
        world.rule_at(&came.source_endpoint()).expect("what is sent on is to a service or from a backend");
    let record = record_of_reply(world, rule, came, flows);
    let place = record.map_or(rule.backend, Record::backend).0;
    let backend = &world.tables.backends[place as usize];
    let vlan = before.tags.first().map_or(0, |(_, tag)| tag & 0xfff);
    let is_there = (ingress, vlan, before.tags.len() < 2) == (backend.ifindex, backend.vlan, true);
    let may_be_anywhere = world.tables.settings.options & ASYMMETRIC_REPLIES != 0 || backend.ifindex == 0;
    assert!(is_there || may_be_anywhere, "a backend's packet comes from where the backend is");
}

/// That a later fragment goes where its first went, and is as it was but for its addresses.
fn check_later(first: &First, frame: &[u8], before: &Dissection, sent: &[u8], after: &Dissection, way: &Way) {
    let Fragment { source, destination, ifindex, tags, source_mac, destination_mac, .. } = first.fragment;
    // A rule may name a VIP of the other family, where the tables contradict each other.
    let is_one_family =
        source.is_v4() == after.source.is_ipv4() && destination.is_v4() == after.source.is_ipv4();
    if is_one_family {
        assert_eq!((after.source, after.destination), (source.into(), destination.into()));
    }
    assert_eq!(*way, Way { ifindex, tags, source_mac, destination_mac });
    assert_eq!(after.ttl.checked_add(1), Some(before.ttl), "one hop less");
    let blank = |bytes: &[u8], packet: &Dissection| {
        let mut rest = bytes[packet.l3..].to_vec();
        let changing = if packet.source.is_ipv4() { [8..9, 10..20] } else { [7..8, 8..40] };
        changing.into_iter().for_each(|range| rest[range].fill(0));
        rest
    };
    assert_eq!(blank(frame, before), blank(sent, after), "all but addresses and hops is as it was");
    assert_eq!(after.header_error(sent), before.header_error(frame));
}

/// How a packet left.
fn way(ingress: u32, outcome: &Outcome, after: &Dissection) -> Way {
    let ifindex = match outcome.verdict {
        Verdict::Redirect(ifindex) => {
            assert_ne!(ifindex, ingress, "a packet that leaves as it came is not redirected");
            ifindex
        }
        _ => ingress,
    };
    Way {
        ifindex,
        tags: leaving_tags(after),
        source_mac: MacAddress::new(after.source_mac),
        destination_mac: MacAddress::new(after.destination_mac),
    }
}

/// Whether a packet goes this way to one of the service's backends that may have packets, of which this holds.
fn goes_to(world: &World, service: &Service, way: &Way, holds: impl Fn(&Backend) -> bool) -> bool {
    world.tables.backends.iter().any(|backend| {
        backend.service == service.index
            && backend.state.keeps_flows()
            && holds(backend)
            && *way
                == Way {
                    ifindex: backend.ifindex,
                    tags: Tags::vlan(backend.vlan),
                    source_mac: backend.source_mac,
                    destination_mac: backend.destination_mac,
                }
    })
}

/// That an IP packet is as it was, one hop on.
fn check_relayed(frame: &[u8], before: &Dissection, sent: &[u8]) {
    let ip = &frame[before.l3..before.end];
    let (hop, checksum) = if before.source.is_ipv4() { (8, 10..12) } else { (7, 7..8) };
    assert_eq!(sent.len(), ip.len());
    assert_eq!(sent[hop] + 1, ip[hop], "one hop less");
    let blank = |ip: &[u8]| {
        let mut rest = ip.to_vec();
        rest[hop] = 0;
        rest[checksum.clone()].fill(0);
        rest
    };
    assert_eq!(blank(sent), blank(ip), "all but the hop count is as it was");
    if before.source.is_ipv4() {
        let length = usize::from(ip[0] & 15) * 4;
        assert_eq!(error(sum(&sent[..length])), error(sum(&ip[..length])), "with a checksum as right");
    }
}

/// `dsr`: the packet itself, to a backend's Ethernet address.
fn check_direct(
    world: &World,
    service: &Service,
    frame: &[u8],
    before: &Dissection,
    outcome: &Outcome,
    after: &Dissection,
    way: &Way,
) {
    check_relayed(frame, before, &outcome.bytes[after.l3..after.end]);
    assert_eq!(frame[before.end..], outcome.bytes[after.end..]);
    if world.is_coherent {
        assert!(goes_to(world, service, way, |_| true), "dsr goes to a backend that may have packets");
    }
}

/// `ipip` and `gue`: the packet in another to a backend (RFC 2003, RFC 2473, RFC 4213; GUE variant 1).
fn check_tunnelled(
    world: &World,
    service: &Service,
    frame: &[u8],
    before: &Dissection,
    outcome: &Outcome,
    after: &Dissection,
    way: &Way,
) {
    let sent = &outcome.bytes;
    let mut inside = after.l4;
    if service.mode == Mode::Gue {
        let udp = after.transport(sent).expect("GUE is in UDP");
        assert_eq!((after.protocol, udp.destination, udp.length), (UDP, 6080, after.end - after.l4));
        assert_eq!(sent[udp.checksum..udp.checksum + 2], [0, 0], "what is inside has a checksum of its own");
        inside += 8;
    } else {
        assert_eq!(after.protocol, if before.source.is_ipv4() { 4 } else { 41 });
    }
    check_relayed(frame, before, &sent[inside..after.end]);
    assert_eq!(frame[before.end..], sent[after.end..]);
    assert_eq!(after.header_error(sent), 0, "the outer header's checksum is right");
    assert!(after.ttl > 0 && !after.piece.is_fragment());
    let (opened, left) = decap::Backend::open(6080).receive(sent);
    assert!(matches!(opened, decap::Outcome::Ipip | decap::Outcome::Gue), "{opened:?}");
    let inside = dissect(&left).expect("what comes out at the backend is whole");
    check_relayed(frame, before, &left[inside.l3..inside.end]);
    if world.is_coherent {
        assert!(
            goes_to(world, service, way, |backend| {
                IpAddr::from(backend.address) == after.destination
                    && IpAddr::from(backend.source) == after.source
                    && (backend.mtu == 0 || after.end - after.l3 <= usize::from(backend.mtu))
            }),
            "a tunnel leads to a backend that may have packets, from the address towards it, and fits"
        );
    }
}

/// That a packet's sender is told what became of it, and nobody else (RFC 792, RFC 1191; RFC 4443; RFC 9293 section
/// 3.10.7.1).
fn check_answered(frame: &[u8], before: &Dissection, outcome: &Outcome, after: &Dissection, reason: Reason) {
    let sent = &outcome.bytes;
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert!(!before.is_icmp() && before.piece.offset == 0, "no error and no later fragment is answered");
    assert_eq!(after.destination, before.source, "it goes to who sent the packet");
    assert_eq!(
        (after.source_mac, after.destination_mac, &after.tags),
        (before.destination_mac, before.source_mac, &before.tags)
    );
    assert_eq!((after.end, after.header_error(sent)), (sent.len(), 0));
    if reason != Reason::TooBigAnswered {
        assert_eq!(after.source, before.destination, "in the name of whom it was for");
        if before.protocol == TCP {
            check_reset(frame, before, sent, after, reason);
            return;
        }
    }
    let is_v4 = after.source.is_ipv4();
    let (kind, longest): (&[u8], _) = match (reason, is_v4) {
        (Reason::TooBigAnswered, true) => (&[3, 4], 576),
        (Reason::TooBigAnswered, false) => (&[2, 0], 1280),
        // Ports, and what tells the packet from others.
        (_, true) => (&[3, 3], 28 + before.l4 - before.l3 + 8),
        (_, false) => (&[1, 4], (48 + before.l4 - before.l3 + 8).min(1280)),
    };
    assert!(after.is_icmp());
    assert_eq!(&sent[after.l4..after.l4 + 2], kind);
    assert!(after.end - after.l3 <= longest);
    assert_eq!(after.icmp_error(sent), 0, "its checksum is right");
    let quote = &sent[after.l4 + 8..after.end];
    assert!(frame[before.l3..before.end].starts_with(quote), "it quotes the packet as it came");
    let whole = before.end - before.l3;
    assert!(
        quote.len() + 4 > whole || after.end - after.l3 + 4 > longest,
        "it quotes as much as there is, or as it may"
    );
}

/// That a TCP packet's sender gets a reset that it believes.
fn check_reset(frame: &[u8], before: &Dissection, sent: &[u8], after: &Dissection, reason: Reason) {
    let old = before.transport(frame).expect("what is answered was TCP");
    if reason == Reason::NoBackendAnswered {
        assert_eq!(old.flags & (SYN | ACK), SYN, "only who begins a flow is told that there is no backend");
    }
    let new = after.transport(sent).expect("a reset is TCP");
    assert_eq!((after.protocol, new.length), (TCP, 20), "a header and nothing else");
    assert_eq!(after.transport_error(sent, &new), 0, "its checksum is right");
    assert_eq!((new.source, new.destination), (old.destination, old.source));
    assert_eq!(old.flags & RST, 0, "no reset is answered");
    let number = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let (sequence, acknowledgment) = (number(sent, after.l4 + 4), number(sent, after.l4 + 8));
    if old.flags & ACK != 0 {
        assert_eq!((new.flags, sequence, acknowledgment), (RST, number(frame, before.l4 + 8), 0));
    } else {
        let header = usize::from(frame[before.l4 + 12] >> 4) * 4;
        let payload = (before.end - before.l4 - header) as u32;
        let bits = u32::from(old.flags & SYN != 0) + u32::from(old.flags & FIN != 0);
        let next = number(frame, before.l4 + 4).wrapping_add(payload).wrapping_add(bits);
        assert_eq!((new.flags, sequence, acknowledgment), (RST | ACK, 0, next));
    }
}

/// Whether this is an echo request.
fn is_echo(frame: &[u8], packet: &Dissection) -> bool {
    packet.is_icmp() && frame[packet.l4] == if packet.source.is_ipv4() { 8 } else { 128 }
}

/// Who sent the packet that an ICMP error quotes.
fn quoted_source(frame: &[u8], packet: &Dissection) -> Option<Endpoint> {
    let quote = packet.is_icmp().then(|| &frame[packet.l4 + 8..packet.end])?;
    let header = header(quote, packet.source.is_ipv4())?;
    let port = Port::new(word(quote, header.length)?);
    Some(Endpoint::new(header.source.into(), port, Protocol(header.protocol)))
}

/// That an echo request to a VIP is answered as it should be (RFC 792, RFC 4443 section 4.2).
fn check_answer(world: &World, frame: &[u8], before: &Dissection, outcome: &Outcome, after: &Dissection) {
    let sent = &outcome.bytes;
    let (request, reply) = if before.source.is_ipv4() { (8, 0) } else { (128, 129) };
    assert_eq!(outcome.verdict, Verdict::Transmit, "an answer goes back the way the question came");
    assert_eq!((frame[before.l4], sent[after.l4]), (request, reply), "an echo request is answered");
    assert!(world.tables.is_vip(&before.destination.into()), "a VIP answers, and nobody else");
    assert_eq!((after.source, after.destination), (before.destination, before.source));
    assert_eq!(
        (after.source_mac, after.destination_mac, &after.tags),
        (before.destination_mac, before.source_mac, &before.tags)
    );
    assert_eq!((after.l3, after.l4, after.end, sent.len()), (before.l3, before.l4, before.end, frame.len()));
    assert_eq!(frame[before.l4 + 1], sent[after.l4 + 1]);
    assert_eq!(frame[before.l4 + 4..], sent[after.l4 + 4..], "with the bytes that the question had");
    assert_eq!(after.header_error(sent), before.header_error(frame));
    assert_eq!(after.icmp_error(sent), before.icmp_error(frame), "the checksum is as right as it was");
}

/// That an ICMP error about a flow is as it was but for who sent what to whom, and that the one that it goes to has
/// sent what it quotes (RFC 5508 section 4).
fn check_error(frame: &[u8], before: &Dissection, sent: &[u8], after: &Dissection) {
    let kinds: &[u8] = if before.source.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
    assert!(kinds.contains(&frame[before.l4]), "errors are translated, and no other messages");
    assert_eq!(after.ttl + 1, before.ttl, "one hop less");
    assert_eq!((after.l4 - after.l3, after.end - after.l3), (before.l4 - before.l3, before.end - before.l3));
    assert_eq!(frame[before.end..], sent[after.end..], "what is behind the packet is as it was");
    assert_eq!(after.header_error(sent), before.header_error(frame));
    assert_eq!(after.icmp_error(sent), before.icmp_error(frame), "ICMP's checksum is as right as it was");
    let (old, new) = (Quote::of(frame, before), Quote::of(sent, after));
    assert_eq!(new.header.source, after.destination, "an error goes to the sender of what it quotes");
    assert_eq!(old.rest, new.rest, "all but addresses, ports and checksums is quoted as it was");
    assert_eq!(old.header_error, new.header_error, "the quoted IP header's checksum is as right as it was");
    assert_eq!(old.error, new.error, "the quoted TCP or UDP checksum is as right as it was");
    let message = |bytes: &[u8], packet: &Dissection| {
        let l4 = &bytes[packet.l4..packet.l4 + 8];
        [&l4[..2], &l4[4..]].concat()
    };
    assert_eq!(message(frame, before), message(sent, after), "kind, code and MTU are as they were");
}

/// What an ICMP error quotes.
struct Quote {
    header: Header,
    /// The quote, without what a translation changes.
    rest: Vec<u8>,
    /// What its IP header's checksum is wrong by.
    header_error: u16,
    /// What its TCP or UDP checksum is wrong by, as far as is quoted of what it covers; nothing, where it has none.
    error: Option<u16>,
}

impl Quote {
    fn of(bytes: &[u8], packet: &Dissection) -> Self {
        let quote = &bytes[packet.l4 + 8..packet.end];
        let is_v4 = packet.source.is_ipv4();
        let header = header(quote, is_v4).expect("what is translated quotes an IP header");
        let l4 = header.length;
        assert!(quote.len() >= l4 + 8, "what is translated quotes the ports");
        let at = l4 + if header.protocol == TCP { 16 } else { 6 };
        let checksum = quote.get(at..at + 2);
        let error = match checksum {
            None => None,
            Some([0, 0]) if header.protocol == UDP => None,
            Some(_) => Some(error(
                address_sum(&header.source) + address_sum(&header.destination) + sum(&quote[l4..]),
            )),
        };
        let mut rest = quote.to_vec();
        let addresses = if is_v4 { 10..20 } else { 8..40 };
        rest[addresses].fill(0);
        rest[l4..l4 + 4].fill(0);
        if checksum.is_some() {
            rest[at..at + 2].fill(0);
        }
        let header_error = if is_v4 { self::error(sum(&quote[..l4])) } else { 0 };
        Self { header, rest, header_error, error }
    }
}

fn leaving_tags(packet: &Dissection) -> Tags {
    let tag = |place: usize| {
        packet.tags.get(place).map_or(0, |(ethertype, tag)| u32::from(*ethertype) << 16 | u32::from(*tag))
    };
    Tags { outer: tag(0), inner: tag(1) }
}

/// That nothing is changed but what has to be, and that each checksum is as right as it was.
fn check_bytes(
    frame: &[u8],
    before: &Dissection,
    old: &Transport,
    sent: &[u8],
    after: &Dissection,
    new: &Transport,
) {
    assert_eq!(before.piece.offset, 0, "a later fragment has no ports");
    assert_eq!(after.ttl.checked_add(1), Some(before.ttl), "one hop less");
    assert!(after.ttl > 0, "a packet without hops left ends here");
    assert_eq!(
        frame[before.l3..].len(),
        sent[after.l3..].len(),
        "the frame is longer or shorter by its tags alone"
    );
    let blank = |bytes: &[u8], packet: &Dissection, transport: &Transport| {
        let mut rest = bytes.to_vec();
        let changing = match packet.source {
            IpAddr::V4(_) => [packet.l3 + 8..packet.l3 + 9, packet.l3 + 10..packet.l3 + 20],
            IpAddr::V6(_) => [packet.l3 + 7..packet.l3 + 8, packet.l3 + 8..packet.l3 + 40],
        };
        let ports = packet.l4..packet.l4 + 4;
        let checksum = transport.checksum..transport.checksum + 2;
        for range in changing.into_iter().chain([ports, checksum]) {
            rest[range].fill(0);
        }
        rest.split_off(packet.l3)
    };
    assert_eq!(
        blank(frame, before, old),
        blank(sent, after, new),
        "all but addresses, ports, hops and checksums is as it was"
    );
    assert_eq!(
        after.header_error(sent),
        before.header_error(frame),
        "the IP header's checksum is as right as it was"
    );
    let checksum = |bytes: &[u8], transport: &Transport| {
        u16::from_be_bytes([bytes[transport.checksum], bytes[transport.checksum + 1]])
    };
    if before.protocol == UDP && checksum(frame, old) == 0 {
        assert_eq!(checksum(sent, new), 0, "UDP without a checksum stays without");
        return;
    }
    assert!(before.protocol != UDP || checksum(sent, new) != 0, "a UDP checksum does not become none");
    assert_eq!(
        after.transport_error(sent, new),
        before.transport_error(frame, old),
        "the TCP or UDP checksum is as right as it was"
    );
}

/// That it goes where the tables say.
fn check_course(
    world: &World,
    before: &Dissection,
    came: &FlowKey,
    sent: &FlowKey,
    way: &Way,
    flows: &Flows,
) {
    if let Some(service) = world.service_at(&came.destination_endpoint()) {
        check_request(world, service, came, sent, way, flows);
    } else {
        check_reply(world, before, came, sent, way, flows);
    }
}

/// That a client's packet goes to a backend, from whom it should.
fn check_request(world: &World, service: &Service, came: &FlowKey, sent: &FlowKey, way: &Way, flows: &Flows) {
    let tables = &world.tables;
    let its = |backend: &Backend| {
        // Port 0 keeps the port.
        let port = if backend.port == Port::default() { came.destination_port } else { backend.port };
        (backend.address, port) == (sent.destination, sent.destination_port)
    };
    assert!(
        goes_to(world, service, way, its),
        "a client's packet goes to one of its service's backends that may have packets"
    );
    let source = sent.source_endpoint();
    let of_record = recall(flows, came).is_some_and(|record| record.source() == source);
    let first = service.snat_offset as usize;
    let named = &tables.snat_addresses[first..first + usize::from(service.snat_len)];
    let comes_from = |backend: &Backend| {
        let is_hairpin = service.mode == Mode::Nat && backend.is_neighbour(&came.source, came.source.is_v4());
        // Another port, where somebody has the client's own towards a backend that several VIPs share.
        let is_moved = source.address == came.source && tables.settings.is_snat_port(source.port);
        let is_clients = source == came.source_endpoint() || is_moved;
        if service.mode != Mode::FullNat && !is_hairpin {
            return is_clients;
        }
        let is_own =
            if named.is_empty() { backend.source == source.address } else { named.contains(&source.address) };
        // A connection that is under way without a record keeps its client's address.
        let is_older = is_hairpin && came.protocol == Protocol::TCP && is_clients;
        // Where the client has that very address, which only packets have that somebody made up, its port comes first.
        let is_kept = source == came.source_endpoint();
        is_older || is_own && (is_kept || tables.settings.is_snat_port(source.port))
    };
    assert!(
        of_record || goes_to(world, service, way, |backend| its(backend) && comes_from(backend)),
        "nat keeps the client's address and, where it can, the port; full-nat and nat to a neighbour leave from an own one: {came:?} left as {sent:?}, {service:?}"
    );
}

/// That a backend's packet goes to its client, in the VIP's name.
fn check_reply(world: &World, before: &Dissection, came: &FlowKey, sent: &FlowKey, way: &Way, flows: &Flows) {
    let tables = &world.tables;
    let rule =
        world.rule_at(&came.source_endpoint()).expect("what is sent on is to a service or from a backend");
    if let Some(record) = record_of_reply(world, rule, came, flows) {
        assert_eq!(*sent, FlowKey::new(record.vip(), record.client()), "a reply goes where its record says");
        let WayBack { ifindex, tags, source_mac, destination_mac } = record.way_back();
        assert_eq!(*way, Way { ifindex, tags, source_mac, destination_mac });
        return;
    }
    assert_eq!(sent.destination_endpoint(), came.destination_endpoint());
    let own = came.source_port.get();
    let port = if rule.keeps_port != 0 { own } else { rule.port.get() };
    assert_eq!(sent.source_endpoint(), Endpoint::new(rule.vip, Port::new(port), came.protocol));
    assert!(
        rule.keeps_port == 0 || (rule.port.get()..=rule.last_port.get()).contains(&own),
        "what comes from a port that is not a service's is not a reply"
    );
    let route = tables.route(&RouteQuery {
        source: sent.source_endpoint(),
        destination: sent.destination_endpoint(),
        length: (before.end - before.l3) as u16,
        ingress: 0,
    });
    let Way { ifindex, tags, source_mac, destination_mac } = *way;
    if route == (Route::NeighbourMissing { ifindex }) {
        assert!(tables.settings.handover != 0 && tags == Tags::default(), "the host is asked to send it");
        return;
    }
    assert_eq!(route, Route::Via { ifindex, tags, source_mac, destination_mac });
}
