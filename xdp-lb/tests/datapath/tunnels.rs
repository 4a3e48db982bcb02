//! `dsr`, `ipip` and `gue`: the packet keeps its ends, and backends answer clients themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use xdp_lb::tables::Write;
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode};

use crate::homes::{EGRESS, Homes, INGRESS, hex, on_all_ports};
use crate::packets::{ACK, BACKEND_MAC, Frame, Icmp, LB_BACKEND_MAC, RST, SYN, fragments};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:9::5]:40000";
const BACKEND: &str = "198.51.100.11:80";
const BACKEND6: &str = "[2001:db8:2::11]:80";
const LB: &str = "198.51.100.2";
const LB6: &str = "2001:db8:2::2";

/// VIP, client and backend: each family in each.
const WAYS: [(&str, &str, &str); 4] =
    [(VIP, CLIENT, BACKEND), (VIP6, CLIENT6, BACKEND6), (VIP, CLIENT, BACKEND6), (VIP6, CLIENT6, BACKEND)];

fn make(protocol: Protocol, from: &str, to: &str) -> Frame {
    match protocol {
        Protocol::TCP => Frame::tcp(from, to, SYN),
        _ => Frame::udp(from, to),
    }
}

/// The packet inside: the same, one hop on, without its Ethernet header.
fn inside(frame: &Frame) -> Vec<u8> {
    frame.clone().untagged().ttl(frame.ttl - 1).bytes()[14..].to_vec()
}

/// What varies by flow in an outer header, as found in a frame that left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Varying {
    flow_label: u32,
    source_port: u16,
}

/// The frame that should leave with this packet inside, from `source` to `backend`, and what varies in it, taken from the one that left.
fn tunnelled(
    mode: Mode,
    (inner, traffic_class): (&[u8], u8),
    source: &str,
    backend: &str,
    left: &[u8],
) -> (Vec<u8>, Varying) {
    let backend: SocketAddr = backend.parse().unwrap();
    let is_gue = mode == Mode::Gue;
    let payload = inner.len() + if is_gue { 8 } else { 0 };
    let protocol = match mode {
        Mode::Gue => IpNumber::UDP,
        _ if inner[0] >> 4 == 4 => IpNumber(4),
        _ => IpNumber(41),
    };
    let mut varying = Varying { flow_label: 0, source_port: 0 };
    let mut bytes = [BACKEND_MAC, LB_BACKEND_MAC].concat();
    match (source.parse().unwrap(), backend.ip()) {
        (IpAddr::V4(source), IpAddr::V4(backend)) => {
            bytes.extend([0x08, 0x00]);
            let mut ip =
                Ipv4Header::new(payload as u16, 64, protocol, source.octets(), backend.octets()).unwrap();
            ip.dont_fragment = true;
            ip.dscp = (traffic_class >> 2).try_into().unwrap();
            ip.ecn = (traffic_class & 3).try_into().unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut bytes).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(backend)) => {
            bytes.extend([0x86, 0xdd]);
            varying.flow_label = u32::from_be_bytes(left[14..18].try_into().unwrap()) & 0xf_ffff;
            let ip = Ipv6Header {
                traffic_class,
                flow_label: Ipv6FlowLabel::try_new(varying.flow_label).unwrap(),
                payload_length: payload as u16,
                next_header: protocol,
                hop_limit: 64,
                source: source.octets(),
                destination: backend.octets(),
            };
            ip.write(&mut bytes).unwrap();
        }
        _ => panic!("an outer packet has one family"),
    }
    if is_gue {
        varying.source_port = u16::from_be_bytes(left[bytes.len()..][..2].try_into().unwrap());
        assert!(varying.source_port >= 49_152, "port {}", varying.source_port);
        let udp = UdpHeader {
            source_port: varying.source_port,
            destination_port: 6080,
            length: payload as u16,
            checksum: 0,
        };
        udp.write(&mut bytes).unwrap();
    }
    bytes.extend(inner);
    (bytes, varying)
}

/// Sends a frame and expects it to leave for this backend, in a tunnel from the load balancer.
fn goes(homes: &mut Homes, mode: Mode, frame: &Frame, backend: &str) -> Varying {
    let source = if backend.starts_with('[') { LB6 } else { LB };
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    let (expected, varying) =
        tunnelled(mode, (&inside(frame), frame.traffic_class), source, backend, &outcome.bytes);
    assert_eq!(hex(&outcome.bytes), hex(&expected));
    varying
}

/// Sends what is not a whole packet of a flow, and expects it to leave as a flow's packets do: `inner` inside.
fn goes_along(homes: &mut Homes, mode: Mode, sent: &[u8], inner: &[u8], backend: &str) -> Varying {
    let source = if backend.starts_with('[') { LB6 } else { LB };
    let outcome = homes.send_bytes(sent);
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    let (expected, varying) = if mode == Mode::Dsr {
        let ethertype: [u8; 2] = if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let header = [&BACKEND_MAC[..], &LB_BACKEND_MAC, &ethertype].concat();
        ([&header, inner].concat(), Varying { flow_label: 0, source_port: 0 })
    } else {
        tunnelled(mode, (inner, 0), source, backend, &outcome.bytes)
    };
    assert_eq!(hex(&outcome.bytes), hex(&expected));
    varying
}

/// The modes, each with the ways that it has.
fn modes_and_ways() -> impl Iterator<Item = (Mode, (&'static str, &'static str, &'static str))> {
    let ways = |mode| if mode == Mode::Dsr { &WAYS[..2] } else { &WAYS[..] };
    [Mode::Dsr, Mode::Ipip, Mode::Gue]
        .into_iter()
        .flat_map(move |mode| ways(mode).iter().map(move |way| (mode, *way)))
}

#[test]
fn fragments_go_the_way_of_their_flow() {
    for (mode, (vip, client, backend)) in modes_and_ways() {
        for (service, listens) in [(vip.to_owned(), backend.to_owned()), on_all_ports(vip, backend)] {
            println!("{mode:?} {service} {backend}");
            let mut homes = Homes::new();
            homes.service(&service, Protocol::UDP, mode, &[&listens]);
            let mut frame = Frame::udp(client, vip);
            frame.payload = vec![7; 1000];
            let parts = fragments(&frame, 400, 9);
            let inside = fragments(&frame.clone().ttl(frame.ttl - 1), 400, 9);
            let ways: BTreeSet<_> = parts
                .iter()
                .zip(&inside)
                .map(|(part, inside)| goes_along(&mut homes, mode, part, &inside[14..], backend))
                .collect();
            assert_eq!(ways.len(), 1, "all of them as the flow: {ways:?}");
            // One that is larger than its way takes, of which the first has told the sender.
            homes.change_backend(&listens, |backend| backend.mtu = 400);
            if mode != Mode::Dsr {
                homes.bytes_end_with(&parts[1], Reason::TooBig);
            }
        }
    }
}

#[test]
fn an_icmp_error_about_a_backend_s_packet_goes_the_way_of_its_flow_as_it_is() {
    for (mode, (vip, client, backend)) in modes_and_ways() {
        for (service, listens) in [(vip.to_owned(), backend.to_owned()), on_all_ports(vip, backend)] {
            println!("{mode:?} {service} {backend}");
            let mut homes = Homes::new();
            homes.service(&service, Protocol::TCP, mode, &[&listens]);
            let router = if vip.starts_with('[') { "2001:db8:9::1" } else { "203.0.113.1" };
            let to = vip.parse::<SocketAddr>().unwrap().ip().to_string();
            let error = Icmp::too_big(router, &to, &Frame::tcp(vip, client, ACK), 1000);
            let inside = Icmp { ttl: error.ttl - 1, ..error.clone() }.bytes();
            goes_along(&mut homes, mode, &error.bytes(), &inside[14..], backend);
            homes.bytes_end_with(&Icmp { ttl: 1, ..error }.bytes(), Reason::TtlExpired);
        }
    }
}

#[test]
fn a_packet_of_dsr_keeps_all_but_its_ethernet_addresses_and_a_hop() {
    let mut homes = Homes::new();
    for (vip, client, backend) in &WAYS[..2] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            homes.service(vip, protocol, Mode::Dsr, &[backend]);
            for frame in [make(protocol, client, vip), make(protocol, client, vip).tag(0x8100, 7)] {
                homes.forwards(&frame, client, vip);
            }
            homes.ends_with(&make(protocol, client, vip).ttl(1), Reason::TtlExpired);
        }
    }
}

#[test]
fn a_packet_of_any_family_goes_in_a_packet_of_any_family() {
    for mode in [Mode::Ipip, Mode::Gue] {
        for (vip, client, backend) in WAYS {
            let mut homes = Homes::new();
            for protocol in [Protocol::TCP, Protocol::UDP] {
                println!("{mode:?} {vip} {backend} {protocol:?}");
                let (service, listens) = on_all_ports(vip, backend);
                homes.service(&service, protocol, mode, &[&listens]);
                goes(&mut homes, mode, &make(protocol, client, vip), backend);
                homes.service(vip, protocol, mode, &[backend]);
                goes(&mut homes, mode, &make(protocol, client, vip), backend);
                let mut empty = make(protocol, client, vip).tag(0x8100, 7);
                empty.payload.clear();
                goes(&mut homes, mode, &empty, backend);
                homes.ends_with(&make(protocol, client, vip).ttl(1), Reason::TtlExpired);
            }
        }
    }
}

#[test]
fn ethernet_s_padding_is_not_counted_into_the_outer_packet() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    let mut frame = Frame::tcp(CLIENT, VIP, SYN);
    frame.payload.clear();
    let outcome = homes.send_bytes(&[frame.bytes(), vec![0; 6]].concat());
    let (expected, _) =
        tunnelled(Mode::Ipip, (&inside(&frame), frame.traffic_class), LB, BACKEND, &outcome.bytes);
    assert_eq!(hex(&outcome.bytes), hex(&[expected, vec![0; 6]].concat()));
}

#[test]
fn options_and_extension_headers_go_along() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Gue, &[BACKEND6]);
    homes.service(VIP6, Protocol::TCP, Mode::Gue, &[BACKEND]);
    let mut v4 = Frame::tcp(CLIENT, VIP, SYN);
    v4.ipv4_options = vec![1; 40];
    goes(&mut homes, Mode::Gue, &v4, BACKEND6);
    let mut v6 = Frame::tcp(CLIENT6, VIP6, SYN);
    v6.extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    goes(&mut homes, Mode::Gue, &v6, BACKEND);
}

#[test]
fn the_outer_packet_has_the_inner_one_s_dscp_and_ecn() {
    for mode in [Mode::Ipip, Mode::Gue] {
        for (vip, client, backend) in WAYS {
            let mut homes = Homes::new();
            homes.service(vip, Protocol::TCP, mode, &[backend]);
            for traffic_class in [0, 1, 2, 3, 0xb8, 0xbb, 0xff] {
                let mut frame = Frame::tcp(client, vip, ACK);
                frame.traffic_class = traffic_class;
                goes(&mut homes, mode, &frame, backend);
            }
        }
    }
}

#[test]
fn a_backend_on_a_vlan_gets_its_tag_around_the_outer_packet() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    homes.change_backend(BACKEND, |backend| (backend.vlan, backend.ifindex) = (100, INGRESS));
    for frame in [Frame::tcp(CLIENT, VIP, SYN), Frame::tcp(CLIENT, VIP, SYN).tag(0x88a8, 5).tag(0x8100, 6)] {
        let outcome = homes.send(&frame);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let (expected, _) =
            tunnelled(Mode::Ipip, (&inside(&frame), frame.traffic_class), LB, BACKEND, &outcome.bytes);
        let expected = [&expected[..12], &[0x81, 0, 0, 100], &expected[12..]].concat();
        assert_eq!(hex(&outcome.bytes), hex(&expected));
    }
}

#[test]
fn what_routers_and_receive_queues_look_at_varies_by_flow_and_not_within_one() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Gue, &[BACKEND6]);
    let mut seen = BTreeSet::new();
    for port in 40_000..40_100 {
        let frame = |flags| Frame::tcp(&format!("203.0.113.5:{port}"), VIP, flags);
        let first = goes(&mut homes, Mode::Gue, &frame(SYN), BACKEND6);
        assert_eq!(goes(&mut homes, Mode::Gue, &frame(ACK), BACKEND6), first);
        seen.insert(first);
    }
    let ports: BTreeSet<_> = seen.iter().map(|varying| varying.source_port).collect();
    let labels: BTreeSet<_> = seen.iter().map(|varying| varying.flow_label).collect();
    assert!(ports.len() > 90 && labels.len() > 95, "{} ports, {} labels", ports.len(), labels.len());
}

#[test]
fn named_addresses_are_all_used_as_the_outer_source_each_flow_its_own() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    let addresses = ["198.51.100.3", "198.51.100.4", "198.51.100.5"];
    for (place, address) in addresses.iter().enumerate() {
        let address: IpAddr = address.parse().unwrap();
        homes.apply(&[Write::SnatAddress(5 + place as u32, Address::from(address))]);
    }
    homes.change_service(VIP, Protocol::TCP, |service| (service.snat_offset, service.snat_len) = (5, 3));
    let mut seen = BTreeSet::new();
    for port in 40_000..40_040 {
        let mut sources = [SYN, ACK].map(|flags| {
            let frame = Frame::tcp(&format!("203.0.113.5:{port}"), VIP, flags);
            let left = homes.send(&frame).bytes;
            let source = IpAddr::from(<[u8; 4]>::try_from(&left[26..30]).unwrap()).to_string();
            let (expected, _) =
                tunnelled(Mode::Ipip, (&inside(&frame), frame.traffic_class), &source, BACKEND, &left);
            assert_eq!(hex(&left), hex(&expected));
            source
        });
        sources.sort();
        assert_eq!(sources[0], sources[1]);
        seen.extend(sources);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), addresses);
}

#[test]
fn a_flow_stays_with_its_backend_while_that_drains_and_needs_no_record_of_replies() {
    for mode in [Mode::Dsr, Mode::Ipip, Mode::Gue] {
        let mut homes = Homes::new();
        let other = "198.51.100.12:80";
        let service = homes.service(VIP, Protocol::TCP, mode, &[BACKEND, other]);
        homes.move_slots(service, Slot::settled(BackendIndex(1)));
        let send = |homes: &mut Homes, flags, backend: &str, mac| {
            if backend == other {
                homes.change_backend(other, |backend| {
                    backend.destination_mac = xdp_lb_common::net::MacAddress::new(mac);
                });
            }
            let outcome = homes.send(&Frame::tcp(CLIENT, VIP, flags));
            assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
            assert_eq!(outcome.bytes[..6], mac);
        };
        send(&mut homes, SYN, BACKEND, BACKEND_MAC);
        assert_eq!(homes.records(), [0, 0], "the ring stands still");
        homes.change_backend(BACKEND, |backend| backend.state = BackendState::Draining.into());
        homes.move_slots(service, Slot::moving(BackendIndex(2), BackendIndex(1)));
        send(&mut homes, ACK, BACKEND, BACKEND_MAC);
        homes.change_backend(BACKEND, |backend| backend.state = BackendState::Down.into());
        let outcome = homes.send(&Frame::tcp(CLIENT, VIP, ACK));
        assert_eq!(outcome.counted, [(Reason::FlowEndedAnswered, 1)], "no other backend gets it");
        send(&mut homes, SYN, other, [2, 0, 0, 0, 0, 9]);
        // A reset reaches its backend, recorded or not.
        homes.forget(|_| true);
        send(&mut homes, RST, other, [2, 0, 0, 0, 0, 9]);
    }
}

#[test]
fn a_backend_of_a_tunnel_may_serve_a_service_of_nat_too() {
    let mut homes = Homes::new();
    homes.service("192.0.2.11:80", Protocol::TCP, Mode::Nat, &[BACKEND]);
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    homes.forwards(&Frame::tcp(CLIENT, "192.0.2.11:80", SYN), CLIENT, BACKEND);
    goes(&mut homes, Mode::Ipip, &Frame::tcp(CLIENT, VIP, SYN), BACKEND);
    // What the backend sends in the VIP's name is not a reply of `nat`.
    homes.ends_with(&Frame::tcp(VIP, CLIENT, SYN | ACK), Reason::NoService);
}
