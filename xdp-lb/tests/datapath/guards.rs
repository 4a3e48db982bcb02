//! Guards: which clients a service lets in, and how many flows each may begin.

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb::tables::{SourceRange, Write};
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{COUNTS_FLOWS, Mode, RECORDS_FLOWS, Route, SourceVerdict};

use crate::homes::{EGRESS, Homes};
use crate::packets::{ACK, BACKEND_MAC, FIN, Frame, LB_BACKEND_MAC, RST, SYN, ends};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const BACKEND: &str = "198.51.100.11:8080";
const BACKEND6: &str = "[2001:db8:2::11]:8080";

fn range(list: u32, range: &str, verdict: SourceVerdict) -> Write {
    let (address, bits) = range.split_once('/').unwrap();
    let address: IpAddr = address.parse().unwrap();
    let bits: u8 = bits.parse().unwrap();
    let bits = if address.is_ipv4() { 96 + bits } else { bits };
    Write::Source(SourceRange { list, address: address.into(), bits }, verdict)
}

fn everybody(list: u32, verdict: SourceVerdict) -> Write {
    Write::Source(SourceRange { list, address: Address::default(), bits: 0 }, verdict)
}

fn is_let_in(homes: &mut Homes, client: &str, vip: &str, flags: u8) -> bool {
    match homes.send(&Frame::tcp(client, vip, flags)).verdict {
        Verdict::Redirect(EGRESS) => true,
        Verdict::Drop(Reason::SourceDenied) => false,
        other => panic!("{client}: {other:?}"),
    }
}

#[test]
fn the_longest_range_says_whether_a_client_is_let_in() {
    use SourceVerdict::{Allow, Deny};
    let mut homes = Homes::new();
    for (vip, backend) in [(VIP, BACKEND), (VIP6, BACKEND6)] {
        homes.service(vip, Protocol::TCP, Mode::FullNat, &[backend]);
    }
    homes.apply(&[
        range(7, "203.0.113.0/24", Allow),
        range(7, "203.0.113.64/26", Deny),
        range(7, "203.0.113.77/32", Allow),
        everybody(7, Deny),
        // Other lists, one of them with a number that shares bits with the first.
        range(8, "203.0.113.0/24", Deny),
        everybody(0x0700_0000, Allow),
        range(9, "2001:db8:9::/48", Deny),
        range(9, "2001:db8:9:1::/64", Allow),
    ]);
    assert!(is_let_in(&mut homes, "192.0.2.200:5", VIP, SYN), "no list, no denial");
    homes.change_service(VIP, Protocol::TCP, |service| service.source_list = 7);
    homes.change_service(VIP6, Protocol::TCP, |service| service.source_list = 9);
    for (client, vip, expected) in [
        ("203.0.113.5:1", VIP, true),
        ("203.0.113.63:1", VIP, true),
        ("203.0.113.64:1", VIP, false),
        ("203.0.113.77:1", VIP, true),
        ("203.0.113.127:1", VIP, false),
        ("203.0.113.128:1", VIP, true),
        ("203.0.114.5:1", VIP, false),
        ("[2001:db8:9::1]:1", VIP6, false),
        ("[2001:db8:9:1::1]:1", VIP6, true),
        ("[2001:db8:8::1]:1", VIP6, true),
    ] {
        assert_eq!(is_let_in(&mut homes, client, vip, SYN), expected, "{client}");
    }
    homes.change_service(VIP, Protocol::TCP, |service| service.source_list = 8);
    assert!(!is_let_in(&mut homes, "203.0.113.77:1", VIP, SYN));
    assert!(is_let_in(&mut homes, "203.0.114.5:1", VIP, SYN));
}

#[test]
fn a_client_that_is_denied_now_loses_the_flows_that_it_has() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &[BACKEND]);
    assert!(is_let_in(&mut homes, "203.0.113.5:1", VIP, SYN));
    homes.apply(&[range(1, "203.0.113.5/32", SourceVerdict::Deny)]);
    homes.change_service(VIP, Protocol::TCP, |service| service.source_list = 1);
    assert!(!is_let_in(&mut homes, "203.0.113.5:1", VIP, ACK));
    assert!(is_let_in(&mut homes, "203.0.113.6:1", VIP, SYN));
}

#[test]
fn a_list_goes_when_its_ranges_do() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &[BACKEND]);
    homes.apply(&[range(1, "203.0.113.0/24", SourceVerdict::Deny)]);
    homes.change_service(VIP, Protocol::TCP, |service| service.source_list = 1);
    assert!(!is_let_in(&mut homes, "203.0.113.5:1", VIP, SYN));
    let Write::Source(gone, _) = range(1, "203.0.113.0/24", SourceVerdict::Deny) else { unreachable!() };
    homes.apply(&[Write::RemoveSource(gone)]);
    assert!(is_let_in(&mut homes, "203.0.113.5:1", VIP, SYN));
}

#[test]
fn what_the_kernel_holds_of_the_lists_is_read_back() {
    let mut homes = Homes::new();
    let writes = [
        range(1, "203.0.113.0/24", SourceVerdict::Allow),
        range(2, "2001:db8:9::/48", SourceVerdict::Deny),
        everybody(1, SourceVerdict::Deny),
    ];
    homes.apply(&writes);
    let read = homes.kernel.read().unwrap().sources;
    assert_eq!(read.len(), writes.len());
    for write in &writes {
        let Write::Source(range, verdict) = write else { unreachable!() };
        assert_eq!(read.get(range), Some(verdict), "{range:?}");
    }
}

/// How many of so many flows of a client are let in, one after the other, from ever new ports.
fn begun(homes: &mut Homes, client: &str, count: u16, frame: impl Fn(&str) -> Frame) -> usize {
    (0..count)
        .filter(|port| match homes.send(&frame(&format!("{client}:{}", 20_000 + port))).verdict {
            Verdict::Redirect(EGRESS) => true,
            Verdict::Drop(Reason::NewFlowRate) => false,
            other => panic!("{other:?}"),
        })
        .count()
}

#[test]
fn a_client_begins_a_burst_of_flows_and_goes_on_with_them() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &[BACKEND]);
        // So slow that no token comes back while the test runs.
        homes.change_service(VIP, Protocol::TCP, |service| {
            (service.new_flow_rate, service.new_flow_burst) = (1, 60);
        });
        let syn = |from: &str| Frame::tcp(from, VIP, SYN);
        let begin = std::time::Instant::now();
        let first = begun(&mut homes, "203.0.113.5", 200, syn);
        // One more for each second that a slow machine takes.
        let most = 60 + begin.elapsed().as_secs() as usize + 1;
        assert!((60..=most).contains(&first), "{first}");
        // What has begun goes on, and another client begins its own.
        for _ in 0..100 {
            let ack = Frame::tcp("203.0.113.5:20000", VIP, ACK);
            assert_eq!(homes.send(&ack).verdict, Verdict::Redirect(EGRESS));
        }
        assert_eq!(begun(&mut homes, "203.0.113.6", 60, syn), 60);
    }
}

#[test]
fn a_udp_flow_counts_once() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::UDP, Mode::Nat, &[BACKEND]);
    homes.change_service(VIP, Protocol::UDP, |service| {
        (service.new_flow_rate, service.new_flow_burst) = (1, 30);
        service.options |= RECORDS_FLOWS;
    });
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        let again = Frame::udp("203.0.113.5:1", VIP);
        assert_eq!(homes.send(&again).verdict, Verdict::Redirect(EGRESS));
    }
    let more = begun(&mut homes, "203.0.113.5", 100, |from| Frame::udp(from, VIP));
    let most = 29 + begin.elapsed().as_secs() as usize + 1;
    assert!((29..=most).contains(&more), "{more}");
}

const OTHER: &str = "198.51.100.12:8080";

/// A service over two backends whose flows are counted, with these limits of its own and of each backend.
fn limited(mode: Mode, protocol: Protocol, service: u32, backends: [u32; 2]) -> Homes {
    let mut homes = Homes::new();
    homes.service(VIP, protocol, mode, &[BACKEND, OTHER]);
    homes.change_service(VIP, protocol, |record| {
        record.max_flows = service;
        record.options |= COUNTS_FLOWS | RECORDS_FLOWS;
    });
    for (address, limit) in [BACKEND, OTHER].into_iter().zip(backends) {
        homes.change_backend(address, |backend| backend.max_flows = limit);
    }
    homes
}

/// Where the flow from this port goes; nothing, where it ends for this reason.
fn flow(homes: &mut Homes, protocol: Protocol, port: u16, flags: u8, reason: Reason) -> Option<String> {
    let from = format!("203.0.113.5:{port}");
    let frame = match protocol {
        Protocol::TCP => Frame::tcp(&from, VIP, flags),
        _ => Frame::udp(&from, VIP),
    };
    let outcome = homes.send(&frame);
    match outcome.verdict {
        Verdict::Redirect(EGRESS) => Some(ends(&outcome.bytes).1.to_string()),
        Verdict::Drop(found) if found == reason => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_backend_s_new_flows_go_to_another_until_all_are_full() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let mut homes = limited(mode, protocol, 0, [3, 12]);
            let went: Vec<_> =
                (1..=40).map(|port| flow(&mut homes, protocol, port, SYN, Reason::BackendsFull)).collect();
            let to = |backend: &str| went.iter().flatten().filter(|to| *to == backend).count();
            assert_eq!((to(BACKEND), to(OTHER)), (3, 12), "{mode:?} {protocol:?}");
            assert!(went[15..].iter().all(Option::is_none), "the first fifteen took all the room");
            // Those that have begun go on where they are.
            for (port, before) in (1..=15).zip(&went) {
                let again = flow(&mut homes, protocol, port, ACK, Reason::BackendsFull);
                assert_eq!(again, *before, "{mode:?} {protocol:?}");
            }
        }
    }
}

#[test]
fn a_flow_that_both_sides_have_closed_makes_room() {
    let mut homes = limited(Mode::FullNat, Protocol::TCP, 1, [0, 0]);
    for port in 1..=5 {
        let from = format!("203.0.113.5:{port}");
        let first = homes.send(&Frame::tcp(&from, VIP, SYN));
        assert_eq!(first.verdict, Verdict::Redirect(EGRESS), "flow {port}");
        let (source, backend) = ends(&first.bytes);
        let answer = |homes: &mut Homes, flags| {
            let mut frame = Frame::tcp(&backend.to_string(), &source.to_string(), flags);
            (frame.from_mac, frame.to_mac) = (BACKEND_MAC, LB_BACKEND_MAC);
            assert_eq!(homes.send(&frame).verdict, Verdict::Transmit);
        };
        answer(&mut homes, SYN | ACK);
        homes.send(&Frame::tcp(&from, VIP, ACK));
        assert_eq!(flow(&mut homes, Protocol::TCP, 100, SYN, Reason::ServiceFull), None);
        if port % 2 == 0 {
            homes.send(&Frame::tcp(&from, VIP, FIN | ACK));
            answer(&mut homes, FIN | ACK);
        } else {
            homes.send(&Frame::tcp(&from, VIP, RST));
        }
        // What comes late ends it no second time.
        homes.send(&Frame::tcp(&from, VIP, RST));
    }
    assert_eq!(homes.host.service_flows.borrow().values().sum::<i64>(), 0);
}

#[test]
fn a_census_sets_the_counts_right() {
    let mut homes = limited(Mode::Nat, Protocol::UDP, 5, [0, 0]);
    let begin = |homes: &mut Homes, ports: std::ops::Range<u16>| {
        ports.filter(|port| flow(homes, Protocol::UDP, *port, 0, Reason::ServiceFull).is_some()).count()
    };
    assert_eq!(begin(&mut homes, 1..10), 5);
    homes.forget(|key| key.source_port.get() <= 3);
    assert_eq!(begin(&mut homes, 11..20), 0, "what was evicted counts still");
    homes.census();
    assert_eq!(begin(&mut homes, 21..30), 3);
    homes.census();
    assert_eq!(begin(&mut homes, 31..40), 0);
}

#[test]
fn a_flow_that_is_under_way_is_not_held_up_by_a_limit() {
    let mut homes = limited(Mode::Nat, Protocol::TCP, 1, [1, 1]);
    assert!(flow(&mut homes, Protocol::TCP, 1, SYN, Reason::ServiceFull).is_some());
    assert!(flow(&mut homes, Protocol::TCP, 2, SYN, Reason::ServiceFull).is_none());
    assert!(flow(&mut homes, Protocol::TCP, 3, ACK, Reason::ServiceFull).is_some());
}

#[test]
fn a_packet_that_the_backend_answers_with_a_reset_counts_no_longer() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = limited(mode, Protocol::TCP, 3, [0, 0]);
        homes.reach_clients(&BTreeMap::from([("192.0.2.5", Some([2, 0, 0, 0, 0, 5]))]));
        // A made-up client is mostly one that there is no route to.
        homes.host.routes.insert("203.0.113.5".parse::<IpAddr>().unwrap().into(), Route::Local);
        // A flow that is there before, and that a reset of another backend's does not concern.
        let (_, owner) = ends(&homes.send(&Frame::tcp("192.0.2.5:1", VIP, SYN)).bytes);
        homes.send(&Frame::tcp("192.0.2.5:1", VIP, ACK));
        let other = if owner.to_string() == BACKEND { OTHER } else { BACKEND };
        homes.send(&Frame::tcp(other, "192.0.2.5:1", RST));
        let counted = |homes: &Homes| homes.counted_flows(1) + homes.counted_flows(2);
        for (port, client) in (100..120).zip(["192.0.2.5", "203.0.113.5"].into_iter().cycle()) {
            let made_up = homes.send(&Frame::tcp(&format!("{client}:{port}"), VIP, ACK));
            assert_eq!(counted(&homes), 2, "{mode:?}");
            let (source, backend) = ends(&made_up.bytes);
            homes.send(&Frame::tcp(&backend.to_string(), &source.to_string(), RST));
            assert_eq!(counted(&homes), 1, "{mode:?}");
            // What comes late ends it no second time.
            homes.send(&Frame::tcp(&backend.to_string(), &source.to_string(), RST));
            homes.send(&Frame::tcp(&format!("{client}:{port}"), VIP, RST));
            assert_eq!(counted(&homes), 1, "{mode:?}");
        }
        assert_eq!(homes.live(1) + homes.live(2), 1, "{mode:?}: nobody waits for them");
        let newcomer = homes.send(&Frame::tcp("192.0.2.5:2", VIP, SYN));
        assert_eq!(newcomer.verdict, Verdict::Redirect(EGRESS), "{mode:?}");
    }
}

#[test]
fn a_flow_of_one_packet_counts_for_as_long_as_a_half_open_one_where_replies_pass_here() {
    for (mode, later) in [(Mode::Nat, 1), (Mode::FullNat, 1), (Mode::Dsr, 2), (Mode::Ipip, 2), (Mode::Gue, 2)]
    {
        let mut homes = limited(mode, Protocol::TCP, 0, [0, 0]);
        homes.send(&Frame::tcp("203.0.113.5:1", VIP, ACK));
        for _ in 0..2 {
            homes.send(&Frame::tcp("203.0.113.5:2", VIP, ACK));
        }
        let live = |seconds| homes.census_in(seconds).live.values().sum::<u64>();
        assert_eq!((live(0), live(29), live(32), live(890)), (2, 2, later, later), "{mode:?}");
        // The record stays, for a flow that is older than it.
        assert_eq!(homes.census_in(890).records, 2, "{mode:?}");
    }
}
