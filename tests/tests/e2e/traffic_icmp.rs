//! ICMP: pings of VIPs, and errors about flows.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use xdp_lb_tests::client::{ping, udp_socket};
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, behind_a_narrow_link, downloads, services};

#[test]
fn vips_answer_pings_whether_or_not_they_are_addresses_of_the_host() {
    let network = Network::new("icmp", 1).unwrap();
    // Routed to the load balancer, and no address of anybody.
    let elsewhere: [IpAddr; 2] = ["203.0.113.10".parse().unwrap(), "2001:db8:9::10".parse().unwrap()];
    let vips = [Network::vip(Family::V4), Network::vip(Family::V6), elsewhere[0], elsewhere[1]];
    let config = services(vips.iter().enumerate().map(|(number, vip)| {
        let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
        let backends = network.endpoints(family, 7000);
        Service::tcp(format!("service-{number}"), SocketAddr::new(*vip, 80)).unchecked().backends(backends)
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for vip in vips {
        ping(&network.client, vip).unwrap();
    }
    let left_to_the_host = daemon.counter("not_tcp_or_udp").unwrap();
    for vip in vips {
        (0..5).for_each(|_| ping(&network.client, vip).unwrap());
    }
    // Neighbour discovery is the host's, and the fewest of these packets.
    let more = daemon.counter("not_tcp_or_udp").unwrap() - left_to_the_host;
    assert!(more < 20, "{more} more, of 20 pings");

    // A VIP is forgotten with its last service.
    daemon.cli(&["service", "remove", "service-2", "--now"]).unwrap();
    assert!(ping(&network.client, elsewhere[0]).is_err(), "no service has this address any more");
    ping(&network.client, elsewhere[1]).unwrap();
}

fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), if way.mode == Mode::Nat { 80 } else { 81 })
}

#[test]
fn a_download_over_a_small_mtu_completes_because_the_backend_learns_the_mtu() {
    let network = Network::new("pmtu", 1).unwrap();
    let backend = &network.backends[0];
    let _nginx = Nginx::start(backend, 8080).unwrap();
    let far = behind_a_narrow_link(&network, "eth1", &[]).unwrap();
    let config = services(Way::ALL.map(|way| {
        let backends = network.endpoints(way.family, 8080);
        Service::tcp(way, vip(way)).mode(way.mode).unchecked().backends(backends)
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        // Who is asked for the first time is not waited for below.
        far.run(&format!("curl -sgf --retry 3 --retry-connrefused http://{}/", vip(way))).unwrap();

        // A backend that does not hear the router sends segments that never arrive.
        backend.run("nft add table inet deaf").unwrap();
        backend.run("nft add chain inet deaf input { type filter hook input priority 0 ; }").unwrap();
        backend.run("nft add rule inet deaf input icmp type destination-unreachable drop").unwrap();
        backend.run("nft add rule inet deaf input icmpv6 type packet-too-big drop").unwrap();
        assert!(!downloads(&far, vip(way), 5), "{way}: the link was not too narrow for the download");

        backend.run("nft delete table inet deaf").unwrap();
        assert!(downloads(&far, vip(way), 30), "{way}: the backend was not told how narrow the link is");
        // What it learnt for one service is nothing that it knows for the next.
        backend.run("ip route flush cache").unwrap();
        backend.run("ip -6 route flush cache").unwrap();
    }
    assert_eq!(daemon.counter("icmp_without_flow").unwrap(), 0);
}

#[test]
fn a_udp_client_learns_that_the_port_is_closed() {
    let network = Network::new("refused", 1).unwrap();
    let config =
        services(Way::ALL.map(|way| {
            Service::udp(way, vip(way)).mode(way.mode).backends(network.endpoints(way.family, 7000))
        }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        let source = SocketAddr::new(Network::client_address(way.family), 0);
        let socket = udp_socket(&network.client, source).unwrap();
        socket.connect(vip(way)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // The first packets may be lost to address resolution; ICMP errors are limited to some a second.
        let refused = (0..10).any(|_| {
            let answer = socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 16]));
            let refused = answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if !refused {
                thread::sleep(Duration::from_millis(200));
            }
            refused
        });
        assert!(refused, "{way}: the client was not told");
    }
}
