//! What the host's neighbour table is to send: packets to neighbours that are not known, and those that no daemon cares for.

use std::collections::BTreeMap;
use std::time::Duration;

use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::process::handover::{CLEAR, SET, Target, target};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{BackendIndex, Mode, Route, SILENCE, Settings};

use crate::homes::{EGRESS, Homes, INGRESS, run};
use crate::packets::{ACK, BACKEND_MAC, Frame, LB_BACKEND_MAC, SYN};

const MARK: u64 = 0x1234_5678_9abc_def0 & !CLEAR | SET;
const FRESH_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn change(homes: &mut Homes, change: impl Fn(Settings) -> Settings) {
    let settings = change(homes.kernel.settings());
    homes.kernel.write_settings(settings).unwrap();
    homes.host.settings = settings;
}

/// Sends a frame, which the host's neighbour table has to get; returns for whom, and what is behind its Ethernet header.
fn handed(homes: &mut Homes, frame: &Frame) -> (Target, Vec<u8>) {
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Pass(Reason::HandedToHost));
    let packet = Buffer::new(&outcome.bytes, INGRESS);
    let found = target(&packet, &homes.host.settings).expect("it is marked");
    assert_eq!(
        (outcome.bytes[0] & 3, outcome.bytes[6] & 3),
        (2, 2),
        "both addresses are local and no group's"
    );
    (found, outcome.bytes[14..].to_vec())
}

/// What is behind the Ethernet header of this frame once it leaves from and to these.
fn left(frame: &Frame, from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    frame.clone().untagged().leaving(from, to, ([0; 6], [0; 6])).bytes()[14..].to_vec()
}

#[test]
fn a_reply_to_a_client_whose_neighbour_is_not_known_is_rewritten_and_left_to_the_host_to_resolve_and_send() {
    for (vip, backend, client) in [
        ("192.0.2.10:80", "198.51.100.11:8080", "192.0.2.101:40000"),
        ("[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:1::101]:40000"),
    ] {
        let mut homes = Homes::new();
        let host = client.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
        let index = homes.reach_clients(&BTreeMap::from([(host, None)]));
        homes.service(vip, Protocol::TCP, Mode::Nat, &[backend]);
        let reply = Frame::tcp(backend, client, ACK);
        homes.ends_with(&reply, Reason::ReplyNeighbourMissing);
        change(&mut homes, |settings| Settings { handover: MARK, ..settings });
        let expected = (Target::Interface(index), left(&reply, vip, client));
        assert_eq!(handed(&mut homes, &reply), expected);
        assert_eq!(handed(&mut homes, &reply.clone().tag(0x8100, 42)), expected, "its tag is gone");
    }
}

#[test]
fn a_frame_of_somebody_who_guesses_is_not_taken_for_one_that_the_datapath_has_marked() {
    let settings = Settings { handover: MARK, ..Homes::new().host.settings };
    let mut bytes = [0; 64];
    bytes[..8].copy_from_slice(&MARK.to_ne_bytes());
    bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
    assert_eq!(target(&Buffer::new(&bytes, 1), &settings), Some(Target::Interface(7)));
    bytes[8..12].copy_from_slice(&(7u32 | 1 << 31).to_ne_bytes());
    assert_eq!(target(&Buffer::new(&bytes, 1), &settings), Some(Target::Backend(BackendIndex(7))));
    for place in 0..8 {
        bytes[place] ^= 0x40;
        assert_eq!(target(&Buffer::new(&bytes, 1), &settings), None, "byte {place}");
        bytes[place] ^= 0x40;
    }
    let off = Settings { handover: 0, ..settings };
    assert_eq!(target(&Buffer::new(&[0; 64], 1), &off), None, "without a mark nobody has one");
}

/// Until what is sent now is not in the part of a second or so that the host's neighbour table gets.
fn leave_the_part() {
    let now = || {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        (now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) % (1 << 30)
    };
    while !(50_000_000..900_000_000).contains(&now()) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each CPU counts for itself which packet looks for the heartbeat.
fn stay_on_this_cpu() {
    let mut here = nix::sched::CpuSet::new();
    let cpu = nix::sched::sched_getcpu().unwrap();
    here.set(cpu).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &here).unwrap();
}

#[test]
fn without_a_daemon_packets_go_to_backends_by_the_way_that_the_kernel_knows_now() {
    stay_on_this_cpu();
    for (vip, backend, client) in [
        ("192.0.2.10", "192.0.2.77", "203.0.113.5:40000"),
        ("[2001:db8::10]", "[2001:db8:1::77]", "[2001:db8:9::5]:40000"),
    ] {
        for (port, mode) in (80..).zip([Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue]) {
            let mut homes = Homes::new();
            let host = backend.trim_matches(['[', ']']);
            let index = homes.reach_clients(&BTreeMap::from([(host, Some(FRESH_MAC))]));
            let vip = format!("{vip}:{port}");
            homes.service(&vip, Protocol::TCP, mode, &[&format!("{backend}:8080")]);
            let frame = Frame::tcp(client, &vip, SYN);
            let macs = |homes: &mut Homes| {
                leave_the_part();
                let outcome = homes.send(&frame);
                (outcome.verdict, outcome.bytes[..12].to_vec())
            };
            let frozen = (Verdict::Redirect(EGRESS), [BACKEND_MAC, LB_BACKEND_MAC].concat());
            assert_eq!(macs(&mut homes), frozen, "{mode:?}: nobody has promised a heartbeat");
            let now = xdp_lb::datapath::monotonic_seconds().unwrap();
            change(&mut homes, |settings| Settings { heartbeat: now, ..settings });
            for _ in 0..130 {
                assert_eq!(macs(&mut homes), frozen, "{mode:?}: the daemon lives");
            }
            change(&mut homes, |settings| Settings { heartbeat: now - SILENCE, ..settings });
            // One of 64 packets looks for it.
            let fresh = (Verdict::Redirect(index), [FRESH_MAC, CLIENT_MAC].concat());
            let seen = (0..64).position(|_| macs(&mut homes) == fresh);
            assert!(seen.is_some(), "{mode:?}: its silence is found");
            assert_eq!(macs(&mut homes), fresh, "{mode:?}: once found, it holds for all");
            let restored = homes.kernel.restore(&[]).unwrap();
            assert_eq!(restored, Vec::<String>::new(), "{mode:?}: nobody else has written that");
            assert_eq!(macs(&mut homes), fresh, "{mode:?}: to look at the settings changes nothing");
            change(&mut homes, |settings| Settings { heartbeat: now, alone: 0, ..settings });
            homes.host.is_alone.set(false);
            assert_eq!(macs(&mut homes), frozen, "{mode:?}: the daemon is back");
        }
    }
}

#[test]
fn without_a_daemon_a_backend_whose_neighbour_is_gone_gets_its_packets_from_the_host_and_one_without_a_route_as_before()
 {
    stay_on_this_cpu();
    for (port, mode) in (80..).zip([Mode::Nat, Mode::FullNat, Mode::Dsr]) {
        let mut homes = Homes::new();
        homes.reach_clients(&BTreeMap::from([("192.0.2.77", None)]));
        let vip = format!("192.0.2.10:{port}");
        homes.service(&vip, Protocol::TCP, mode, &["192.0.2.77:8080"]);
        change(&mut homes, |settings| Settings { heartbeat: 1, ..settings });
        let frame = Frame::tcp("203.0.113.5:40000", &vip, SYN);
        assert_eq!(homes.send(&frame).verdict, Verdict::Redirect(EGRESS), "{mode:?}: nobody could be asked");
        change(&mut homes, |settings| Settings { handover: MARK, alone: 1, ..settings });
        let (target, packet) = handed(&mut homes, &frame);
        assert_eq!(target, Target::Backend(BackendIndex(1)));
        match mode {
            Mode::Dsr => assert_eq!(packet[12..20], left(&frame, "203.0.113.5:40000", &vip)[12..20]),
            _ => assert_eq!(packet[16..20], [192, 0, 2, 77], "{mode:?}"),
        }
        // No route at all, which the kernel does not tell from an address of its own.
        run("ip route flush table main");
        homes.host.routes.insert("192.0.2.77".parse::<std::net::IpAddr>().unwrap().into(), Route::Local);
        assert_eq!(
            homes.send(&frame).verdict,
            Verdict::Redirect(EGRESS),
            "{mode:?}: what it was is better than nothing"
        );
    }
}

#[test]
fn where_the_host_forwards_nothing_the_kernel_is_asked_to_send_without_a_daemon() {
    let mut homes = Homes::new();
    let mac = Some(FRESH_MAC);
    homes.reach_clients(&BTreeMap::from([("192.0.2.77", mac)]));
    run("sysctl -qw net.ipv4.ip_forward=0");
    let address = "192.0.2.77".parse::<std::net::IpAddr>().unwrap().into();
    homes.host.routes.insert(address, Route::Unroutable);
    homes.service("192.0.2.10:80", Protocol::TCP, Mode::FullNat, &["192.0.2.77:8080"]);
    change(&mut homes, |settings| Settings { heartbeat: 1, handover: MARK, ..settings });
    let frame = Frame::tcp("203.0.113.5:40000", "192.0.2.10:80", SYN);
    assert_eq!(handed(&mut homes, &frame).0, Target::Backend(BackendIndex(1)));
    // The kernel would look for the route on the interface that the VLAN is on.
    homes.change_backend("192.0.2.77:8080", |backend| backend.vlan = 42);
    assert_eq!(homes.send(&frame).verdict, Verdict::Redirect(EGRESS));
}
