//! Frames for other hosts: a switch floods frames for unknown MACs, and only their receiver may forward them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::servers::UdpEcho;
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Family, Host, Lab, Mode, Network, Service, Way, connect, services, until};

/// VRRP's (RFC 5798 section 7.3), of router 10.
const VIRTUAL: &str = "00:00:5e:00:01:0a";
const OTHER: &str = "02:00:00:00:00:99";
const SOON: Duration = Duration::from_secs(20);

fn port(mode: Mode) -> u16 {
    if mode == Mode::Nat { 7000 } else { 7001 }
}

/// A socket for each way.
fn sockets(network: &Network) -> Vec<UdpSocket> {
    let socket = |way: Way| {
        let source = SocketAddr::new(Network::client_address(way.family), 0);
        let socket = udp_socket(&network.client, source).unwrap();
        socket.connect((Network::vip(way.family), port(way.mode))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    };
    Way::ALL.into_iter().map(socket).collect()
}

/// How many of the sockets get an answer.
fn answered(sockets: &[UdpSocket]) -> usize {
    let asks = |socket: &&UdpSocket| socket.send(b"who").is_ok() && socket.recv(&mut [0; 64]).is_ok();
    sockets.iter().filter(asks).count()
}

/// Has a host send what is for these addresses to this MAC.
fn address_frames(host: &Host, addresses: &[IpAddr], device: &str, mac: &str) {
    for address in addresses {
        host.run(&format!("ip neigh replace {address} lladdr {mac} dev {device} nud permanent")).unwrap();
    }
}

#[test]
fn only_frames_for_a_mac_of_this_host_are_balanced_also_when_its_macs_change() {
    let network = Network::new("macs", 1).unwrap();
    let lb = &network.lb;
    let _servers = Mode::ALL.map(|mode| UdpEcho::start(&network.backends[0], port(mode)).unwrap());
    let config = services(Way::ALL.map(|way| {
        let vip = SocketAddr::new(Network::vip(way.family), port(way.mode));
        Service::udp(way, vip).mode(way.mode).backends(network.endpoints(way.family, port(way.mode)))
    }));
    let daemon = Daemon::start(lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let sockets = sockets(&network);
    let all = sockets.len();
    let address_to = |mac| address_frames(&network.client, &Family::ALL.map(Network::vip), "eth0", mac);
    let all_are_answered = |what: &str| until(what, SOON, || Ok(answered(&sockets) == all)).unwrap();
    let none_is_answered = |what: &str| {
        // The daemon hears of a change within milliseconds.
        until(what, SOON, || Ok(answered(&sockets) == 0)).unwrap();
        let before = daemon.counter("other_host").unwrap();
        assert_eq!(answered(&sockets), 0, "{what}");
        let counted = daemon.counter("other_host").unwrap() - before;
        // The client's own ICMP to the VIP is among them, now and then.
        assert!(counted >= all as u64, "{what}: {counted} counted under its reason");
    };
    all_are_answered("the interface's own MAC");

    address_to(OTHER);
    none_is_answered("another host's MAC");

    address_to(VIRTUAL);
    none_is_answered("a virtual router's MAC that another host has");
    lb.run(&format!("ip link add link eth0 name vrrp10 address {VIRTUAL} type macvlan mode private"))
        .unwrap();
    all_are_answered("a virtual router's MAC that came");
    lb.run("ip link del vrrp10").unwrap();
    none_is_answered("a virtual router's MAC that went");

    lb.run(&format!("ip link set eth0 address {OTHER}")).unwrap();
    address_to(OTHER);
    all_are_answered("the interface's new MAC");

    // A port of a bridge gets the frames for the bridge, too.
    lb.run("ip link add br0 type bridge").unwrap();
    lb.run(&format!("ip link set br0 address {VIRTUAL}")).unwrap();
    address_to(VIRTUAL);
    none_is_answered("a bridge's MAC, of which the interface is not a port");
    lb.run("ip link set eth0 master br0").unwrap();
    all_are_answered("the MAC of the bridge that the interface is a port of");
    lb.run("ip link set eth0 nomaster").unwrap();
    none_is_answered("the MAC of a bridge that the interface has left");
    let status = daemon.cli_json(&["status"]).unwrap();
    assert!(status["trouble"].is_null(), "{status}");
}

#[test]
fn three_balancers_on_a_segment_forward_a_flooded_frame_once() {
    const DATAGRAMS: u64 = 12;
    let lab = Lab::new("storm").unwrap();
    let switch = lab.host("switch").unwrap();
    switch.run("ip link add bridge type bridge").unwrap();
    switch.run("ip link set bridge up").unwrap();
    let mut peers = Vec::new();
    let mut plug = |name: &str, number: u8| {
        let host = lab.host(name).unwrap();
        connect(&switch, name, &host, "eth0").unwrap();
        switch.run(&format!("ip link set {name} master bridge")).unwrap();
        host.run(&format!("ip addr add 198.51.100.{number}/24 dev eth0")).unwrap();
        host.run(&format!("ip addr add 2001:db8:2::{number}/64 dev eth0 nodad")).unwrap();
        peers.push(XdpPass::attach(&switch, name).unwrap());
        host
    };
    let client = plug("client", 100);
    let balancers = [1, 2, 3].map(|number: u8| plug(&format!("lb-{number}"), number));
    let vips: [IpAddr; 2] = ["198.51.100.10", "2001:db8:2::10"].map(|vip| vip.parse().unwrap());
    let gone: [IpAddr; 2] = ["198.51.100.11", "2001:db8:2::11"].map(|backend| backend.parse().unwrap());
    let config = services(vips.iter().zip(&gone).enumerate().map(|(number, (vip, backend))| {
        let dsr = Service::udp(format!("dsr{number}"), SocketAddr::new(*vip, 7000));
        dsr.key("mode = \"dsr\"").backends([SocketAddr::new(*backend, 7000)])
    }));
    let config = config.replace("mode = \"full-nat\"\n", "");
    // A backend that has died, and whose MAC the switch has forgotten.
    for balancer in &balancers {
        address_frames(balancer, &gone, "eth0", OTHER);
    }
    let daemons = balancers.each_ref().map(|host| Daemon::start(host, &["eth0"], &config).unwrap());
    daemons.iter().for_each(|daemon| daemon.wait_until_up().unwrap());
    address_frames(&client, &vips, "eth0", &link_address(&balancers[0]));
    for vip in vips {
        let source: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = udp_socket(&client, SocketAddr::new(source, 0)).unwrap();
        for _ in 0..DATAGRAMS {
            socket.send_to(b"who", (vip, 7000)).unwrap();
        }
    }
    let forwarded = |daemon: &Daemon| -> u64 {
        let backends = daemon.backends(None).unwrap();
        backends.iter().map(|backend| backend["traffic"]["packets_in"].as_u64().unwrap()).sum()
    };
    until("the datagrams to be flooded", SOON, || {
        Ok(daemons[1..].iter().all(|daemon| daemon.counter("other_host").unwrap() >= 2 * DATAGRAMS))
    })
    .unwrap_or_else(|error| {
        panic!("{error:#}: {:?}", daemons.each_ref().map(forwarded));
    });
    assert_eq!(daemons.each_ref().map(forwarded), [2 * DATAGRAMS, 0, 0]);
}

/// The MAC of a host's eth0.
fn link_address(host: &Host) -> String {
    let shown = host.run("ip -brief link show dev eth0").unwrap();
    shown.split_whitespace().nth(2).expect("a MAC").to_owned()
}
