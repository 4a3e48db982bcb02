//! Affinity: all flows of a client, or of a network of them, have one slot.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use xdp_lb_common::net::Protocol;
use xdp_lb_common::process::Verdict;
use xdp_lb_common::tables::Mode;

use crate::homes::{EGRESS, Homes};
use crate::packets::{Frame, SYN, ends};

const VIP: &str = "192.0.2.10:80";
const VIP6: &str = "[2001:db8::10]:80";
const BACKENDS: [&str; 4] =
    ["198.51.100.11:8080", "198.51.100.12:8080", "198.51.100.13:8080", "198.51.100.14:8080"];
const BACKENDS6: [&str; 4] =
    ["[2001:db8:2::11]:8080", "[2001:db8:2::12]:8080", "[2001:db8:2::13]:8080", "[2001:db8:2::14]:8080"];

/// Where a frame leaves from and goes to.
fn way(homes: &mut Homes, frame: &Frame) -> (SocketAddr, SocketAddr) {
    let outcome = homes.send(frame);
    assert_eq!(outcome.verdict, Verdict::Redirect(EGRESS));
    ends(&outcome.bytes)
}

/// The backends of the connections from this address, one from each of 40 ports.
fn backends(homes: &mut Homes, client: &str, vip: &str) -> BTreeSet<SocketAddr> {
    let client = client.parse().unwrap();
    let from = |port| SocketAddr::new(client, port).to_string();
    (40_000..40_040).map(|port| way(homes, &Frame::tcp(&from(port), vip, SYN)).1).collect()
}

#[test]
fn a_client_s_connections_go_to_one_backend_and_other_clients_elsewhere() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut homes = Homes::new();
        homes.service(VIP, Protocol::TCP, mode, &BACKENDS);
        assert_eq!(backends(&mut homes, "203.0.113.5", VIP).len(), 4, "without affinity");
        homes.change_service(VIP, Protocol::TCP, |service| service.affinity_bits = 128);
        let mut all = BTreeSet::new();
        for client in 1..=20 {
            let its = backends(&mut homes, &format!("203.0.113.{client}"), VIP);
            // One that was there before affinity has records still.
            assert!(its.len() == 1 || client == 5, "{its:?}");
            all.extend(its);
        }
        assert_eq!(all.len(), 4);
    }
}

#[test]
fn a_network_s_clients_go_to_one_backend() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::Nat, &BACKENDS);
    homes.change_service(VIP, Protocol::TCP, |service| service.affinity_bits = 96 + 24);
    homes.service(VIP6, Protocol::TCP, Mode::Nat, &BACKENDS6);
    homes.change_service(VIP6, Protocol::TCP, |service| service.affinity_bits = 64);
    for (first, second, vip) in
        [("203.0.113.5", "203.0.113.250", VIP), ("2001:db8:9:1::5", "2001:db8:9:1:ffff:ffff:ffff:fffe", VIP6)]
    {
        let its = backends(&mut homes, first, vip);
        assert_eq!(its.len(), 1, "{its:?}");
        assert_eq!(backends(&mut homes, second, vip), its);
    }
    let networks: BTreeSet<_> =
        (0..20).flat_map(|number| backends(&mut homes, &format!("203.0.{number}.5"), VIP)).collect();
    assert_eq!(networks.len(), 4);
    let networks: BTreeSet<_> =
        (0..20).flat_map(|number| backends(&mut homes, &format!("2001:db8:9:{number}::5"), VIP6)).collect();
    assert_eq!(networks.len(), 4);
}

#[test]
fn services_over_the_same_ring_send_a_client_to_the_same_backend() {
    let mut homes = Homes::new();
    const OTHER_VIP: &str = "192.0.2.11:443";
    for vip in [VIP, OTHER_VIP] {
        homes.service(vip, Protocol::TCP, Mode::FullNat, &BACKENDS);
        homes.change_service(vip, Protocol::TCP, |service| service.affinity_bits = 128);
    }
    for client in 1..=20 {
        let client = format!("203.0.113.{client}");
        assert_eq!(backends(&mut homes, &client, VIP), backends(&mut homes, &client, OTHER_VIP));
    }
}

#[test]
fn the_connections_of_a_client_with_affinity_find_ports_all_over_the_range() {
    let mut homes = Homes::new();
    homes.service(VIP, Protocol::TCP, Mode::FullNat, &BACKENDS[..1]);
    homes.change_service(VIP, Protocol::TCP, |service| service.affinity_bits = 128);
    let ports: BTreeSet<u16> = (1..=200)
        .map(|port| way(&mut homes, &Frame::tcp(&format!("203.0.113.5:{port}"), VIP, SYN)).0.port())
        .collect();
    assert_eq!(ports.len(), 200);
}
