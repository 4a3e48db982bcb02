//! QUIC: packets go to the backend that their connection id names.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use xdp_lb::tables::Write;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, ServerId, ServerKey, ServiceIndex};

use crate::homes::{EGRESS, Homes};
use crate::packets::{BACKEND_MAC, Frame, LB_BACKEND_MAC, ends};

const VIP: &str = "192.0.2.10:443";
const VIP6: &str = "[2001:db8::10]:443";
const BACKENDS: [&str; 3] = ["198.51.100.11:4433", "198.51.100.12:4433", "198.51.100.13:4433"];
const BACKENDS6: [&str; 3] = ["[2001:db8:2::11]:4433", "[2001:db8:2::12]:4433", "[2001:db8:2::13]:4433"];
/// What the backends are called: the first 0a01, ...
const LENGTH: u8 = 2;
const CONFIG: u8 = 1;

/// A QUIC service whose ring gives every slot to its first backend.
fn quic(homes: &mut Homes, vip: &str, mode: Mode, backends: &[&str], first: u32) -> ServiceIndex {
    let service = homes.service(vip, Protocol::UDP, mode, backends);
    homes.move_slots(service, Slot::settled(BackendIndex(first)));
    for number in 0..backends.len() as u32 {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (0x0a, number as u8 + 1);
        let key = ServerKey { service, id: ServerId::new(bytes) };
        homes.apply(&[Write::QuicServer(key, BackendIndex(first + number))]);
    }
    homes.change_service(vip, Protocol::UDP, |service| {
        (service.server_id_length, service.quic_config) = (LENGTH, CONFIG);
    });
    service
}

/// A packet of a connection that backend `number` (from 1) has named.
fn short(from: &str, vip: &str, number: u8) -> Frame {
    let payload = [&[0x40, CONFIG << 5 | 8, 0x0a, number][..], &[0x55; 40]].concat();
    Frame { payload, ..Frame::udp(from, vip) }
}

/// A client's first packet, with a connection id of its own choice.
fn initial(from: &str, vip: &str) -> Frame {
    let payload = [&[0xc3, 0, 0, 0, 1, 8][..], &[0xe1; 8], &[0x55; 60]].concat();
    Frame { payload, ..Frame::udp(from, vip) }
}

/// Where a frame leaves from and goes to.
fn way(homes: &mut Homes, frame: &Frame) -> (SocketAddr, SocketAddr) {
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    ends(&outcome.bytes)
}

#[test]
fn a_connection_keeps_its_backend_when_the_client_s_address_changes() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = Homes::new();
        quic(&mut homes, VIP, mode, &BACKENDS, 1);
        quic(&mut homes, VIP6, mode, &BACKENDS6, 4);
        for (vip, backends, clients) in [
            (VIP, BACKENDS, ["203.0.113.5:40000", "203.0.113.5:40001", "203.0.113.99:5"]),
            (VIP6, BACKENDS6, ["[2001:db8:9::5]:40000", "[2001:db8:9::5]:40001", "[2001:db8:8::1]:5"]),
        ] {
            for client in clients {
                let first = way(&mut homes, &initial(client, vip)).1;
                assert_eq!(first.to_string(), backends[0], "the client's own choice goes by the ring");
                for (number, backend) in (1..).zip(backends) {
                    let seen = way(&mut homes, &short(client, vip, number)).1;
                    assert_eq!(seen.to_string(), backend, "{client}");
                }
                let mut long = initial(client, vip);
                long.payload[6..9].copy_from_slice(&[CONFIG << 5, 0x0a, 3]);
                assert_eq!(way(&mut homes, &long).1.to_string(), backends[2], "a long header, too");
            }
        }
    }
}

#[test]
fn full_nat_answers_each_path_of_a_connection() {
    let mut homes = Homes::new();
    quic(&mut homes, VIP, Mode::FullNat, &BACKENDS, 1);
    let mut sources = BTreeSet::new();
    for client in ["203.0.113.5:40000", "203.0.113.99:5"] {
        let (source, backend) = way(&mut homes, &short(client, VIP, 2));
        assert_eq!(way(&mut homes, &short(client, VIP, 2)), (source, backend), "the flow keeps its port");
        sources.insert(source);
        let mut reply = Frame::udp(&backend.to_string(), &source.to_string());
        (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        let outcome = homes.send(&reply);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(ends(&outcome.bytes), (VIP.parse().unwrap(), client.parse().unwrap()));
    }
    assert_eq!(sources.len(), 2);
}

#[test]
fn an_id_that_names_no_backend_that_serves_goes_the_plain_way() {
    let mut homes = Homes::new();
    quic(&mut homes, VIP, Mode::Nat, &BACKENDS, 1);
    let to = |homes: &mut Homes, frame: &Frame| way(homes, frame).1.to_string();
    let client = "203.0.113.5:40000";
    assert_eq!(to(&mut homes, &short(client, VIP, 9)), BACKENDS[0], "nobody is called so");
    let mut other = short(client, VIP, 2);
    other.payload[1] = 2 << 5;
    assert_eq!(to(&mut homes, &other), BACKENDS[0], "another configuration");
    let mut cut = short(client, VIP, 2);
    cut.payload.truncate(17);
    assert_eq!(to(&mut homes, &cut), BACKENDS[0], "too short for a packet of QUIC");
    assert_eq!(to(&mut homes, &short(client, VIP, 2)), BACKENDS[1]);
    homes.change_backend(BACKENDS[1], |backend| backend.state = BackendState::Draining.into());
    assert_eq!(to(&mut homes, &short(client, VIP, 2)), BACKENDS[1], "it keeps what it has");
    homes.change_backend(BACKENDS[1], |backend| backend.state = BackendState::Failing.into());
    assert_eq!(to(&mut homes, &short(client, VIP, 2)), BACKENDS[1], "it keeps what it has, too");
    homes.change_backend(BACKENDS[1], |backend| backend.state = BackendState::Down.into());
    assert_eq!(to(&mut homes, &short(client, VIP, 2)), BACKENDS[0]);
    homes.change_backend(BACKENDS[1], |backend| {
        backend.state = BackendState::Up.into();
        backend.service = ServiceIndex(7);
    });
    assert_eq!(to(&mut homes, &short(client, VIP, 2)), BACKENDS[0], "its place has gone to another service");
}

#[test]
fn a_service_that_is_not_quic_s_does_not_look_at_connection_ids() {
    let mut homes = Homes::new();
    quic(&mut homes, VIP, Mode::Nat, &BACKENDS, 1);
    homes.change_service(VIP, Protocol::UDP, |service| service.server_id_length = 0);
    for number in 1..=3 {
        let seen = way(&mut homes, &short("203.0.113.5:40000", VIP, number)).1;
        assert_eq!(seen.to_string(), BACKENDS[0]);
    }
}

#[test]
fn an_id_goes_over_to_another_backend_and_away() {
    let mut homes = Homes::new();
    let service = quic(&mut homes, VIP, Mode::Nat, &BACKENDS, 1);
    let mut bytes = [0; 16];
    (bytes[0], bytes[1]) = (0x0a, 2);
    let key = ServerKey { service, id: ServerId::new(bytes) };
    let frame = short("203.0.113.5:40000", VIP, 2);
    homes.apply(&[Write::QuicServer(key, BackendIndex(3))]);
    assert_eq!(way(&mut homes, &frame).1.to_string(), BACKENDS[2]);
    assert_eq!(homes.kernel.read().unwrap().quic_servers[&key], BackendIndex(3));
    homes.apply(&[Write::RemoveQuicServer(key)]);
    assert_eq!(way(&mut homes, &frame).1.to_string(), BACKENDS[0]);
}
