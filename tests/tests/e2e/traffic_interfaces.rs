//! Interfaces: clients and backends on several, and both on one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_tests::client::{Connection, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, Way, services};

/// The two modes have ports of their own, before servers of their own.
fn port(mode: Mode) -> u16 {
    if mode == Mode::Nat { 7000 } else { 7001 }
}

fn serve(hosts: &[Host]) -> Vec<(TcpEcho, UdpEcho)> {
    let start =
        |host, mode| (TcpEcho::start(host, port(mode)).unwrap(), UdpEcho::start(host, port(mode)).unwrap());
    hosts.iter().flat_map(|host| Mode::ALL.map(|mode| start(host, mode))).collect()
}

/// A TCP and a UDP service for each way.
fn config(attach: &str, vip: impl Fn(Family) -> IpAddr, backends: impl Fn(Family) -> Vec<IpAddr>) -> String {
    let config = services(Way::ALL.into_iter().flat_map(|way| {
        let vip = SocketAddr::new(vip(way.family), port(way.mode));
        let its = || backends(way.family).into_iter().map(|address| SocketAddr::new(address, port(way.mode)));
        [
            Service::tcp(format!("tcp-{way}"), vip).mode(way.mode).backends(its()),
            Service::udp(format!("udp-{way}"), vip).mode(way.mode).backends(its()),
        ]
    }));
    format!("attach = \"{attach}\"\n{config}")
}

/// Connects and sends a datagram forty times, and expects answers of just these hosts, from either.
fn assert_all_answer(client: &Host, way: Way, vip: IpAddr, expected: &BTreeSet<String>) {
    let vip = SocketAddr::new(vip, port(way.mode));
    let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..40 {
        let connection = Connection::open(client, SocketAddr::new(any, 0), vip);
        tcp.insert(connection.unwrap_or_else(|error| panic!("{way} from {}: {error:#}", client.name())).name);
        let socket = udp_socket(client, SocketAddr::new(any, 0)).unwrap();
        socket.connect(vip).unwrap();
        socket.send(b"who").unwrap();
        let mut answer = [0; 64];
        let length = socket
            .recv(&mut answer)
            .unwrap_or_else(|error| panic!("{way} over UDP from {}: {error}", client.name()));
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        udp.insert(text.strip_suffix(" who").expect("it is the echo's answer").to_owned());
    }
    assert_eq!(&tcp, expected, "{way} over TCP from {}", client.name());
    if way.mode == Mode::FullNat {
        assert_eq!(&udp, expected, "{way} over UDP from {}", client.name());
    } else {
        // Without records nobody can tell a new UDP flow from an old one: the backend that was up first keeps them
        // for a while.
        assert!(udp.is_subset(expected), "{way} over UDP from {}: {udp:?}", client.name());
    }
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn clients_on_two_interfaces_reach_backends_on_two_others() {
    let mut network = Network::new("interfaces", 2).unwrap();
    let second_client = network
        .add_network(
            "eth2",
            ["203.0.113.1/25", "2001:db8:3::1/64"],
            "client-2",
            ["203.0.113.100/25", "2001:db8:3::100/64"],
        )
        .unwrap();
    let third_backend = network
        .add_network(
            "eth3",
            ["203.0.113.129/25", "2001:db8:4::1/64"],
            "backend-3",
            ["203.0.113.200/25", "2001:db8:4::200/64"],
        )
        .unwrap();
    let backends = [network.backends.as_slice(), &[third_backend]].concat();
    let names: BTreeSet<_> = backends.iter().map(|host| host.name().to_owned()).collect();
    let _servers = serve(&backends);
    let addresses = |family| {
        let near = network.endpoints(family, 0).map(|endpoint| endpoint.ip());
        near.chain([parse(if family == Family::V4 { "203.0.113.200" } else { "2001:db8:4::200" })]).collect()
    };
    for attach in ["xdp", "xdp-generic", "tc"] {
        let config = config(attach, Network::vip, addresses);
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1", "eth2", "eth3"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        for way in Way::ALL {
            for client in [&network.client, &second_client] {
                assert_all_answer(client, way, Network::vip(way.family), &names);
            }
        }
    }
}

/// What comes in by the only interface leaves by it (`XDP_TX`).
#[test]
fn clients_and_backends_on_one_interface_reach_each_other() {
    let network = Network::new("one-interface", 2).unwrap();
    let client = network.add_neighbour("neighbour", 100).unwrap();
    let vips = ["198.51.100.10", "2001:db8:2::10"];
    network.lb.run(&format!("ip addr add {}/32 dev eth1", vips[0])).unwrap();
    network.lb.run(&format!("ip addr add {}/128 dev eth1 nodad", vips[1])).unwrap();
    let vip = |family| parse(vips[usize::from(family == Family::V6)]);
    // For `nat`: the client is next to the backends, which would answer it themselves.
    for backend in &network.backends {
        backend.run("ip route add 198.51.100.100/32 via 198.51.100.2").unwrap();
        backend.run("ip -6 route add 2001:db8:2::100/128 via 2001:db8:2::2").unwrap();
    }
    let names: BTreeSet<_> = network.backends.iter().map(|host| host.name().to_owned()).collect();
    let _servers = serve(&network.backends);
    for attach in ["xdp", "xdp-generic", "tc"] {
        let addresses = |family| network.endpoints(family, 0).map(|endpoint| endpoint.ip()).collect();
        let daemon = Daemon::start(&network.lb, &["eth1"], &config(attach, vip, addresses)).unwrap();
        daemon.wait_until_up().unwrap();
        for way in Way::ALL {
            assert_all_answer(&client, way, vip(way.family), &names);
        }
    }
}
