//! Clients of a `nat` service to whom its backends would reply directly: their neighbours, and the backends themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use xdp_lb_tests::client::{Connection, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, services};

const TCP: u16 = 7000;
const TRACKED: u16 = 7001;
const OFF: u16 = 7002;
const UDP: u16 = 7003;

fn name(family: Family, port: u16) -> String {
    format!("{}-{port}", if family == Family::V4 { "v4" } else { "v6" })
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::vip(family), port)
}

fn any(family: Family) -> SocketAddr {
    SocketAddr::new(family.any(), 0)
}

/// The backends that answer many connections, and the client addresses that they see.
fn seen(client: &Host, family: Family, port: u16) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
    let connections = (0..24).map(|_| {
        let connection = Connection::open(client, any(family), vip(family, port));
        let connection = connection
            .unwrap_or_else(|error| panic!("{} from {}: {error:#}", name(family, port), client.name()));
        (connection.name, connection.seen.ip())
    });
    connections.unzip()
}

#[test]
fn a_backend_that_is_a_client_of_its_own_vip_and_its_neighbours_are_served_in_nat() {
    let network = Network::new("hairpin", 2).unwrap();
    let neighbour = network.add_neighbour("neighbour", 200).unwrap();
    let _servers: Vec<_> = network
        .backends
        .iter()
        .map(|host| {
            let tcp = [TCP, TRACKED, OFF].map(|port| TcpEcho::start(host, port).unwrap());
            (tcp, UdpEcho::start(host, UDP).unwrap())
        })
        .collect();
    let config = services(Family::ALL.into_iter().flat_map(|family| {
        let backends = |port| network.endpoints(family, port);
        let tcp = |port| {
            Service::tcp(name(family, port), vip(family, port)).mode(Mode::Nat).backends(backends(port))
        };
        [
            tcp(TCP),
            tcp(TRACKED).key("flow_tracking = \"always\""),
            tcp(OFF).key("hairpin = \"off\""),
            Service::udp(name(family, UDP), vip(family, UDP)).mode(Mode::Nat).backends(backends(UDP)),
        ]
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let all: BTreeSet<String> = ["backend-1", "backend-2"].map(String::from).into();
    for family in Family::ALL {
        for port in [TCP, TRACKED] {
            let (names, clients) = seen(&network.client, family, port);
            assert_eq!(
                (names, clients),
                (all.clone(), [Network::client_address(family)].into()),
                "others stay as they are"
            );
            for client in [&network.backends[0], &network.backends[1], &neighbour] {
                let (names, clients) = seen(client, family, port);
                let what = format!("{} from {}", name(family, port), client.name());
                assert_eq!(names, all, "{what}");
                assert_eq!(clients, [Network::back(family)].into(), "{what}");
            }
        }
        for client in [&network.backends[0], &neighbour] {
            let socket = udp_socket(client, any(family)).unwrap();
            socket.connect(vip(family, UDP)).unwrap();
            socket.send(b"who").unwrap();
            let length = socket
                .recv(&mut [0; 64])
                .unwrap_or_else(|error| panic!("UDP from {}: {error}", client.name()));
            assert!(length > 0);
            // Switched off, its replies do not come back.
            let socket = xdp_lb_tests::client::tcp_socket(&neighbour, any(family)).unwrap();
            let connected = socket.connect_timeout(&vip(family, OFF).into(), Duration::from_secs(1));
            assert!(connected.is_err(), "hairpin = \"off\"");
        }
    }
    // Where all flows are recorded, a client that talks to a backend itself is left alone.
    for family in Family::ALL {
        for number in [1, 2] {
            let connection =
                Connection::open(&network.client, any(family), Network::endpoint(family, number, TRACKED))
                    .unwrap_or_else(|error| panic!("{family:?}, backend {number} itself: {error:#}"));
            assert_eq!(connection.name, format!("backend-{number}"));
        }
    }
    let shown = daemon.cli(&["service", "show", &name(Family::V4, OFF)]).unwrap();
    assert!(shown.lines().any(|line| line.contains("hairpin") && line.contains("off")), "{shown}");
}
