//! Packets that are larger than their way takes are answered.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::rate::{Answer, Limits};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{Mode, Route};

use crate::homes::{EGRESS, Homes, INGRESS, hex};
use crate::packets::{ACK, CLIENT_MAC, Frame, SYN};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:9::5]:40000";
const BACKEND: &str = "198.51.100.11:80";
const BACKEND6: &str = "[2001:db8:2::11]:80";

/// A TCP packet of so many bytes of IP.
fn of_length(from: &str, to: &str, length: usize) -> Frame {
    let mut frame = Frame::tcp(from, to, ACK);
    let headers = if frame.from.is_ipv4() { 40 } else { 60 };
    frame.payload = (0..length - headers).map(|place| (place * 7 % 251) as u8).collect();
    frame
}

/// What a sender should hear: that of its packet so many bytes fit, from this address.
fn answer(frame: &Frame, from: IpAddr, mtu: u16) -> Vec<u8> {
    let packet = frame.clone().untagged().bytes()[14..].to_vec();
    let mut bytes = [frame.from_mac, frame.to_mac].concat();
    for (ethertype, id) in &frame.tags {
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(id.to_be_bytes());
    }
    match (from, frame.from) {
        (IpAddr::V4(from), SocketAddr::V4(to)) => {
            let quoted = &packet[..(packet.len() & !3).min(548)];
            let unreachable = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(unreachable), quoted);
            let length = (8 + quoted.len()) as u16;
            let mut ip =
                Ipv4Header::new(length, 64, IpNumber::ICMP, from.octets(), to.ip().octets()).unwrap();
            ip.dont_fragment = true;
            ip.dscp = 48.try_into().unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            bytes.extend([0x08, 0x00]);
            ip.write(&mut bytes).unwrap();
            icmp.write(&mut bytes).unwrap();
            bytes.extend(quoted);
        }
        (IpAddr::V6(from), SocketAddr::V6(to)) => {
            let quoted = &packet[..(packet.len() & !3).min(1232)];
            let (source, destination) = (from.octets(), to.ip().octets());
            let too_big = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
            let icmp = Icmpv6Header::with_checksum(too_big, source, destination, quoted).unwrap();
            let ip = Ipv6Header {
                payload_length: (8 + quoted.len()) as u16,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source,
                destination,
                ..Default::default()
            };
            bytes.extend([0x86, 0xdd]);
            ip.write(&mut bytes).unwrap();
            icmp.write(&mut bytes).unwrap();
            bytes.extend(quoted);
        }
        _ => panic!("an answer has its packet's family"),
    }
    bytes
}

/// Sends a frame and expects its sender to hear that so many bytes fit, from this address.
fn hears(homes: &mut Homes, frame: &Frame, from: IpAddr, mtu: u16) {
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Transmit);
    assert_eq!(outcome.counted, [(Reason::TooBigAnswered, 1)]);
    assert_eq!(hex(&outcome.bytes), hex(&answer(frame, from, mtu)));
}

/// Each mode with its overhead towards IPv4 and IPv6 backends.
const MODES: [(Mode, usize, usize); 5] =
    [(Mode::FullNat, 0, 0), (Mode::Nat, 0, 0), (Mode::Dsr, 0, 0), (Mode::Ipip, 20, 40), (Mode::Gue, 28, 48)];

#[test]
fn what_just_fits_is_forwarded_and_a_byte_more_is_answered() {
    for (mode, over_v4, over_v6) in MODES {
        let ways = [
            (VIP, CLIENT, BACKEND, over_v4),
            (VIP6, CLIENT6, BACKEND6, over_v6),
            (VIP, CLIENT, BACKEND6, over_v6),
            (VIP6, CLIENT6, BACKEND, over_v4),
        ];
        // Where there is no outer packet, there is one family.
        for (vip, client, backend, overhead) in ways.into_iter().take(if over_v4 == 0 { 2 } else { 4 }) {
            println!("{mode:?} {vip} {backend}");
            let mut homes = Homes::new();
            homes.service(vip, Protocol::TCP, mode, &[backend]);
            homes.change_backend(backend, |backend| backend.mtu = 1450);
            let fits = 1450 - overhead;
            let outcome = homes.send(&of_length(client, vip, fits));
            assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
            let from = vip.parse::<SocketAddr>().unwrap().ip();
            for frame in [
                of_length(client, vip, fits + 1),
                of_length(client, vip, 1500).tag(0x8100, 42),
                of_length(client, vip, 2000).tag(0x88a8, 5).tag(0x8100, 42),
                of_length(client, vip, 1499).ttl(2),
            ] {
                hears(&mut homes, &frame, from, fits as u16);
            }
            // Whether it may be fragmented or not: nothing here could.
            let mut frame = of_length(client, vip, 1460);
            frame.dont_fragment = false;
            hears(&mut homes, &frame, from, fits as u16);
        }
    }
}

#[test]
fn a_backend_of_unknown_mtu_gets_packets_of_any_length() {
    for (mode, ..) in MODES {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &[BACKEND]);
        homes.change_backend(BACKEND, |backend| backend.mtu = 0);
        let outcome = homes.send(&of_length(CLIENT, VIP, 3000));
        assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    }
}

#[test]
fn a_short_packet_is_quoted_whole() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    homes.change_backend(BACKEND, |backend| backend.mtu = 150);
    for length in 131..148 {
        hears(&mut homes, &of_length(CLIENT, VIP, length), "192.0.2.10".parse().unwrap(), 130);
    }
}

#[test]
fn ipv6_is_never_told_less_than_the_least_that_it_must_have() {
    let mut homes = Homes::new();
    homes.service(VIP6, Protocol::TCP, Mode::Ipip, &[BACKEND6]);
    homes.change_backend(BACKEND6, |backend| backend.mtu = 1290);
    hears(&mut homes, &of_length(CLIENT6, VIP6, 1281), "2001:db8::10".parse().unwrap(), 1280);
    homes.ends_with(&of_length(CLIENT6, VIP6, 1280), Reason::TooBig);
    let outcome = homes.send(&of_length(CLIENT6, VIP6, 1250));
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
}

#[test]
fn who_is_no_host_gets_no_answer() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    homes.service(VIP6, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    for from in ["224.0.0.1:1", "255.255.255.255:1", "240.0.0.1:1", "0.0.0.0:1"] {
        homes.ends_with(&of_length(from, VIP, 1500), Reason::TooBig);
    }
    for from in ["[ff02::1]:1", "[::]:1"] {
        homes.ends_with(&of_length(from, VIP6, 1500), Reason::TooBig);
    }
}

#[test]
fn a_reply_larger_than_the_way_to_the_client_is_answered_in_this_host_s_name() {
    let mut homes = Homes::new();
    let index = homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    homes.service(VIP, Protocol::TCP, Mode::Nat, &[BACKEND]);
    homes.service(VIP6, Protocol::TCP, Mode::Nat, &[BACKEND6]);
    // The veth that clients are behind has an MTU of 1500.
    let rows = [
        (BACKEND, "192.0.2.100:40000", "198.51.100.2"),
        (BACKEND6, "[2001:db8:1::100]:40000", "2001:db8:2::2"),
    ];
    for (backend, client, from) in rows {
        assert_eq!(homes.send(&of_length(backend, client, 1500)).verdict, Verdict::Redirect(index));
        let client_address = client.parse::<SocketAddr>().unwrap().ip();
        homes.host.routes.insert(client_address.into(), Route::TooBig { mtu: 1500 });
        hears(&mut homes, &of_length(backend, client, 1501), from.parse().unwrap(), 1500);
    }
}

#[test]
fn answers_are_limited_and_those_that_are_not_sent_are_counted() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Ipip, &[BACKEND]);
    let frame = of_length(CLIENT, VIP, 1500);
    let large = frame.bytes();

    // On the host the clock stands still.
    let answered = |homes: &Homes| {
        let is_answered = |_: &u64| {
            let mut packet = Buffer::new(&large, INGRESS);
            homes.process(&mut packet) == Verdict::Transmit
        };
        (0..1000).filter(is_answered).count() as u64
    };
    let Limits { at_once_to_one, per_second_to_one, .. } = Answer::TooBig.limits();
    assert_eq!(answered(&homes), at_once_to_one);
    homes.host.now += 1;
    assert_eq!(answered(&homes), at_once_to_one);
    let counted = |reason: Reason| homes.host.reasons.borrow()[reason as usize];
    assert_eq!(counted(Reason::TooBigAnswered), 2 * at_once_to_one);
    assert_eq!(counted(Reason::TooBig), 2000 - 2 * at_once_to_one);

    // In the kernel it runs, and each CPU has a bucket of its own.
    let start = std::time::Instant::now();
    let sent = 4000;
    for _ in 0..sent {
        homes.send_to_kernel(&frame);
    }
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let most = (start.elapsed().as_secs() + 1) * per_second_to_one * cpus + cpus * at_once_to_one;
    let reasons = homes.kernel.reasons().unwrap();
    let (answered, silent) = (reasons[Reason::TooBigAnswered as usize], reasons[Reason::TooBig as usize]);
    assert_eq!(answered + silent, sent);
    assert!((at_once_to_one..most).contains(&answered), "{answered} of {sent} in {:?}", start.elapsed());
    assert!(silent > 0, "{sent} in {:?}", start.elapsed());

    // What fits is forwarded all the same.
    assert_eq!(homes.send(&Frame::tcp(CLIENT, VIP, SYN)).verdict, Verdict::Redirect(EGRESS));
}
