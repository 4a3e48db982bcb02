//! Datagrams larger than a frame, in fragments both ways.

use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::servers::UdpEcho;
use xdp_lb_tests::{Daemon, Mode, Network, Service, Way, services};

fn port(mode: Mode) -> u16 {
    if mode == Mode::Nat { 7000 } else { 7001 }
}

#[test]
fn large_datagrams_come_back_byte_for_byte() {
    let network = Network::new("fragments", 3).unwrap();
    let _servers: Vec<_> = network
        .backends
        .iter()
        .flat_map(|host| Mode::ALL.map(|mode| UdpEcho::start_nameless(host, port(mode)).unwrap()))
        .collect();
    let config = services(Way::ALL.map(|way| {
        let vip = SocketAddr::new(Network::vip(way.family), port(way.mode));
        Service::udp(way, vip).mode(way.mode).backends(network.endpoints(way.family, port(way.mode)))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        // Each port is a flow of its own: some go to one backend, some to another.
        for _ in 0..6 {
            let source = SocketAddr::new(Network::client_address(way.family), 0);
            let socket = udp_socket(&network.client, source).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.connect(SocketAddr::new(Network::vip(way.family), port(way.mode))).unwrap();
            let mut back = vec![0; 65_536];
            // The first may be lost to address resolution.
            let is_reached =
                (0..5).any(|_| socket.send(b"hello").and_then(|_| socket.recv(&mut back)).is_ok());
            assert!(is_reached, "{way}: nobody answers");
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            for length in [1453, 1473, 4000, 9001, 60_000] {
                let sent: Vec<u8> = (0..length).map(|place| (place * 31 % 251) as u8).collect();
                socket.send(&sent).unwrap();
                let received = loop {
                    match socket.recv(&mut back) {
                        // An answer to an earlier greeting comes late.
                        Ok(5) => {}
                        Ok(received) => break received,
                        Err(error) => panic!("{way}, {length} bytes: {error}"),
                    }
                };
                assert!(back[..received] == sent, "{way}: {length} bytes came back otherwise, as {received}");
            }
        }
    }
    assert_eq!(daemon.counter("fragment_without_first").unwrap(), 0);
}
