//! The decapsulator of a backend: what tunnels bring comes out as it went in, and nothing else is touched.

use std::net::IpAddr;

use aya::TestRun as _;
use aya::programs::{TestRunOptions, Xdp};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use xdp_lb::datapath::Decapsulator;
use xdp_lb_common::decap::{ACCEPTS_GUE, ACCEPTS_IPIP, Outcome, Settings, decapsulate};
use xdp_lb_common::host::{Buffer, HostBackend};
use xdp_lb_common::net::{Port, Protocol};
use xdp_lb_common::tables::Mode;

use crate::homes::{Homes, INGRESS, hex};
use crate::packets::{ACK, Frame};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:9::5]:40000";
const BACKEND: &str = "198.51.100.11";
const BACKEND6: &str = "2001:db8:2::11";
const LB: &str = "198.51.100.2";
const LB6: &str = "2001:db8:2::2";
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// A backend in both homes.
struct Backend {
    host: HostBackend,
    kernel: Decapsulator,
}

impl Backend {
    fn new() -> Self {
        Self::with(ACCEPTS_IPIP | ACCEPTS_GUE, &[])
    }

    fn with(accepts: u8, from: &[(&str, u8)]) -> Self {
        let local = [BACKEND, BACKEND6].map(|address| address.parse::<IpAddr>().unwrap());
        let from: Vec<(IpAddr, u8)> =
            from.iter().map(|(address, length)| (address.parse().unwrap(), *length)).collect();
        let mut kernel = Decapsulator::load(6080, accepts, &from).unwrap_or_else(|error| panic!("{error:#}"));
        kernel.set_local(local.into()).unwrap();
        let checks_source = u8::from(!from.is_empty());
        let settings = Settings { gue_port: Port::new(6080), accepts, checks_source };
        let host = HostBackend {
            local: local.map(Into::into).into(),
            allowed: from
                .iter()
                .map(|(address, length)| {
                    let mapped = if address.is_ipv4() { 96 } else { 0 };
                    ((*address).into(), length + mapped)
                })
                .collect(),
            ..HostBackend::new(settings)
        };
        Self { host, kernel }
    }

    /// What becomes of a frame; both homes must do the same.
    fn receive(&mut self, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let mut packet = Buffer::new(bytes, INGRESS);
        let outcome = decapsulate(&mut packet, &self.host);
        let before = self.kernel.counters().unwrap();
        let mut out = vec![0; bytes.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(bytes);
        options.data_out = Some(&mut out);
        let program: &mut Xdp = self.kernel.object().program_mut("xdp_decap").unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        let mut after = before;
        after[outcome as usize] += 1;
        assert_eq!(
            self.kernel.counters().unwrap(),
            after,
            "the kernel counts what the host does ({outcome:?})"
        );
        assert_eq!(result.return_value, if outcome.is_drop() { XDP_DROP } else { XDP_PASS });
        if !outcome.is_drop() {
            assert_eq!(hex(&out), hex(packet.bytes()), "both leave the same bytes ({outcome:?})");
        }
        if outcome == Outcome::NotTunnelled {
            assert_eq!(hex(&out), hex(bytes), "what is not tunnelled stays as it is");
        }
        (outcome, packet.bytes().to_vec())
    }
}

/// A frame's IP packet.
fn packet(frame: &Frame) -> Vec<u8> {
    frame.clone().untagged().bytes()[14..].to_vec()
}

/// An outer packet, described.
struct Outer {
    from: &'static str,
    to: &'static str,
    protocol: u8,
    traffic_class: u8,
}

const OUTER: Outer = Outer { from: LB, to: BACKEND, protocol: 4, traffic_class: 0 };
const OUTER6: Outer = Outer { from: LB6, to: BACKEND6, protocol: 41, traffic_class: 0 };

impl Outer {
    /// The frame with this in it.
    fn around(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4];
        match (self.from.parse().unwrap(), self.to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = payload.len() as u16;
                let mut ip =
                    Ipv4Header::new(length, 60, IpNumber(self.protocol), from.octets(), to.octets()).unwrap();
                ip.dscp = (self.traffic_class >> 2).try_into().unwrap();
                ip.ecn = (self.traffic_class & 3).try_into().unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                bytes.extend([0x08, 0x00]);
                ip.write(&mut bytes).unwrap();
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.traffic_class,
                    payload_length: payload.len() as u16,
                    next_header: IpNumber(self.protocol),
                    hop_limit: 60,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                bytes.extend([0x86, 0xdd]);
                ip.write(&mut bytes).unwrap();
            }
            _ => panic!("an outer packet has one family"),
        }
        [&bytes, payload].concat()
    }
}

/// UDP to this port, with this in it.
fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut bytes = Vec::new();
    let header = UdpHeader { source_port: 50_000, destination_port: port, length, checksum: 0 };
    header.write(&mut bytes).unwrap();
    [&bytes, payload].concat()
}

#[test]
fn what_the_load_balancer_sends_comes_out_as_the_client_sent_it_but_for_a_hop() {
    let mut backend = Backend::new();
    for (mode, outcome) in [(Mode::Ipip, Outcome::Ipip), (Mode::Gue, Outcome::Gue)] {
        for (vip, client) in [(VIP, CLIENT), (VIP6, CLIENT6)] {
            for address in ["198.51.100.11:80", "[2001:db8:2::11]:80"] {
                for protocol in [Protocol::TCP, Protocol::UDP] {
                    println!("{mode:?} {vip} {address} {protocol:?}");
                    let mut homes = Homes::new();
                    homes.service(vip, protocol, mode, &[address]);
                    for traffic_class in [0, 1, 2, 3, 0xba] {
                        let mut frame = match protocol {
                            Protocol::TCP => Frame::tcp(client, vip, ACK),
                            _ => Frame::udp(client, vip),
                        };
                        frame.traffic_class = traffic_class;
                        let sent = homes.send(&frame).bytes;
                        let (taken, left) = backend.receive(&sent);
                        assert_eq!(taken, outcome);
                        let ethertype = if frame.from.is_ipv4() { [0x08, 0] } else { [0x86, 0xdd] };
                        let mut expected = [&sent[..12], &ethertype].concat();
                        expected.extend(packet(&frame.ttl(63)));
                        assert_eq!(hex(&left), hex(&expected));
                    }
                }
            }
        }
    }
}

#[test]
fn vlan_tags_stay_where_they_are() {
    let mut backend = Backend::new();
    let inner = packet(&Frame::tcp(CLIENT, VIP, ACK));
    let frame = OUTER.around(&inner);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]] {
        let tagged = [&frame[..12], tags, &frame[12..]].concat();
        let (outcome, left) = backend.receive(&tagged);
        assert_eq!(outcome, Outcome::Ipip);
        assert_eq!(hex(&left), hex(&[&frame[..12], tags, &[0x08, 0x00], &inner].concat()));
    }
}

#[test]
fn what_others_encapsulate_with_is_taken_too() {
    let mut backend = Backend::new();
    let inner = packet(&Frame::tcp(CLIENT6, VIP6, ACK));
    let expected = |frame: &[u8]| [&frame[..12], &[0x86, 0xdd], &inner[..]].concat();
    let rows = [
        // GUE, variant 0: bare, and with eight bytes of private data.
        (Outer { protocol: 17, ..OUTER }, udp(6080, &[&[0, 41, 0, 0], &inner[..]].concat()), Outcome::Gue),
        (
            Outer { protocol: 17, ..OUTER6 },
            udp(6080, &[&[2, 41, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], &inner[..]].concat()),
            Outcome::Gue,
        ),
        // ip6_tunnel of Linux: destination options with a tunnel encapsulation limit, and padding.
        (Outer { protocol: 60, ..OUTER6 }, [&[41, 0, 4, 1, 4, 1, 1, 0], &inner[..]].concat(), Outcome::Ipip),
    ];
    for (outer, payload, outcome) in rows {
        let frame = outer.around(&payload);
        let (taken, left) = backend.receive(&frame);
        assert_eq!(taken, outcome);
        assert_eq!(hex(&left), hex(&expected(&frame)));
    }
}

#[test]
fn what_is_not_tunnelled_to_this_host_is_left_alone() {
    let inner = packet(&Frame::tcp(CLIENT, VIP, ACK));
    let mut backend = Backend::new();
    let mut fragment = OUTER.around(&inner);
    fragment[20] = 0x20;
    let mut cut = OUTER.around(&inner);
    cut.truncate(cut.len() - 1);
    let rows = [
        ("plain TCP", Frame::tcp(CLIENT, VIP, ACK).bytes()),
        ("plain UDP to the port of GUE", Frame::udp(CLIENT, "192.0.2.10:6080").bytes()),
        ("to another address", Outer { to: "198.51.100.12", ..OUTER }.around(&inner)),
        ("GUE to another address", Outer { to: LB, protocol: 17, ..OUTER }.around(&udp(6080, &inner))),
        ("UDP to another port", Outer { protocol: 17, ..OUTER }.around(&udp(6081, &inner))),
        ("ICMP", Outer { protocol: 1, ..OUTER }.around(&inner)),
        ("ESP", Outer { protocol: 50, ..OUTER6 }.around(&inner)),
        ("a fragment", fragment),
        ("an outer packet that is not all there", cut),
        ("an empty outer packet", OUTER.around(&[])),
        ("ARP", [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat()),
    ];
    for (what, bytes) in rows {
        println!("{what}");
        assert_eq!(backend.receive(&bytes).0, Outcome::NotTunnelled);
    }
    let gue = Outer { protocol: 17, ..OUTER }.around(&udp(6080, &inner));
    assert_eq!(Backend::with(ACCEPTS_IPIP, &[]).receive(&gue).0, Outcome::NotTunnelled);
    assert_eq!(Backend::with(ACCEPTS_GUE, &[]).receive(&gue).0, Outcome::Gue);
    assert_eq!(Backend::with(ACCEPTS_GUE, &[]).receive(&OUTER.around(&inner)).0, Outcome::NotTunnelled);
}

#[test]
fn only_named_sources_are_taken_from() {
    let inner = packet(&Frame::tcp(CLIENT, VIP, ACK));
    let mut backend = Backend::with(ACCEPTS_IPIP, &[("198.51.100.0", 30), ("2001:db8:2::2", 128)]);
    let rows = [
        (LB, Outcome::Ipip),
        ("198.51.100.3", Outcome::Ipip),
        ("198.51.100.4", Outcome::SourceRefused),
        ("203.0.113.5", Outcome::SourceRefused),
    ];
    for (from, outcome) in rows {
        assert_eq!(backend.receive(&Outer { from, ..OUTER }.around(&inner)).0, outcome, "{from}");
    }
    for (from, outcome) in [(LB6, Outcome::Ipip), ("2001:db8:2::3", Outcome::SourceRefused)] {
        let outer = Outer { from, protocol: 4, ..OUTER6 };
        assert_eq!(backend.receive(&outer.around(&inner)).0, outcome, "{from}");
    }
}

#[test]
fn what_is_no_whole_packet_inside_goes_nowhere() {
    let mut backend = Backend::new();
    let v4 = packet(&Frame::tcp(CLIENT, VIP, ACK));
    let v6 = packet(&Frame::tcp(CLIENT6, VIP6, ACK));
    let patched = |packet: &[u8], at: usize, value: u8| {
        let mut packet = packet.to_vec();
        packet[at] = value;
        packet
    };
    let rows = [
        ("IPv6 where IPv4 is announced", OUTER.around(&v6)),
        ("IPv4 where IPv6 is announced", OUTER6.around(&v4)),
        ("a header of four words", OUTER.around(&patched(&v4, 0, 0x44))),
        ("a header longer than the packet", OUTER.around(&patched(&patched(&v4, 0, 0x4f), 3, 56))),
        ("more bytes than there are", OUTER.around(&patched(&v4, 2, 9))),
        ("a byte more than there is", OUTER.around(&v4[..v4.len() - 1])),
        ("half a header", OUTER.around(&v4[..10])),
        ("more bytes than there are, IPv6", OUTER6.around(&patched(&v6, 4, 9))),
        ("a byte more than there is, IPv6", OUTER6.around(&v6[..v6.len() - 1])),
        ("half a header, IPv6", OUTER6.around(&v6[..39])),
        ("nothing in GUE", Outer { protocol: 17, ..OUTER }.around(&udp(6080, &[]))),
        ("a cut packet in GUE", Outer { protocol: 17, ..OUTER }.around(&udp(6080, &v4[..30]))),
        (
            "private data beyond the packet",
            Outer { protocol: 17, ..OUTER }.around(&udp(6080, &[&[31, 4, 0, 0], &v4[..]].concat())),
        ),
    ];
    for (what, bytes) in rows {
        println!("{what}");
        assert_eq!(backend.receive(&bytes).0, Outcome::Malformed);
    }
    for header in
        [[0x20, 4, 0, 0], [0, 4, 0, 1], [0, 4, 0x80, 0], [0, 6, 0, 0], [0x80, 4, 0, 0], [0xc0, 4, 0, 0]]
    {
        let bytes = Outer { protocol: 17, ..OUTER }.around(&udp(6080, &[&header, &v4[..]].concat()));
        assert_eq!(backend.receive(&bytes).0, Outcome::UnknownGue, "{header:?}");
    }
}

#[test]
fn congestion_that_was_met_in_the_tunnel_is_told() {
    // RFC 6040, figure 4: the inner packet's ECN down, the outer one's across; both Not-ECT, ECT(1), ECT(0), CE.
    let table = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    let mut backend = Backend::new();
    for (vip, client, v4, v6) in [(VIP, CLIENT, 4, 4), (VIP6, CLIENT6, 41, 41)] {
        for (inner, row) in (0u8..).zip(table) {
            for (outer, expected) in (0u8..).zip(row) {
                let mut frame = Frame::tcp(client, vip, ACK);
                frame.traffic_class = 0xb8 | inner;
                for around in [
                    Outer { traffic_class: outer, protocol: v4, ..OUTER },
                    Outer { traffic_class: 0x48 | outer, protocol: v6, ..OUTER6 },
                ] {
                    let (outcome, left) = backend.receive(&around.around(&packet(&frame)));
                    let Some(expected) = expected else {
                        assert_eq!(outcome, Outcome::Congested);
                        continue;
                    };
                    assert_eq!(outcome, Outcome::Ipip);
                    let mut told = frame.clone();
                    told.traffic_class = 0xb8 | expected;
                    assert_eq!(hex(&left[14..]), hex(&packet(&told)), "{inner} in {outer}");
                }
            }
        }
    }
}

#[test]
fn damaged_packets_are_treated_alike_in_both_homes() {
    let backend = std::cell::RefCell::new(Backend::new());
    let frames = [
        OUTER.around(&packet(&Frame::tcp(CLIENT, VIP, ACK))),
        OUTER6.around(&packet(&Frame::tcp(CLIENT6, VIP6, ACK))),
        Outer { protocol: 17, ..OUTER }.around(&udp(6080, &packet(&Frame::udp(CLIENT6, VIP6)))),
        Outer { protocol: 17, ..OUTER6 }.around(&udp(
            6080,
            &[&[1, 4, 0, 0, 0, 0, 0, 0], &packet(&Frame::tcp(CLIENT, VIP, ACK))[..]].concat(),
        )),
    ];
    let damage = prop::collection::vec((0usize..120, any::<u8>()), 0..5);
    let config = Config { cases: 4000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(prop::sample::select(frames.to_vec()), damage, 0usize..200), |(mut bytes, damage, cut)| {
            for (place, value) in damage {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            bytes.truncate((bytes.len() - cut % bytes.len()).max(14));
            let (outcome, left) = backend.borrow_mut().receive(&bytes);
            if matches!(outcome, Outcome::Ipip | Outcome::Gue) {
                prop_assert!(left.len() < bytes.len());
            }
            Ok(())
        })
        .unwrap();
}
