//! What a service's policy does to real clients.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use xdp_lb_tests::client::{Connection, crowd, tcp_socket, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, until};

const PORT: u16 = 7000;

#[test]
fn with_affinity_a_clients_connections_go_to_one_backend_and_those_of_many_clients_to_all() {
    let network = Network::new("affinity", 4).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, PORT).unwrap()).collect();
    // A whole network's clients come from addresses of the client's own.
    for number in 101..=130 {
        network.client.run(&format!("ip address add 192.0.2.{number}/24 dev eth0")).unwrap();
        network.client.run(&format!("ip address add 2001:db8:1:{number}::1/128 dev eth0 nodad")).unwrap();
    }
    network.lb.run("ip -6 route add 2001:db8:1::/48 via 2001:db8:1::100").unwrap();
    for way in Way::ALL {
        let Way { family, mode } = way;
        let vip = SocketAddr::new(Network::vip(family), PORT);
        let service = Service::tcp("echo", vip)
            .mode(mode)
            .key("affinity = \"source\"")
            .backends(network.endpoints(family, PORT));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
        daemon.wait_until_up().unwrap();

        let one = crowd(&network.client, Network::client_address(family), 20_000, 60, vip).unwrap();
        assert_eq!((one.len(), one.values().sum::<u64>()), (1, 60), "{way}: {one:?}");
        let names: BTreeSet<String> = (101..=130)
            .map(|number| {
                let source = match family {
                    Family::V4 => format!("192.0.2.{number}:0"),
                    Family::V6 => format!("[2001:db8:1:{number}::1]:0"),
                };
                Connection::open(&network.client, source.parse().unwrap(), vip).unwrap().name
            })
            .collect();
        assert_eq!(names.len(), 4, "{way}: {names:?}");
    }
}

#[test]
fn a_denied_client_gets_nothing_and_a_reload_of_the_lists_takes_effect_at_once() {
    let network = Network::new("guards", 1).unwrap();
    let _server = TcpEcho::start(&network.backends[0], PORT).unwrap();
    network.client.run("ip address add 192.0.2.101/24 dev eth0").unwrap();
    let vip = SocketAddr::new(Network::vip(Family::V4), PORT);
    let service = |lists: &[&str]| {
        let service = Service::tcp("echo", vip).backends(network.endpoints(Family::V4, PORT));
        lists.iter().fold(service, |service, list| service.key(*list)).to_string()
    };
    let lists = ["allow = [\"192.0.2.64/26\"]", "deny = [\"192.0.2.101\"]"];
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service(&lists)).unwrap();
    daemon.wait_until_up().unwrap();
    let connects = |source: &str| {
        let socket = tcp_socket(&network.client, source.parse().unwrap()).unwrap();
        socket.connect_timeout(&vip.into(), Duration::from_secs(2)).is_ok()
    };
    assert!(connects("192.0.2.100:0") && !connects("192.0.2.101:0"));
    let dropped = || {
        let counters = daemon.cli_json(&["counters"]).unwrap();
        let counters = counters["counters"].as_array().unwrap().clone();
        let its = counters.iter().find(|counter| counter["name"] == "source_denied").unwrap();
        its["packets"].as_u64().unwrap()
    };
    assert!(dropped() >= 1);

    // The other way round.
    let config = daemon.config().unwrap();
    let turned = config.replace(&service(&lists), &service(&["deny = [\"192.0.2.100\"]"]));
    std::fs::write(daemon.config_file(), turned).unwrap();
    daemon.cli(&["reload"]).unwrap();
    assert!(!connects("192.0.2.100:0") && connects("192.0.2.101:0"));
}

#[test]
fn a_client_can_start_as_many_flows_per_second_as_allowed() {
    let network = Network::new("rate", 1).unwrap();
    let _server = UdpEcho::start(&network.backends[0], PORT).unwrap();
    for mode in Mode::ALL {
        let vip = SocketAddr::new(Network::vip(Family::V4), PORT);
        let service = Service::udp("echo", vip)
            .mode(mode)
            .key("new_flow_rate = 20\nnew_flow_burst = 10")
            .backends(network.endpoints(Family::V4, PORT));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
        daemon.wait_until_up().unwrap();
        // A datagram of each of 300 flows over some 3 seconds: 10 at once, and 20 a second.
        let sockets: Vec<UdpSocket> = (0..300)
            .map(|_| {
                udp_socket(&network.client, SocketAddr::new(Network::client_address(Family::V4), 0)).unwrap()
            })
            .collect();
        // What the client may do at the times when it does it: a pause on a busy machine saves up ten flows, and no more.
        let (mut expected, mut tokens, mut last) = (0.0, 10.0, Instant::now());
        for socket in &sockets {
            let now = Instant::now();
            tokens = f64::min(10.0, tokens + 20.0 * now.duration_since(last).as_secs_f64());
            last = now;
            if tokens >= 1.0 {
                (expected, tokens) = (expected + 1.0, tokens - 1.0);
            }
            socket.send_to(b"new", vip).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let (mut answered, mut silent): (Vec<&UdpSocket>, Vec<_>) = (Vec::new(), sockets.iter().collect());
        // Until no more answers come.
        loop {
            thread::sleep(Duration::from_millis(500));
            let (more, rest): (Vec<_>, Vec<_>) =
                silent.into_iter().partition(|socket| socket.recv_from(&mut [0; 64]).is_ok());
            silent = rest;
            if more.is_empty() {
                break;
            }
            answered.extend(more);
        }
        let off = (answered.len() as f64 - expected).abs();
        assert!(off <= 0.1 * expected + 2.0, "{mode}: {} of {expected:.0}", answered.len());
        // Those that have begun go on as fast as they like.
        for socket in answered {
            socket.set_nonblocking(false).unwrap();
            socket.send_to(b"more", vip).unwrap();
            socket.recv_from(&mut [0; 64]).expect("an answer");
        }
    }
}

/// A packet of a QUIC connection to the server of this name in the test below.
fn quic_packet(number: u8) -> Vec<u8> {
    [&[0x40, 2 << 5, 0x5e, number][..], &[0x77; 40]].concat()
}

/// The name of the server that answers such a packet.
fn answerer(socket: &UdpSocket, number: u8) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // The first answers to a client that the load balancer does not know as a neighbour yet are lost.
    (0..6).find_map(|_| {
        socket.send(&quic_packet(number)).unwrap();
        let mut answer = [0; 128];
        let length = socket.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).split(' ').next()?.to_owned())
    })
}

#[test]
fn a_quic_connection_stays_with_its_backend_when_the_clients_address_changes() {
    let network = Network::new("quic", 3).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| UdpEcho::start(host, PORT).unwrap()).collect();
    network.client.run("ip address add 192.0.2.101/24 dev eth0").unwrap();
    network.client.run("ip address add 2001:db8:1::101/64 dev eth0 nodad").unwrap();
    for Way { family, mode } in Way::ALL {
        let vip = SocketAddr::new(Network::vip(family), PORT);
        let mut service =
            Service::udp("h3", vip).mode(mode).key("quic = { server_id_length = 2, config_id = 2 }");
        for number in 1..=3 {
            service = service
                .backend(Network::endpoint(family, number, PORT), 100)
                .backend_key(&format!("server_id = \"5e0{number}\""));
        }
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
        daemon.wait_until_up().unwrap();
        let moved = if family == Family::V4 { "192.0.2.101" } else { "2001:db8:1::101" };
        for source in [Network::client_address(family), moved.parse().unwrap()] {
            for _ in 0..4 {
                let socket = udp_socket(&network.client, SocketAddr::new(source, 0)).unwrap();
                socket.connect(vip).unwrap();
                for number in [1, 2, 3, 2] {
                    let name = answerer(&socket, number);
                    assert_eq!(name, Some(format!("backend-{number}")), "{family:?} {mode} from {source}");
                }
            }
        }
    }
}

#[test]
fn a_full_backend_gets_no_new_connection_until_one_of_its_own_ends() {
    let network = Network::new("full", 2).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, PORT).unwrap()).collect();
    let vip = SocketAddr::new(Network::vip(Family::V4), PORT);
    let service = Service::tcp("echo", vip)
        .key("max_flows = 30")
        .backend(Network::endpoint(Family::V4, 1, PORT), 100)
        .backend_key("max_flows = 5")
        .backend(Network::endpoint(Family::V4, 2, PORT), 100);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
    daemon.wait_until_up().unwrap();
    let source = SocketAddr::new(Network::client_address(Family::V4), 0);
    let open = || Connection::open(&network.client, source, vip).unwrap();
    let mut connections: Vec<Connection> = (0..30).map(|_| open()).collect();
    let at = |connections: &[Connection], name: &str| connections.iter().filter(|it| it.name == name).count();
    assert_eq!((at(&connections, "backend-1"), at(&connections, "backend-2")), (5, 25));

    // The service is full.
    let refused = |what: &str| {
        let socket = tcp_socket(&network.client, source).unwrap();
        assert!(socket.connect_timeout(&vip.into(), Duration::from_secs(2)).is_err(), "{what}");
    };
    refused("thirty of thirty");
    connections.retain(|connection| connection.name == "backend-2");
    until("the end of those at backend-1 to be seen", Duration::from_secs(30), || {
        let socket = tcp_socket(&network.client, source)?;
        Ok(socket.connect_timeout(&vip.into(), Duration::from_millis(500)).is_ok())
    })
    .unwrap();
    // Half of those that are new are for it, and there is room for a few: those that are not end.
    until("backend-1 to take new ones again", Duration::from_secs(90), || {
        Ok(Connection::open(&network.client, source, vip)
            .is_ok_and(|connection| connection.name == "backend-1"))
    })
    .unwrap();
}
