//! Whose address the backends see.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_tests::client::Connection;
use xdp_lb_tests::servers::{Nginx, TcpEcho};
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, services};

fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), if way.mode == Mode::Nat { 80 } else { 81 })
}

#[test]
fn a_server_sees_the_client_in_nat_and_the_load_balancer_in_full_nat() {
    let network = Network::new("addresses", 1).unwrap();
    let _nat = Nginx::start(&network.backends[0], 8080).unwrap();
    let _full_nat = Nginx::start(&network.backends[0], 8081).unwrap();
    let port = |way: Way| if way.mode == Mode::Nat { 8080 } else { 8081 };
    let config = services(Way::ALL.map(|way| {
        Service::tcp(way, vip(way)).mode(way.mode).backends(network.endpoints(way.family, port(way)))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        let seen = network.client.run(&format!("curl -sSf --max-time 30 http://{}/peer", vip(way))).unwrap();
        let seen: IpAddr = seen.trim().parse().unwrap();
        let expected = match way.mode {
            Mode::Nat => Network::client_address(way.family),
            Mode::FullNat => Network::back(way.family),
        };
        assert_eq!(seen, expected, "{way}");
    }
}

#[test]
fn a_server_sees_each_of_the_snat_addresses_and_ports_of_the_range_different_for_each_flow() {
    let network = Network::new("addresses", 1).unwrap();
    let _server = TcpEcho::start(&network.backends[0], 7000).unwrap();
    let pools = [["198.51.100.3", "198.51.100.4"], ["2001:db8:2::3", "2001:db8:2::4"]];
    let pools = pools.map(|pool| pool.map(|address| address.parse::<IpAddr>().unwrap()));
    for address in pools.iter().flatten() {
        let length = if address.is_ipv4() { "24" } else { "64 nodad" };
        network.lb.run(&format!("ip addr add dev eth1 {address}/{length}")).unwrap();
    }
    let config = Family::ALL.into_iter().zip(pools).map(|(family, pool)| {
        let way = Way { family, mode: Mode::FullNat };
        Service::tcp(way, vip(way)).snat_addresses(pool).backends(network.endpoints(family, 7000))
    });
    let config = format!("snat_ports = \"5000-5099\"\n{}", services(config));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for (family, pool) in Family::ALL.into_iter().zip(pools) {
        let way = Way { family, mode: Mode::FullNat };
        let source = SocketAddr::new(Network::client_address(family), 0);
        // All open at once: half of the pool's 200 addresses and ports.
        let connections: Vec<_> =
            (0..100).map(|_| Connection::open(&network.client, source, vip(way)).unwrap()).collect();
        let seen: BTreeSet<_> = connections.iter().map(|connection| connection.seen).collect();
        assert_eq!(seen.len(), connections.len(), "{way}: two flows came from one address and port");
        let addresses: BTreeSet<_> = seen.iter().map(SocketAddr::ip).collect();
        assert_eq!(addresses, BTreeSet::from(pool), "{way}");
        assert!(seen.iter().all(|seen| (5000..=5099).contains(&seen.port())), "{way}: {seen:?}");
    }
}
