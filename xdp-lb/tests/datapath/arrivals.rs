//! Where backends' packets may come in.

use std::collections::BTreeMap;

use xdp_lb_common::net::{MacAddress, Protocol};
use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{BackendIndex, Check, FlowKey, Mode, RECORDS_FLOWS, Route, Settings, Tags};

use crate::homes::{Homes, run};
use crate::packets::{ACK, CLIENT_MAC, Frame, Icmp, RST, SYN, ends, fragments};

const FAMILIES: [[&str; 3]; 2] = [
    ["192.0.2.10:80", "198.51.100.11:8080", "192.0.2.100:40000"],
    ["[2001:db8::10]:80", "[2001:db8:2::11]:8080", "[2001:db8:1::100]:40000"],
];

/// Both homes, an interface towards the clients and one towards the backends, who are in this VLAN.
fn homes(mode: Mode, vlan: u16) -> (Homes, u32, u32) {
    let mut homes = Homes::new();
    let inside = homes.add_interface("inside");
    let outside = homes.add_interface("outside");
    homes.reach_clients(&BTreeMap::from([
        ("192.0.2.100", Some(CLIENT_MAC)),
        ("2001:db8:1::100", Some(CLIENT_MAC)),
    ]));
    for [vip, backend, _] in FAMILIES {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            homes.service(vip, protocol, mode, &[backend]);
        }
    }
    for place in 1..=4 {
        let mut backend = homes.host.backends[place];
        (backend.ifindex, backend.vlan) = (inside, vlan);
        homes.apply(&[xdp_lb::tables::Write::Backend(BackendIndex(place as u32), backend)]);
    }
    homes.set_asymmetric_replies(false);
    (homes, inside, outside)
}

fn is_taken(homes: &mut Homes, ingress: u32, bytes: &[u8]) -> bool {
    match homes.send_bytes_by(ingress, bytes).verdict {
        Verdict::Redirect(_) | Verdict::Transmit => true,
        Verdict::Drop(Reason::ReplyFromElsewhere) => false,
        other => panic!("{other:?}"),
    }
}

/// A client's packet, sent, and what the backend answers it with.
fn exchange(homes: &mut Homes, protocol: Protocol, vip: &str, client: &str, outside: u32) -> Frame {
    let frame = |from: &str, to: &str, flags| match protocol {
        Protocol::TCP => Frame::tcp(from, to, flags),
        _ => Frame::udp(from, to),
    };
    let sent = homes.send_bytes_by(outside, &frame(client, vip, SYN).bytes());
    let (source, backend) = ends(&sent.bytes);
    let mut reply = frame(&backend.to_string(), &source.to_string(), SYN | ACK);
    reply.payload = vec![7; 100];
    reply
}

#[test]
fn a_backend_s_packet_is_taken_where_the_backend_is_and_nowhere_else() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for vlan in [0, 42] {
            let (mut homes, inside, outside) = homes(mode, vlan);
            let tagged = |frame: &Frame, id: u16| match id {
                0 => frame.clone(),
                id => frame.clone().tag(0x8100, id),
            };
            for [vip, _, client] in FAMILIES {
                for protocol in [Protocol::TCP, Protocol::UDP] {
                    let reply = exchange(&mut homes, protocol, vip, client, outside);
                    for (interface, id, expected) in [
                        (outside, vlan, false),
                        (inside, 7, false),
                        (inside, if vlan == 0 { 42 } else { 0 }, false),
                        (inside, vlan, true),
                    ] {
                        let taken = is_taken(&mut homes, interface, &tagged(&reply, id).bytes());
                        assert_eq!(taken, expected, "{mode:?}, VLAN {vlan}: {protocol:?} in VLAN {id}");
                    }
                    // A priority without a VLAN, and a VLAN within the VLAN.
                    let priority = reply.clone().tag(0x8100, 0x6000 | vlan);
                    assert!(is_taken(&mut homes, inside, &priority.bytes()));
                    let stacked = tagged(&reply, vlan.max(1)).tag(0x8100, vlan.max(1));
                    assert!(!is_taken(&mut homes, inside, &stacked.bytes()));
                }
            }
        }
    }
}

#[test]
fn a_packet_that_is_refused_changes_nothing() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let (mut homes, inside, outside) = homes(mode, 0);
        for [vip, _, client] in FAMILIES {
            homes.change_service(vip, Protocol::TCP, |service| service.options = RECORDS_FLOWS);
            let reply = exchange(&mut homes, Protocol::TCP, vip, client, outside);
            let reset = Frame { tcp: Some(RST | ACK), ..reply.clone() };
            let traffic = homes.traffic();
            assert!(!is_taken(&mut homes, outside, &reset.bytes()));
            assert_eq!(homes.traffic(), traffic, "nor does it count as one of the backend's");
            let live = |homes: &mut Homes| homes.census().live.values().sum::<u64>();
            let before = live(&mut homes);
            assert!(is_taken(&mut homes, inside, &reset.bytes()));
            assert_eq!(live(&mut homes), before - 1, "{mode:?}: the backend's own ends the flow");
        }
    }
}

#[test]
fn errors_and_fragments_in_a_backend_s_name_are_taken_where_the_backend_is() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let (mut homes, inside, outside) = homes(mode, 0);
        for [vip, backend, client] in FAMILIES {
            let reply = exchange(&mut homes, Protocol::UDP, vip, client, outside);
            let [from, to] =
                [backend, &reply.to.to_string()].map(|end| end.parse::<std::net::SocketAddr>().unwrap());
            let about = Frame { from: to, to: from, ..reply.clone() };
            let error = Icmp::too_big(&from.ip().to_string(), &to.ip().to_string(), &about, 1000);
            assert!(!is_taken(&mut homes, outside, &error.bytes()), "{mode:?}");
            assert!(is_taken(&mut homes, inside, &error.bytes()), "{mode:?}");

            let parts = fragments(&reply, 40, 9);
            assert!(!is_taken(&mut homes, outside, &parts[0]), "{mode:?}");
            assert!(is_taken(&mut homes, inside, &parts[0]), "{mode:?}");
            assert!(!is_taken(&mut homes, outside, &parts[1]), "{mode:?}");
            assert!(is_taken(&mut homes, inside, &parts[1]), "{mode:?}");
        }
    }
}

#[test]
fn the_answer_to_a_check_is_taken_where_the_backend_is() {
    let (mut homes, inside, outside) = homes(Mode::Dsr, 0);
    let [vip, ..] = FAMILIES[0];
    let own = "198.51.100.2:50000";
    let answer = Frame::tcp(vip, own, SYN | ACK);
    let [vip_end, own] =
        [vip, own].map(|end| xdp_lb_common::net::Endpoint::from_socket(end.parse().unwrap(), Protocol::TCP));
    let rule = xdp_lb_common::tables::Reply { answers_checks: 1, ..Default::default() };
    homes.apply(&[xdp_lb::tables::Write::Reply(vip_end, rule)]);
    let check = Check { service: vip_end, backend: BackendIndex(1), ifindex: inside };
    homes.put_check(FlowKey::new(own, vip_end), check);
    assert!(!is_taken(&mut homes, outside, &answer.bytes()));
    assert!(is_taken(&mut homes, inside, &answer.bytes()));
}

#[test]
fn a_port_and_a_vlan_device_count_as_what_they_belong_to() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let (mut homes, inside, outside) = homes(mode, 42);
        let [vip, _, client] = FAMILIES[0];
        let reply = exchange(&mut homes, Protocol::TCP, vip, client, outside);
        let tagged = reply.clone().tag(0x8100, 42);
        let other = homes.add_interface("third");
        assert!(!is_taken(&mut homes, other, &tagged.bytes()));
        // A port of the bond that the backend is behind.
        homes.set_devices(&BTreeMap::from([(other, (inside, 0))]));
        assert!(is_taken(&mut homes, other, &tagged.bytes()));
        assert!(!is_taken(&mut homes, other, &reply.bytes()), "not in the VLAN");
        // The VLAN device, which takes the tag off; and on a bond, of which the other is a port.
        for below in [inside, outside] {
            homes.set_devices(&BTreeMap::from([(other, (below, 42)), (outside, (inside, 0))]));
            assert!(is_taken(&mut homes, other, &reply.bytes()));
        }
        homes.set_devices(&BTreeMap::from([(other, (inside, 43))]));
        assert!(!is_taken(&mut homes, other, &reply.bytes()), "another VLAN's");
    }
}

#[test]
fn where_the_network_is_asymmetric_a_backend_s_packet_comes_in_anywhere() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let (mut homes, _, outside) = homes(mode, 0);
        let [vip, backend, client] = FAMILIES[0];
        let reply = exchange(&mut homes, Protocol::TCP, vip, client, outside);
        assert!(!is_taken(&mut homes, outside, &reply.bytes()));
        homes.set_asymmetric_replies(true);
        assert!(is_taken(&mut homes, outside, &reply.bytes()));
        homes.set_asymmetric_replies(false);
        assert!(!is_taken(&mut homes, outside, &reply.bytes()));
        // Where it is not known where the backend is.
        homes.change_backend(backend, |backend| backend.ifindex = 0);
        assert!(is_taken(&mut homes, outside, &reply.bytes()));
    }
}

#[test]
fn without_a_daemon_a_backend_s_packet_comes_in_by_the_way_that_the_kernel_knows_now() {
    for mode in [Mode::Nat, Mode::FullNat] {
        for [vip, backend, client] in FAMILIES {
            let (mut homes, inside, outside) = homes(mode, 0);
            let reply = exchange(&mut homes, Protocol::TCP, vip, client, outside);
            let address: std::net::SocketAddr = backend.parse().unwrap();
            let address = address.ip();
            // Else it would announce its IPv6 groups, which the program at the other end counts.
            run("sysctl -qw net.ipv6.conf.outside-peer.disable_ipv6=1");
            run("ip link set outside-peer up");
            run("ip link set outside up");
            run(&format!("ip route add {address} dev outside"));
            run(&format!(
                "ip neighbour replace {address} lladdr 02:00:00:00:00:77 dev outside nud permanent"
            ));
            let way = Route::Via {
                ifindex: outside,
                tags: Tags::default(),
                source_mac: MacAddress::default(),
                destination_mac: MacAddress::default(),
            };
            homes.host.routes.insert(address.into(), way);
            assert!(!is_taken(&mut homes, outside, &reply.bytes()), "the daemon says where the backend is");
            let settings = Settings { alone: 1, ..homes.kernel.settings() };
            homes.kernel.write_settings(settings).unwrap();
            homes.host.settings = settings;
            assert!(is_taken(&mut homes, outside, &reply.bytes()));
            assert!(is_taken(&mut homes, inside, &reply.bytes()), "it may have been on its way");
            // Without a route its packets leave as the daemon has said last.
            run(&format!("ip route delete {address} dev outside"));
            homes.host.routes.insert(address.into(), Route::Local);
            assert!(!is_taken(&mut homes, outside, &reply.bytes()));
        }
    }
}
