//! What the kernel cannot be brought to in a test: no room for a record, none for a tag, time that passes. On the
//! host alone.

use std::sync::atomic::AtomicU64;

use xdp_lb_common::flow_table::host::HostMemory;
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{Mode, RECORDS_FLOWS, SHARED};

use crate::homes::{EGRESS, Homes, INGRESS};
use crate::packets::{ACK, Frame, SYN, fragments};

const VIP: &str = "192.0.2.10:80";

#[test]
fn a_flow_that_cannot_be_recorded_is_dropped() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &["198.51.100.11:8080"]);
        homes.change_service(VIP, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
        homes.host.flows = HostMemory::new(0, AtomicU64::default);
        let mut packet = Buffer::new(&Frame::tcp("203.0.113.5:1", VIP, SYN).bytes(), INGRESS);
        let verdict = homes.process(&mut packet);
        assert_eq!(verdict, Verdict::Drop(Reason::FlowTableFull));
    }
}

#[test]
fn a_client_s_port_that_speaks_to_two_vips_of_a_backend_is_refused_where_no_port_is_left() {
    let mut homes = Homes::new();
    homes.host.settings.snat_port_count = 1;
    for vip in ["192.0.2.10:80", "192.0.2.11:80", "192.0.2.12:80"] {
        homes.service(vip, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    }
    homes.host.backends.iter_mut().for_each(|backend| backend.neighbours |= SHARED);
    let send = |homes: &Homes, vip: &str, flags| {
        homes.process(&mut Buffer::new(&Frame::tcp("203.0.113.5:1", vip, flags).bytes(), INGRESS))
    };
    // Flows that are more than a burst: they do not give their ports away.
    for flags in [SYN, ACK, ACK, ACK, ACK] {
        assert_eq!(send(&homes, "192.0.2.10:80", flags), Verdict::Redirect(EGRESS));
        assert_eq!(send(&homes, "192.0.2.11:80", flags), Verdict::Redirect(EGRESS));
        homes.host.now += 1;
    }
    assert_eq!(send(&homes, "192.0.2.12:80", SYN), Verdict::Drop(Reason::SnatPortsExhausted));
}

#[test]
fn fragments_follow_their_first_for_as_long_as_linux_puts_them_together() {
    let v4 = (VIP, "198.51.100.11:8080", "203.0.113.5:1", 30);
    let v6 = ("[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:1::5]:1", 60);
    for (vip, backend, client, patience) in [v4, v6] {
        let mut homes = Homes::new();
        homes.service(vip, Protocol::UDP, Mode::Nat, &[backend]);
        let mut frame = Frame::udp(client, vip);
        frame.payload = vec![0; 100];
        let parts = fragments(&frame, 40, 1);
        let send = |homes: &Homes, part: usize| {
            let mut packet = Buffer::new(&parts[part], INGRESS);
            homes.process(&mut packet)
        };
        assert_eq!(send(&homes, 0), Verdict::Redirect(EGRESS));
        homes.host.now += patience;
        assert_eq!(send(&homes, 1), Verdict::Redirect(EGRESS));
        homes.host.now += 1;
        assert_eq!(send(&homes, 2), Verdict::Drop(Reason::FragmentWithoutFirst));
    }
}

#[test]
fn a_frame_without_room_for_its_tag_is_dropped() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &["198.51.100.11:8080"]);
    homes.change_backend("198.51.100.11:8080", |backend| backend.vlan = 7);
    let mut packet = Buffer::without_headroom(&Frame::tcp("203.0.113.5:1", VIP, SYN).bytes(), INGRESS);
    let verdict = homes.process(&mut packet);
    assert_eq!(verdict, Verdict::Drop(Reason::HeaderRoom));
}

#[test]
fn a_frame_without_room_for_the_headers_of_a_tunnel_is_dropped() {
    for mode in [Mode::Ipip, Mode::Gue] {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &["198.51.100.11:8080"]);
        let mut frame = Frame::tcp("203.0.113.5:1", VIP, SYN);
        // So few that a hop taken too many would show.
        frame.ttl = 2;
        let mut packet = Buffer::without_headroom(&frame.bytes(), INGRESS);
        assert_eq!(homes.process(&mut packet), Verdict::Drop(Reason::HeaderRoom));
    }
}
