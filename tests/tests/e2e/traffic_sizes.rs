//! Packets of unusual sizes and shapes.

use std::io::{Read, Write};
use std::net::SocketAddr;

use xdp_lb_tests::client::{Connection, set_option, tcp_socket, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way, services};

fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), port(way.mode))
}

/// The two modes have ports of their own, before servers of their own.
fn port(mode: Mode) -> u16 {
    if mode == Mode::Nat { 7000 } else { 7001 }
}

/// One backend that echoes over UDP and TCP, by every way.
fn start() -> (Network, Vec<(TcpEcho, UdpEcho)>, Daemon) {
    let network = Network::new("sizes", 1).unwrap();
    let host = &network.backends[0];
    let servers = Mode::ALL.map(|mode| {
        (TcpEcho::start(host, port(mode)).unwrap(), UdpEcho::start_nameless(host, port(mode)).unwrap())
    });
    let config = services(Way::ALL.into_iter().flat_map(|way| {
        let backends = [Network::endpoint(way.family, 1, port(way.mode))];
        [
            Service::tcp(format!("tcp-{way}"), vip(way)).mode(way.mode).backends(backends),
            Service::udp(format!("udp-{way}"), vip(way)).mode(way.mode).backends(backends),
        ]
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    (network, servers.into(), daemon)
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 % 251) as u8).collect()
}

/// Sends a datagram from the socket and expects it back.
fn assert_echoes(socket: &std::net::UdpSocket, way: Way, length: usize) {
    let sent = bytes(length);
    socket.send(&sent).unwrap();
    let mut back = vec![0; 2000];
    let received = socket.recv(&mut back).unwrap_or_else(|error| panic!("{way}, {length} bytes: {error}"));
    assert!(back[..received] == sent, "{way}: {length} bytes came back otherwise, as {received}");
}

fn udp_client(network: &Network, way: Way) -> std::net::UdpSocket {
    let source = SocketAddr::new(Network::client_address(way.family), 0);
    let socket = udp_socket(&network.client, source).unwrap();
    socket.connect(vip(way)).unwrap();
    socket
}

/// Sends 100 KB over a connection and expects them back.
fn assert_tcp_echoes(connection: &mut Connection, way: Way) {
    let sent = bytes(100_000);
    let mut writer = connection.stream.get_ref().try_clone().unwrap();
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        connection.stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{way}: {error}"));
        writing.join().unwrap().unwrap();
    });
    assert!(back == sent, "{way}: it came back otherwise");
}

#[test]
fn udp_datagrams_from_empty_to_a_full_frame_come_back_byte_for_byte() {
    let (network, _servers, _daemon) = start();
    for way in Way::ALL {
        let socket = udp_client(&network, way);
        // An MTU of 1500 without the IP header and UDP's 8 bytes.
        let largest = if way.family == Family::V4 { 1472 } else { 1452 };
        for length in [0, 1, 2, 3, 17, 18, 19, 511, 1000, largest - 1, largest] {
            assert_echoes(&socket, way, length);
        }
    }
}

#[test]
fn udp_without_a_checksum_comes_back() {
    let (network, _servers, _daemon) = start();
    for way in Way::ALL.into_iter().filter(|way| way.family == Family::V4) {
        let socket = udp_client(&network, way);
        set_option(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1i32.to_ne_bytes()).unwrap();
        for length in [0, 1, 100, 1472] {
            assert_echoes(&socket, way, length);
        }
    }
}

#[test]
fn packets_with_ipv4_options_come_through() {
    let (network, _servers, daemon) = start();
    // RFC 791 section 3.1: record route, 15 bytes, room for three addresses; end of the list.
    let options = [7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for way in Way::ALL.into_iter().filter(|way| way.family == Family::V4) {
        let source = SocketAddr::new(Network::client_address(way.family), 0);
        let socket = tcp_socket(&network.client, source).unwrap();
        set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &options).unwrap();
        assert_tcp_echoes(&mut Connection::over(socket, vip(way)).unwrap(), way);

        let socket = udp_client(&network, way);
        set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &options).unwrap();
        assert_echoes(&socket, way, 1000);
    }
    assert_all_understood(&daemon);
}

#[test]
fn packets_with_ipv6_extension_headers_come_through() {
    let (network, _servers, daemon) = start();
    // RFC 8200 section 4.2: next header (the kernel's), length in 8 bytes behind the first; PadN of 6 bytes.
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    for way in Way::ALL.into_iter().filter(|way| way.family == Family::V6) {
        for option in [libc::IPV6_DSTOPTS, libc::IPV6_HOPOPTS] {
            let source = SocketAddr::new(Network::client_address(way.family), 0);
            let socket = tcp_socket(&network.client, source).unwrap();
            set_option(&socket, libc::IPPROTO_IPV6, option, &options).unwrap();
            assert_tcp_echoes(&mut Connection::over(socket, vip(way)).unwrap(), way);

            let socket = udp_client(&network, way);
            set_option(&socket, libc::IPPROTO_IPV6, option, &options).unwrap();
            assert_echoes(&socket, way, 1000);
        }
    }
    assert_all_understood(&daemon);
}

/// No packet was passed to the host because its headers were not understood.
fn assert_all_understood(daemon: &Daemon) {
    for reason in ["malformed", "length_mismatch", "ipv6_extension_headers"] {
        assert_eq!(daemon.counter(reason).unwrap(), 0, "{reason}");
    }
}
