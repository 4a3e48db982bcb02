//! IP fragments: the first has the ports, and the others follow it.

use std::collections::BTreeMap;

use xdp_lb::tables::Write;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, RECORDS_FLOWS};

use crate::homes::{EGRESS, Homes, Outcome, hex, on_all_ports, service_key};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, Frame, LB_BACKEND_MAC, LB_MAC, SYN, fragments};

const V4: [&str; 3] = ["192.0.2.10:53", "198.51.100.11:5353", "192.0.2.100:40000"];
const V6: [&str; 3] = ["[2001:db8::10]:53", "[2001:db8:2::11]:5353", "[2001:db8:1::100]:40000"];

/// A packet of some hundred bytes.
fn large(protocol: Protocol, from: &str, to: &str) -> Frame {
    let mut frame = match protocol {
        Protocol::TCP => Frame::tcp(from, to, SYN),
        _ => Frame::udp(from, to),
    };
    frame.payload = (0..=255).cycle().take(1001).collect();
    frame
}

fn snat(vip: &str) -> &'static str {
    if vip.starts_with('[') { "2001:db8:2::2" } else { "198.51.100.2" }
}

/// Sends the fragments of one packet, and expects them to leave as those of another.
fn become_those_of(homes: &mut Homes, sent: &Frame, verdict: Verdict, expected: &Frame) {
    let expected = fragments(expected, 400, 0xbeef);
    for (fragment, expected) in fragments(sent, 400, 0xbeef).iter().zip(expected) {
        let outcome = homes.send_bytes(fragment);
        assert_eq!(outcome.verdict, verdict);
        assert_eq!(hex(&outcome.bytes), hex(&expected));
    }
}

#[test]
fn nat_fragments_follow_their_first_to_the_backend_and_to_the_client() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for protocol in [Protocol::UDP, Protocol::TCP] {
        for [vip, backend, client] in [V4, V6] {
            homes.service(vip, protocol, Mode::Nat, &[backend]);
            let sent = large(protocol, client, vip);
            let macs = (LB_BACKEND_MAC, BACKEND_MAC);
            let expected = sent.leaving(client.parse().unwrap(), backend.parse().unwrap(), macs);
            become_those_of(&mut homes, &sent, Verdict::Redirect(EGRESS), &expected);
            let tagged = sent.tag(0x8100, 42);
            become_those_of(&mut homes, &tagged, Verdict::Redirect(EGRESS), &expected);

            let sent = large(protocol, backend, client);
            let expected = sent.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
            become_those_of(&mut homes, &sent, Verdict::Redirect(index), &expected);
        }
    }
    let traffic = homes.traffic();
    assert_eq!((traffic.packets_in, traffic.packets_out), (24, 12));
}

#[test]
fn fragments_of_nat_follow_their_first_on_a_port_of_a_range() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for [vip, backend, client] in [V4, V6] {
        let (_, listens) = on_all_ports(vip, backend);
        homes.service(&format!("{vip}-99"), Protocol::UDP, Mode::Nat, &[&listens]);
        let backend = listens.replace(":0", ":53");
        let sent = large(Protocol::UDP, client, vip);
        let macs = (LB_BACKEND_MAC, BACKEND_MAC);
        let expected = sent.leaving(client.parse().unwrap(), backend.parse().unwrap(), macs);
        become_those_of(&mut homes, &sent, Verdict::Redirect(EGRESS), &expected);

        let sent = large(Protocol::UDP, &backend, client);
        let expected = sent.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
        become_those_of(&mut homes, &sent, Verdict::Redirect(index), &expected);
    }
    let traffic = homes.traffic();
    assert_eq!((traffic.packets_in, traffic.packets_out), (6, 6));
}

#[test]
fn full_nat_fragments_follow_their_first_to_the_backend_and_to_the_client() {
    let mut homes = Homes::new();
    for protocol in [Protocol::UDP, Protocol::TCP] {
        for [vip, backend, client] in [V4, V6] {
            homes.service(vip, protocol, Mode::FullNat, &[backend]);
            let sent = large(protocol, client, vip);
            let (source, to) = homes.translates(&sent, snat(vip), &[backend]);
            let expected = sent.leaving(source, to, (LB_BACKEND_MAC, BACKEND_MAC));
            become_those_of(&mut homes, &sent, Verdict::Redirect(EGRESS), &expected);

            let mut sent = large(protocol, backend, &source.to_string());
            (sent.from_mac, sent.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
            let expected = sent.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
            become_those_of(&mut homes, &sent, Verdict::Transmit, &expected);
        }
    }
}

#[test]
fn a_fragment_whose_first_was_not_forwarded_is_dropped_at_a_vip_and_else_the_host_s() {
    let mut homes = Homes::new();
    for [vip, backend, client] in [V4, V6] {
        homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
        let of = |from: &str, to: &str, id| fragments(&large(Protocol::UDP, from, to), 400, id);
        let sent = of(client, vip, 1);
        homes.bytes_end_with(&sent[1], Reason::FragmentWithoutFirst);
        assert_eq!(homes.send_bytes(&sent[0]).verdict, Verdict::Redirect(EGRESS));
        assert_eq!(homes.send_bytes(&sent[2]).verdict, Verdict::Redirect(EGRESS));
        // Another packet's, and another client's.
        homes.bytes_end_with(&of(client, vip, 2)[1], Reason::FragmentWithoutFirst);
        let other = client.replace("100]", "101]").replace("100:", "101:");
        homes.bytes_end_with(&of(&other, vip, 1)[1], Reason::FragmentWithoutFirst);
        // To the host itself.
        homes.bytes_end_with(
            &of(client, &vip.replace("10]", "1]").replace("10:", "1:"), 1)[1],
            Reason::NoService,
        );
        // To a port of a VIP that is the host's own.
        let own = of(client, &vip.replace(":53", ":54"), 3);
        for (fragment, reason) in own.iter().zip([Reason::NoService, Reason::Fragment, Reason::Fragment]) {
            homes.bytes_end_with(fragment, reason);
        }
        // To nobody.
        homes.change_service(vip, Protocol::UDP, |service| service.ring_len = 0);
        let other = of(client, vip, 4);
        homes.bytes_end_with(&other[0], Reason::NoBackend);
        homes.bytes_end_with(&other[1], Reason::FragmentWithoutFirst);
    }
}

#[test]
fn fragments_do_not_follow_to_a_backend_that_is_down_or_has_gone() {
    let mut homes = Homes::new();
    let [vip, backend, client] = V4;
    homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
    let sent = fragments(&large(Protocol::UDP, client, vip), 400, 1);
    assert_eq!(homes.send_bytes(&sent[0]).verdict, Verdict::Redirect(EGRESS));
    for state in [BackendState::Down, BackendState::Vacant] {
        homes.change_backend(backend, |backend| backend.state = state.into());
        homes.bytes_end_with(&sent[1], Reason::BackendUnusable);
    }
}

#[test]
fn fragments_whose_hops_are_used_up_end_here() {
    let mut homes = Homes::new();
    for [vip, backend, client] in [V4, V6] {
        homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
        let frame = large(Protocol::UDP, client, vip);
        assert_eq!(homes.send_bytes(&fragments(&frame, 400, 1)[0]).verdict, Verdict::Redirect(EGRESS));
        homes.bytes_end_with(&fragments(&frame.ttl(1), 400, 1)[1], Reason::TtlExpired);
    }
}

#[test]
fn fragments_that_cut_or_overwrite_the_transport_header_are_malformed() {
    let mut homes = Homes::new();
    for [vip, backend, client] in [V4, V6] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            homes.service(vip, protocol, Mode::Nat, &[backend]);
        }
        // RFC 1858: the flags are in the second fragment.
        let tiny = fragments(&large(Protocol::TCP, client, vip), 16, 1);
        homes.bytes_end_with(&tiny[0], Reason::Malformed);
        // RFC 3128: they are in both.
        homes.bytes_end_with(&fragments(&large(Protocol::TCP, client, vip), 8, 1)[1], Reason::Malformed);
        // UDP's header has eight bytes.
        let tiny = fragments(&large(Protocol::UDP, client, vip), 8, 2);
        for fragment in &tiny[..3] {
            assert_eq!(homes.send_bytes(fragment).verdict, Verdict::Redirect(EGRESS));
        }
        // A UDP length below its own header.
        let mut short = fragments(&large(Protocol::UDP, client, vip), 400, 3).swap_remove(0);
        let at = if vip.starts_with('[') { 14 + 48 + 4 } else { 14 + 20 + 4 };
        short[at..at + 2].copy_from_slice(&[0, 7]);
        homes.bytes_end_with(&short, Reason::Malformed);
    }
}

#[test]
fn fragments_of_what_is_neither_tcp_nor_udp_are_the_host_s() {
    let mut homes = Homes::new();
    for [vip, backend, client] in [V4, V6] {
        homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
        for mut fragment in fragments(&large(Protocol::UDP, client, vip), 400, 1) {
            if vip.starts_with('[') {
                fragment[14 + 40] = 58;
            } else {
                fragment[23] = 1;
            }
            homes.bytes_end_with(&fragment, Reason::Fragment);
        }
    }
}

#[test]
fn a_whole_packet_with_a_fragment_header_is_whole() {
    let mut homes = Homes::new();
    let [vip, backend, client] = V6;
    homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
    let mut frame = Frame::udp(client, vip);
    frame.extensions = vec![(44, vec![0, 0, 0, 0, 0, 0, 0, 9])];
    homes.forwards(&frame, client, backend);
    assert!(homes.host.fragments.borrow().is_empty());
    // Behind other headers, and before.
    let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    frame.extensions.insert(0, (0, options.1.clone()));
    frame.extensions.push(options);
    homes.forwards(&frame, client, backend);
    // A packet is fragmented once.
    frame.extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9]); 2];
    homes.ends_with(&frame, Reason::Malformed);
    frame.extensions = vec![(44, vec![0, 0, 0, 0, 0, 0, 0, 9]); 5];
    homes.ends_with(&frame, Reason::ExtensionHeaders);
}

#[test]
fn ipv6_fragments_may_name_another_next_header_than_the_first() {
    let mut homes = Homes::new();
    let [vip, backend, client] = V6;
    homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
    let sent = fragments(&large(Protocol::UDP, client, vip), 400, 1);
    assert_eq!(homes.send_bytes(&sent[0]).verdict, Verdict::Redirect(EGRESS));
    let mut other = sent[1].clone();
    other[14 + 40] = 60;
    assert_eq!(homes.send_bytes(&other).verdict, Verdict::Redirect(EGRESS));
}

#[test]
fn a_first_fragment_is_a_flow_s_packet() {
    let mut homes = Homes::new();
    let [vip, backend, client] = V4;
    homes.service(vip, Protocol::TCP, Mode::FullNat, &[backend]);
    let (source, _) = homes.translates(&Frame::tcp(client, vip, SYN), snat(vip), &[backend]);
    let mut data = large(Protocol::TCP, client, vip);
    data.tcp = Some(ACK);
    let expected = data.leaving(source, backend.parse().unwrap(), (LB_BACKEND_MAC, BACKEND_MAC));
    become_those_of(&mut homes, &data, Verdict::Redirect(EGRESS), &expected);
}

/// Sends the fragments of one packet from the last to the first; how each left, the first's first.
fn backwards(homes: &mut Homes, sent: &Frame) -> Vec<Outcome> {
    let mut outcomes: Vec<_> =
        fragments(sent, 400, 0xbeef).iter().rev().map(|fragment| homes.send_bytes(fragment)).collect();
    outcomes.reverse();
    outcomes
}

#[test]
fn fragments_before_their_first_go_by_the_client_s_address_where_one_service_has_all() {
    let other_backend = |backend: &str| backend.replace("11:", "12:").replace("11]", "12]");
    for protocol in [Protocol::UDP, Protocol::TCP] {
        for [vip, backend, client] in [V4, V6] {
            for (mode, vip) in [Mode::Nat, Mode::Dsr].into_iter().flat_map(|mode| {
                // A range of ports, too.
                [(mode, vip.to_owned()), (mode, format!("{vip}-99")), (mode, vip.replace(":53", ":*"))]
            }) {
                let mut homes = Homes::new();
                let backend =
                    if vip.ends_with("53") { backend.to_owned() } else { backend.replace("5353", "0") };
                homes.service(&vip, protocol, mode, &[&backend, &other_backend(&backend)]);
                homes.change_service(&vip, protocol, |service| service.affinity_bits = 128);
                let to = vip.replace("-99", "").replace(":*", ":53");
                let sent = large(protocol, client, &to);
                let dropped = backwards(&mut homes, &large(protocol, client, &to));
                let went = |outcomes: &[Outcome]| {
                    assert!(
                        outcomes.iter().all(|it| it.verdict == Verdict::Redirect(EGRESS)),
                        "{mode:?} {vip}"
                    );
                };
                went(&dropped);
                // As those that come in order, to the last byte.
                let mut homes = Homes::new();
                homes.service(&vip, protocol, mode, &[&backend, &other_backend(&backend)]);
                homes.change_service(&vip, protocol, |service| service.affinity_bits = 128);
                for (fragment, before) in fragments(&sent, 400, 0xbeef).iter().zip(&dropped) {
                    let outcome = homes.send_bytes(fragment);
                    assert_eq!(hex(&outcome.bytes), hex(&before.bytes), "{mode:?} {vip}");
                }
                assert_eq!(homes.traffic().packets_in, 3);
            }
        }
    }
}

#[test]
fn fragments_before_their_first_go_through_a_tunnel_by_the_client_s_address() {
    for mode in [Mode::Ipip, Mode::Gue] {
        let mut homes = Homes::new();
        let [vip, backend, client] = V4;
        homes.service(vip, Protocol::UDP, mode, &[backend]);
        homes.change_service(vip, Protocol::UDP, |service| service.affinity_bits = 128);
        for outcome in backwards(&mut homes, &large(Protocol::UDP, client, vip)) {
            assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
            assert_eq!(outcome.bytes[30..34], [198, 51, 100, 11], "to the backend");
        }
    }
}

#[test]
fn fragments_before_their_first_are_dropped_where_the_client_s_address_does_not_say_whose_they_are() {
    for [vip, backend, client] in [V4, V6] {
        let sent = large(Protocol::UDP, client, vip);
        let refused = |homes: &mut Homes, what: &str| {
            let outcomes = backwards(homes, &sent);
            let later = outcomes[1..].iter().map(|outcome| outcome.verdict);
            assert!(
                later.clone().all(|it| it == Verdict::Drop(Reason::FragmentWithoutFirst)),
                "{what}: {later:?}"
            );
        };
        let with_affinity = |mode| {
            let mut homes = Homes::new();
            let service = homes.service(vip, Protocol::UDP, mode, &[backend]);
            homes.change_service(vip, Protocol::UDP, |service| service.affinity_bits = 128);
            (homes, service)
        };
        let (mut homes, _) = with_affinity(Mode::Nat);
        homes.change_service(vip, Protocol::UDP, |service| service.affinity_bits = 0);
        refused(&mut homes, "no affinity");
        let (mut homes, _) = with_affinity(Mode::FullNat);
        refused(&mut homes, "full-nat");
        let (mut homes, _) = with_affinity(Mode::Nat);
        homes.change_service(vip, Protocol::UDP, |service| service.options = RECORDS_FLOWS);
        refused(&mut homes, "recorded flows");
        let (mut homes, service) = with_affinity(Mode::Nat);
        homes.move_slots(service, Slot::moving(BackendIndex(1), BackendIndex(1)));
        refused(&mut homes, "a slot that moves");
        let (mut homes, _) = with_affinity(Mode::Nat);
        homes.service(
            &vip.replace(":53", ":54"),
            Protocol::UDP,
            Mode::Nat,
            &[&backend.replace("5353", "5354")],
        );
        refused(&mut homes, "two services");
        // One of another protocol is another.
        let (mut homes, _) = with_affinity(Mode::Nat);
        homes.service(vip, Protocol::TCP, Mode::Nat, &[backend]);
        let outcomes = backwards(&mut homes, &sent);
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Redirect(EGRESS)));
        // And once that second one is gone again.
        let (mut homes, _) = with_affinity(Mode::Nat);
        let second = vip.replace(":53", ":54");
        homes.service(&second, Protocol::UDP, Mode::Nat, &[&backend.replace("5353", "5354")]);
        homes.apply(&[Write::RemoveService(service_key(&second, Protocol::UDP))]);
        let outcomes = backwards(&mut homes, &sent);
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Redirect(EGRESS)));
    }
}
