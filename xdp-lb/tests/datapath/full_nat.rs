//! `full-nat`: source and destination are rewritten, and replies come back by their record.

use std::net::SocketAddr;

use xdp_lb::tables::Write;
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode};

use crate::homes::{Homes, INGRESS, hex};
use crate::packets::{ACK, BACKEND_MAC, CLIENT_MAC, FIN, Frame, LB_BACKEND_MAC, LB_MAC, RST, SYN};

const VIP: &str = "192.0.2.10:80";
const BACKEND: &str = "198.51.100.11:8080";
const OTHER: &str = "198.51.100.12:8080";
const CLIENT: &str = "203.0.113.5:40000";
const SNAT: &str = "198.51.100.2";

fn reply_to(source: SocketAddr, backend: SocketAddr, flags: u8) -> Frame {
    let mut frame = Frame::tcp(&backend.to_string(), &source.to_string(), flags);
    (frame.from_mac, frame.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
    frame
}

/// Sends a reply and expects it to reach the client from the VIP, by the way the client came.
fn answers(homes: &mut Homes, reply: &Frame, vip: &str, client: &str) {
    let outcome = homes.send(reply);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let expected = reply.leaving(vip.parse().unwrap(), client.parse().unwrap(), (LB_MAC, CLIENT_MAC));
    assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
}

#[test]
fn a_flow_goes_there_and_back() {
    let rows = [
        (Protocol::TCP, VIP, BACKEND, CLIENT, SNAT),
        (Protocol::UDP, "192.0.2.10:53", "198.51.100.11:5353", CLIENT, SNAT),
        (
            Protocol::TCP,
            "[2001:db8::10]:80",
            "[2001:db8:2::11]:8080",
            "[2001:db8:9::5]:40000",
            "2001:db8:2::2",
        ),
        (
            Protocol::UDP,
            "[2001:db8::10]:53",
            "[2001:db8:2::11]:5353",
            "[2001:db8:9::5]:40000",
            "2001:db8:2::2",
        ),
    ];
    let mut homes = Homes::new();
    for (protocol, vip, backend, client, snat) in rows {
        println!("{vip} {protocol:?}");
        homes.service(vip, protocol, Mode::FullNat, &[backend]);
        let make = |from: &str, to: &str, flags| match protocol {
            Protocol::TCP => Frame::tcp(from, to, flags),
            _ => Frame::udp(from, to),
        };
        let (source, _) = homes.translates(&make(client, vip, SYN), snat, &[backend]);
        let mut reply = make(backend, &source.to_string(), SYN | ACK);
        (reply.from_mac, reply.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
        answers(&mut homes, &reply, vip, client);
        let (again, _) = homes.translates(&make(client, vip, ACK), snat, &[backend]);
        assert_eq!(again, source, "a flow keeps its port");
    }
}

#[test]
fn named_snat_addresses_are_all_used() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let addresses = ["198.51.100.3", "198.51.100.4"];
    for (place, address) in addresses.iter().enumerate() {
        let address: std::net::IpAddr = address.parse().unwrap();
        homes.apply(&[Write::SnatAddress(5 + place as u32, Address::from(address))]);
    }
    homes.change_service(VIP, Protocol::TCP, |service| (service.snat_offset, service.snat_len) = (5, 2));
    let mut seen = std::collections::BTreeSet::new();
    for port in 40_000..40_040 {
        let outcome = homes.send(&Frame::tcp(&format!("203.0.113.5:{port}"), VIP, SYN));
        seen.insert(crate::packets::ends(&outcome.bytes).0.ip().to_string());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), addresses);
}

#[test]
fn no_two_flows_share_a_port_and_the_last_is_refused_with_its_reason() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let mut sources = std::collections::BTreeMap::new();
    let mut refused = 0;
    for number in 0..1100u32 {
        let client = client(number);
        let outcome = homes.send(&Frame::tcp(&client, VIP, SYN));
        match outcome.verdict {
            Verdict::Redirect(_) => {
                let (source, backend) = crate::packets::ends(&outcome.bytes);
                answers(&mut homes, &reply_to(source, backend, SYN | ACK), VIP, &client);
                homes.translates(&Frame::tcp(&client, VIP, ACK), SNAT, &[BACKEND]);
                let earlier = sources.insert(source, client.clone());
                assert_eq!(earlier, None, "{source} serves two clients");
            }
            Verdict::Drop(Reason::SnatPortsExhausted) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    // 1,000 ports: some are refused before all are in use, since not every port is tried.
    assert!(sources.len() > 900 && refused >= 100, "{} served, {refused} refused", sources.len());
}

#[test]
fn flows_that_little_speaks_for_give_their_ports_to_clients_that_come() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let (source, backend) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    answers(&mut homes, &reply_to(source, backend, SYN | ACK), VIP, CLIENT);
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    // More SYNs than there are ports: each gets one. The homes may see them in other seconds, and choose other ports.
    for number in 0..3000 {
        homes.send_to_kernel(&Frame::tcp(&client(number), VIP, SYN));
    }
    assert_eq!(homes.kernel.reasons().unwrap()[Reason::SnatPortsExhausted as usize], 0);
    let (again, _) = homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    assert_eq!(again, source, "the flow that is established keeps its port");
    answers(&mut homes, &reply_to(source, backend, ACK), VIP, CLIENT);
}

/// One of many clients.
fn client(number: u32) -> String {
    format!("203.0.113.{}:{}", number / 300 + 1, 30_000 + number % 300)
}

#[test]
fn a_flow_that_has_lost_its_record_finds_its_port_again() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let (source, backend) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    homes.forget(|_| true);
    homes.ends_with(&reply_to(source, backend, ACK), Reason::ReplyWithoutFlow);
    let (again, _) = homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    assert_eq!(again, source);
    answers(&mut homes, &reply_to(source, backend, ACK), VIP, CLIENT);
}

#[test]
fn a_drained_backend_keeps_its_flows_and_a_down_one_s_end() {
    let mut homes = Homes::new();
    let service = homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND, OTHER]);
    homes.move_slots(service, Slot::settled(BackendIndex(1)));
    let (source, _) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    homes.change_backend(BACKEND, |backend| backend.state = BackendState::Draining.into());
    homes.move_slots(service, Slot::settled(BackendIndex(2)));
    let (again, _) = homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    assert_eq!(again, source);
    homes.change_backend(BACKEND, |backend| backend.state = BackendState::Down.into());
    let outcome = homes.send(&Frame::tcp(CLIENT, VIP, ACK));
    assert_eq!(outcome.counted, [(Reason::FlowEndedAnswered, 1)]);
    homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[OTHER]);
}

#[test]
fn a_closed_connection_s_port_may_choose_anew() {
    let mut homes = Homes::new();
    let service = homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND, OTHER]);
    homes.move_slots(service, Slot::settled(BackendIndex(1)));
    let (source, backend) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    assert_eq!(homes.live(1), 1);
    homes.translates(&Frame::tcp(CLIENT, VIP, FIN | ACK), SNAT, &[BACKEND]);
    assert_eq!(homes.live(1), 1, "half closed is still open");
    answers(&mut homes, &reply_to(source, backend, FIN | ACK), VIP, CLIENT);
    assert_eq!(homes.live(1), 0, "both sides have closed");
    // The last packets still pass.
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    homes.move_slots(service, Slot::settled(BackendIndex(2)));
    homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[OTHER]);
}

#[test]
fn a_reset_ends_a_flow_unless_its_sender_goes_on() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let (source, backend) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    answers(&mut homes, &reply_to(source, backend, RST), VIP, CLIENT);
    assert_eq!(homes.live(1), 0);
    homes.translates(&Frame::tcp(CLIENT, VIP, ACK), SNAT, &[BACKEND]);
    assert_eq!(homes.live(1), 0, "the other side's packets were on their way");
    answers(&mut homes, &reply_to(source, backend, ACK), VIP, CLIENT);
    assert_eq!(homes.live(1), 1, "somebody else had sent the reset in the backend's name");
}

#[test]
fn a_reset_for_an_unknown_flow_has_nobody_to_go_to() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    homes.ends_with(&Frame::tcp(CLIENT, VIP, RST), Reason::ResetWithoutFlow);
    assert_eq!(homes.records(), [0, 0]);
}

#[test]
fn a_reply_follows_its_client_to_another_router() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let (source, backend) = homes.translates(&Frame::tcp(CLIENT, VIP, SYN), SNAT, &[BACKEND]);
    homes.next_second();
    let mut moved = Frame::tcp(CLIENT, VIP, ACK);
    moved.from_mac = [2, 0, 0, 0, 0, 9];
    homes.translates(&moved, SNAT, &[BACKEND]);
    let reply = reply_to(source, backend, ACK);
    let outcome = homes.send(&reply);
    let expected = reply.leaving(VIP.parse().unwrap(), CLIENT.parse().unwrap(), (LB_MAC, [2, 0, 0, 0, 0, 9]));
    assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
}

#[test]
fn tags_come_off_on_the_way_there_and_on_again_on_the_way_back() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    let tagged = [
        Frame::tcp("203.0.113.5:1", VIP, SYN).tag(0x8100, 42),
        Frame::tcp("203.0.113.5:2", VIP, SYN).tag(0x88a8, 7).tag(0x8100, 42),
    ];
    for frame in tagged {
        let (source, backend) = homes.translates(&frame, SNAT, &[BACKEND]);
        let reply = reply_to(source, backend, SYN | ACK);
        let outcome = homes.send(&reply);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        let mut expected = reply.leaving(frame.to, frame.from, (LB_MAC, CLIENT_MAC));
        expected.tags = frame.tags;
        assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
    }
}

#[test]
fn a_backend_on_a_vlan_gets_its_tag() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[BACKEND]);
    homes.change_backend(BACKEND, |backend| (backend.vlan, backend.ifindex) = (100, INGRESS));
    let frame = Frame::tcp(CLIENT, VIP, SYN);
    let outcome = homes.send(&frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    let source = SocketAddr::new(SNAT.parse().unwrap(), crate::packets::ends(&outcome.bytes).0.port());
    let mut expected = frame.leaving(source, BACKEND.parse().unwrap(), (LB_BACKEND_MAC, BACKEND_MAC));
    expected.tags = vec![(0x8100, 100)];
    assert_eq!(hex(&outcome.bytes), hex(&expected.bytes()));
}
