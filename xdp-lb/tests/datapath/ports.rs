//! Services on ranges of ports and on all ports of an address: packets keep their port.

use std::collections::BTreeMap;

use xdp_lb::tables::Write;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, Mode};

use crate::homes::{EGRESS, Homes, hex, service_key};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, LB_BACKEND_MAC, LB_MAC, SYN};

const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:1::5]:40000";

fn make(protocol: Protocol, from: &str, to: &str, flags: u8) -> Frame {
    match protocol {
        Protocol::TCP => Frame::tcp(from, to, flags),
        _ => Frame::udp(from, to),
    }
}

#[test]
fn a_port_of_its_own_comes_before_a_range_and_a_range_before_all_ports() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for (vip, backend, client) in
            [("192.0.2.10", "198.51.100.1", CLIENT), ("[2001:db8::10]", "[2001:db8:2::1]", CLIENT6)]
        {
            let backend = |last: &str, port: &str| match backend.strip_suffix(']') {
                Some(begin) => format!("{begin}{last}]:{port}"),
                None => format!("{backend}{last}:{port}"),
            };
            let mut homes = Homes::new();
            for (ports, over) in [
                ("5005", backend("1", "8080")),
                ("5000-5999", backend("2", "0")),
                ("6000-6000", backend("3", "8080")),
                ("7000-7001", backend("4", "0")),
                ("*", backend("5", "0")),
            ] {
                homes.service(&format!("{vip}:{ports}"), protocol, Mode::Nat, &[&over]);
            }
            for (port, to) in [
                (5005, backend("1", "8080")),
                (5000, backend("2", "5000")),
                (5999, backend("2", "5999")),
                (6000, backend("3", "8080")),
                (7000, backend("4", "7000")),
                (7001, backend("4", "7001")),
                (4999, backend("5", "4999")),
                (7002, backend("5", "7002")),
                (1, backend("5", "1")),
                (65535, backend("5", "65535")),
            ] {
                homes.forwards(&make(protocol, client, &format!("{vip}:{port}"), SYN), client, &to);
            }
        }
    }
}

#[test]
fn a_port_in_no_range_and_the_other_protocol_are_the_host_s() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:5000-5999", Protocol::TCP, Mode::Nat, &["198.51.100.11:0"]);
    for port in [0, 4999, 6000] {
        homes.ends_with(&Frame::tcp(CLIENT, &format!("192.0.2.10:{port}"), SYN), Reason::NoService);
    }
    homes.ends_with(&Frame::udp(CLIENT, "192.0.2.10:5500"), Reason::NoService);
    homes.apply(&[Write::RemoveService(service_key("192.0.2.10:5000-5999", Protocol::TCP))]);
    homes.ends_with(&Frame::tcp(CLIENT, "192.0.2.10:5500", SYN), Reason::NoService);
}

#[test]
fn replies_of_nat_leave_from_the_vip_with_the_port_that_they_have() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for (protocol, vip, backend, client) in [
        (Protocol::TCP, "192.0.2.10", "198.51.100.11", "192.0.2.100:40000"),
        (Protocol::UDP, "192.0.2.10", "198.51.100.11", "192.0.2.100:40000"),
        (Protocol::TCP, "[2001:db8::10]", "[2001:db8:2::11]", "[2001:db8:1::100]:40000"),
        (Protocol::UDP, "[2001:db8::10]", "[2001:db8:2::11]", "[2001:db8:1::100]:40000"),
    ] {
        homes.service(&format!("{vip}:5000-5999"), protocol, Mode::Nat, &[&format!("{backend}:0")]);
        for port in [5000, 5999] {
            let reply = make(protocol, &format!("{backend}:{port}"), client, SYN | ACK);
            let outcome = homes.send(&reply);
            assert_eq!(outcome.verdict, Verdict::Redirect(index));
            let from = format!("{vip}:{port}").parse().unwrap();
            let expected = reply.leaving(from, client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
            assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
        }
        // What comes from another port is the backend's own business.
        let own = make(protocol, &format!("{backend}:22"), client, ACK);
        homes.ends_with(&own, Reason::NotAReply);
    }
}

#[test]
fn a_flow_of_full_nat_keeps_its_port_there_and_back() {
    for (protocol, vip, backend, client, snat) in [
        (Protocol::TCP, "192.0.2.10", "198.51.100.11", CLIENT, "198.51.100.2"),
        (Protocol::UDP, "192.0.2.10", "198.51.100.11", CLIENT, "198.51.100.2"),
        (Protocol::TCP, "[2001:db8::10]", "[2001:db8:2::11]", CLIENT6, "2001:db8:2::2"),
        (Protocol::UDP, "[2001:db8::10]", "[2001:db8:2::11]", CLIENT6, "2001:db8:2::2"),
    ] {
        let mut homes = Homes::new();
        homes.service(&format!("{vip}:*"), protocol, Mode::FullNat, &[&format!("{backend}:0")]);
        let mut sources = Vec::new();
        for port in [21, 5000] {
            let (to, at) = (format!("{vip}:{port}"), format!("{backend}:{port}"));
            let (source, _) = homes.translates(&make(protocol, client, &to, SYN), snat, &[&at]);
            let mut reply = make(protocol, &at, &source.to_string(), SYN | ACK);
            (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
            let outcome = homes.send(&reply);
            assert_eq!(outcome.verdict, Verdict::Transmit);
            let expected = reply.leaving(to.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
            assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
            let (again, _) = homes.translates(&make(protocol, client, &to, ACK), snat, &[&at]);
            assert_eq!(again, source);
            sources.push(source);
        }
        assert_eq!(homes.live(1), 2);
        assert_eq!(homes.records(), [2, 0], "{sources:?}");
    }
}

#[test]
fn a_recorded_flow_of_nat_stays_with_its_backend_on_each_of_its_ports() {
    let mut homes = Homes::new();
    let backends = ["198.51.100.11:0", "198.51.100.12:0"];
    let service = homes.service("192.0.2.10:*", Protocol::TCP, Mode::Nat, &backends);
    homes.move_slots(service, Slot::moving(BackendIndex(1), BackendIndex(1)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:21", SYN), CLIENT, "198.51.100.11:21");
    homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(2)));
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:21", ACK), CLIENT, "198.51.100.11:21");
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.10:22", SYN), CLIENT, "198.51.100.12:22");
    assert_eq!((homes.live(1), homes.live(2)), (1, 1));
}

#[test]
fn a_packet_of_dsr_keeps_its_ends_on_any_port() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:*", Protocol::TCP, Mode::Dsr, &["198.51.100.11:0"]);
    for to in ["192.0.2.10:21", "192.0.2.10:5000"] {
        homes.forwards(&Frame::tcp(CLIENT, to, SYN), CLIENT, to);
    }
}

#[test]
fn udp_in_the_name_of_a_range_or_of_a_backend_s_port_is_refused() {
    let mut homes = Homes::new();
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::Nat, &["198.51.100.12:53"]);
    homes.service("192.0.2.10:5000-5999", Protocol::UDP, Mode::Nat, &["198.51.100.11:0"]);
    for from in ["192.0.2.10:5500", "198.51.100.11:5500"] {
        homes.ends_with(&Frame::udp(from, "192.0.2.10:53"), Reason::SourceIsOurs);
    }
    // A backend may be a client, from another port.
    let outcome = homes.send(&Frame::udp("198.51.100.11:40000", "192.0.2.10:53"));
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
}
