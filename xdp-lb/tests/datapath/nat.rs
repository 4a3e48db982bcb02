//! `nat`: the destination is rewritten, replies come back statelessly.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use xdp_lb::datapath::monotonic_seconds;
use xdp_lb::tables::Write;
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, Mode, RECORDS_FLOWS, Route, SHARED, ServiceIndex,
};

use crate::homes::{EGRESS, Homes, INGRESS, hex, run};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, LB_BACKEND_MAC, LB_MAC, RST, SYN, ends};

const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:1::5]:40000";

/// A service at 192.0.2.10:80 over 198.51.100.11:8080 (place 1) and .12 (place 2).
fn over_two_backends() -> (Homes, ServiceIndex) {
    let mut homes = Homes::new();
    let backends = ["198.51.100.11:8080", "198.51.100.12:8080"];
    let service = homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &backends);
    (homes, service)
}

/// A slot of the backend in this place.
fn settled(place: u32) -> Slot {
    Slot::settled(BackendIndex(place))
}

fn ip(address: &str) -> Address {
    address.parse::<IpAddr>().unwrap().into()
}

#[test]
fn a_client_s_packet_goes_to_the_backend() {
    let rows: [(&str, Protocol, Frame, &str, &str, &str); 4] = [
        (
            "IPv4 TCP",
            Protocol::TCP,
            Frame::tcp(CLIENT, "192.0.2.10:80", SYN),
            "192.0.2.10:80",
            "198.51.100.11:8080",
            CLIENT,
        ),
        (
            "IPv4 UDP",
            Protocol::UDP,
            Frame::udp(CLIENT, "192.0.2.10:53"),
            "192.0.2.10:53",
            "198.51.100.11:5353",
            CLIENT,
        ),
        (
            "IPv6 TCP",
            Protocol::TCP,
            Frame::tcp(CLIENT6, "[2001:db8::10]:80", SYN),
            "[2001:db8::10]:80",
            "[2001:db8:2::11]:8080",
            CLIENT6,
        ),
        (
            "IPv6 UDP",
            Protocol::UDP,
            Frame::udp(CLIENT6, "[2001:db8::10]:53"),
            "[2001:db8::10]:53",
            "[2001:db8:2::11]:5353",
            CLIENT6,
        ),
    ];
    let mut homes = Homes::new();
    for (what, protocol, frame, vip, backend, client) in rows {
        println!("{what}");
        homes.service(vip, protocol, Mode::Nat, &[backend]);
        homes.forwards(&frame, client, backend);
    }
}

#[test]
fn a_backend_s_packet_goes_to_the_client_in_the_vip_s_name() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    let rows = [
        (Protocol::TCP, "192.0.2.10:80", "198.51.100.11:8080", "192.0.2.100:40000"),
        (Protocol::UDP, "192.0.2.10:53", "198.51.100.11:5353", "192.0.2.100:40000"),
        (Protocol::TCP, "[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:1::100]:40000"),
        (Protocol::UDP, "[2001:db8::10]:53", "[2001:db8:2::11]:5353", "[2001:db8:1::100]:40000"),
    ];
    for (protocol, vip, backend, client) in rows {
        homes.service(vip, protocol, Mode::Nat, &[backend]);
        let frame = match protocol {
            Protocol::TCP => Frame::tcp(backend, client, SYN | ACK),
            _ => Frame::udp(backend, client),
        };
        let outcome = homes.send(&frame);
        assert_eq!(outcome.verdict, Verdict::Redirect(index));
        let expected = frame.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
    }
}

#[test]
fn a_flow_stays_with_its_backend_while_that_drains() {
    let (mut homes, service) = over_two_backends();
    homes.move_slots(service, settled(1));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
    homes.change_backend("198.51.100.11:8080", |backend| backend.state = BackendState::Draining.into());
    homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(1)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", ACK), CLIENT, "198.51.100.11:8080");
    homes.forwards(&Frame::tcp("203.0.113.6:1", "192.0.2.10:80", SYN), "203.0.113.6:1", "198.51.100.12:8080");
    // Anybody can have sent it.
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
}

#[test]
fn a_retransmitted_syn_stays_with_its_backend() {
    let (mut homes, service) = over_two_backends();
    homes.move_slots(service, Slot::moving(BackendIndex(1), BackendIndex(2)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
    homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(2)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
}

#[test]
fn a_flow_leaves_a_backend_that_is_down() {
    let (mut homes, service) = over_two_backends();
    homes.move_slots(service, settled(1));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
    homes.change_backend("198.51.100.11:8080", |backend| backend.state = BackendState::Down.into());
    // Its slots name it still, all of them: nobody is left.
    homes.ends_with(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), Reason::BackendUnusable);
    let outcome = homes.send(&Frame::tcp(CLIENT, "192.0.2.10:80", ACK));
    assert_eq!(outcome.counted, [(Reason::FlowEndedAnswered, 1)]);
    homes.move_slots(service, Slot::recorded(BackendIndex(2)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", ACK), CLIENT, "198.51.100.12:8080");
}

#[test]
fn a_place_that_went_to_another_backend_is_not_mistaken_for_the_first() {
    let (mut homes, service) = over_two_backends();
    homes.move_slots(service, settled(1));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN), CLIENT, "198.51.100.11:8080");
    homes.change_backend("198.51.100.11:8080", |backend| {
        backend.address = ip("198.51.100.13");
    });
    homes.move_slots(service, settled(2));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", ACK), CLIENT, "198.51.100.12:8080");
}

#[test]
fn a_flow_in_its_middle_without_a_record_belongs_to_the_slot_s_prior_owner() {
    let (mut homes, service) = over_two_backends();
    homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(1)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", ACK), CLIENT, "198.51.100.11:8080");
    homes.forwards(&Frame::tcp("203.0.113.6:1", "192.0.2.10:80", SYN), "203.0.113.6:1", "198.51.100.12:8080");
    // Once the prior owner is down, it is the owner's.
    homes.change_backend("198.51.100.11:8080", |backend| backend.state = BackendState::Down.into());
    homes.forwards(&Frame::tcp("203.0.113.7:1", "192.0.2.10:80", ACK), "203.0.113.7:1", "198.51.100.12:8080");
}

#[test]
fn the_next_backend_takes_over_before_the_ring_is_new() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080", "198.51.100.12:8080"]);
    homes.change_backend("198.51.100.11:8080", |backend| backend.state = BackendState::Down.into());
    for port in 40_000..40_032 {
        let client = format!("203.0.113.5:{port}");
        homes.forwards(&Frame::tcp(&client, "192.0.2.10:80", SYN), &client, "198.51.100.12:8080");
    }
}

#[test]
fn a_reset_is_forwarded_and_never_recorded() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:80", RST), CLIENT, "198.51.100.11:8080");
    assert_eq!(homes.records(), [0, 0]);
}

#[test]
fn a_backend_s_packet_to_this_host_itself_is_the_host_s() {
    let mut homes = Homes::new();
    homes.reach_clients(&BTreeMap::new());
    homes.host.routes.insert(ip("192.0.2.1"), Route::Local);
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.ends_with(&Frame::tcp("198.51.100.11:8080", "192.0.2.1:40000", SYN | ACK), Reason::NotAReply);
}

#[test]
fn a_reply_needs_a_route_and_a_neighbour() {
    let mut homes = Homes::new();
    homes.reach_clients(&BTreeMap::from([("192.0.2.101", None)]));
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    let reply = |client: &str| Frame::tcp("198.51.100.11:8080", client, ACK);
    run("ip route add unreachable 203.0.113.0/25");
    homes.ends_with(&reply("203.0.113.9:40000"), Reason::ReplyUnroutable);
    // The kernel does not tell "no route" from "to this host".
    homes.host.routes.insert(ip("203.0.113.200"), Route::Local);
    homes.ends_with(&reply("203.0.113.200:40000"), Reason::NotAReply);
    homes.ends_with(&reply("192.0.2.101:40000"), Reason::ReplyNeighbourMissing);
}

#[test]
fn a_backend_of_several_vips_answers_in_the_right_one_s_name() {
    let mut homes = Homes::new();
    for vip in ["192.0.2.10:80", "192.0.2.11:80"] {
        homes.service(vip, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    }
    for place in 1..=2 {
        homes.host.backends[place].neighbours |= SHARED;
        let (index, backend) = (BackendIndex(place as u32), homes.host.backends[place]);
        homes.apply(&[Write::Backend(index, backend)]);
    }
    homes.change_reply("198.51.100.11:8080", Protocol::TCP, |reply| reply.by_record = 1);
    for (client, vip) in [("203.0.113.5:1001", "192.0.2.10:80"), ("203.0.113.5:1002", "192.0.2.11:80")] {
        homes.forwards(&Frame::tcp(client, vip, SYN), client, "198.51.100.11:8080");
        let mut reply = Frame::tcp("198.51.100.11:8080", client, SYN | ACK);
        (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        let outcome = homes.send(&reply);
        assert_eq!(outcome.verdict, Verdict::Transmit, "the client's packets came in by this interface");
        let expected = reply.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
    }
    homes.ends_with(&Frame::tcp("198.51.100.11:8080", "203.0.113.9:1", ACK), Reason::ReplyUnroutable);
}

#[test]
fn a_client_s_port_that_speaks_to_two_vips_of_a_backend_is_two_ports_to_that() {
    let clients = [
        ("203.0.113.5:1001", "198.51.100.11:8080", ["192.0.2.10:80", "192.0.2.11:80"]),
        ("[2001:db8:1::5]:1001", "[2001:db8:2::11]:8080", ["[2001:db8::10]:80", "[2001:db8::11]:80"]),
    ];
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let mut homes = Homes::new();
        for (client, backend, vips) in clients {
            for vip in vips {
                homes.service(vip, protocol, Mode::Nat, &[backend]);
            }
            for place in 1..homes.host.backends.len() {
                let (index, backend) = (BackendIndex(place as u32), homes.host.backends[place]);
                if backend.state != BackendState::Vacant {
                    homes.apply(&[Write::Backend(index, Backend { neighbours: SHARED, ..backend })]);
                }
            }
            homes.change_reply(backend, protocol, |reply| reply.by_record = 1);
            let frame = |from: &str, to: &str, flags| match protocol {
                Protocol::TCP => Frame::tcp(from, to, flags),
                _ => Frame::udp(from, to),
            };
            let mut ports = Vec::new();
            for (vip, flags) in [(vips[0], SYN), (vips[1], SYN), (vips[1], ACK), (vips[0], ACK)] {
                let sent = frame(client, vip, flags);
                let outcome = homes.send(&sent);
                assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
                let (from, to) = ends(&outcome.bytes);
                assert_eq!(
                    (from.ip(), to),
                    (client.parse::<SocketAddr>().unwrap().ip(), backend.parse().unwrap())
                );
                let expected = sent.leaving(from, to, (LB_BACKEND_MAC, BACKEND_MAC));
                assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
                let mut reply = frame(backend, &from.to_string(), ACK);
                (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
                let outcome = homes.send(&reply);
                assert_eq!(outcome.verdict, Verdict::Transmit);
                let ends = (vip.parse().unwrap(), client.parse().unwrap());
                assert_eq!(
                    hex(&outcome.bytes),
                    hex(&reply.leaving(ends.0, ends.1, (LB_MAC, CLIENT_MAC)).bytes())
                );
                ports.push(from.port());
            }
            assert_eq!((ports[0], ports[3]), (1001, 1001), "the first keeps its own");
            assert!((2000..=2999).contains(&ports[1]) && ports[1] == ports[2], "{ports:?}");
            // Another flow of the client's that has this port as its own gets another in its turn.
            let other = client.replace(":1001", &format!(":{}", ports[1]));
            let outcome = homes.send(&frame(&other, vips[0], SYN));
            let (from, _) = ends(&outcome.bytes);
            assert!((2000..=2999).contains(&from.port()) && from.port() != ports[1], "{from}");
        }
    }
}

#[test]
fn a_backend_behind_the_same_interface_is_reached_through_it() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.change_backend("198.51.100.11:8080", |backend| backend.ifindex = INGRESS);
    let outcome = homes.send(&Frame::tcp(CLIENT, "192.0.2.10:80", SYN));
    assert_eq!(outcome.verdict, Verdict::Transmit);
}

#[test]
fn without_ip_forwarding_a_reply_goes_nowhere() {
    let mut homes = Homes::new();
    homes.reach_clients(&BTreeMap::from([("192.0.2.100", Some(CLIENT_MAC))]));
    run("sysctl -qw net.ipv4.ip_forward=0");
    homes.host.routes.clear();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.ends_with(&Frame::tcp("198.51.100.11:8080", "192.0.2.100:40000", ACK), Reason::ReplyUnroutable);
}

#[test]
fn a_flow_from_before_its_backend_was_shared_is_still_answered() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([("192.0.2.100", Some(CLIENT_MAC))]));
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    // As the control plane writes it when a second VIP takes the backend: records first, then the old name.
    homes.change_reply("198.51.100.11:8080", Protocol::TCP, |reply| reply.by_record = 1);
    let reply = Frame::tcp("198.51.100.11:8080", "192.0.2.100:40000", ACK);
    let outcome = homes.send(&reply);
    assert_eq!(outcome.verdict, Verdict::Redirect(index));
    let (vip, client) = ("192.0.2.10:80".parse().unwrap(), "192.0.2.100:40000".parse().unwrap());
    assert_eq!(hex(&outcome.bytes), hex(&reply.leaving(vip, client, (LB_MAC, CLIENT_MAC)).bytes()));
}

#[test]
fn a_neighbour_of_the_backend_and_the_backend_itself_come_from_an_address_of_this_host() {
    let rows = [
        (
            Protocol::TCP,
            "192.0.2.10:80",
            "198.51.100.11:8080",
            96 + 24,
            "198.51.100.77:4000",
            "203.0.113.5:4000",
        ),
        (
            Protocol::UDP,
            "192.0.2.10:53",
            "198.51.100.11:5353",
            96 + 29,
            "198.51.100.15:4000",
            "198.51.100.16:4000",
        ),
        (
            Protocol::TCP,
            "192.0.2.11:80",
            "198.51.100.11:8081",
            127,
            "198.51.100.11:4000",
            "198.51.100.13:4000",
        ),
        (
            Protocol::TCP,
            "[2001:db8::10]:80",
            "[2001:db8:2::11]:8080",
            64,
            "[2001:db8:2:0:9::77]:4000",
            "[2001:db8:2:1::77]:4000",
        ),
        (
            Protocol::UDP,
            "[2001:db8::10]:53",
            "[2001:db8:2::11]:5353",
            70,
            "[2001:db8:2:0:3ff::1]:4000",
            "[2001:db8:2:0:400::1]:4000",
        ),
    ];
    let mut homes = Homes::new();
    for (protocol, vip, backend, bits, neighbour, stranger) in rows {
        println!("{vip} {protocol:?}");
        homes.service(vip, protocol, Mode::Nat, &[backend]);
        homes.change_backend(backend, |backend| backend.neighbours = bits);
        let make = |from: &str, to: &str, flags| match protocol {
            Protocol::TCP => Frame::tcp(from, to, flags),
            _ => Frame::udp(from, to),
        };
        let own = if vip.starts_with('[') { "2001:db8:2::2" } else { "198.51.100.2" };
        homes.forwards(&make(stranger, vip, SYN), stranger, backend);
        let (source, _) = homes.translates(&make(neighbour, vip, SYN), own, &[backend]);
        let mut reply = make(backend, &source.to_string(), SYN | ACK);
        (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        let outcome = homes.send(&reply);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let expected = reply.leaving(vip.parse().unwrap(), neighbour.parse().unwrap(), (LB_MAC, CLIENT_MAC));
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
        let (again, _) = homes.translates(&make(neighbour, vip, ACK), own, &[backend]);
        assert_eq!(again, source, "a flow keeps its port");
        // A connection from before, whose backend's replies come here by other means.
        let before = neighbour.replace("4000", "4002");
        if protocol == Protocol::TCP {
            homes.forwards(&make(&before, vip, ACK), &before, backend);
        }

        // Where it is off, and on the fast path of a settled slot.
        homes.change_backend(backend, |backend| backend.neighbours = 0);
        let other = neighbour.replace("4000", "4001");
        homes.forwards(&make(&other, vip, SYN), &other, backend);
    }
}

/// With `flow_tracking = "always"`, once the flows from before are over.
#[test]
fn what_a_backend_sends_that_is_of_no_recorded_flow_is_left_alone_where_all_are_recorded() {
    let (client, client6) = ("192.0.2.100", "2001:db8:1::100");
    let rows = [
        (Protocol::TCP, "192.0.2.10:80", "198.51.100.11:8080", client),
        (Protocol::UDP, "192.0.2.10:53", "198.51.100.11:5353", client),
        (Protocol::TCP, "[2001:db8::10]:80", "[2001:db8:2::11]:8080", client6),
        (Protocol::UDP, "[2001:db8::10]:53", "[2001:db8:2::11]:5353", client6),
    ];
    let mut homes = Homes::new();
    homes.host.now = monotonic_seconds().unwrap();
    let index =
        homes.reach_clients(&BTreeMap::from([(client, Some(CLIENT_MAC)), (client6, Some(CLIENT_MAC))]));
    let long_ago = homes.host.now.wrapping_sub(2000);
    for (protocol, vip, backend, client) in rows {
        println!("{vip} {protocol:?}");
        homes.service(vip, protocol, Mode::Nat, &[backend]);
        homes.change_service(vip, protocol, |service| service.options |= RECORDS_FLOWS);
        let make = |from: &str, to: &str, flags| match protocol {
            Protocol::TCP => Frame::tcp(from, to, flags),
            _ => Frame::udp(from, to),
        };
        let [of_vip, of_backend] = [40_000, 40_001].map(|port| match client.parse::<IpAddr>().unwrap() {
            IpAddr::V4(_) => format!("{client}:{port}"),
            IpAddr::V6(_) => format!("[{client}]:{port}"),
        });
        homes.forwards(&make(&of_vip, vip, SYN), &of_vip, backend);
        let now = homes.host.now;
        for (since, is_left_alone) in [(0, false), (now, false), (long_ago, true)] {
            homes.change_reply(backend, protocol, |reply| reply.recorded_since = since);
            let own = homes.send(&make(backend, &of_vip, SYN | ACK));
            assert_eq!(own.verdict, Verdict::Redirect(index), "the flow's, {since}");
            let other = homes.send(&make(backend, &of_backend, SYN | ACK)).verdict;
            let expected =
                if is_left_alone { Verdict::Pass(Reason::NotAReply) } else { Verdict::Redirect(index) };
            assert_eq!(other, expected, "the backend's own, {since}");
        }
    }
}

#[test]
fn a_packet_of_the_backend_to_this_host_that_answers_no_neighbour_is_the_hosts() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.change_backend("198.51.100.11:8080", |backend| backend.neighbours = 96 + 24);
    homes.host.routes.insert("198.51.100.2".parse::<IpAddr>().unwrap().into(), Route::Local);
    run("ip address add 198.51.100.2/32 dev lo");
    run("sysctl -qw net.ipv4.ip_forward=1");
    let mut reply = Frame::tcp("198.51.100.11:8080", "198.51.100.2:2000", ACK);
    (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
    homes.ends_with(&reply, Reason::NotAReply);
}
