//! What is passed to the host, and what is dropped, each with its reason.

use xdp_lb_common::net::Protocol;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::Mode;

use crate::homes::Homes;
use crate::packets::{ACK, Extensions, Frame, SYN};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const CLIENT: &str = "203.0.113.5:40000";
const CLIENT6: &str = "[2001:db8:1::5]:40000";

fn homes() -> Homes {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &["198.51.100.11:8080"]);
    homes.service(VIP6, Protocol::TCP, Mode::FullNat, &["[2001:db8:2::11]:8080"]);
    homes.service("192.0.2.10:53", Protocol::UDP, Mode::FullNat, &["198.51.100.11:5353"]);
    homes
}

/// The frame's bytes with some of them changed.
fn patched(frame: &Frame, patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    for (offset, patch) in patches {
        bytes[*offset..][..patch.len()].copy_from_slice(patch);
    }
    bytes
}

#[test]
fn the_host_s_own_traffic_is_the_host_s() {
    let mut homes = homes();
    homes.ends_with(&Frame::tcp(CLIENT, "192.0.2.10:22", SYN), Reason::NoService);
    homes.ends_with(&Frame::tcp(CLIENT, "192.0.2.1:80", SYN), Reason::NoService);
    homes.ends_with(&Frame::udp(CLIENT, VIP), Reason::NoService);
    homes.ends_with(&Frame::tcp("198.51.100.11:22", "198.51.100.2:40000", ACK), Reason::NoService);
    homes.ends_with(&Frame::tcp("198.51.100.11:8080", "198.51.100.2:40000", ACK), Reason::NotAReply);
    homes.ends_with(&Frame::tcp("198.51.100.11:8080", "198.51.100.2:2000", ACK), Reason::ReplyWithoutFlow);
}

#[test]
fn frames_that_are_no_ip_unicast_are_the_host_s() {
    let mut homes = homes();
    let frame = Frame::tcp(CLIENT, VIP, SYN);
    let rows: [(&str, Vec<u8>, Reason); 6] = [
        ("ARP", patched(&frame, &[(12, &[0x08, 0x06])]), Reason::NotIp),
        ("broadcast", patched(&frame, &[(0, &[0xff; 6])]), Reason::NotUnicast),
        ("multicast", patched(&frame, &[(0, &[0x01, 0, 0x5e])]), Reason::NotUnicast),
        ("ICMP", patched(&frame, &[(23, &[1])]), Reason::NotTcpOrUdp),
        (
            "three tags",
            frame.clone().tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3).bytes(),
            Reason::TooManyTags,
        ),
        ("ICMPv6", patched(&Frame::tcp(CLIENT6, VIP6, SYN), &[(20, &[58])]), Reason::NotTcpOrUdp),
    ];
    for (what, bytes, reason) in rows {
        println!("{what}");
        homes.bytes_end_with(&bytes, reason);
    }
}

#[test]
fn frames_for_the_mac_of_another_host_are_left_to_the_host() {
    let mut homes = homes();
    let frames = [
        Frame::tcp(CLIENT, VIP, SYN),
        Frame::tcp(CLIENT6, VIP6, SYN),
        Frame::udp(CLIENT, "192.0.2.10:53"),
        Frame::tcp(CLIENT, VIP, SYN).tag(0x8100, 7),
        // A backend's, too.
        Frame::tcp("198.51.100.11:8080", "198.51.100.2:2000", ACK),
    ];
    for frame in frames {
        let others = Frame { to_mac: [2, 0, 0, 0, 0, 0x99], ..frame };
        homes.ends_with(&others, Reason::OtherHost);
    }
    // Nobody's traffic is not looked at.
    let nobodys = Frame { to_mac: [2, 0, 0, 0, 0, 0x99], ..Frame::tcp(CLIENT, "192.0.2.1:80", SYN) };
    homes.ends_with(&nobodys, Reason::NoService);
}

#[test]
fn lengths_that_lie_are_not_believed() {
    let mut homes = homes();
    let v4 = Frame::tcp(CLIENT, VIP, SYN);
    let v6 = Frame::tcp(CLIENT6, VIP6, SYN);
    let udp = Frame::udp(CLIENT, "192.0.2.10:53");
    let rows: [(&str, Vec<u8>, Reason); 15] = [
        ("an Ethernet header only", v4.bytes()[..14].to_vec(), Reason::Malformed),
        ("half an IPv4 header", v4.bytes()[..30].to_vec(), Reason::Malformed),
        ("half an IPv6 header", v6.bytes()[..50].to_vec(), Reason::Malformed),
        ("half a tag", v4.clone().tag(0x8100, 1).bytes()[..16].to_vec(), Reason::Malformed),
        ("an IPv4 header of 16 bytes", patched(&v4, &[(14, &[0x44])]), Reason::Malformed),
        (
            "an IPv4 header longer than the packet",
            patched(&v4, &[(14, &[0x4f]), (16, &[0, 40])]),
            Reason::Malformed,
        ),
        ("version 5", patched(&v4, &[(14, &[0x55])]), Reason::Malformed),
        ("IPv4 that claims more than arrived", patched(&v4, &[(16, &[0xff, 0xff])]), Reason::LengthMismatch),
        ("IPv6 that claims more than arrived", patched(&v6, &[(18, &[0xff, 0xff])]), Reason::LengthMismatch),
        ("version 4 in an IPv6 frame", patched(&v6, &[(14, &[0x40])]), Reason::Malformed),
        ("a TCP header of 16 bytes", patched(&v4, &[(46, &[0x40])]), Reason::Malformed),
        (
            "a TCP header longer than the packet",
            patched(&v4, &[(46, &[0xf0]), (16, &[0, 60])]),
            Reason::Malformed,
        ),
        ("a UDP length below its header", patched(&udp, &[(38, &[0, 7])]), Reason::Malformed),
        ("a UDP length beyond the packet", patched(&udp, &[(38, &[1, 0])]), Reason::Malformed),
        (
            "IPv4-mapped addresses in IPv6",
            {
                let mut mapped = [0; 16];
                mapped[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 10]);
                patched(&v6, &[(38, &mapped)])
            },
            Reason::Malformed,
        ),
    ];
    for (what, bytes, reason) in rows {
        println!("{what}");
        homes.bytes_end_with(&bytes, reason);
    }
}

#[test]
fn a_frame_padded_to_ethernet_s_minimum_is_forwarded_with_its_padding() {
    let mut homes = homes();
    let mut frame = Frame::tcp(CLIENT, VIP, SYN);
    frame.payload.clear();
    let bytes = [frame.bytes(), vec![0; 6]].concat();
    let outcome = homes.send_bytes(&bytes);
    assert_eq!(outcome.bytes.len(), 60);
    assert!(matches!(outcome.verdict, xdp_lb_common::process::Verdict::Redirect(_)));
}

#[test]
fn options_and_extension_headers_are_walked_over() {
    let mut homes = homes();
    let mut v4 = Frame::tcp(CLIENT, VIP, SYN);
    v4.ipv4_options = vec![1; 40];
    homes.translates(&v4, "198.51.100.2", &["198.51.100.11:8080"]);
    let hop_by_hop = (0, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let destination_options = (60, [vec![0, 1], vec![0; 14]].concat());
    let routed = (43, vec![0, 0, 4, 0, 0, 0, 0, 0]);
    let mut v6 = Frame::tcp(CLIENT6, VIP6, SYN);
    v6.extensions = vec![hop_by_hop.clone(), destination_options.clone(), routed];
    homes.translates(&v6, "2001:db8:2::2", &["[2001:db8:2::11]:8080"]);
}

#[test]
fn extension_headers_that_are_not_walked_are_the_host_s() {
    let mut homes = homes();
    let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let rows: [(&str, Extensions, Reason); 5] = [
        ("authentication", vec![(51, vec![0; 8])], Reason::ExtensionHeaders),
        ("segments left", vec![(43, vec![0, 0, 4, 1, 0, 0, 0, 0])], Reason::ExtensionHeaders),
        ("too many", vec![options.clone(); 5], Reason::ExtensionHeaders),
        ("beyond the packet", vec![(60, vec![0, 30, 1, 4, 0, 0, 0, 0])], Reason::Malformed),
        ("nothing behind", vec![(59, vec![0; 8])], Reason::NotTcpOrUdp),
    ];
    for (what, extensions, reason) in rows {
        println!("{what}");
        let mut frame = Frame::tcp(CLIENT6, VIP6, SYN);
        frame.extensions = extensions;
        homes.ends_with(&frame, reason);
    }
}

#[test]
fn a_packet_whose_hops_are_used_up_ends_here() {
    let mut homes = homes();
    for ttl in [0, 1] {
        homes.ends_with(&Frame::tcp(CLIENT, VIP, SYN).ttl(ttl), Reason::TtlExpired);
        homes.ends_with(&Frame::tcp(CLIENT6, VIP6, SYN).ttl(ttl), Reason::TtlExpired);
    }
    homes.translates(&Frame::tcp(CLIENT, VIP, SYN).ttl(2), "198.51.100.2", &["198.51.100.11:8080"]);
}

#[test]
fn a_udp_packet_without_a_checksum_stays_without() {
    let mut homes = homes();
    let mut frame = Frame::udp(CLIENT, "192.0.2.10:53");
    frame.udp_checksum = false;
    homes.translates(&frame, "198.51.100.2", &["198.51.100.11:5353"]);
}

#[test]
fn a_service_without_a_backend_says_so() {
    let mut homes = homes();
    homes.change_service(VIP, Protocol::TCP, |service| service.ring_len = 0);
    homes.ends_with(&Frame::tcp(CLIENT, VIP, SYN), Reason::NoBackend);
}

#[test]
fn a_udp_packet_in_the_name_of_a_service_or_a_backend_starts_no_flow() {
    let mut homes = homes();
    homes.service("192.0.2.10:7", Protocol::UDP, Mode::Nat, &["198.51.100.11:7"]);
    for forged in ["192.0.2.10:7", "198.51.100.11:7", "198.51.100.11:5353"] {
        homes.ends_with(&Frame::udp(forged, "192.0.2.10:53"), Reason::SourceIsOurs);
    }
    homes.translates(
        &Frame::udp("198.51.100.11:40000", "192.0.2.10:53"),
        "198.51.100.2",
        &["198.51.100.11:5353"],
    );
}
