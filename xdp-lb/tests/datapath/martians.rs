//! Senders that no packet from a network can have.

use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::Mode;

use crate::homes::{EGRESS, Homes, INGRESS};
use crate::packets::{ACK, FIN, Frame, Icmp, RST, SYN};

/// A VIP and a backend of a family, a client, and sources that no host has.
type Family = (&'static str, &'static str, &'static str, &'static [&'static str]);

const FAMILIES: [Family; 2] = [
    (
        "192.0.2.10",
        "198.51.100.11",
        "203.0.113.5",
        &[
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "224.0.0.5",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ],
    ),
    ("[2001:db8::10]", "[2001:db8:2::11]", "[2001:db8:1::5]", &["[::]", "[::1]", "[ff02::1]", "[ffff::5]"]),
];

const MODES: [Mode; 3] = [Mode::FullNat, Mode::Nat, Mode::Dsr];

/// Both families' services on port 80, of TCP and of UDP, and an interface towards the clients.
fn homes(mode: Mode) -> (Homes, u32) {
    let mut homes = Homes::new();
    for (vip, backend, _, _) in FAMILIES {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            homes.service(&format!("{vip}:80"), protocol, mode, &[&format!("{backend}:8080")]);
        }
    }
    let outside = homes.add_interface("outside");
    (homes, outside)
}

fn is_refused(homes: &mut Homes, ingress: u32, bytes: &[u8]) -> bool {
    match homes.send_bytes_by(ingress, bytes).verdict {
        Verdict::Drop(Reason::MartianSource) => true,
        Verdict::Redirect(EGRESS) | Verdict::Transmit => false,
        other => panic!("{other:?}"),
    }
}

/// The packets that may begin a flow, and those that may not.
fn packets(from: &str, to: &str) -> ([Frame; 2], [Frame; 2]) {
    (
        [Frame::tcp(from, to, SYN), Frame::udp(from, to)],
        [Frame::tcp(from, to, ACK), Frame::tcp(from, to, FIN | ACK)],
    )
}

#[test]
fn a_packet_from_a_source_that_no_host_has_is_refused_unless_it_comes_by_lo() {
    for mode in MODES {
        let (mut homes, outside) = homes(mode);
        for (vip, _, client, sources) in FAMILIES {
            let to = format!("{vip}:80");
            let (begin, go_on) = packets(&format!("{client}:7"), &to);
            for frame in begin.iter().chain(&go_on) {
                assert!(!is_refused(&mut homes, outside, &frame.bytes()), "{mode:?} {frame:?}");
            }
            for source in sources {
                let (begin, go_on) = packets(&format!("{source}:7"), &to);
                for frame in begin.iter().chain(&go_on) {
                    assert!(is_refused(&mut homes, outside, &frame.bytes()), "{mode:?} {frame:?}");
                    // What has a tag takes the slow path.
                    let tagged = frame.clone().tag(0x8100, 7);
                    assert!(is_refused(&mut homes, outside, &tagged.bytes()), "{mode:?} {tagged:?}");
                    assert!(!is_refused(&mut homes, INGRESS, &frame.bytes()), "{mode:?} {frame:?}");
                }
            }
        }
    }
}

#[test]
fn no_flow_begins_in_the_name_of_this_host() {
    for mode in MODES {
        let (mut homes, outside) = homes(mode);
        homes.set_own_addresses(&["198.51.100.2", "2001:db8:2::2"]);
        homes.service("192.0.2.20:443", Protocol::TCP, mode, &["198.51.100.12:8080"]);
        homes.service("[2001:db8::20]:443", Protocol::TCP, mode, &["[2001:db8:2::12]:8080"]);
        for (vip, backend, _, _) in FAMILIES {
            let to = format!("{vip}:80");
            let (other, own) = if vip.starts_with('[') {
                ("[2001:db8::20]", "[2001:db8:2::2]")
            } else {
                ("192.0.2.20", "198.51.100.2")
            };
            for source in [vip, other, own] {
                let (begin, go_on) = packets(&format!("{source}:7"), &to);
                for frame in &begin {
                    assert!(is_refused(&mut homes, outside, &frame.bytes()), "{mode:?} {frame:?}");
                }
                for frame in &go_on {
                    // Its own destination is seen at once.
                    let expected = source == vip;
                    assert_eq!(
                        is_refused(&mut homes, outside, &frame.bytes()),
                        expected,
                        "{mode:?} {frame:?}"
                    );
                }
            }
            // A backend may be a client.
            let frame = Frame::tcp(&format!("{backend}:7"), &to, SYN);
            assert!(!is_refused(&mut homes, outside, &frame.bytes()), "{mode:?}");
        }
        // An address that is another's by now.
        homes.set_own_addresses(&[]);
        let frame = Frame::tcp("198.51.100.2:9", "192.0.2.10:80", SYN);
        assert!(!is_refused(&mut homes, outside, &frame.bytes()), "{mode:?}");
    }
}

#[test]
fn a_reset_in_the_name_of_this_host_is_refused_too() {
    let (mut homes, outside) = homes(Mode::Nat);
    homes.set_own_addresses(&["198.51.100.2"]);
    let frame = Frame::tcp("198.51.100.2:9", "192.0.2.10:80", RST);
    assert!(is_refused(&mut homes, outside, &frame.bytes()));
}

#[test]
fn icmp_from_a_source_that_no_other_host_has_is_refused() {
    let (mut homes, outside) = homes(Mode::Nat);
    homes.set_own_addresses(&["198.51.100.2", "2001:db8:2::2"]);
    let bare = |address: &str| address.trim_matches(['[', ']']).to_owned();
    for (vip, _, client, sources) in FAMILIES {
        let own = if vip.starts_with('[') { "[2001:db8:2::2]" } else { "198.51.100.2" };
        let about = Frame::tcp(&format!("{vip}:80"), &format!("{client}:7"), ACK);
        let echo = |from: &str| Icmp::echo(&bare(from), &bare(vip));
        let error = |from: &str| Icmp::too_big(&bare(from), &bare(vip), &about, 1000);
        for message in [echo(client), error(client)] {
            assert!(!is_refused(&mut homes, outside, &message.bytes()), "{message:?}");
        }
        for source in sources.iter().chain([&vip, &own]) {
            for message in [echo(source), error(source)] {
                assert!(is_refused(&mut homes, outside, &message.bytes()), "{message:?}");
            }
        }
    }
}

#[test]
fn a_backend_is_known_after_its_address_was_this_host_s() {
    let (mut homes, outside) = homes(Mode::Nat);
    let own: Vec<String> = (1..=200).map(|host| format!("198.51.100.{host}")).collect();
    homes.set_own_addresses(&own.iter().map(String::as_str).collect::<Vec<_>>());
    // A backend of this address keeps its bit in the filter when the host loses it.
    homes.set_own_addresses(&[]);
    let from_backend = Frame::udp("198.51.100.11:8080", "192.0.2.10:80");
    assert_eq!(
        homes.send_bytes_by(outside, &from_backend.bytes()).verdict,
        Verdict::Drop(Reason::SourceIsOurs)
    );
}
