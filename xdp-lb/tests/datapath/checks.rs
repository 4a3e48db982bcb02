//! Health checks that go to the VIP: out through one backend, by a program of their own, and back by the balancer's.

use std::net::{IpAddr, SocketAddr};

use xdp_lb::tables::Write;
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    BackendIndex, BackendState, CHECKS_HOST_MAC, CHECKS_MAC, Check, FlowKey, Mode, Reply, Traffic,
};

use crate::homes::{EGRESS, Homes, hex, service_key};
use crate::packets::{ACK, Frame, Icmp, SYN, fragments};

/// The interface into the checks' namespace.
const DOOR: u32 = 55;

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
/// Where a check comes from.
const CHECKER: &str = "198.51.100.2:40000";
const CHECKER6: &str = "[2001:db8:2::2]:40000";
const BACKENDS: [&str; 2] = ["198.51.100.11:80", "198.51.100.12:80"];
const BACKENDS6: [&str; 2] = ["[2001:db8:2::11]:80", "[2001:db8:2::12]:80"];

const MODES: [Mode; 3] = [Mode::Dsr, Mode::Ipip, Mode::Gue];
const ALL_WAYS: [(&str, &str, [&str; 2]); 4] = [
    (VIP, CHECKER, BACKENDS),
    (VIP6, CHECKER6, BACKENDS6),
    (VIP, CHECKER, BACKENDS6),
    (VIP6, CHECKER6, BACKENDS),
];

fn key(from: &str, to: &str, protocol: Protocol) -> FlowKey {
    let endpoint = |address: &str| Endpoint::from_socket(address.parse().unwrap(), protocol);
    FlowKey::new(endpoint(from), endpoint(to))
}

fn frame(from: &str, to: &str, protocol: Protocol) -> Frame {
    if protocol == Protocol::TCP { Frame::tcp(from, to, SYN) } else { Frame::udp(from, to) }
}

/// A check of this backend of the service at this VIP.
fn check(vip: &str, protocol: Protocol, backend: u32) -> Check {
    Check { service: service_key(vip, protocol), backend: BackendIndex(backend), ifindex: DOOR }
}

fn answers_checks(homes: &mut Homes, vip: &str, protocol: Protocol) {
    let vip = Endpoint::from_socket(vip.parse().unwrap(), protocol);
    homes.apply(&[Write::Reply(vip, Reply { answers_checks: 1, ..Reply::default() })]);
}

#[test]
fn a_check_leaves_for_its_backend_as_a_client_s_packet_would_whatever_the_ring_and_its_state_say() {
    for mode in MODES {
        let ways = if mode == Mode::Dsr { &ALL_WAYS[..2] } else { &ALL_WAYS[..] };
        for (vip, checker, backends) in ways {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                println!("{mode:?} {vip} {backends:?} {protocol:?}");
                let mut homes = Homes::new();
                let service = homes.service(vip, protocol, mode, backends);
                homes.change_backend(backends[0], |backend| backend.destination_mac = CHECKS_MAC);
                let sent = frame(checker, vip, protocol);
                homes.move_slots(service, Slot::settled(BackendIndex(2)));
                let by_a_client = homes.send(&sent);
                assert_eq!(by_a_client.verdict, Verdict::Redirect(EGRESS));
                let before = homes.traffic();

                homes.move_slots(service, Slot::settled(BackendIndex(1)));
                homes.put_check(key(checker, vip, protocol), check(vip, protocol, 2));
                for state in [BackendState::Up, BackendState::Draining, BackendState::Down] {
                    homes.change_backend(backends[1], |backend| backend.state = state.into());
                    let (ifindex, left) = homes.send_check(&sent.bytes()).expect("it leaves");
                    assert_eq!(ifindex, EGRESS);
                    assert_eq!(hex(&left), hex(&by_a_client.bytes));
                }
                assert_eq!(homes.traffic(), before, "it is not a client's");
            }
        }
    }
}

#[test]
fn nothing_else_leaves_the_checks_namespace() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &BACKENDS);
    homes.service("192.0.2.20:80", Protocol::TCP, Mode::FullNat, &["198.51.100.21:80"]);
    let sent = frame(CHECKER, VIP, Protocol::TCP);
    let of_check = key(CHECKER, VIP, Protocol::TCP);
    assert_eq!(homes.send_check(&sent.bytes()), None, "it is not a check's");
    homes.put_check(of_check, check(VIP, Protocol::TCP, 1));
    assert!(homes.send_check(&sent.bytes()).is_some());
    for other in [
        frame("198.51.100.2:40001", VIP, Protocol::TCP),
        frame("198.51.100.3:40000", VIP, Protocol::TCP),
        frame(CHECKER, "192.0.2.10:81", Protocol::TCP),
        frame(CHECKER, VIP, Protocol::UDP),
        sent.clone().ttl(1),
        Frame { to_mac: [0x33, 0x33, 0, 0, 0, 2], ..sent.clone() },
    ] {
        assert_eq!(homes.send_check(&other.bytes()), None, "{other:?}");
    }
    assert_eq!(homes.send_check(&Icmp::echo("198.51.100.2", "192.0.2.10").bytes()), None);
    let large = Frame { payload: vec![7; 1000], ..sent.clone() };
    for fragment in fragments(&large, 400, 9) {
        assert_eq!(homes.send_check(&fragment), None);
    }
    let too_large = Frame { payload: vec![7; 1460], ..sent.clone() };
    assert_eq!(homes.send_check(&too_large.bytes()), None, "nobody would hear that it is too large");

    // The backend's place may have gone to another service's, or be nobody's.
    homes.put_check(of_check, check(VIP, Protocol::TCP, 3));
    assert_eq!(homes.send_check(&sent.bytes()), None);
    homes.put_check(of_check, check(VIP, Protocol::TCP, 1));
    homes.change_backend(BACKENDS[0], |backend| backend.state = BackendState::Vacant.into());
    assert_eq!(homes.send_check(&sent.bytes()), None);
    // Only where the VIP stays the destination.
    homes.put_check(key(CHECKER, "192.0.2.20:80", Protocol::TCP), check("192.0.2.20:80", Protocol::TCP, 3));
    assert_eq!(homes.send_check(&frame(CHECKER, "192.0.2.20:80", Protocol::TCP).bytes()), None);

    homes.remove_check(&of_check);
    homes.change_backend(BACKENDS[0], |backend| backend.state = BackendState::Up.into());
    assert_eq!(homes.send_check(&sent.bytes()), None, "it has ended");
}

#[test]
fn what_a_backend_answers_comes_to_the_check_that_asked_as_it_is_and_nothing_else_does() {
    for (vip, checker, backends) in &ALL_WAYS[..2] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let mut homes = Homes::new();
            homes.service(vip, protocol, Mode::Dsr, backends);
            answers_checks(&mut homes, vip, protocol);
            let of_check = key(checker, vip, protocol);
            homes.put_check(of_check, check(vip, protocol, 2));
            let answer = Frame {
                tcp: (protocol == Protocol::TCP).then_some(SYN | ACK),
                ..frame(vip, checker, protocol)
            };
            let arrives =
                Frame { from_mac: CHECKS_HOST_MAC.octets(), to_mac: CHECKS_MAC.octets(), ..answer.clone() };
            for came in [answer.clone(), answer.clone().tag(0x8100, 7)] {
                let outcome = homes.send(&came);
                assert_eq!(outcome.verdict, Verdict::Redirect(DOOR));
                assert_eq!(hex(&outcome.bytes), hex(&arrives.bytes()));
                assert_eq!(outcome.counted, []);
            }
            // On the way from a backend to a client, where the balancer routes for it.
            let elsewhere = |address: &str| {
                let mut address: SocketAddr = address.parse().unwrap();
                let other = if address.is_ipv4() { "203.0.113.5" } else { "2001:db8:9::5" };
                address.set_ip(other.parse::<IpAddr>().unwrap());
                address
            };
            let to_a_client = Frame { to: elsewhere(checker), ..answer.clone() };
            homes.ends_with(&to_a_client, Reason::NotAReply);
            let mut of_another_port = answer.clone();
            of_another_port.to.set_port(40_001);
            homes.ends_with(&of_another_port, Reason::NotAReply);
            let mut from_another_port = answer.clone();
            from_another_port.from.set_port(81);
            homes.ends_with(&from_another_port, Reason::NoService);
            homes.remove_check(&of_check);
            homes.ends_with(&answer, Reason::NotAReply);
            assert_eq!(homes.traffic(), Traffic::default());
        }
    }
}

#[test]
fn an_answer_in_fragments_comes_whole() {
    for (vip, checker, backends) in &ALL_WAYS[..2] {
        let mut homes = Homes::new();
        homes.service(vip, Protocol::UDP, Mode::Gue, backends);
        answers_checks(&mut homes, vip, Protocol::UDP);
        homes.put_check(key(checker, vip, Protocol::UDP), check(vip, Protocol::UDP, 1));
        let answer = Frame { payload: vec![7; 1000], ..frame(vip, checker, Protocol::UDP) };
        let arrives =
            Frame { from_mac: CHECKS_HOST_MAC.octets(), to_mac: CHECKS_MAC.octets(), ..answer.clone() };
        let mut expected = fragments(&arrives.clone().ttl(63), 400, 9);
        expected[0] = fragments(&arrives, 400, 9).remove(0);
        for (fragment, expected) in fragments(&answer, 400, 9).iter().zip(expected) {
            let outcome = homes.send_bytes(fragment);
            assert_eq!(outcome.verdict, Verdict::Redirect(DOOR));
            assert_eq!(hex(&outcome.bytes), hex(&expected));
        }
    }
}

#[test]
fn what_is_checked_may_be_any_port_of_a_vip_with_a_range_of_them() {
    let mut homes = Homes::new();
    let vip = "192.0.2.10:80-90";
    homes.service(vip, Protocol::TCP, Mode::Dsr, &["198.51.100.11:0"]);
    let at = "192.0.2.10:8080";
    answers_checks(&mut homes, at, Protocol::TCP);
    homes.put_check(key(CHECKER, at, Protocol::TCP), check(vip, Protocol::TCP, 1));
    assert!(homes.send_check(&frame(CHECKER, at, Protocol::TCP).bytes()).is_some());
    assert_eq!(homes.send(&Frame::tcp(at, CHECKER, SYN | ACK)).verdict, Verdict::Redirect(DOOR));
}
