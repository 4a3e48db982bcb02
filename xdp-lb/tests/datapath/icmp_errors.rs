//! ICMP errors about flows: to the backend or the client whose packet they quote.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, Mode, Route};

use crate::homes::{EGRESS, Homes, hex};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, Icmp, LB_BACKEND_MAC, LB_MAC, SYN};

/// A service, and who has to do with it.
struct Case {
    protocol: Protocol,
    vip: &'static str,
    backend: &'static str,
    client: &'static str,
    /// Where errors are made: between the client and the load balancer, and behind it.
    routers: [&'static str; 2],
    snat: &'static str,
    /// How long an IP header is.
    header: usize,
}

const V4: Case = Case {
    protocol: Protocol::TCP,
    vip: "192.0.2.10:80",
    backend: "198.51.100.11:8080",
    client: "192.0.2.100:40000",
    routers: ["203.0.113.1", "198.51.100.1"],
    snat: "198.51.100.2",
    header: 20,
};

const V6: Case = Case {
    protocol: Protocol::TCP,
    vip: "[2001:db8::10]:80",
    backend: "[2001:db8:2::11]:8080",
    client: "[2001:db8:1::100]:40000",
    routers: ["2001:db8:9::1", "2001:db8:2::1"],
    snat: "2001:db8:2::2",
    header: 40,
};

const ALL: [Case; 4] =
    [V4, V6, Case { protocol: Protocol::UDP, ..V4 }, Case { protocol: Protocol::UDP, ..V6 }];

impl Case {
    fn frame(&self, from: &str, to: &str) -> Frame {
        match self.protocol {
            Protocol::TCP => Frame::tcp(from, to, ACK),
            _ => Frame::udp(from, to),
        }
    }

    /// How much is quoted: the least, up to TCP's checksum, with it, and all.
    fn lengths(&self) -> [usize; 4] {
        [8, 16, 18, 1000].map(|transport| self.header + transport)
    }
}

fn ip(address: &str) -> String {
    address.parse::<SocketAddr>().unwrap().ip().to_string()
}

/// Sends an error and expects it to leave as `expected`, one hop on.
fn becomes(homes: &mut Homes, error: &Icmp, verdict: Verdict, expected: Icmp) {
    let outcome = homes.send_bytes(&error.bytes());
    assert_eq!(outcome.verdict, verdict);
    let expected = Icmp { ttl: error.ttl - 1, rest: error.rest, ..expected };
    assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
}

fn to_backend(expected: Icmp) -> Icmp {
    Icmp { from_mac: LB_BACKEND_MAC, to_mac: BACKEND_MAC, ..expected }
}

fn to_client(expected: Icmp) -> Icmp {
    Icmp { from_mac: LB_MAC, to_mac: CLIENT_MAC, ..expected }
}

#[test]
fn nat_an_error_about_a_backend_s_packet_reaches_the_backend() {
    let mut homes = Homes::new();
    for case in ALL {
        homes.service(case.vip, case.protocol, Mode::Nat, &[case.backend]);
        let router = case.routers[0];
        // The client's network saw it from the VIP.
        let seen = case.frame(case.vip, case.client).ttl(50);
        let sent = case.frame(case.backend, case.client).ttl(50);
        for length in case.lengths() {
            let error = Icmp::too_big(router, &ip(case.vip), &seen, length);
            let expected = Icmp::too_big(router, &ip(case.backend), &sent, length);
            becomes(&mut homes, &error, Verdict::Redirect(EGRESS), to_backend(expected));
        }
        let tagged = Icmp { tags: vec![(0x8100, 42)], ..Icmp::too_big(router, &ip(case.vip), &seen, 1000) };
        let expected = Icmp::too_big(router, &ip(case.backend), &sent, 1000);
        becomes(&mut homes, &tagged, Verdict::Redirect(EGRESS), to_backend(expected));
    }
    assert_eq!(homes.records(), [0, 0], "an error begins no flow");
    let traffic = homes.traffic();
    assert_eq!((traffic.packets_in, traffic.new_flows), (20, 0));
}

#[test]
fn an_error_about_a_packet_that_a_backend_sent_in_the_vip_s_name_reaches_it_as_it_is() {
    for (mode, overhead) in [(Mode::Dsr, 0), (Mode::Ipip, 20), (Mode::Gue, 28)] {
        let mut homes = Homes::new();
        for case in ALL {
            // The tunnels' backends are IPv4 ones.
            let backend = if mode == Mode::Dsr { case.backend } else { V4.backend };
            homes.service(case.vip, case.protocol, mode, &[backend]);
            let seen = case.frame(case.vip, case.client).ttl(50);
            for length in case.lengths() {
                let error = Icmp::too_big(case.routers[0], &ip(case.vip), &seen, length);
                let outcome = homes.send_bytes(&error.bytes());
                assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
                let expected = Icmp { ttl: error.ttl - 1, ..to_backend(error) }.bytes();
                if overhead > 0 {
                    assert_eq!(outcome.bytes[30..34], [198, 51, 100, 11], "to the backend");
                }
                assert_eq!(hex(&outcome.bytes[..12]), hex(&expected[..12]));
                assert_eq!(hex(&outcome.bytes[14 + overhead..]), hex(&expected[14..]));
            }
            assert_eq!(homes.records(), [0, 0], "an error begins no flow");
        }
    }
}

#[test]
fn full_nat_an_error_about_a_backend_s_packet_reaches_the_backend_from_the_address_it_knows() {
    let mut homes = Homes::new();
    for case in ALL {
        homes.service(case.vip, case.protocol, Mode::FullNat, &[case.backend]);
        let seen = case.frame(case.vip, case.client).ttl(50);
        let error = Icmp::too_big(case.routers[0], &ip(case.vip), &seen, 1000);
        homes.bytes_end_with(&error.bytes(), Reason::IcmpWithoutFlow);
        let (source, _) = homes.translates(
            &Frame { tcp: seen.tcp.map(|_| SYN), ..case.frame(case.client, case.vip) },
            case.snat,
            &[case.backend],
        );
        let sent = case.frame(case.backend, &source.to_string()).ttl(50);
        for length in case.lengths() {
            let error = Icmp::too_big(case.routers[0], &ip(case.vip), &seen, length);
            let expected = Icmp::too_big(case.snat, &ip(case.backend), &sent, length);
            becomes(&mut homes, &error, Verdict::Redirect(EGRESS), to_backend(expected));
        }
    }
}

#[test]
fn nat_an_error_about_a_client_s_packet_reaches_the_client_in_the_vip_s_name() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for case in ALL {
        homes.service(case.vip, case.protocol, Mode::Nat, &[case.backend]);
        let seen = case.frame(case.client, case.backend).ttl(50);
        let sent = case.frame(case.client, case.vip).ttl(50);
        // From a router behind, and from the backend itself.
        for from in [case.routers[1], &ip(case.backend)] {
            for length in case.lengths() {
                let error = Icmp::too_big(from, &ip(case.client), &seen, length);
                let expected = Icmp::too_big(&ip(case.vip), &ip(case.client), &sent, length);
                becomes(&mut homes, &error, Verdict::Redirect(index), to_client(expected));
            }
        }
    }
}

#[test]
fn full_nat_an_error_about_a_client_s_packet_reaches_the_client_in_the_vip_s_name() {
    let mut homes = Homes::new();
    for case in ALL {
        homes.service(case.vip, case.protocol, Mode::FullNat, &[case.backend]);
        let sent = case.frame(case.client, case.vip).ttl(50);
        let first = Frame { tcp: sent.tcp.map(|_| SYN), ..sent.clone() };
        let (source, _) = homes.translates(&first, case.snat, &[case.backend]);
        let seen = case.frame(&source.to_string(), case.backend).ttl(50);
        for from in [case.routers[1], &ip(case.backend)] {
            for length in case.lengths() {
                let error = Icmp::too_big(from, case.snat, &seen, length);
                let expected = Icmp::too_big(&ip(case.vip), &ip(case.client), &sent, length);
                becomes(&mut homes, &error, Verdict::Transmit, to_client(expected));
            }
        }
    }
}

#[test]
fn every_kind_of_error_is_translated_and_nothing_else() {
    let mut homes = Homes::new();
    for (case, kinds) in [(V4, &[3, 11, 12][..]), (V6, &[1, 2, 3, 4][..])] {
        homes.service(case.vip, case.protocol, Mode::Nat, &[case.backend]);
        let seen = case.frame(case.vip, case.client);
        for kind in 0..=255 {
            let error = Icmp::error(case.routers[0], &ip(case.vip), kind, 1, &seen, 1000);
            if kinds.contains(&kind) {
                let sent = case.frame(case.backend, case.client);
                let expected = Icmp::error(case.routers[0], &ip(case.backend), kind, 1, &sent, 1000);
                // ICMPv6's "packet too big" has an MTU, whatever its code.
                let error = Icmp { rest: [0, 0, 5, 0], ..error };
                becomes(&mut homes, &error, Verdict::Redirect(EGRESS), to_backend(expected));
            } else if !matches!((case.header, kind), (20, 8) | (40, 128)) {
                homes.bytes_end_with(&error.bytes(), Reason::NotTcpOrUdp);
            }
        }
    }
}

#[test]
fn quotes_with_options_extension_headers_or_no_udp_checksum_are_translated() {
    let mut homes = Homes::new();
    let udp = Case { protocol: Protocol::UDP, ..V4 };
    for case in [&V4, &V6, &udp] {
        homes.service(case.vip, case.protocol, Mode::Nat, &[case.backend]);
    }
    let extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, [vec![0, 1], vec![0; 14]].concat())];
    type Change = fn(&mut Frame);
    let unusual: [(&Case, Change); 3] = [
        (&V4, |frame| frame.ipv4_options = vec![1; 40]),
        (&udp, |frame| frame.udp_checksum = false),
        (&V6, |_| {}),
    ];
    for (case, change) in unusual {
        let make = |from: &str, to: &str| {
            let mut frame = case.frame(from, to);
            if case.header == 40 {
                frame.extensions = extensions.clone();
            }
            change(&mut frame);
            frame
        };
        let error = Icmp::too_big(case.routers[0], &ip(case.vip), &make(case.vip, case.client), 1000);
        let expected =
            Icmp::too_big(case.routers[0], &ip(case.backend), &make(case.backend, case.client), 1000);
        becomes(&mut homes, &error, Verdict::Redirect(EGRESS), to_backend(expected));
    }
}

#[test]
fn an_error_follows_its_flow_and_not_the_ring() {
    let mut homes = Homes::new();
    let backends = ["198.51.100.11:8080", "198.51.100.12:8080"];
    let service = homes.service(V4.vip, Protocol::TCP, Mode::Nat, &backends);
    homes.move_slots(service, Slot::settled(BackendIndex(1)));
    homes.forwards(&Frame::tcp(V4.client, V4.vip, SYN), V4.client, backends[0]);
    homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(1)));
    let error =
        |client: &str| Icmp::too_big(V4.routers[0], &ip(V4.vip), &Frame::tcp(V4.vip, client, ACK), 28);
    let expected = |client: &str, backend: &str| {
        to_backend(Icmp::too_big(V4.routers[0], &ip(backend), &Frame::tcp(backend, client, ACK), 28))
    };
    // One with a record; one from before the ring moved, without.
    for client in [V4.client, "192.0.2.101:1"] {
        becomes(&mut homes, &error(client), Verdict::Redirect(EGRESS), expected(client, backends[0]));
    }
    homes.move_slots(service, Slot::settled(BackendIndex(2)));
    let other = "192.0.2.102:1";
    becomes(&mut homes, &error(other), Verdict::Redirect(EGRESS), expected(other, backends[1]));
}

#[test]
fn an_error_about_the_host_s_own_traffic_is_the_host_s() {
    let mut homes = Homes::new();
    homes.service(V4.vip, Protocol::TCP, Mode::Nat, &[V4.backend]);
    homes.service("192.0.2.10:81", Protocol::TCP, Mode::FullNat, &["198.51.100.11:8081"]);
    homes.host.routes.insert("198.51.100.2".parse::<std::net::IpAddr>().unwrap().into(), Route::Local);
    crate::homes::run("ip address add 198.51.100.2/32 dev lo");
    crate::homes::run("sysctl -qw net.ipv4.ip_forward=1");
    let rows = [
        // Some connection; an ssh session at the VIP; a health check of each mode.
        ("198.51.100.2:40000", "203.0.113.9:443", Reason::NotTcpOrUdp),
        ("192.0.2.10:22", V4.client, Reason::NotTcpOrUdp),
        ("198.51.100.2:40000", V4.backend, Reason::NotAReply),
        ("198.51.100.2:40000", "198.51.100.11:8081", Reason::NotAReply),
    ];
    for (from, to, reason) in rows {
        let error = Icmp::error("198.51.100.1", &ip(from), 3, 1, &Frame::tcp(from, to, SYN), 28);
        homes.bytes_end_with(&error.bytes(), reason);
    }
    // To somebody else than the sender of the packet that it quotes.
    let about = Frame::tcp(V4.vip, V4.client, ACK);
    for to in ["192.0.2.1", V4.routers[1], "198.51.100.11"] {
        homes.bytes_end_with(&Icmp::too_big(V4.routers[0], to, &about, 28).bytes(), Reason::NotTcpOrUdp);
    }
}

#[test]
fn an_error_whose_hops_are_used_up_ends_here() {
    let mut homes = Homes::new();
    for case in ALL {
        homes.service(case.vip, case.protocol, Mode::Nat, &[case.backend]);
        let to_backend =
            Icmp::too_big(case.routers[0], &ip(case.vip), &case.frame(case.vip, case.client), 1000);
        let to_client =
            Icmp::too_big(case.routers[1], &ip(case.client), &case.frame(case.client, case.backend), 1000);
        for error in [to_backend, to_client] {
            homes.bytes_end_with(&Icmp { ttl: 1, ..error }.bytes(), Reason::TtlExpired);
        }
    }
}

#[test]
fn quotes_that_lie_or_are_cut_short_are_left_to_the_host() {
    let mut homes = Homes::new();
    homes.service(V4.vip, Protocol::TCP, Mode::Nat, &[V4.backend]);
    homes.service(V6.vip, Protocol::TCP, Mode::Nat, &[V6.backend]);
    // Changes of the quote, which begins at 42 over IPv4 and at 62 over IPv6.
    type Changes = &'static [(usize, u8)];
    let rows: [(&str, &Case, Changes, Reason); 12] = [
        ("version 6", &V4, &[(0, 0x65)], Reason::Malformed),
        ("a header of 16 bytes", &V4, &[(0, 0x44)], Reason::Malformed),
        ("a header longer than the quote", &V4, &[(0, 0x4f)], Reason::Malformed),
        ("a later fragment", &V4, &[(7, 1)], Reason::Fragment),
        ("ICMP", &V4, &[(9, 1)], Reason::NotTcpOrUdp),
        ("IP in IP", &V4, &[(9, 4)], Reason::NotTcpOrUdp),
        ("version 4", &V6, &[(0, 0x45)], Reason::Malformed),
        ("ICMPv6", &V6, &[(6, 58)], Reason::NotTcpOrUdp),
        ("an extension header beyond the quote", &V6, &[(6, 60), (41, 200)], Reason::Malformed),
        ("authentication", &V6, &[(6, 51)], Reason::ExtensionHeaders),
        ("segments left", &V6, &[(6, 43), (43, 1)], Reason::ExtensionHeaders),
        ("IPv4-mapped", &V6, &[(8, 0), (9, 0), (10, 0), (11, 0), (18, 0xff), (19, 0xff)], Reason::Malformed),
    ];
    for (what, case, changes, reason) in rows {
        println!("{what}");
        let about = case.frame(case.vip, case.client);
        let mut error = Icmp::too_big(case.routers[0], &ip(case.vip), &about, case.header + 20);
        for (place, value) in changes {
            error.payload[*place] = *value;
        }
        homes.bytes_end_with(&error.bytes(), reason);
    }
    for case in [V4, V6] {
        let about = case.frame(case.vip, case.client);
        for length in [0, 1, case.header - 1, case.header, case.header + 7] {
            let error = Icmp::too_big(case.routers[0], &ip(case.vip), &about, length);
            homes.bytes_end_with(&error.bytes(), Reason::Malformed);
        }
        // The ports are there, but only as padding of the frame.
        let mut padded = Icmp::too_big(case.routers[0], &ip(case.vip), &about, case.header + 7).bytes();
        padded.extend([0; 20]);
        homes.bytes_end_with(&padded, Reason::Malformed);
        // As large as no router makes them.
        let mut large = about.clone();
        large.payload = vec![0; 4096];
        let error = Icmp::too_big(case.routers[0], &ip(case.vip), &large, 4096);
        let mut host = xdp_lb_common::host::Buffer::new(&error.bytes(), 1);
        let verdict = homes.process(&mut host);
        assert_eq!(verdict, Verdict::Pass(Reason::Malformed));
    }
}

#[test]
fn a_backend_is_not_told_an_mtu_below_1280() {
    for mode in [Mode::FullNat, Mode::Nat, Mode::Dsr, Mode::Ipip] {
        let mut homes = Homes::new();
        for case in ALL {
            let backend = if mode == Mode::Ipip { V4.backend } else { case.backend };
            homes.service(case.vip, case.protocol, mode, &[backend]);
            let first = Frame {
                tcp: case.frame(case.client, case.vip).tcp.map(|_| SYN),
                ..case.frame(case.client, case.vip)
            };
            homes.send(&first);
            let seen = case.frame(case.vip, case.client).ttl(50);
            // IPv4's upper half says how much is quoted (RFC 4884).
            let upper = if case.header == 20 { [0, 7] } else { [0, 0] };
            for (told, expected) in
                [(0, 1280), (68, 1280), (552, 1280), (1279, 1280), (1280, 1280), (1281, 1281), (9000, 9000)]
            {
                let rest = |mtu: u16| [&upper[..], &mtu.to_be_bytes()].concat().try_into().unwrap();
                for length in case.lengths() {
                    let error = Icmp {
                        rest: rest(told),
                        ..Icmp::too_big(case.routers[0], &ip(case.vip), &seen, length)
                    };
                    let outcome = homes.send_bytes(&error.bytes());
                    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
                    let bounded = Icmp { rest: rest(expected), ttl: error.ttl - 1, ..error };
                    let (outer, inner) = match mode {
                        // What differs else is looked at above.
                        Mode::FullNat | Mode::Nat => (0, None),
                        Mode::Ipip => (20, Some(bounded.bytes())),
                        _ => (0, Some(bounded.bytes())),
                    };
                    if let Some(inner) = inner {
                        assert_eq!(hex(&outcome.bytes[14 + outer..]), hex(&inner[14..]), "{mode:?}");
                        continue;
                    }
                    let at = 14 + case.header + 4;
                    assert_eq!(outcome.bytes[at..at + 4], rest(expected), "{mode:?}, told {told}");
                    assert!(crate::properties::is_whole(&outcome.bytes), "{mode:?}, told {told}");
                }
            }
        }
    }
}

#[test]
fn a_client_is_told_what_the_router_says() {
    let mut homes = Homes::new();
    homes.service(V4.vip, V4.protocol, Mode::FullNat, &[V4.backend]);
    let first = Frame::tcp(V4.client, V4.vip, SYN);
    let (source, _) = homes.translates(&first, V4.snat, &[V4.backend]);
    let error = |from: &str, to: &str, about: &Frame| Icmp {
        rest: [0, 0, 2, 0x28],
        ..Icmp::too_big(from, to, about, 1000)
    };
    let seen = error(V4.routers[1], V4.snat, &Frame::tcp(&source.to_string(), V4.backend, ACK));
    let sent = error(&ip(V4.vip), &ip(V4.client), &Frame::tcp(V4.client, V4.vip, ACK));
    becomes(&mut homes, &seen, Verdict::Transmit, to_client(sent));
}
