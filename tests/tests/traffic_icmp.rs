//! ICMP to VIPs.

use std::net::{IpAddr, SocketAddr};

use xdp_lb_tests::client::ping;
use xdp_lb_tests::{Daemon, Family, Network, Service, services};

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
        ping(&network.client, vip).unwrap();
    }
    // Neighbour discovery is the host's.
    assert!(daemon.counter("not_tcp_or_udp").unwrap() <= left_to_the_host + 4);

    // A VIP is forgotten with its last service.
    daemon.cli(&["service", "remove", "service-2"]).unwrap();
    assert!(ping(&network.client, elsewhere[0]).is_err(), "no service has this address any more");
    ping(&network.client, elsewhere[1]).unwrap();
}
