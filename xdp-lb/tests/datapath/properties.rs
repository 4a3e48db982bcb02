//! Hostile and random packets: both homes agree, nothing is read out of bounds, checksums stay right.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::tables::Mode;

use crate::homes::Homes;
use crate::packets::{Frame, Icmp, ends, fragments};

fn homes() -> Homes {
    let mut homes = Homes::with_flows(65_536);
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::Nat, &["198.51.100.11:8080", "198.51.100.12:8080"]);
    homes.service("192.0.2.10:81", Protocol::TCP, Mode::FullNat, &["198.51.100.13:8080"]);
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::FullNat, &["198.51.100.13:53"]);
    homes.service("[2001:db8::10]:80", Protocol::TCP, Mode::FullNat, &["[2001:db8:2::11]:8080"]);
    homes
}

fn frame() -> impl Strategy<Value = Frame> {
    let vip = prop_oneof![
        Just(("203.0.113", "192.0.2.10:80", true)),
        Just(("203.0.113", "192.0.2.10:81", true)),
        Just(("203.0.113", "192.0.2.10:53", false)),
        Just(("2001:db8:1:", "[2001:db8::10]:80", true)),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    (vip, 1u8..254, 1u16.., any::<u8>(), payload, 0usize..3, 0u8..=9).prop_map(
        |((network, vip, is_tcp), host, port, flags, payload, tags, options)| {
            let client = if vip.starts_with('[') {
                format!("[{network}:{host}]:{port}")
            } else {
                format!("{network}.{host}:{port}")
            };
            let mut frame =
                if is_tcp { Frame::tcp(&client, vip, flags & 0x17) } else { Frame::udp(&client, vip) };
            frame.payload = payload;
            for id in 0..tags {
                frame = frame.tag(0x8100, 10 + id as u16);
            }
            if !vip.starts_with('[') {
                frame.ipv4_options = vec![1; usize::from(options) * 4];
            }
            frame
        },
    )
}

/// An ICMP error to come, about a packet of a client's flow.
#[derive(Clone, Debug)]
struct Error {
    /// The client's packet.
    first: Frame,
    /// Which of the flow's packets it is about.
    about: usize,
    kind: Option<u8>,
    code: u8,
    quoted: usize,
}

impl Error {
    /// Sends the client's packet, and makes the error about its flow.
    fn prepare(&self, homes: &mut Homes) -> Icmp {
        let outcome = homes.send(&self.first);
        let (vip, client) = (self.first.to, self.first.from);
        let (source, backend) = match outcome.verdict {
            Verdict::Redirect(_) => ends(&outcome.bytes),
            _ => (client, vip),
        };
        let (from, to) = [(vip, client), (client, vip), (source, backend), (backend, source)][self.about];
        let router = if vip.is_ipv4() { "198.51.100.1" } else { "2001:db8:9::1" };
        let about = Frame { from, to, ..self.first.clone() };
        let error = Icmp::too_big(router, &from.ip().to_string(), &about, self.quoted);
        let kind = self.kind.unwrap_or(error.kind);
        Icmp { kind, code: self.code, tags: self.first.tags.clone(), ..error }
    }
}

fn error() -> impl Strategy<Value = Error> {
    let kind = prop_oneof![Just(None), (0u8..=13).prop_map(Some), any::<u8>().prop_map(Some)];
    let quoted = prop_oneof![Just(1000), 0usize..100];
    (frame(), 0usize..4, kind, any::<u8>(), quoted).prop_map(|(first, about, kind, code, quoted)| Error {
        first,
        about,
        kind,
        code,
        quoted,
    })
}

/// Whether a frame's ICMP message and IPv4 header have the right checksums.
pub fn is_whole(bytes: &[u8]) -> bool {
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).expect("a frame that leaves is whole");
    match (sliced.net, sliced.transport) {
        (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Icmpv4(icmp))) => {
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(icmp.slice());
            let header = ip.header().to_header();
            sum.ones_complement() == 0 && header.calc_header_checksum() == header.header_checksum
        }
        (Some(etherparse::NetSlice::Ipv6(ip)), Some(etherparse::TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            icmp.is_checksum_valid(header.source(), header.destination())
        }
        _ => false,
    }
}

#[test]
fn an_icmp_error_that_is_forwarded_is_whole() {
    let homes = std::cell::RefCell::new(homes());
    let forwarded = std::cell::Cell::new(0);
    runner(2000)
        .run(&error(), |error| {
            let mut homes = homes.borrow_mut();
            let error = error.prepare(&mut homes);
            let outcome = homes.send_bytes(&error.bytes());
            if let Verdict::Redirect(_) | Verdict::Transmit = outcome.verdict {
                forwarded.set(forwarded.get() + 1);
                prop_assert!(is_whole(&outcome.bytes), "{}", crate::homes::hex(&outcome.bytes));
            }
            Ok(())
        })
        .unwrap();
    assert!(forwarded.get() > 100, "{} of 2,000 errors were forwarded", forwarded.get());
}

#[test]
fn fragments_that_are_forwarded_are_those_of_the_packet_that_would_have_been() {
    let homes = std::cell::RefCell::new(homes());
    let forwarded = std::cell::Cell::new(0);
    runner(500)
        .run(&(frame(), 3usize..20, any::<u16>()), |(frame, eighths, identification)| {
            let mut homes = homes.borrow_mut();
            let mut expected = None;
            for fragment in fragments(&frame, eighths * 8, identification) {
                let outcome = homes.send_bytes(&fragment);
                if !matches!(outcome.verdict, Verdict::Redirect(_)) {
                    break;
                }
                // Only the first one tells its ports, to whoever reads the whole packet.
                let expected = expected.get_or_insert_with(|| {
                    let (from, to) = ends_of_first(&outcome.bytes);
                    let macs = (crate::packets::LB_BACKEND_MAC, crate::packets::BACKEND_MAC);
                    let whole = frame.clone().untagged().leaving(from, to, macs);
                    fragments(&whole, eighths * 8, identification).into_iter()
                });
                prop_assert_eq!(Some(outcome.bytes), expected.next());
                forwarded.set(forwarded.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(forwarded.get() > 500, "{} fragments of 500 packets were forwarded", forwarded.get());
}

/// The ends of a packet by its first fragment, untagged.
fn ends_of_first(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let (addresses, ports): (_, &[u8]) = match etherparse::SlicedPacket::from_ethernet(bytes).unwrap().net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let addresses: (IpAddr, IpAddr) = (header.source_addr().into(), header.destination_addr().into());
            (addresses, &bytes[14 + header.slice().len()..])
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let addresses: (IpAddr, IpAddr) = (header.source_addr().into(), header.destination_addr().into());
            (addresses, &bytes[14 + 48..])
        }
        _ => panic!("a fragment that leaves is IP"),
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    (SocketAddr::new(addresses.0, port(0)), SocketAddr::new(addresses.1, port(2)))
}

#[test]
fn damaged_fragments_are_treated_alike_in_both_homes() {
    let homes = std::cell::RefCell::new(homes());
    let damage = prop::collection::vec((0usize..120, any::<u8>()), 0..4);
    runner(1000)
        .run(&(frame(), 1usize..20, 0u16..4, damage), |(frame, eighths, identification, damage)| {
            let mut homes = homes.borrow_mut();
            for mut fragment in fragments(&frame, eighths * 8, identification).into_iter().take(4) {
                for (place, value) in &damage {
                    let place = place % fragment.len();
                    fragment[place] = *value;
                }
                homes.send_bytes(&fragment);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn damaged_icmp_errors_are_treated_alike_in_both_homes() {
    let homes = std::cell::RefCell::new(homes());
    let damage = prop::collection::vec((0usize..140, any::<u8>()), 1..6);
    runner(3000)
        .run(&(error(), damage, 0usize..200), |(error, damage, cut)| {
            let mut homes = homes.borrow_mut();
            let mut bytes = error.prepare(&mut homes).bytes();
            for (place, value) in damage {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            bytes.truncate((bytes.len() - cut % bytes.len()).max(14));
            homes.send_bytes(&bytes);
            Ok(())
        })
        .unwrap();
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn a_packet_that_is_forwarded_is_whole_and_its_checksums_are_right() {
    let mut homes = std::cell::RefCell::new(homes());
    runner(2000)
        .run(&frame(), |frame| {
            let outcome = homes.borrow_mut().send(&frame);
            if let Verdict::Redirect(_) | Verdict::Transmit = outcome.verdict {
                let (from, to) = ends(&outcome.bytes);
                let mut expected = frame.clone().untagged().leaving(
                    from,
                    to,
                    (crate::packets::LB_BACKEND_MAC, crate::packets::BACKEND_MAC),
                );
                expected.tags.clear();
                prop_assert_eq!(outcome.bytes, expected.bytes());
            }
            Ok(())
        })
        .unwrap();
    assert!(homes.get_mut().records().iter().sum::<usize>() > 500, "most of the packets were forwarded");
}

#[test]
fn damaged_packets_are_treated_alike_in_both_homes() {
    let homes = std::cell::RefCell::new(homes());
    let damage = prop::collection::vec((0usize..120, any::<u8>()), 1..6);
    runner(4000)
        .run(&(frame(), damage, 0usize..200), |(frame, damage, cut)| {
            let mut bytes = frame.bytes();
            for (place, value) in damage {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            bytes.truncate((bytes.len() - cut % bytes.len()).max(14));
            homes.borrow_mut().send_bytes(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_bytes_are_treated_alike_in_both_homes() {
    let homes = std::cell::RefCell::new(homes());
    let bytes = prop::collection::vec(any::<u8>(), 14..300);
    runner(1000)
        .run(&(bytes, any::<bool>()), |(mut bytes, is_v4)| {
            bytes[0] &= 0xfe;
            bytes[12..14].copy_from_slice(if is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
            homes.borrow_mut().send_bytes(&bytes);
            Ok(())
        })
        .unwrap();
}
