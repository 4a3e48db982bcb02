//! Counters compared with traffic that is known to the byte.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use xdp_lb_tests::client::{Connection, ping, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, services, until};

/// A socket of the client's, connected to a UDP service.
fn client_of(network: &Network, vip: SocketAddr) -> UdpSocket {
    let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
    let source = SocketAddr::new(Network::client_address(family), 0);
    let socket = udp_socket(&network.client, source).unwrap();
    socket.connect(vip).unwrap();
    socket
}

/// Sends datagrams of this length, each after the answer to the one before.
fn exchange(socket: &UdpSocket, datagrams: usize, length: usize) {
    let mut back = [0; 2000];
    for _ in 0..datagrams {
        socket.send(&vec![7; length]).unwrap();
        assert_eq!(socket.recv(&mut back).unwrap(), length);
    }
}

#[test]
fn packets_bytes_and_flows_are_counted_exactly_by_service_and_backend_and_in_the_metrics() {
    let network = Network::new("counters", 1).unwrap();
    let host = &network.backends[0];
    let port = |mode| if mode == Mode::Nat { 7000 } else { 7001 };
    let _servers = Mode::ALL.map(|mode| UdpEcho::start_nameless(host, port(mode)).unwrap());
    let vip = |way: Way| SocketAddr::new(Network::vip(way.family), port(way.mode));
    let config = services(Way::ALL.map(|way| {
        // Unrecorded UDP flows cannot be counted.
        Service::udp(way, vip(way))
            .mode(way.mode)
            .key("flow_tracking = \"always\"")
            .backends(network.endpoints(way.family, port(way.mode)))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();

    for (number, way) in Way::ALL.into_iter().enumerate() {
        // Three flows of 20 datagrams each, of another length for each way.
        let length = 100 + number;
        for _ in 0..3 {
            exchange(&client_of(&network, vip(way)), 20, length);
        }
        let ip_header = if way.family == Family::V4 { 20 } else { 40 };
        let (packets, bytes) = (60, 60 * (14 + ip_header + 8 + length));

        let service = way.to_string();
        let shown = daemon.cli_json(&["service", "show", &service]).unwrap();
        let listed = daemon.backends(Some(&service)).unwrap();
        assert_eq!(listed.len(), 1);
        for traffic in [&shown["service"]["traffic"], &shown["backends"][0]["traffic"], &listed[0]["traffic"]]
        {
            assert_eq!(traffic["packets_in"], packets, "{way}");
            assert_eq!(traffic["packets_out"], packets, "{way}");
            assert_eq!(traffic["bytes_in"], bytes, "{way}");
            assert_eq!(traffic["bytes_out"], bytes, "{way}");
            assert_eq!(traffic["new_flows"], 3, "{way}");
        }
        let label = ("service", service.as_str());
        for direction in ["in", "out"] {
            for kind in ["service", "backend"] {
                let metric = |what: &str| {
                    let name = format!("xdp_lb_{kind}_{what}_total");
                    daemon.metric(&name, &[label, ("direction", direction)]).unwrap()
                };
                assert_eq!(metric("packets"), packets as f64, "{way}");
                assert_eq!(metric("bytes"), bytes as f64, "{way}");
                let flows = format!("xdp_lb_{kind}_new_flows_total");
                assert_eq!(daemon.metric(&flows, &[label]).unwrap(), 3.0, "{way}");
            }
        }
    }
}

#[test]
fn tcp_connections_are_counted_once_each_and_live_flows_are_seen() {
    let network = Network::new("counters", 2).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap()).collect();
    let vip = SocketAddr::new(Network::vip(Family::V4), 80);
    let service = Service::tcp("echo", vip).backends(network.endpoints(Family::V4, 7000));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
    daemon.wait_until_up().unwrap();

    let source = SocketAddr::new(Network::client_address(Family::V4), 0);
    let connections: Vec<_> =
        (0..20).map(|_| Connection::open(&network.client, source, vip).unwrap()).collect();
    for (number, host) in (1..).zip(&network.backends) {
        let open = connections.iter().filter(|connection| connection.name == host.name()).count();
        let address = Network::endpoint(Family::V4, number, 7000).to_string();
        let find = || -> anyhow::Result<serde_json::Value> {
            let backends = daemon.backends(Some("echo"))?;
            Ok(backends.into_iter().find(|backend| backend["address"] == address.as_str()).unwrap())
        };
        assert_eq!(find().unwrap()["traffic"]["new_flows"], open, "{address}");
        let what = format!("{open} live flows of {address}");
        until(&what, Duration::from_secs(30), || Ok(find()?["flows"] == open)).unwrap();
        // A handshake and a greeting with its acknowledgement: at least 3 packets from the client, 2 to it.
        until("the last acknowledgement", Duration::from_secs(30), || {
            let traffic = &find()?["traffic"];
            Ok(traffic["packets_in"].as_u64() >= Some(3 * open as u64)
                && traffic["packets_out"].as_u64() >= Some(2 * open as u64))
        })
        .unwrap();
        let labels = [("service", "echo"), ("backend", address.as_str())];
        assert_eq!(daemon.metric("xdp_lb_backend_new_flows_total", &labels).unwrap(), open as f64);
        assert_eq!(daemon.metric("xdp_lb_backend_up", &labels).unwrap(), 1.0);
    }
}

#[test]
fn every_dropped_or_passed_packet_is_counted_with_its_reason() {
    let network = Network::new("counters", 1).unwrap();
    let _server = UdpEcho::start_nameless(&network.backends[0], 7000).unwrap();
    let vip = |port| SocketAddr::new(Network::vip(Family::V4), port);
    let config = services([
        Service::udp("echo", vip(7000)).mode(Mode::Nat).backends(network.endpoints(Family::V4, 7000)),
        Service::udp("empty", vip(7001)).key("on_no_backends = \"drop\""),
    ]);
    // What is answered is counted elsewhere.
    let config = format!("icmp_time_exceeded = false\n{config}");
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    // Resolves who has to be, so that nothing below is lost to that.
    exchange(&client_of(&network, vip(7000)), 3, 10);

    // How many packets of that reason there are more, afterwards.
    let more = |reason: &str, send: &dyn Fn()| {
        let before = daemon.counter(reason).unwrap();
        send();
        // The client's last packet may still be on its way.
        let mut now = daemon.counter(reason).unwrap();
        until("the client's last packet", Duration::from_secs(30), || {
            std::thread::sleep(Duration::from_millis(100));
            let earlier = std::mem::replace(&mut now, daemon.counter(reason)?);
            Ok(earlier == now && now > before)
        })
        .unwrap();
        now - before
    };
    let send = |socket: &UdpSocket, datagrams: usize| {
        for _ in 0..datagrams {
            // The kernel tells of an ICMP error about the one before; it goes out the second time.
            let _ = socket.send(b"hello").or_else(|_| socket.send(b"hello")).unwrap();
        }
    };

    let client = client_of(&network, vip(7001));
    assert_eq!(more("no_backend", &|| send(&client, 7)), 7);
    assert_eq!(daemon.metric("xdp_lb_packets_dropped_total", &[("reason", "no_backend")]).unwrap(), 7.0);

    let client = client_of(&network, vip(7000));
    client.set_ttl(1).unwrap();
    assert_eq!(more("ttl_expired", &|| send(&client, 5)), 5);
    assert_eq!(daemon.metric("xdp_lb_packets_dropped_total", &[("reason", "ttl_expired")]).unwrap(), 5.0);

    let client = client_of(&network, vip(9999));
    // What else hosts say to each other meanwhile is a stranger's, too: IPv6's multicast listener reports, say.
    let strangers = more("no_service", &|| send(&client, 6));
    assert!((6..18).contains(&strangers), "{strangers}");
    let passed = daemon.metric("xdp_lb_packets_passed_total", &[("reason", "no_service")]).unwrap();
    assert!(passed >= 6.0, "{passed}");

    let pings = || (0..4).for_each(|_| ping(&network.client, Network::front(Family::V4)).unwrap());
    assert_eq!(more("not_tcp_or_udp", &pings), 4);

    // A datagram of 3000 bytes comes as three fragments, of which the first has the ports: those of no service.
    let client = client_of(&network, vip(9999));
    let fragments = || assert_eq!(client.send(&[7; 3000]).unwrap(), 3000);
    assert_eq!(more("fragment", &fragments), 2);

    let arp = || {
        network.client.run("ip neigh flush all").unwrap();
        ping(&network.client, Network::vip(Family::V4)).unwrap();
    };
    assert!(more("not_unicast", &arp) >= 1);

    let status = daemon.cli_json(&["status"]).unwrap();
    assert_eq!(status["dropped_packets"], 12);
    assert!(status["passed_packets"].as_u64().unwrap() >= 14, "{status}");
    let table = daemon.cli(&["counters"]).unwrap();
    assert!(table.contains("the service has no backend that is up"), "{table}");
}
