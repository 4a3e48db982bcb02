//! Two links over a network that loses, doubles and reorders datagrams.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xdp_lb_common::net::{Endpoint, Protocol};

use super::*;

const SECRET: &[u8] = &[7; 32];

fn flow(number: u16) -> SharedFlow {
    let end = |text: &str| Endpoint::from_socket(text.parse().unwrap(), Protocol::TCP);
    SharedFlow {
        client: Endpoint::from_socket(([192, 0, 2, 1], number).into(), Protocol::TCP),
        vip: end("198.51.100.1:80"),
        source: end("198.51.100.2:1024"),
        backend: end("203.0.113.1:80"),
        progress: 1,
        proof: 2,
        idle: 3,
    }
}

/// Two nodes that have pulled from each other.
struct Pair {
    links: [Link; 2],
    sessions: u8,
    now: Instant,
    got: [BTreeSet<u16>; 2],
}

impl Pair {
    fn new() -> Self {
        let (now, secret) = (Instant::now(), Secret::new("edge", SECRET));
        let links = [("a", "b", 1), ("b", "a", 2)];
        let links = links.map(|(node, peer, session)| Link::new(&secret, node, peer, [session; 16], now));
        let mut pair = Self { links, sessions: 2, now, got: Default::default() };
        pair.pull(0);
        pair.pull(1);
        pair
    }

    /// One node pulls from the other.
    fn pull(&mut self, node: usize) {
        let (session, next) = self.links[1 - node].open(self.now);
        self.links[node].pulling(session, next, self.now);
        self.links[node].pulled();
    }

    fn tick(&mut self, node: usize) -> Vec<Vec<u8>> {
        let (links, sessions) = (&mut self.links, &mut self.sessions);
        let next = || {
            *sessions += 1;
            [*sessions; 16]
        };
        links[node].tick(next, self.now)
    }

    /// The datagram arrives at this node.
    fn arrive(&mut self, node: usize, datagram: &[u8]) -> Heard {
        let heard = self.links[node].receive(&mut datagram.to_vec(), self.now);
        if let Heard::Flows(flows) = &heard {
            self.got[node].extend(flows.iter().map(|flow| flow.client.port.get()));
        }
        heard
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn flows_arrive_and_are_acknowledged() {
    let mut pair = Pair::new();
    let flows: Vec<_> = (0..100).map(flow).collect();
    let room = pair.links[0].room();
    let datagrams = pair.links[0].send(&flows, pair.now);
    assert!(datagrams.len() > 1 && datagrams.iter().all(|it| it.len() <= 1400));
    assert!(pair.links[0].room() < room);
    datagrams.iter().for_each(|it| drop(pair.arrive(1, it)));
    assert_eq!(pair.got[1].len(), 100);
    for datagram in pair.tick(1) {
        pair.arrive(0, &datagram);
    }
    assert_eq!(pair.links[0].room(), room);
    pair.pass(Duration::from_millis(500));
    assert_eq!(pair.tick(0).len(), 1, "nothing is sent again");
}

#[test]
fn a_datagram_of_another_key_or_bit_or_played_back_brings_nothing() {
    let mut pair = Pair::new();
    let datagrams = pair.links[0].send(&[flow(1)], pair.now);
    for place in 0..datagrams[0].len() {
        let mut forged = datagrams[0].clone();
        forged[place] ^= 1;
        assert_ne!(pair.arrive(1, &forged), Heard::Flows(vec![flow(1)]), "byte {place}");
    }
    let stranger = Secret::new("edge", &[8; 32]);
    let mut stranger = Link::new(&stranger, "a", "b", [1; 16], pair.now);
    let forged = stranger.send(&[flow(2)], pair.now);
    assert_eq!(pair.arrive(1, &forged[0]), Heard::Refused);
    assert_eq!(pair.arrive(0, &datagrams[0]), Heard::Refused, "sent back to its sender");
    assert!(pair.got.iter().all(BTreeSet::is_empty));
    assert_eq!(pair.arrive(1, &datagrams[0]), Heard::Flows(vec![flow(1)]));
    assert_eq!(pair.arrive(1, &datagrams[0]), Heard::Nothing, "played back");
}

#[test]
fn an_earlier_session_played_back_brings_nothing_and_asks_for_a_pull_at_most() {
    let mut pair = Pair::new();
    let old = pair.links[0].send(&[flow(1)], pair.now);
    let secret = Secret::new("edge", SECRET);
    pair.links[0] = Link::new(&secret, "a", "b", [9; 16], pair.now);
    pair.pull(0);
    pair.pull(1);
    assert_eq!(pair.arrive(1, &old[0]), Heard::Nothing);
    assert!(pair.links[1].wants_pull() && pair.got[1].is_empty());
    let known = pair.links[1].whole_session();
    pair.pull(1);
    assert_eq!(pair.links[1].whole_session(), known, "the pull finds the session that is known");
}

#[test]
fn a_node_that_was_not_heard_for_long_has_to_pull() {
    let mut pair = Pair::new();
    let lost = pair.links[0].send(&[flow(1)], pair.now);
    pair.pass(PATIENCE + Duration::from_millis(1));
    pair.tick(0);
    assert!(!pair.links[0].is_open() && pair.links[0].heard().is_none());
    assert_eq!(pair.links[0].room(), WINDOW as usize * (ROOM / LONGEST), "nothing waits for it");
    pair.pass(HEARTBEAT);
    let told = pair.tick(0);
    assert_eq!(pair.arrive(1, &told[0]), Heard::Nothing);
    assert!(pair.links[1].wants_pull());
    pair.pull(1);
    assert!(pair.links[0].is_open() && !pair.links[1].wants_pull());
    assert_eq!(pair.arrive(1, &lost[0]), Heard::Nothing, "of the session before");
    let next = pair.links[0].send(&[flow(2)], pair.now);
    assert_eq!(pair.arrive(1, &next[0]), Heard::Flows(vec![flow(2)]));
}

#[test]
fn no_more_is_on_its_way_than_the_window_has_room_for() {
    let mut pair = Pair::new();
    while pair.links[0].room() > 0 {
        pair.links[0].send(&[flow(1)], pair.now);
    }
    let datagrams = pair.tick(0);
    assert_eq!(datagrams.len(), 1, "none is due yet");
    pair.pass(Duration::from_millis(200));
    let datagrams = pair.tick(0);
    assert_eq!(datagrams.len() as u64, WINDOW, "all are sent again");
}

#[test]
fn unknown_sessions_cost_a_bounded_number_of_keys() {
    let mut pair = Pair::new();
    let secret = Secret::new("edge", SECRET);
    let of_session =
        |session: u8, now| Link::new(&secret, "a", "b", [session; 16], now).send(&[flow(1)], now);
    let refused = (0..200).filter(|it| {
        let datagram = of_session(*it, pair.now).remove(0);
        *it > 2 && pair.arrive(1, &datagram) == Heard::Refused
    });
    assert_eq!(refused.count() as u32, 197 - UNKNOWN_IN_A_SECOND);
}

use super::super::outbox::WINDOW;

proptest! {
    /// What is lost is sent again until it has come, whatever the network does; and nothing is taken twice.
    #[test]
    fn every_flow_arrives_over_a_network_that_loses_doubles_and_reorders(
        fates in prop::collection::vec(0..10u8, 400),
        flows in prop::collection::vec(0..2usize, 1..60),
    ) {
        let mut pair = Pair::new();
        let mut fates = fates.into_iter().cycle();
        let mut sent = [BTreeSet::new(), BTreeSet::new()];
        let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut steps = flows.into_iter().enumerate();
        for _ in 0..600 {
            let mut on_their_way: Vec<(usize, Vec<u8>)> = std::mem::take(&mut late);
            if let Some((number, node)) = steps.next() {
                let number = number as u16;
                sent[1 - node].insert(number);
                let datagrams = pair.links[node].send(&[flow(number)], pair.now);
                on_their_way.extend(datagrams.into_iter().map(|it| (1 - node, it)));
            }
            for node in 0..2 {
                let datagrams = pair.tick(node);
                on_their_way.extend(datagrams.into_iter().map(|it| (1 - node, it)));
            }
            for (to, datagram) in on_their_way {
                match fates.next().unwrap() {
                    0 | 1 => {}
                    2 => late.push((to, datagram)),
                    3 => {
                        pair.arrive(to, &datagram);
                        prop_assert!(!matches!(pair.arrive(to, &datagram), Heard::Flows(_)), "twice");
                    }
                    _ => drop(pair.arrive(to, &datagram)),
                }
            }
            pair.pass(Duration::from_millis(20));
        }
        prop_assert_eq!(&pair.got, &sent);
        prop_assert!(pair.links.iter().all(|link| link.room() == WINDOW as usize * (ROOM / LONGEST)));
    }
}
