//! DNS through the load balancer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_tests::servers::Dnsmasq;
use xdp_lb_tests::{Daemon, Host, Mode, Network, Service, Way, services};

/// The two modes have ports of their own, before servers of their own.
fn port(mode: Mode) -> u16 {
    match mode {
        Mode::Nat => 53,
        Mode::FullNat => 5353,
    }
}

fn query(client: &Host, options: &str, server: IpAddr, port: u16, name: &str) -> String {
    let dig = format!("dig +short +tries=1 +time=10 {options} -p {port} @{server} {name}");
    client.run(&dig).unwrap().trim().trim_matches('"').to_owned()
}

#[test]
fn dns_is_answered_over_udp_and_over_tcp_on_one_address_and_port_by_the_backends_of_each() {
    let network = Network::new("dns", 3).unwrap();
    let mut servers = Vec::new();
    for host in &network.backends {
        servers.extend(Mode::ALL.map(|mode| Dnsmasq::start(host, port(mode)).unwrap()));
    }
    // UDP is served by backend 1 and 2, TCP by backend 3 alone.
    let config = services(Way::ALL.into_iter().flat_map(|way| {
        let vip = SocketAddr::new(Network::vip(way.family), port(way.mode));
        let backend = |number| Network::endpoint(way.family, number, port(way.mode));
        [
            Service::udp(format!("udp-{way}"), vip)
                .mode(way.mode)
                .check(r#"{ type = "dns", name = "www.example.test", interval = "500ms", timeout = "500ms", rise = 1, fall = 6 }"#)
                .backends([backend(1), backend(2)]),
            Service::tcp(format!("tcp-{way}"), vip).mode(way.mode).backends([backend(3)]),
        ]
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();

    for way in Way::ALL {
        let (vip, port) = (Network::vip(way.family), port(way.mode));
        let ask = |options: &str, name: &str| query(&network.client, options, vip, port, name);
        assert_eq!(ask("+notcp", "www.example.test A"), "203.0.113.80", "{way}, UDP");
        assert_eq!(ask("+tcp", "www.example.test A"), "203.0.113.80", "{way}, TCP");
        // With two backends of equal weight, 24 queries from random ports miss one of them once in 8 million times.
        let whoami = |options: &str, times: usize| -> BTreeSet<String> {
            (0..times).map(|_| ask(options, "whoami.example.test TXT")).collect()
        };
        let names =
            |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(whoami("+notcp", 24), names(&["backend-1", "backend-2"]), "{way}, UDP");
        assert_eq!(whoami("+tcp", 6), names(&["backend-3"]), "{way}, TCP");
    }
}
