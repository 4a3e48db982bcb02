//! Which flows are recorded, and what a slot that moves does with those that are not.

use xdp_lb_common::net::Protocol;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, RECORDS_FLOWS, ServiceIndex};

use crate::homes::Homes;
use crate::packets::{ACK, FIN, Frame, RST, SYN};

const VIP: &str = "192.0.2.10:80";
const DNS: &str = "192.0.2.10:53";
const CLIENT: &str = "203.0.113.5:40000";
const A: BackendIndex = BackendIndex(1);
const B: BackendIndex = BackendIndex(2);
const A_ADDRESS: &str = "198.51.100.11:8080";
const B_ADDRESS: &str = "198.51.100.12:8080";

/// A service over A and B, all slots A's.
fn service(vip: &str, protocol: Protocol) -> (Homes, ServiceIndex) {
    let mut homes = Homes::new();
    let service = homes.service(vip, protocol, Mode::Nat, &[A_ADDRESS, B_ADDRESS]);
    homes.move_slots(service, Slot::settled(A));
    (homes, service)
}

fn tcp(flags: u8) -> Frame {
    Frame::tcp(CLIENT, VIP, flags)
}

#[test]
fn a_settled_slot_s_flows_are_not_recorded() {
    let (mut homes, _) = service(VIP, Protocol::TCP);
    for flags in [SYN, ACK, ACK | FIN, RST] {
        homes.forwards(&tcp(flags), CLIENT, A_ADDRESS);
    }
    assert_eq!(homes.records(), [0, 0]);
    let (mut homes, _) = service(DNS, Protocol::UDP);
    homes.forwards(&Frame::udp(CLIENT, DNS), CLIENT, A_ADDRESS);
    assert_eq!(homes.records(), [0, 0]);
}

#[test]
fn a_settled_slot_s_flows_are_recorded_where_the_service_wants_all() {
    let (mut homes, _) = service(VIP, Protocol::TCP);
    homes.change_service(VIP, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
    homes.forwards(&tcp(SYN), CLIENT, A_ADDRESS);
    assert_eq!(homes.records(), [0, 1], "one packet: half open");
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    assert_eq!(homes.records(), [1, 0], "somebody is behind it");
    assert_eq!(homes.live(1), 1);
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    assert_eq!(homes.records(), [1, 0]);
}

#[test]
fn a_flow_s_second_packet_says_that_its_client_goes_on_and_a_syn_again_or_a_reset_does_not() {
    let (mut homes, service) = service(VIP, Protocol::TCP);
    homes.move_slots(service, Slot::moving(B, A));
    for flags in [SYN, SYN, RST] {
        homes.forwards(&tcp(flags), CLIENT, B_ADDRESS);
        assert_eq!(homes.records(), [0, 1]);
    }
    homes.forwards(&tcp(ACK), CLIENT, B_ADDRESS);
    assert_eq!(homes.records(), [1, 0]);
}

#[test]
fn a_full_nat_flow_has_one_record_and_its_client_says_that_it_goes_on() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &[A_ADDRESS]);
    let (source, _) = homes.translates(&tcp(SYN), "198.51.100.2", &[A_ADDRESS]);
    assert_eq!(homes.records(), [0, 1]);
    homes.send(&Frame::tcp(A_ADDRESS, &source.to_string(), SYN | ACK));
    assert_eq!(homes.records(), [0, 1], "the backend's answer alone says nothing of the client");
    assert_eq!(homes.translates(&tcp(ACK), "198.51.100.2", &[A_ADDRESS]).0, source);
    assert_eq!(homes.records(), [1, 0]);
    homes.send(&Frame::tcp(A_ADDRESS, &source.to_string(), ACK | FIN));
    homes.translates(&tcp(ACK | FIN), "198.51.100.2", &[A_ADDRESS]);
    // The same client's next connection on the same port chooses anew, and is half open again.
    homes.translates(&tcp(SYN), "198.51.100.2", &[A_ADDRESS]);
    assert_eq!(homes.records(), [0, 1]);
}

#[test]
fn a_moving_slot_s_older_flows_stay_and_its_new_ones_go_to_the_owner() {
    let (mut homes, service) = service(VIP, Protocol::TCP);
    homes.forwards(&tcp(SYN), CLIENT, A_ADDRESS);
    homes.move_slots(service, Slot::moving(B, A));
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    let other = "203.0.113.6:1";
    homes.forwards(&Frame::tcp(other, VIP, SYN), other, B_ADDRESS);
    homes.forwards(&Frame::tcp(other, VIP, ACK), other, B_ADDRESS);
    assert_eq!(homes.records(), [1, 1]);
    // All that live are recorded: the prior owner is forgotten, and they stay where they are.
    homes.move_slots(service, Slot::recorded(B));
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    homes.forwards(&Frame::tcp(other, VIP, ACK), other, B_ADDRESS);
    assert_eq!(homes.census().others.len(), 1, "the slot of the one that is A's");
    // When the last flow that says otherwise is gone, the rest need no record.
    homes.forwards(&tcp(RST), CLIENT, A_ADDRESS);
    homes.move_slots(service, Slot::settled(B));
    homes.forget(|key| key.source.last().get() == 0xcb00_7105);
    assert_eq!(homes.census().records, 0);
    homes.forwards(&Frame::tcp(other, VIP, ACK), other, B_ADDRESS);
}

#[test]
fn a_moving_slot_s_unrecorded_udp_flows_are_its_prior_owner_s() {
    let (mut homes, service) = service(DNS, Protocol::UDP);
    homes.move_slots(service, Slot::moving(B, A));
    homes.forwards(&Frame::udp(CLIENT, DNS), CLIENT, A_ADDRESS);
    homes.move_slots(service, Slot::recorded(B));
    homes.forwards(&Frame::udp(CLIENT, DNS), CLIENT, A_ADDRESS);
    homes.forwards(&Frame::udp("203.0.113.6:1", DNS), "203.0.113.6:1", B_ADDRESS);
}

#[test]
fn where_all_udp_flows_are_recorded_one_without_a_record_is_new() {
    let (mut homes, service) = service(DNS, Protocol::UDP);
    homes.change_service(DNS, Protocol::UDP, |service| service.options = RECORDS_FLOWS);
    homes.forwards(&Frame::udp(CLIENT, DNS), CLIENT, A_ADDRESS);
    homes.move_slots(service, Slot::moving(B, A));
    homes.forwards(&Frame::udp(CLIENT, DNS), CLIENT, A_ADDRESS);
    homes.forwards(&Frame::udp("203.0.113.6:1", DNS), "203.0.113.6:1", B_ADDRESS);
}

#[test]
fn a_slot_of_nobody_keeps_the_flows_that_it_has() {
    let (mut homes, service) = service(VIP, Protocol::TCP);
    homes.change_backend(A_ADDRESS, |backend| backend.state = BackendState::Draining.into());
    homes.move_slots(service, Slot::moving(BackendIndex(0), A));
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    homes.ends_with(&Frame::tcp("203.0.113.6:1", VIP, SYN), Reason::NoBackend);
}

#[test]
fn a_flow_that_another_backend_took_over_is_recorded_though_its_slot_is_settled() {
    let (mut homes, service) = service(VIP, Protocol::TCP);
    homes.move_slots(service, Slot::settled(A));
    homes.change_backend(A_ADDRESS, |backend| backend.state = BackendState::Down.into());
    homes.ends_with(&tcp(SYN), Reason::BackendUnusable);
    // The next slots are B's: one of them takes it.
    let mut ring = vec![Slot::settled(A); 64];
    ring.iter_mut().skip(1).step_by(2).for_each(|slot| *slot = Slot::settled(B));
    homes.move_ring(service, &ring);
    for port in 1..40 {
        let client = format!("203.0.113.7:{port}");
        homes.forwards(&Frame::tcp(&client, VIP, SYN), &client, B_ADDRESS);
    }
    let [flows, half_open] = homes.records();
    assert!(flows == 0 && (5..35).contains(&half_open), "those of A's slots: {half_open} of 39");
    assert_eq!(homes.census().records, half_open as u64, "they say otherwise than their slots do");
}

#[test]
fn a_flood_of_first_packets_drives_no_established_flow_out() {
    let mut homes = Homes::with_flows(1024);
    let service = homes.service(VIP, Protocol::TCP, Mode::Nat, &[A_ADDRESS, B_ADDRESS]);
    homes.move_slots(service, Slot::moving(B, A));
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
    for number in 0..20_000u32 {
        let client = format!("203.0.113.{}:{}", 6 + number / 1000, 10_000 + number % 1000);
        let flags = if number % 2 == 0 { SYN } else { ACK };
        homes.send_to_kernel(&Frame::tcp(&client, VIP, flags));
    }
    homes.move_slots(service, Slot::recorded(B));
    homes.forwards(&tcp(ACK), CLIENT, A_ADDRESS);
}
