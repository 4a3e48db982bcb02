//! VLANs: clients whose frames carry tags, through the real datapath.
//!
//! The tags are put on and taken off by a bridge in user space, since a kernel need not have VLAN devices (8021q).
//! What needs those is not shown here: backends on a VLAN, and `nat`, whose replies take the tags of the VLAN device
//! that the route to the client leads through. The packet fixtures have both.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;

use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::servers::{Nginx, UdpEcho};
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, Tag, Tagger, big_file, connect, services};

/// Clients behind the load balancer's eth2: name, last part of the addresses, tags. IEEE 802.1Q, 802.1ad with 802.1Q
/// inside (QinQ), and the same VLAN ids with priorities (the upper three bits), which are another's.
const CLIENTS: [(&str, u8, &[Tag]); 4] = [
    ("untagged", 10, &[]),
    ("one-tag", 11, &[(0x8100, 100)]),
    ("two-tags", 12, &[(0x88a8, 200), (0x8100, 100)]),
    ("priority", 13, &[(0x88a8, 5 << 13 | 200), (0x8100, 3 << 13 | 100)]),
];

/// A load balancer with a trunk, and clients behind it.
struct Trunk {
    network: Network,
    clients: Vec<Host>,
    tagger: Tagger,
    _peer: XdpPass,
}

fn trunk() -> Trunk {
    let network = Network::new("vlan", 2).unwrap();
    let bridge = network.lab.host("tagger").unwrap();
    connect(&bridge, "trunk", &network.lb, "eth2").unwrap();
    // Whole packets as they came, and room for two tags, as a network with QinQ gives.
    bridge.run("ethtool -K trunk gro off").unwrap();
    bridge.run("ip link set trunk mtu 1508").unwrap();
    network.lb.run("ip link set eth2 mtu 1508").unwrap();
    network.lb.run("ip addr add 203.0.113.1/24 dev eth2").unwrap();
    network.lb.run("ip addr add 2001:db8:3::1/64 dev eth2 nodad").unwrap();
    let link = network.lb.run("ip -json link show eth2").unwrap();
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    let mac = link[0]["address"].as_str().unwrap();
    let mut clients = Vec::new();
    for (name, number, _) in CLIENTS {
        let client = network.lab.host(name).unwrap();
        connect(&client, "eth0", &bridge, name).unwrap();
        for command in [
            format!("ip addr add 203.0.113.{number}/24 dev eth0"),
            format!("ip addr add 2001:db8:3::{number}/64 dev eth0 nodad"),
            // The load balancer's own kernel answers nobody behind a tag: it has no VLAN device.
            format!("ip neigh add 203.0.113.1 lladdr {mac} nud permanent dev eth0"),
            format!("ip -6 neigh add 2001:db8:3::1 lladdr {mac} nud permanent dev eth0"),
            "ip route add default via 203.0.113.1".to_owned(),
            "ip -6 route add default via 2001:db8:3::1".to_owned(),
        ] {
            client.run(&command).unwrap();
        }
        clients.push(client);
    }
    let peer = XdpPass::attach(&bridge, "trunk").unwrap();
    let ports = CLIENTS.map(|(name, _, tags)| (name, tags));
    let tagger = Tagger::start(&bridge, "trunk", &ports).unwrap();
    Trunk { network, clients, tagger, _peer: peer }
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::vip(family), port)
}

fn assert_downloads(client: &Host, family: Family, expected: &[u8]) {
    let url = format!("http://{}/big", vip(family, 80));
    let range = format!("0-{}", expected.len() - 1);
    let mut curl = client.command("curl");
    let output = curl.args(["-sSf", "--max-time", "60", "-r", &range, &url]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.stdout == expected,
        "{} over {family:?}: a download came otherwise: {error}",
        client.name()
    );
}

fn assert_echoes(client: &Host, family: Family) {
    for length in [0, 1, 100, 1400] {
        let socket = udp_socket(client, SocketAddr::new(family.any(), 0)).unwrap();
        socket.connect(vip(family, 7000)).unwrap();
        let sent = vec![length as u8; length];
        socket.send(&sent).unwrap();
        let mut back = vec![0; 2000];
        let received = socket
            .recv(&mut back)
            .unwrap_or_else(|error| panic!("{} over {family:?}, {length} bytes: {error}", client.name()));
        assert!(back[..received] == sent, "{} over {family:?}: {length} bytes came otherwise", client.name());
    }
}

#[test]
fn replies_of_http_and_udp_have_the_clients_vlan_tags() {
    let Trunk { network, clients, tagger, _peer } = trunk();
    let _web: Vec<_> = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
    let _udp: Vec<_> =
        network.backends.iter().map(|host| UdpEcho::start_nameless(host, 7000).unwrap()).collect();
    let config = services(Family::ALL.into_iter().flat_map(|family| {
        [
            Service::tcp(format!("web-{family:?}").to_lowercase(), vip(family, 80))
                .mode(Mode::FullNat)
                .backends(network.endpoints(family, 8080)),
            Service::udp(format!("echo-{family:?}").to_lowercase(), vip(family, 7000))
                .mode(Mode::FullNat)
                .backends(network.endpoints(family, 7000)),
        ]
    }));
    let mut expected = vec![0; 3_000_000];
    File::open(big_file().unwrap()).unwrap().read_exact(&mut expected).unwrap();
    for attach in ["xdp", "xdp-generic", "tc"] {
        let config = format!("attach = \"{attach}\"\n{config}");
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1", "eth2"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        for client in &clients {
            for family in Family::ALL {
                assert_echoes(client, family);
                assert_downloads(client, family, &expected);
            }
        }
    }
    assert_eq!(tagger.strange(), 0, "the load balancer sent frames with tags that no client has");
}
