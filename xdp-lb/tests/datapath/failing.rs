//! A backend that fails keeps its flows, takes no SYN, and what clients ask of it is counted.

use xdp_lb_common::net::Protocol;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, RECORDS_FLOWS};

use crate::homes::Homes;
use crate::packets::{ACK, FIN, Frame, RST, SYN};

const A: BackendIndex = BackendIndex(1);
const B: BackendIndex = BackendIndex(2);

/// A VIP, its two backends and a client.
struct Ends {
    vip: &'static str,
    backends: [&'static str; 2],
    client: &'static str,
    other_client: &'static str,
}

const V4: Ends = Ends {
    vip: "192.0.2.10:80",
    backends: ["198.51.100.11:8080", "198.51.100.12:8080"],
    client: "203.0.113.5:40000",
    other_client: "203.0.113.6:40000",
};
const V6: Ends = Ends {
    vip: "[2001:db8:1::10]:80",
    backends: ["[2001:db8:2::11]:8080", "[2001:db8:2::12]:8080"],
    client: "[2001:db8:9::5]:40000",
    other_client: "[2001:db8:9::6]:40000",
};

fn set_state(homes: &mut Homes, ends: &Ends, state: BackendState) {
    homes.change_backend(ends.backends[0], |backend| backend.state = state.into());
}

/// Which backend a packet goes to.
fn goes_to(homes: &mut Homes, frame: &Frame) -> BackendIndex {
    let packets = |homes: &Homes, index| homes.kernel.backend_traffic(index).unwrap().packets_in;
    let before = [A, B].map(|index| packets(homes, index));
    homes.send(frame);
    let after = [A, B].map(|index| packets(homes, index));
    let hit = (0..2).find(|at| after[*at] > before[*at]).expect("it is forwarded");
    [A, B][hit]
}

/// What clients have asked of A. Both homes count alike.
fn asked(homes: &Homes) -> u64 {
    let traffic = homes.kernel.backend_traffic(A).unwrap();
    assert_eq!(homes.host.backend_traffic.borrow()[&A].asked, traffic.asked);
    traffic.asked
}

#[test]
fn established_flows_stay_with_or_without_a_record_and_new_ones_go_elsewhere() {
    for ends in [&V4, &V6] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue] {
            let mut homes = Homes::new();
            let service = homes.service(ends.vip, Protocol::TCP, mode, &ends.backends);
            homes.move_slots(service, Slot::settled(A));
            let tcp = |client: &str, flags| Frame::tcp(client, ends.vip, flags);
            assert_eq!(goes_to(&mut homes, &tcp(ends.client, SYN)), A);
            if mode == Mode::FullNat {
                // Without a record there is no flow in this mode.
                assert_eq!(goes_to(&mut homes, &tcp(ends.client, ACK)), A);
            }
            homes.move_slots(service, Slot::moving(B, A));
            set_state(&mut homes, ends, BackendState::Failing);
            for flags in [ACK, ACK, ACK | FIN] {
                assert_eq!(goes_to(&mut homes, &tcp(ends.client, flags)), A, "{mode:?}");
            }
            // Its records say so, too, once the slot has forgotten its prior owner.
            homes.move_slots(service, Slot::recorded(B));
            assert_eq!(goes_to(&mut homes, &tcp(ends.client, ACK)), A, "{mode:?}");
            assert_eq!(goes_to(&mut homes, &tcp(ends.other_client, SYN)), B, "{mode:?}");
            // After its FIN, the client's SYN is taken for another connection.
            assert_eq!(goes_to(&mut homes, &tcp(ends.client, SYN)), B, "{mode:?}");
        }
    }
}

#[test]
fn a_syn_or_a_reset_in_a_client_s_name_moves_no_established_flow() {
    for ends in [&V4, &V6] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue] {
            for state in [BackendState::Up, BackendState::Draining, BackendState::Failing] {
                let mut homes = Homes::new();
                let service = homes.service(ends.vip, Protocol::TCP, mode, &ends.backends);
                homes.move_slots(service, Slot::moving(A, A));
                let tcp = |flags| Frame::tcp(ends.client, ends.vip, flags);
                for flags in [SYN, ACK] {
                    assert_eq!(goes_to(&mut homes, &tcp(flags)), A);
                }
                set_state(&mut homes, ends, state);
                homes.move_slots(service, Slot::moving(B, B));
                // Of a backend that takes no new flows, a reset and a SYN are taken for another connection.
                let is_up = state == BackendState::Up;
                let resets = [SYN, RST, RST | ACK, SYN, FIN | ACK, RST, SYN, SYN, ACK];
                for flags in if is_up { &resets[..] } else { &[SYN, SYN, RST, ACK, SYN, ACK][..] } {
                    let flags = *flags;
                    assert_eq!(goes_to(&mut homes, &tcp(flags)), A, "{mode:?} {state:?} {flags}");
                }
                assert_eq!(homes.live(1), 1, "{mode:?} {state:?}");
            }
        }
    }
}

#[test]
fn a_connection_that_both_sides_have_closed_or_its_backend_has_reset_makes_room_for_another_one() {
    for ends in [&V4, &V6] {
        for mode in [Mode::Nat, Mode::FullNat] {
            for last in [FIN | ACK, RST] {
                let mut homes = Homes::new();
                let service = homes.service(ends.vip, Protocol::TCP, mode, &ends.backends);
                homes.move_slots(service, Slot::moving(A, A));
                let tcp = |flags| Frame::tcp(ends.client, ends.vip, flags);
                for flags in [SYN, ACK, FIN | ACK] {
                    assert_eq!(goes_to(&mut homes, &tcp(flags)), A);
                }
                set_state(&mut homes, ends, BackendState::Draining);
                homes.move_slots(service, Slot::moving(B, B));
                let seen = crate::packets::ends(&homes.send(&tcp(ACK)).bytes).0.to_string();
                homes.send(&Frame::tcp(ends.backends[0], &seen, last));
                assert_eq!(goes_to(&mut homes, &tcp(SYN)), B, "{mode:?} {last}");
            }
        }
    }
}

#[test]
fn a_syn_that_is_sent_again_leaves_a_backend_that_fails_but_not_one_that_drains() {
    for ends in [&V4, &V6] {
        let mut homes = Homes::new();
        let service = homes.service(ends.vip, Protocol::TCP, Mode::Nat, &ends.backends);
        homes.move_slots(service, Slot::moving(A, B));
        let syn = Frame::tcp(ends.client, ends.vip, SYN);
        assert_eq!(goes_to(&mut homes, &syn), A);
        homes.move_slots(service, Slot::moving(B, B));
        set_state(&mut homes, ends, BackendState::Draining);
        assert_eq!(goes_to(&mut homes, &syn), A);
        set_state(&mut homes, ends, BackendState::Failing);
        assert_eq!(goes_to(&mut homes, &syn), B);
        assert_eq!(goes_to(&mut homes, &Frame::tcp(ends.client, ends.vip, ACK)), B);
    }
}

#[test]
fn recorded_udp_flows_stay_and_new_ones_go_elsewhere() {
    for ends in [&V4, &V6] {
        let mut homes = Homes::new();
        let service = homes.service(ends.vip, Protocol::UDP, Mode::Nat, &ends.backends);
        homes.change_service(ends.vip, Protocol::UDP, |service| service.options = RECORDS_FLOWS);
        homes.move_slots(service, Slot::settled(A));
        let datagram = Frame::udp(ends.client, ends.vip);
        assert_eq!(goes_to(&mut homes, &datagram), A);
        homes.move_slots(service, Slot::recorded(B));
        set_state(&mut homes, ends, BackendState::Failing);
        assert_eq!(goes_to(&mut homes, &datagram), A);
        assert_eq!(goes_to(&mut homes, &Frame::udp(ends.other_client, ends.vip)), B);
    }
}

#[test]
fn what_asks_for_an_answer_is_counted_while_a_backend_fails_and_only_then() {
    for ends in [&V4, &V6] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue] {
            let mut homes = Homes::new();
            let service = homes.service(ends.vip, Protocol::TCP, mode, &ends.backends);
            homes.move_slots(service, Slot::moving(A, A));
            let tcp = |flags, payload: &[u8]| Frame {
                payload: payload.to_vec(),
                ..Frame::tcp(ends.client, ends.vip, flags)
            };
            for frame in [tcp(SYN, b""), tcp(ACK, b""), tcp(ACK, b"question")] {
                assert_eq!(goes_to(&mut homes, &frame), A);
            }
            assert_eq!(asked(&homes), 0, "{mode:?}: it is up");
            set_state(&mut homes, ends, BackendState::Failing);
            for (flags, payload, asks) in [
                (ACK, &b""[..], false),
                (ACK, b"q", true),
                (ACK | FIN, b"", true),
                (ACK, b"", false),
                (RST, b"", false),
            ] {
                let before = asked(&homes);
                let frame = tcp(flags, payload);
                assert_eq!(goes_to(&mut homes, &frame), A);
                assert_eq!(asked(&homes) - before, u64::from(asks), "{mode:?}, {flags:#x}, {payload:?}");
            }
            set_state(&mut homes, ends, BackendState::Draining);
            let before = asked(&homes);
            assert_eq!(goes_to(&mut homes, &tcp(ACK, b"question")), A);
            assert_eq!(asked(&homes), before, "{mode:?}: it drains");
        }
        let mut homes = Homes::new();
        let service = homes.service(ends.vip, Protocol::UDP, Mode::Nat, &ends.backends);
        homes.move_slots(service, Slot::moving(B, A));
        assert_eq!(goes_to(&mut homes, &Frame::udp(ends.client, ends.vip)), A);
        set_state(&mut homes, ends, BackendState::Failing);
        for number in 1..4 {
            assert_eq!(goes_to(&mut homes, &Frame::udp(ends.client, ends.vip)), A);
            assert_eq!(asked(&homes), number, "each datagram");
        }
    }
}

#[test]
fn padding_behind_a_packet_asks_for_nothing() {
    let mut homes = Homes::new();
    let service = homes.service(V4.vip, Protocol::TCP, Mode::Nat, &V4.backends);
    homes.move_slots(service, Slot::moving(B, A));
    set_state(&mut homes, &V4, BackendState::Failing);
    let mut bytes = Frame { payload: Vec::new(), ..Frame::tcp(V4.client, V4.vip, ACK) }.bytes();
    bytes.resize(60, 0xee);
    homes.send_bytes(&bytes);
    assert_eq!(asked(&homes), 0);
}
