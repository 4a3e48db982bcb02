//! Guards: which clients a service lets in, and how many flows each may begin.

use xdp_lb::control::tables::{SourceRange, Write};
use xdp_lb_common::net::{Address, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{Mode, SourceVerdict};

use crate::homes::{EGRESS, Homes};
use crate::packets::{ACK, Frame, SYN};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const BACKEND: &str = "198.51.100.11:8080";
const BACKEND6: &str = "[2001:db8:2::11]:8080";

fn range(list: u32, range: &str, verdict: SourceVerdict) -> Write {
    let (address, bits) = range.split_once('/').unwrap();
    let address: std::net::IpAddr = address.parse().unwrap();
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
        service.options |= xdp_lb_common::tables::RECORDS_FLOWS;
    });
    for _ in 0..100 {
        let again = Frame::udp("203.0.113.5:1", VIP);
        assert_eq!(homes.send(&again).verdict, Verdict::Redirect(EGRESS));
    }
    let begin = std::time::Instant::now();
    let more = begun(&mut homes, "203.0.113.5", 100, |from| Frame::udp(from, VIP));
    let most = 29 + begin.elapsed().as_secs() as usize + 1;
    assert!((29..=most).contains(&more), "{more}");
}
