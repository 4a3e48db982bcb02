//! Traffic follows the network: neighbours and routes that change.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_tests::client::{Connection, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, Way, services, until};

const SOON: Duration = Duration::from_secs(40);

/// The name of the backend that answers one datagram to a UDP service of named echo servers.
fn whoami(client: &Host, vip: SocketAddr) -> std::io::Result<String> {
    let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = udp_socket(client, SocketAddr::new(Network::client_address(family), 0)).unwrap();
    socket.connect(vip)?;
    socket.send(b"who")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(text.strip_suffix(" who").expect("it is the echo's answer").to_owned())
}

fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), port(way.mode))
}

fn port(mode: Mode) -> u16 {
    if mode == Mode::Nat { 7000 } else { 7001 }
}

#[test]
fn traffic_and_open_connections_follow_a_backend_whose_mac_address_changes() {
    let network = Network::new("neighbours", 1).unwrap();
    let backend = &network.backends[0];
    let _servers = Mode::ALL.map(|mode| TcpEcho::start(backend, port(mode)).unwrap());
    let config = services(Way::ALL.map(|way| {
        let backends = network.endpoints(way.family, port(way.mode));
        // Nothing but the neighbour's news tells the load balancer.
        Service::tcp(way, vip(way)).mode(way.mode).unchecked().backends(backends)
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let open = |way: Way| {
        let source = SocketAddr::new(Network::client_address(way.family), 0);
        Connection::open(&network.client, source, vip(way))
    };
    let mut before = Way::ALL.map(|way| (way, open(way).unwrap()));

    // With these the backend announces its new address, as a failover pair does.
    backend.sysctl("net.ipv4.conf.eth0.arp_notify", "1").unwrap();
    backend.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1").unwrap();
    backend.run("ip link set dev eth0 address 02:00:5e:00:53:01").unwrap();
    for way in Way::ALL {
        let backends = || daemon.backends(Some(&way.to_string()));
        until(&format!("the new address of {way}'s backend"), SOON, || {
            Ok(backends()?[0]["next_hop"]["mac"] == "02:00:5e:00:53:01")
        })
        .unwrap();
        assert_eq!(open(way).unwrap().name, "backend-1", "{way}");
    }
    for (way, connection) in &mut before {
        connection.stream.get_mut().write_all(b"still there").unwrap();
        let mut back = [0; 11];
        connection.stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!(&back, b"still there");
    }
}

#[test]
fn a_backend_without_a_neighbour_is_unresolved_and_gets_traffic_when_it_appears() {
    let mut network = Network::new("neighbours", 1).unwrap();
    let _servers = Mode::ALL.map(|mode| UdpEcho::start(&network.backends[0], port(mode)).unwrap());
    let config = services(Way::ALL.map(|way| {
        let backend = |number| Network::endpoint(way.family, number, port(way.mode));
        // The second one is not there yet. It gets new flows at once where all flows are recorded.
        Service::udp(way, vip(way))
            .mode(way.mode)
            .key("flow_tracking = \"always\"")
            .backends([backend(1), backend(2)])
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    let second = |way: Way| Network::endpoint(way.family, 2, port(way.mode)).to_string();
    for way in Way::ALL {
        let (service, first) =
            (way.to_string(), Network::endpoint(way.family, 1, port(way.mode)).to_string());
        daemon.wait_for_state(&service, &first, "up", SOON).unwrap();
        daemon.wait_for_state(&service, &second(way), "unresolved", SOON).unwrap();
        for _ in 0..20 {
            assert_eq!(whoami(&network.client, vip(way)).unwrap(), "backend-1", "{way}");
        }
    }

    let backend = network.add_backend().unwrap();
    let _more = Mode::ALL.map(|mode| UdpEcho::start(&backend, port(mode)).unwrap());
    for way in Way::ALL {
        daemon.wait_for_state(&way.to_string(), &second(way), "up", SOON).unwrap();
        let mut names = BTreeSet::new();
        for _ in 0..24 {
            names.insert(whoami(&network.client, vip(way)).unwrap());
        }
        assert_eq!(names, BTreeSet::from(["backend-1", "backend-2"].map(str::to_owned)), "{way}");
    }
}

#[test]
fn traffic_follows_a_route_that_changes() {
    let network = Network::new("neighbours", 2).unwrap();
    // One address on both backends: whoever the route leads to answers.
    let anycast = [("203.0.113.10/32", Family::V4), ("2001:db8:3::10/128", Family::V6)];
    let mut servers = Vec::new();
    for host in &network.backends {
        for (address, _) in anycast {
            host.run(&format!("ip addr add {address} dev lo")).unwrap();
        }
        servers.extend(Mode::ALL.map(|mode| TcpEcho::start(host, port(mode)).unwrap()));
    }
    let lead_to = |number: usize| {
        for (address, family) in anycast {
            let via = Network::endpoint(family, number, 0).ip();
            network.lb.run(&format!("ip route replace {address} via {via}")).unwrap();
        }
    };
    lead_to(1);
    let config = services(Way::ALL.map(|way| {
        let (address, _) = anycast.into_iter().find(|(_, family)| *family == way.family).unwrap();
        let address = address.split_once('/').unwrap().0.parse().unwrap();
        let backend = SocketAddr::new(address, port(way.mode));
        Service::tcp(way, vip(way)).mode(way.mode).unchecked().backends([backend])
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let name = |way: Way| {
        let source = SocketAddr::new(Network::client_address(way.family), 0);
        Connection::open(&network.client, source, vip(way)).map(|connection| connection.name)
    };
    for way in Way::ALL {
        assert_eq!(name(way).unwrap(), "backend-1", "{way}");
    }
    lead_to(2);
    for way in Way::ALL {
        until(&format!("{way} to follow the route"), SOON, || Ok(name(way)? == "backend-2")).unwrap();
    }
}
