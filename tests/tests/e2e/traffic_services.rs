//! Several services at once, which share addresses and backends.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use xdp_lb_tests::client::{Connection, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, services};

/// More VIPs, on the load balancer's eth0.
fn add_vips(network: &Network, addresses: &[&str]) -> Vec<IpAddr> {
    for address in addresses {
        let (length, nodad) = if address.contains(':') { (128, "nodad") } else { (32, "") };
        network.lb.run(&format!("ip addr add {address}/{length} dev eth0 {nodad}")).unwrap();
    }
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// Sends a line and expects it back.
fn assert_echoes(connection: &mut Connection, line: &str) {
    connection.stream.get_mut().write_all(line.as_bytes()).unwrap();
    let mut back = vec![0; line.len()];
    connection.stream.read_exact(&mut back).unwrap();
    assert_eq!(back, line.as_bytes());
}

/// Opens connections from ports of the client's own choice to all these services by turns, keeps them open, then
/// uses them all by turns. Each must be served by its expected backend.
fn assert_all_serve(network: &Network, expected: &[(SocketAddr, &str)]) {
    let mut connections = Vec::new();
    for round in 0..5 {
        for (vip, name) in expected {
            let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
            let source = SocketAddr::new(Network::client_address(family), 0);
            let connection = Connection::open(&network.client, source, *vip).unwrap();
            assert_eq!(connection.name, *name, "{vip}, round {round}");
            connections.push(connection);
        }
    }
    for round in 0..3 {
        for (number, connection) in connections.iter_mut().enumerate() {
            assert_echoes(connection, &format!("round {round} of connection {number}\n"));
        }
    }
}

/// Sends each of these services datagrams from a socket of its own, and compares what comes back with what its backend, by
/// its name, should make of them.
fn assert_all_answer_datagrams(
    network: &Network,
    expected: &[(SocketAddr, &str)],
    answer: impl Fn(&str, &str) -> String,
) {
    for (vip, name) in expected {
        let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
        let source = SocketAddr::new(Network::client_address(family), 0);
        let socket = udp_socket(&network.client, source).unwrap();
        // Answers that come from elsewhere than the VIP are not received.
        socket.connect(vip).unwrap();
        for round in 0..3 {
            let sent = format!("round {round} to {vip}");
            socket.send(sent.as_bytes()).unwrap();
            let mut back = [0; 100];
            let length = socket.recv(&mut back).unwrap_or_else(|error| panic!("{vip}: {error}"));
            assert_eq!(String::from_utf8_lossy(&back[..length]), answer(name, &sent));
        }
    }
}

#[test]
fn services_on_one_vip_and_on_several_each_reach_their_own_backends() {
    let network = Network::new("services", 3).unwrap();
    let vips = add_vips(&network, &["192.0.2.20", "2001:db8:1::20"]);
    let mut servers = Vec::new();
    for host in &network.backends {
        servers.extend([7000, 7001].map(|port| TcpEcho::start(host, port).unwrap()));
    }
    let mut expected = Vec::new();
    let mut config = Vec::new();
    for (family, second) in [(Family::V4, vips[0]), (Family::V6, vips[1])] {
        let first = Network::vip(family);
        // (VIP, its port, mode, backend, its port): each service has one backend, so that a mix-up shows.
        let table = [
            (first, 80, Mode::Nat, 1, 7000),
            (first, 81, Mode::FullNat, 2, 7000),
            (first, 82, Mode::Nat, 3, 7000),
            (first, 83, Mode::FullNat, 1, 7001),
            (second, 80, Mode::Nat, 2, 7001),
            (second, 81, Mode::FullNat, 3, 7001),
        ];
        for (vip, port, mode, backend, backend_port) in table {
            let vip = SocketAddr::new(vip, port);
            let name = format!("service-{}", config.len());
            let backends = [Network::endpoint(family, backend, backend_port)];
            config.push(Service::tcp(name, vip).mode(mode).backends(backends));
            expected.push((vip, network.backends[backend - 1].name()));
        }
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services(config)).unwrap();
    daemon.wait_until_up().unwrap();
    assert_all_serve(&network, &expected);
}

#[test]
fn a_backend_shared_by_two_nat_services_replies_from_the_vip_of_each() {
    let network = Network::new("services", 1).unwrap();
    let vips = add_vips(&network, &["192.0.2.20", "2001:db8:1::20"]);
    let _server = TcpEcho::start(&network.backends[0], 7000).unwrap();
    let mut expected = Vec::new();
    let mut config = Vec::new();
    for (family, second) in [(Family::V4, vips[0]), (Family::V6, vips[1])] {
        for vip in [Network::vip(family), second] {
            let vip = SocketAddr::new(vip, 80);
            let name = format!("service-{}", config.len());
            let backends = [Network::endpoint(family, 1, 7000)];
            config.push(Service::tcp(name, vip).mode(Mode::Nat).backends(backends));
            expected.push((vip, "backend-1"));
        }
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services(config)).unwrap();
    daemon.wait_until_up().unwrap();
    assert_all_serve(&network, &expected);
}

#[test]
fn a_backend_shared_by_a_nat_and_a_full_nat_service_serves_both_over_tcp_and_udp() {
    let network = Network::new("services", 1).unwrap();
    let _servers = (
        TcpEcho::start(&network.backends[0], 7000).unwrap(),
        UdpEcho::start_nameless(&network.backends[0], 7000).unwrap(),
    );
    let mut config = Vec::new();
    let mut expected = Vec::new();
    for family in Family::ALL {
        for (port, mode) in (80..).zip(Mode::ALL) {
            let vip = SocketAddr::new(Network::vip(family), port);
            let backends = [Network::endpoint(family, 1, 7000)];
            config.push(Service::tcp(format!("tcp-{}", config.len()), vip).mode(mode).backends(backends));
            config.push(Service::udp(format!("udp-{}", config.len()), vip).mode(mode).backends(backends));
            expected.push((vip, "backend-1"));
        }
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services(config)).unwrap();
    daemon.wait_until_up().unwrap();
    assert_all_serve(&network, &expected);
    assert_all_answer_datagrams(&network, &expected, |_, sent| sent.to_owned());
}

#[test]
fn services_on_ranges_of_ports_and_on_all_keep_the_port_that_a_client_asks_for() {
    let network = Network::new("ports", 3).unwrap();
    let mut servers = Vec::new();
    for host in &network.backends {
        servers.extend([5000, 5001, 6000].map(|port| TcpEcho::start(host, port).unwrap()));
    }
    let name = |number: usize| network.backends[number - 1].name();
    let mut config = Vec::new();
    let mut expected = Vec::new();
    for (family, mode) in [(Family::V4, Mode::FullNat), (Family::V6, Mode::Nat)] {
        let vip = Network::vip(family);
        let with = |ports: &str| match vip {
            IpAddr::V4(vip) => format!("{vip}:{ports}"),
            IpAddr::V6(vip) => format!("[{vip}]:{ports}"),
        };
        for (ports, backend, port) in [("5001", 1, 5000), ("5000-5999", 2, 0), ("*", 3, 0)] {
            let service = Service::tcp(format!("service-{}", config.len()), with(ports)).mode(mode);
            let service = if port == 0 {
                service.check(r#"{ type = "tcp", port = 6000, interval = "500ms", rise = 1, fall = 6 }"#)
            } else {
                service
            };
            config.push(service.backends([Network::endpoint(family, backend, port)]));
        }
        for (port, backend) in [(5001, 1), (5000, 2), (6000, 3)] {
            expected.push((SocketAddr::new(vip, port), name(backend)));
        }
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services(config)).unwrap();
    daemon.wait_until_up().unwrap();
    assert_all_serve(&network, &expected);
}

#[test]
fn a_range_of_ports_is_added_while_the_daemon_runs_for_tcp_and_udp() {
    let network = Network::new("ranges", 2).unwrap();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], "").unwrap();
    let mut servers = Vec::new();
    let mut expected = Vec::new();
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let first = 5000 + 100 * number as u16;
        let vip = SocketAddr::new(Network::vip(way.family), first);
        let host = &network.backends[number % 2];
        let backend = Network::endpoint(way.family, number % 2 + 1, 0).to_string();
        for protocol in ["tcp", "udp"] {
            let mut arguments = vec!["service".to_owned(), "add".to_owned(), format!("{way}-{protocol}")];
            arguments.push(format!("{vip}-{}", first + 99));
            arguments.extend(["--protocol", protocol, "--mode", &way.mode.to_string()].map(str::to_owned));
            arguments.extend(["--check", "none", "--backend", &backend].map(str::to_owned));
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            daemon.cli(&arguments).unwrap();
        }
        for port in [first, first + 50, first + 99] {
            servers.push((TcpEcho::start(host, port).unwrap(), UdpEcho::start(host, port).unwrap()));
            expected.push((SocketAddr::new(vip.ip(), port), host.name()));
        }
    }
    daemon.wait_until_up().unwrap();
    assert_all_serve(&network, &expected);
    assert_all_answer_datagrams(&network, &expected, |name, sent| format!("{name} {sent}"));
    // Next to the ranges is nobody's.
    let outside = SocketAddr::new(Network::vip(Family::V4), 4999);
    let source = SocketAddr::new(Network::client_address(Family::V4), 0);
    assert!(Connection::open(&network.client, source, outside).is_err());
}
