//! What a service's policy does to real clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use xdp_lb_tests::client::{Connection, crowd};
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Network, Service, Way};

const PORT: u16 = 7000;

#[test]
fn a_client_s_connections_go_to_one_backend_and_those_of_many_clients_to_all() {
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
