//! Whoever sends a packet that goes no further is told so: by a TCP reset, or by ICMP.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice, icmpv4, icmpv6,
};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::rate::Answer;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    BackendIndex, BackendState, COUNTS_FLOWS, Mode, RECORDS_FLOWS, REJECTS, ServiceIndex,
};

use crate::homes::{EGRESS, Homes, INGRESS, Outcome, hex, run};
use crate::packets::{ACK, CLIENT_MAC, FIN, Frame, Icmp, RST, SYN, ends, fragments};

/// A VIP, a client and two backends of each family.
const FAMILIES: [[&str; 4]; 2] = [
    ["192.0.2.10:80", "203.0.113.5:40000", "198.51.100.11:8080", "198.51.100.12:8080"],
    ["[2001:db8::10]:80", "[2001:db8:9::5]:40000", "[2001:db8:2::11]:8080", "[2001:db8:2::12]:8080"],
];
const MODES: [Mode; 5] = [Mode::FullNat, Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue];
const A: BackendIndex = BackendIndex(1);
const B: BackendIndex = BackendIndex(2);

/// The sequence number of every frame here.
const SEQUENCE: u32 = 0x0102_0304;

/// A service over two backends, all slots the first one's.
fn service(vip: &str, protocol: Protocol, mode: Mode, backends: [&str; 2]) -> (Homes, ServiceIndex) {
    let mut homes = Homes::new();
    let index = homes.service(vip, protocol, mode, &backends);
    homes.move_slots(index, Slot::settled(A));
    (homes, index)
}

fn become_state(homes: &mut Homes, backend: &str, state: BackendState) {
    homes.change_backend(backend, |backend| backend.state = state.into());
}

/// The Ethernet header of what goes back to a frame's sender, as it came.
fn back(frame: &Frame) -> Vec<u8> {
    let mut bytes = [frame.from_mac, frame.to_mac].concat();
    for (ethertype, id) in &frame.tags {
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(id.to_be_bytes());
    }
    bytes.extend(if frame.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    bytes
}

/// The IP header of what goes back to a frame's sender in this name.
fn answer_header(frame: &Frame, from: IpAddr, protocol: IpNumber, length: u16, dscp: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (from, frame.from.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).unwrap();
            ip.dont_fragment = true;
            ip.dscp = dscp.try_into().unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut bytes).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: length,
                next_header: protocol,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            };
            ip.write(&mut bytes).unwrap();
        }
        _ => panic!("an answer has its packet's family"),
    }
    bytes
}

/// The reset that answers a frame (RFC 9293 section 3.10.7.1).
fn reset(frame: &Frame) -> Vec<u8> {
    let flags = frame.tcp.unwrap();
    let length = frame.payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let mut tcp = TcpHeader::new(frame.to.port(), frame.from.port(), 0, 0);
    tcp.rst = true;
    if flags & ACK == 0 {
        tcp.ack = true;
        tcp.acknowledgment_number = SEQUENCE + length;
    }
    tcp.checksum = match (frame.to.ip(), frame.from.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]),
        (IpAddr::V6(from), IpAddr::V6(to)) => tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[]),
        _ => panic!("an answer has its packet's family"),
    }
    .unwrap();
    let mut bytes = [back(frame), answer_header(frame, frame.to.ip(), IpNumber::TCP, 20, 0)].concat();
    tcp.write(&mut bytes).unwrap();
    bytes
}

/// The "port unreachable" that answers a frame: it quotes the IP header and eight bytes.
fn unreachable(frame: &Frame) -> Vec<u8> {
    error(frame, frame.to.ip(), false)
}

/// The ICMP error that answers a frame, in this name: "port unreachable" or "time exceeded".
fn error(frame: &Frame, from: IpAddr, is_expired: bool) -> Vec<u8> {
    let l3 = frame.clone().untagged().bytes().split_off(14);
    let header = if frame.from.is_ipv4() {
        20 + frame.ipv4_options.len()
    } else {
        40 + frame.extensions.iter().map(|(_, body)| body.len()).sum::<usize>()
    };
    let quote = &l3[..header + 8];
    let length = (8 + quote.len()) as u16;
    let (protocol, dscp, icmp) = match (from, frame.from.ip()) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = if is_expired {
                etherparse::Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
            } else {
                etherparse::Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            };
            let icmp =
                etherparse::Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), quote).unwrap();
            (IpNumber::IPV6_ICMP, 0, icmp.to_bytes().to_vec())
        }
        _ => {
            let kind = if is_expired {
                etherparse::Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
            } else {
                etherparse::Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
            };
            (IpNumber::ICMP, 48, etherparse::Icmpv4Header::with_checksum(kind, quote).to_bytes().to_vec())
        }
    };
    [&back(frame)[..], &answer_header(frame, from, protocol, length, dscp), &icmp, quote].concat()
}

/// Sends a frame and expects its sender to hear that its flow has ended.
fn hears(homes: &mut Homes, frame: &Frame) {
    hears_for(homes, frame, Reason::FlowEndedAnswered);
}

/// Sends a frame and expects its sender to hear that nobody is there, for this reason.
fn hears_for(homes: &mut Homes, frame: &Frame, reason: Reason) {
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit, "{frame:?}");
    assert_eq!(outcome.counted, [(reason, 1)]);
    let answer = if frame.tcp.is_some() { reset(frame) } else { unreachable(frame) };
    assert_eq!(hex(&outcome.bytes), hex(&answer));
}

/// Where a packet went that was sent to a backend, by the Ethernet address or, in a tunnel, the outer IP header.
fn goes_to(outcome: &Outcome, mode: Mode, backend: &str) -> bool {
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    let backend: SocketAddr = backend.parse().unwrap();
    match mode {
        Mode::Nat | Mode::FullNat => ends(&outcome.bytes).1 == backend,
        // Its MAC is that of all backends here.
        Mode::Dsr => true,
        Mode::Ipip | Mode::Gue => match SlicedPacket::from_ethernet(&outcome.bytes).unwrap().net.unwrap() {
            NetSlice::Ipv4(ip) => IpAddr::from(ip.header().destination_addr()) == backend.ip(),
            NetSlice::Ipv6(ip) => IpAddr::from(ip.header().destination_addr()) == backend.ip(),
            NetSlice::Arp(_) => false,
        },
    }
}

#[test]
fn a_tcp_packet_of_a_backend_whose_flows_end_is_answered_by_a_reset_and_a_syn_goes_to_another() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            let (mut homes, index) = service(vip, Protocol::TCP, mode, [a, b]);
            println!("{mode:?} {vip}: settled, the owner ends");
            become_state(&mut homes, a, BackendState::Ending);
            for flags in [ACK, ACK | FIN, FIN, SYN | ACK, 0] {
                hears(&mut homes, &Frame::tcp(client, vip, flags));
            }
            assert_eq!(homes.records(), [0, 0], "none of it begins a flow");
            println!("moving, the prior owner ends");
            homes.move_slots(index, Slot::moving(B, A));
            for flags in [ACK, ACK | FIN, FIN, 0] {
                hears(&mut homes, &Frame::tcp(client, vip, flags).tag(0x8100, 42));
            }
            let outcome = homes.send(&Frame::tcp(client, vip, SYN));
            assert!(goes_to(&outcome, mode, b), "a new connection goes elsewhere");
            let outcome = homes.send(&Frame::tcp(client, vip, ACK));
            assert!(goes_to(&outcome, mode, b), "and stays there");
        }
    }
}

#[test]
fn a_recorded_flow_ends_with_its_backend_whatever_becomes_of_that() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            for state in [BackendState::Ending, BackendState::Down, BackendState::Vacant] {
                println!("{mode:?} {vip} {state:?}");
                let (mut homes, index) = service(vip, Protocol::TCP, mode, [a, b]);
                homes.move_slots(index, Slot::moving(A, B));
                homes.send(&Frame::tcp(client, vip, SYN));
                let outcome = homes.send(&Frame::tcp(client, vip, ACK));
                assert!(goes_to(&outcome, mode, a));
                let records = homes.records();
                homes.move_slots(index, Slot::moving(B, A));
                become_state(&mut homes, a, state);
                for flags in [ACK, ACK, ACK | FIN, 0] {
                    hears(&mut homes, &Frame::tcp(client, vip, flags).tag(0x88a8, 5).tag(0x8100, 42));
                }
                assert_eq!(homes.records(), records, "it is known for as long as its client goes on");
                assert_eq!(homes.live(1), 0, "and lives no more");
                homes.ends_with(&Frame::tcp(client, vip, RST), Reason::FlowEnded);
                homes.ends_with(&Frame::tcp(client, vip, RST | ACK), Reason::FlowEnded);
                let outcome = homes.send(&Frame::tcp(client, vip, SYN));
                assert!(goes_to(&outcome, mode, b), "a new connection from the same port goes elsewhere");
            }
        }
    }
}

#[test]
fn of_a_settled_slot_whose_owner_is_down_no_connection_goes_on_at_another_backend() {
    let [vip, client, a, b] = FAMILIES[0];
    for state in [BackendState::Down, BackendState::Vacant] {
        let (mut homes, index) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        let mut ring = [Slot::settled(B); 64];
        // Each other slot, so that the next one would do.
        ring.iter_mut().step_by(2).for_each(|slot| *slot = Slot::settled(A));
        homes.move_ring(index, &ring);
        become_state(&mut homes, a, state);
        let (mut ended, mut went) = (0, 0);
        for port in 40_000..40_040 {
            let client = format!("{}:{port}", client.split(':').next().unwrap());
            let outcome = homes.send(&Frame::tcp(&client, vip, ACK));
            match outcome.counted.as_slice() {
                [(Reason::FlowEndedAnswered, 1)] => ended += 1,
                [] => went += 1,
                other => panic!("{other:?}"),
            }
            assert!(goes_to(&homes.send(&Frame::tcp(&client, vip, SYN)), Mode::Nat, b));
        }
        assert!(ended > 5 && went > 5, "{ended} ended, {went} are the other's");
    }
}

#[test]
fn a_draining_owner_keeps_its_connections_before_its_slots_have_moved() {
    let [vip, client, a, b] = FAMILIES[0];
    let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
    become_state(&mut homes, a, BackendState::Draining);
    homes.forwards(&Frame::tcp(client, vip, ACK), client, a);
}

#[test]
fn a_udp_client_is_told_once_and_its_next_datagram_begins_a_new_flow() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            println!("{mode:?} {vip}");
            let (mut homes, index) = service(vip, Protocol::UDP, mode, [a, b]);
            homes.move_slots(index, Slot::moving(A, A));
            for _ in 0..2 {
                assert!(goes_to(&homes.send(&Frame::udp(client, vip)), mode, a));
            }
            homes.move_slots(index, Slot::moving(B, A));
            become_state(&mut homes, a, BackendState::Ending);
            hears(&mut homes, &Frame::udp(client, vip).tag(0x8100, 42));
            for _ in 0..3 {
                assert!(goes_to(&homes.send(&Frame::udp(client, vip)), mode, b));
            }
        }
    }
}

#[test]
fn a_datagram_without_a_record_goes_to_the_new_owner_at_once() {
    let [vip, client, a, b] = FAMILIES[0];
    let (mut homes, index) = service(vip, Protocol::UDP, Mode::Nat, [a, b]);
    become_state(&mut homes, a, BackendState::Ending);
    homes.move_slots(index, Slot::moving(B, A));
    homes.forwards(&Frame::udp(client, vip), client, b);
}

#[test]
fn a_short_datagram_is_quoted_whole_and_options_and_extension_headers_are_quoted() {
    for [vip, client, a, b] in FAMILIES {
        let (mut homes, index) = service(vip, Protocol::UDP, Mode::Nat, [a, b]);
        let mut frame = Frame::udp(client, vip);
        for payload in [0, 1, 3, 4, 1400] {
            frame.payload = vec![7; payload];
            homes.move_slots(index, Slot::moving(A, A));
            become_state(&mut homes, a, BackendState::Up);
            homes.forwards(&frame, client, a);
            become_state(&mut homes, a, BackendState::Ending);
            hears(&mut homes, &frame);
        }
        if client.starts_with('[') {
            frame.extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        } else {
            frame.ipv4_options = vec![1, 1, 1, 1, 1, 1, 1, 0];
        }
        become_state(&mut homes, a, BackendState::Up);
        homes.send(&frame);
        become_state(&mut homes, a, BackendState::Ending);
        hears(&mut homes, &frame);

        // A reset has no use for them.
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        become_state(&mut homes, a, BackendState::Ending);
        frame.tcp = Some(FIN);
        for payload in [0, 1, 1400] {
            frame.payload = vec![7; payload];
            hears(&mut homes, &frame);
        }
    }
}

#[test]
fn who_is_no_host_gets_no_reset() {
    for ([vip, _, a, b], senders) in FAMILIES
        .into_iter()
        .zip([["224.0.0.1:1", "255.255.255.255:1", "0.0.0.0:1"], ["[ff02::1]:1", "[::]:1", "[ff0e::1]:1"]])
    {
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        become_state(&mut homes, a, BackendState::Ending);
        for from in senders {
            homes.ends_with(&Frame::tcp(from, vip, ACK), Reason::FlowEnded);
        }
    }
}

#[test]
fn a_first_fragment_is_answered_and_its_later_ones_are_not() {
    for [vip, client, a, b] in FAMILIES {
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        become_state(&mut homes, a, BackendState::Ending);
        let mut frame = Frame::tcp(client, vip, ACK);
        frame.dont_fragment = false;
        let fragments = fragments(&frame, 24, 7);
        let outcome = homes.send_bytes(&fragments[0]);
        assert_eq!(outcome.counted, [(Reason::FlowEndedAnswered, 1)]);
        let sliced = SlicedPacket::from_ethernet(&outcome.bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("a reset") };
        assert!(tcp.rst() && !tcp.ack());
        assert_eq!(hex(&outcome.bytes), hex(&reset(&frame)));
        homes.bytes_end_with(&fragments[1], Reason::FragmentWithoutFirst);
    }
}

#[test]
fn an_error_about_an_ended_flow_reaches_no_backend() {
    for [vip, client, a, b] in FAMILIES {
        let (mut homes, index) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        homes.move_slots(index, Slot::moving(A, A));
        homes.forwards(&Frame::tcp(client, vip, SYN), client, a);
        homes.move_slots(index, Slot::moving(B, A));
        become_state(&mut homes, a, BackendState::Ending);
        let host = |end: &str| end.parse::<SocketAddr>().unwrap().ip().to_string();
        let sent = Frame::tcp(vip, client, ACK);
        let error = Icmp::too_big(&host(client), &host(vip), &sent, 64);
        homes.bytes_end_with(&error.bytes(), Reason::IcmpWithoutFlow);
        homes.forget(|_| true);
        homes.bytes_end_with(&error.bytes(), Reason::IcmpWithoutFlow);
    }
}

#[test]
fn a_flow_that_counts_counts_no_more_once_its_client_is_told() {
    let [vip, client, a, b] = FAMILIES[0];
    let (mut homes, index) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
    homes.change_service(vip, Protocol::TCP, |service| {
        service.options = RECORDS_FLOWS | COUNTS_FLOWS;
        service.max_flows = 1;
    });
    homes.forwards(&Frame::tcp(client, vip, SYN), client, a);
    homes.forwards(&Frame::tcp(client, vip, ACK), client, a);
    homes.move_slots(index, Slot::moving(B, A));
    homes.ends_with(&Frame::tcp("203.0.113.6:40000", vip, SYN), Reason::ServiceFull);
    become_state(&mut homes, a, BackendState::Ending);
    hears(&mut homes, &Frame::tcp(client, vip, ACK));
    hears(&mut homes, &Frame::tcp(client, vip, ACK));
    homes.forwards(&Frame::tcp("203.0.113.6:40000", vip, SYN), "203.0.113.6:40000", b);
    homes.ends_with(&Frame::tcp("203.0.113.7:40000", vip, SYN), Reason::ServiceFull);
}

#[test]
fn who_begins_a_flow_while_no_backend_takes_any_is_told_where_the_service_says_so() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            for is_empty in [false, true] {
                println!("{mode:?} {vip} {is_empty}");
                let without_backend = |protocol, options| {
                    let (mut homes, index) = service(vip, protocol, mode, [a, b]);
                    homes.change_service(vip, protocol, |service| {
                        service.options = options;
                        if is_empty {
                            service.ring_len = 0;
                        }
                    });
                    homes.move_slots(index, Slot::settled(BackendIndex(0)));
                    homes
                };
                let mut homes = without_backend(Protocol::TCP, REJECTS);
                hears_for(&mut homes, &Frame::tcp(client, vip, SYN), Reason::NoBackendAnswered);
                let tagged = Frame::tcp(client, vip, SYN).tag(0x88a8, 5).tag(0x8100, 42);
                hears_for(&mut homes, &tagged, Reason::NoBackendAnswered);
                for flags in [ACK, FIN, RST, SYN | ACK, RST | ACK] {
                    homes.ends_with(&Frame::tcp(client, vip, flags), Reason::NoBackend);
                }
                assert_eq!(homes.records(), [0, 0]);
                let mut homes = without_backend(Protocol::UDP, REJECTS | RECORDS_FLOWS);
                hears_for(&mut homes, &Frame::udp(client, vip), Reason::NoBackendAnswered);
                let mut homes = without_backend(Protocol::TCP, 0);
                homes.ends_with(&Frame::tcp(client, vip, SYN), Reason::NoBackend);
            }
        }
    }
}

#[test]
fn a_client_that_is_told_too_often_that_there_is_no_backend_hears_nothing() {
    let [vip, client, a, b] = FAMILIES[0];
    let (mut homes, index) = service(vip, Protocol::UDP, Mode::Nat, [a, b]);
    homes.change_service(vip, Protocol::UDP, |service| service.options = REJECTS);
    homes.move_slots(index, Slot::settled(BackendIndex(0)));
    let frame = Frame::udp(client, vip).bytes();
    let limit = Answer::Unreachable.limits().at_once_to_one;
    for place in 0..limit + 5 {
        let verdict = homes.process(&mut Buffer::new(&frame, INGRESS));
        let is_told = place < limit;
        assert_eq!(verdict, if is_told { Verdict::Transmit } else { Verdict::Drop(Reason::NoBackend) });
    }
    homes.ends_with(&Frame::udp("224.0.0.1:1", vip), Reason::NoBackend);
}

#[test]
fn a_service_that_would_reject_forwards_as_any_other() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            let (mut homes, _) = service(vip, Protocol::TCP, mode, [a, b]);
            homes.change_service(vip, Protocol::TCP, |service| service.options = REJECTS);
            for flags in [SYN, ACK] {
                assert!(goes_to(&homes.send(&Frame::tcp(client, vip, flags)), mode, a));
            }
            assert_eq!(homes.records() == [0, 0], mode != Mode::FullNat, "nothing else is asked for");
        }
    }
}

#[test]
fn a_packet_without_hops_left_is_answered_in_the_name_of_the_interface_that_it_came_in_by() {
    for [vip, client, a, b] in FAMILIES {
        for mode in MODES {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                println!("{mode:?} {vip} {protocol:?}");
                let (mut homes, _) = service(vip, protocol, mode, [a, b]);
                let frame = match protocol {
                    Protocol::TCP => Frame::tcp(client, vip, SYN),
                    _ => Frame::udp(client, vip),
                };
                // Where no address is known, or none is to be known.
                homes.ends_with(&frame.clone().ttl(1), Reason::TtlExpired);
                homes.set_router_addresses(&[
                    (0, "192.0.2.1", "2001:db8:1::1"),
                    (42, "192.0.2.129", "2001:db8:42::1"),
                ]);
                let hears = |homes: &mut Homes, frame: &Frame, [v4, v6]: [&str; 2]| {
                    let outcome = homes.send(frame);
                    assert_eq!(outcome.verdict, Verdict::Transmit, "{frame:?}");
                    assert_eq!(outcome.counted, [(Reason::TtlExpiredAnswered, 1)]);
                    let from = if frame.from.is_ipv4() { v4 } else { v6 };
                    assert_eq!(hex(&outcome.bytes), hex(&error(frame, from.parse().unwrap(), true)));
                };
                for ttl in [0, 1] {
                    hears(&mut homes, &frame.clone().ttl(ttl), ["192.0.2.1", "2001:db8:1::1"]);
                }
                let tagged = frame.clone().ttl(1).tag(0x8100, 42);
                hears(&mut homes, &tagged, ["192.0.2.129", "2001:db8:42::1"]);
                for unknown in [
                    frame.clone().tag(0x8100, 43),
                    frame.clone().tag(0x88a8, 42),
                    frame.clone().tag(0x88a8, 5).tag(0x8100, 42),
                    frame.clone().tag(0x8100, 5).tag(0x8100, 42),
                ] {
                    homes.ends_with(&unknown.ttl(1), Reason::TtlExpired);
                }
                homes.set_router_addresses(&[]);
                homes.ends_with(&frame.clone().ttl(1), Reason::TtlExpired);
            }
        }
    }
}

#[test]
fn a_backend_s_packet_without_hops_left_is_answered_too() {
    for [vip, client, a, b] in FAMILIES {
        let (mut homes, _) = service(vip, Protocol::UDP, Mode::FullNat, [a, b]);
        homes.set_router_addresses(&[(0, "192.0.2.1", "2001:db8:1::1")]);
        let (seen, _) = ends(&homes.send(&Frame::udp(client, vip)).bytes);
        let frame = Frame::udp(a, &seen.to_string()).ttl(1);
        let outcome = homes.send(&frame);
        assert_eq!(outcome.counted, [(Reason::TtlExpiredAnswered, 1)]);
        let from = if seen.is_ipv4() { "192.0.2.1" } else { "2001:db8:1::1" };
        assert_eq!(hex(&outcome.bytes), hex(&error(&frame, from.parse().unwrap(), true)));
    }
}

#[test]
fn a_full_nat_backend_that_goes_on_with_a_flow_that_is_over_is_told_so() {
    for ([vip, client, a, b], own) in FAMILIES.into_iter().zip(["198.51.100.2", "2001:db8:2::2"]) {
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::FullNat, [a, b]);
        homes.own_address(own);
        homes.send(&Frame::tcp(client, vip, SYN));
        let (seen, backend) = ends(&homes.send(&Frame::tcp(client, vip, ACK)).bytes);
        let reply = |flags| Frame::tcp(&backend.to_string(), &seen.to_string(), flags);
        assert_eq!(homes.send(&reply(ACK)).counted, []);
        homes.forget(|_| true);
        homes.ends_with(&reply(ACK), Reason::ReplyWithoutFlow);
        homes.set_resets_unknown(true);
        for flags in [ACK, ACK | FIN] {
            hears_for(&mut homes, &reply(flags), Reason::ReplyWithoutFlowAnswered);
        }
        for flags in [SYN | ACK, RST, RST | ACK] {
            homes.ends_with(&reply(flags), Reason::ReplyWithoutFlow);
        }
        // Its client puts the record back, and the flow goes on.
        assert_eq!(ends(&homes.send(&Frame::tcp(client, vip, ACK)).bytes).0, seen);
        assert_eq!(homes.send(&reply(ACK)).counted, []);
        // What goes to another host, or to a port of the host's own, is none of its flows.
        let port = seen.port();
        let other =
            if seen.is_ipv4() { format!("192.0.2.100:{port}") } else { format!("[2001:db8:1::100]:{port}") };
        homes.reach_clients(&BTreeMap::from([
            ("192.0.2.100", Some(CLIENT_MAC)),
            ("2001:db8:1::100", Some(CLIENT_MAC)),
        ]));
        homes.ends_with(&Frame::tcp(&backend.to_string(), &other, ACK), Reason::ReplyWithoutFlow);
        let own_port = SocketAddr::new(seen.ip(), 40_001);
        homes.ends_with(&Frame::tcp(&backend.to_string(), &own_port.to_string(), ACK), Reason::NotAReply);
    }
}

#[test]
fn of_a_backend_that_nat_has_too_a_full_nat_flow_without_a_record_is_not_the_host_s() {
    for ([vip, client, a, b], own) in FAMILIES.into_iter().zip(["198.51.100.2", "2001:db8:2::2"]) {
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::FullNat, [a, b]);
        homes.own_address(own);
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let other = vip.replace(":80", ":81");
        homes.service(&other, Protocol::TCP, Mode::Nat, &[a, b]);
        for backend in [a, b] {
            homes.change_reply(backend, Protocol::TCP, |reply| reply.by_record = 1);
        }
        homes.send(&Frame::tcp(client, vip, SYN));
        let (seen, backend) = ends(&homes.send(&Frame::tcp(client, vip, ACK)).bytes);
        homes.forget(|_| true);
        let reply = Frame::tcp(&backend.to_string(), &seen.to_string(), ACK);
        homes.ends_with(&reply, Reason::ReplyWithoutFlow);
        homes.set_resets_unknown(true);
        hears_for(&mut homes, &reply, Reason::ReplyWithoutFlowAnswered);
        let own_port = SocketAddr::new(seen.ip(), 40_001);
        homes.ends_with(&Frame::tcp(&backend.to_string(), &own_port.to_string(), ACK), Reason::NotAReply);
    }
}

#[test]
fn a_backend_of_nat_and_datagrams_are_never_told_so() {
    for [vip, client, a, b] in FAMILIES {
        let (mut homes, _) = service(vip, Protocol::UDP, Mode::FullNat, [a, b]);
        homes.set_resets_unknown(true);
        let (seen, backend) = ends(&homes.send(&Frame::udp(client, vip)).bytes);
        homes.forget(|_| true);
        let reply = Frame::udp(&backend.to_string(), &seen.to_string());
        homes.ends_with(&reply, Reason::ReplyWithoutFlow);
        let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
        homes.set_resets_unknown(true);
        let client = client.replace("40000", "2500");
        let outcome = homes.send(&Frame::tcp(a, &client, ACK));
        assert_eq!(outcome.verdict, Verdict::Drop(Reason::ReplyUnroutable), "it is a reply, by the routes");
    }
}

#[test]
fn one_destination_s_resets_are_limited_and_leave_others_and_other_answers_theirs() {
    let [vip, client, a, b] = FAMILIES[0];
    let (mut homes, _) = service(vip, Protocol::TCP, Mode::Nat, [a, b]);
    become_state(&mut homes, a, BackendState::Ending);
    homes.service("192.0.2.11:80", Protocol::TCP, Mode::Ipip, &["198.51.100.21:8080"]);
    let frame = Frame::tcp(client, vip, ACK).bytes();
    // On the host the clock stands still.
    let answered = |homes: &Homes, bytes: &[u8], tries: u32| {
        let is_answered = |_: &u32| homes.process(&mut Buffer::new(bytes, INGRESS)) == Verdict::Transmit;
        (0..tries).filter(is_answered).count() as u64
    };
    let limits = Answer::Reset.limits();
    assert_eq!(answered(&homes, &frame, 5000), limits.at_once_to_one);
    assert_eq!(answered(&homes, &Frame::tcp("203.0.113.6:1", vip, ACK).bytes(), 1), 1);
    let mut all = limits.at_once_to_one + 1;
    for host in 0..=u16::MAX {
        let [high, low] = host.to_be_bytes();
        let frame = Frame::tcp(&format!("198.18.{high}.{low}:1"), vip, ACK);
        all += answered(&homes, &frame.bytes(), 1);
    }
    assert_eq!(all, limits.at_once, "all destinations together have a limit");
    let mut large = Frame::tcp(client, "192.0.2.11:80", ACK);
    large.payload = vec![0; 1460];
    assert_eq!(answered(&homes, &large.bytes(), 1), 1, "\"packet too big\" is still said");
}
