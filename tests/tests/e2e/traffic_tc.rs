//! The load balancer at TC ingress: on devices of every kind that this kernel has, with their offloads as they are by default or
//! off, with frames of both sizes, in every mode.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;

use xdp_lb_tests::client::{Connection, make_room, udp_socket};
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Daemon, Family, Host, Lab, Network, Process, direct_return};

/// The modes, each on a port of its own.
const MODES: [(&str, u16); 5] =
    [("nat", 7000), ("full-nat", 7001), ("dsr", 7002), ("ipip", 7003), ("gue", 7004)];

/// The load balancer's devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Devices {
    Veth,
    /// Bridges, of which the veths are ports.
    Bridge,
    /// On the veths.
    Macvlan,
}

/// ```text
/// client eth0 ---- front lb back ---- switch ---- eth0 backend-1
///        eth1 --------------------------
/// ```
///
/// Nothing is done to the devices that `ip link add` does not do, but for the MTU, and where the offloads are to be off.
struct Site {
    client: Host,
    daemon: Daemon,
    mtu: usize,
    _servers: Vec<(TcpEcho, Vec<UdpEcho>)>,
    _decapsulator: Process,
    _others: [Host; 3],
}

fn link(host: &Host, device: &str, peer: &Host, peer_device: &str, mtu: usize, offloads: bool) {
    let peer_path = peer.namespace_path();
    host.run(&format!(
        "ip link add {device} mtu {mtu} type veth peer name {peer_device} mtu {mtu} netns {peer_path}"
    ))
    .unwrap();
    for (end, name) in [(host, device), (peer, peer_device)] {
        if !offloads {
            switch_off(end, name);
        }
        end.run(&format!("ip link set {name} up")).unwrap();
    }
}

fn switch_off(host: &Host, device: &str) {
    host.run(&format!("ethtool -K {device} tx off gso off gro off")).unwrap();
}

fn address(host: &Host, device: &str, v4: &str, v6: &str) {
    host.run(&format!("ip addr add {v4} dev {device}")).unwrap();
    host.run(&format!("ip addr add {v6} dev {device} nodad")).unwrap();
}

fn take_from_anywhere(host: &Host, interfaces: &[&str]) {
    for interface in interfaces {
        host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0").unwrap();
    }
}

/// Makes the load balancer's devices, `front` and `back`.
fn make(devices: Devices, lb: &Host, offloads: bool, mtu: usize) {
    for (name, below) in [("front", "front0"), ("back", "back0")] {
        let more = match devices {
            Devices::Veth => {
                vec![format!("ip link set {below} down"), format!("ip link set {below} name {name}")]
            }
            Devices::Bridge => vec![
                format!("ip link add {name} mtu {mtu} type bridge"),
                format!("ip link set {below} master {name}"),
            ],
            Devices::Macvlan => {
                vec![format!("ip link add link {below} name {name} type macvlan mode bridge")]
            }
        };
        more.iter().for_each(|command| drop(lb.run(command).unwrap()));
        if !offloads {
            switch_off(lb, name);
        }
        lb.run(&format!("ip link set {name} up")).unwrap();
    }
}

/// Has a backend's replies leave through the load balancer, and those in the VIPs' name past it.
fn route(backend: &Host) {
    backend.sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
    backend.sysctl("net.ipv4.conf.all.arp_announce", "2").unwrap();
    backend.run("ip route add default via 198.51.100.2").unwrap();
    backend.run("ip -6 route add default via 2001:db8:2::2").unwrap();
    backend.run("ip rule add from 192.0.2.10 table 10").unwrap();
    backend.run("ip -6 rule add from 2001:db8:1::10 table 10").unwrap();
    backend.run("ip route add default via 198.51.100.100 table 10").unwrap();
    backend.run("ip -6 route add default via 2001:db8:2::100 table 10").unwrap();
}

impl Site {
    fn start(devices: Devices, offloads: bool, mtu: usize) -> Self {
        let lab = Lab::new("tc").unwrap();
        let [client, lb, switch, backend] =
            ["client", "lb", "switch", "backend-1"].map(|name| lab.host(name).unwrap());
        link(&client, "eth0", &lb, "front0", mtu, offloads);
        link(&switch, "lb", &lb, "back0", mtu, offloads);
        link(&switch, "client", &client, "eth1", mtu, offloads);
        link(&switch, "backend-1", &backend, "eth0", mtu, offloads);
        switch.run(&format!("ip link add bridge mtu {mtu} type bridge")).unwrap();
        for port in ["lb", "client", "backend-1"] {
            switch.run(&format!("ip link set {port} master bridge")).unwrap();
        }
        switch.run("ip link set bridge up").unwrap();

        make(devices, &lb, offloads, mtu);
        address(&client, "eth0", "192.0.2.100/24", "2001:db8:1::100/64");
        address(&client, "eth1", "198.51.100.100/24", "2001:db8:2::100/64");
        address(&lb, "front", "192.0.2.1/24", "2001:db8:1::1/64");
        address(&lb, "front", "192.0.2.10/32", "2001:db8:1::10/128");
        address(&lb, "back", "198.51.100.2/24", "2001:db8:2::2/64");
        address(&backend, "eth0", "198.51.100.11/24", "2001:db8:2::11/64");
        address(&backend, "lo", "192.0.2.10/32", "2001:db8:1::10/128");
        // Else the device below a macvlan answers for it, too.
        lb.sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
        lb.sysctl("net.ipv4.ip_forward", "1").unwrap();
        lb.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        route(&backend);
        take_from_anywhere(&backend, &["all", "eth0"]);
        take_from_anywhere(&client, &["all", "eth0", "eth1"]);

        let servers = MODES.map(|(mode, port)| {
            let udp = if mode.ends_with("nat") {
                vec![UdpEcho::start_nameless(&backend, port).unwrap()]
            } else {
                // It answers from the address that it is bound to.
                let at = |family| {
                    UdpEcho::start_at(&backend, SocketAddr::new(Network::vip(family), port)).unwrap()
                };
                Family::ALL.map(at).into()
            };
            (TcpEcho::start(&backend, port).unwrap(), udp)
        });
        let decapsulator =
            direct_return::decapsulator(&backend, &["--from", "198.51.100.2", "--from", "2001:db8:2::2"])
                .unwrap();
        let daemon = Daemon::start(&lb, &["front", "back"], &config()).unwrap();
        daemon.wait_until_up().unwrap();
        Self {
            client,
            daemon,
            mtu,
            _servers: servers.into(),
            _decapsulator: decapsulator,
            _others: [lb, switch, backend],
        }
    }

    /// Sends megabytes over a connection and expects them back, byte for byte.
    fn assert_tcp_echoes(&self, mode: &str, vip: SocketAddr) {
        let source = SocketAddr::new(client_address(vip.ip()), 0);
        let mut connection = Connection::open(&self.client, source, vip).unwrap_or_else(|error| {
            panic!("{mode}: {vip}: {error:#}\n{}", self.daemon.cli(&["counters"]).unwrap())
        });
        let sent: Vec<u8> = (0..4_000_000_u32).map(|place| (place * 31 % 251) as u8).collect();
        let mut writer = connection.stream.get_ref().try_clone().unwrap();
        let mut back = vec![0; sent.len()];
        thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&sent));
            connection.stream.read_exact(&mut back).unwrap_or_else(|error| {
                panic!("{mode}: {vip}: {error}\n{}", self.daemon.cli(&["counters"]).unwrap())
            });
            writing.join().unwrap().unwrap();
        });
        assert!(back == sent, "{mode}: {vip}: other bytes came back");
    }

    /// Sends datagrams, from an empty one to one that fills a frame in a tunnel, and expects them back.
    fn assert_udp_echoes(&self, mode: &str, vip: SocketAddr) {
        let socket = udp_socket(&self.client, SocketAddr::new(client_address(vip.ip()), 0)).unwrap();
        make_room(&socket).unwrap();
        socket.connect(vip).unwrap();
        for length in [0, 1, 100, self.mtu - 96] {
            let sent: Vec<u8> = (0..length).map(|place| (place * 31 % 251) as u8).collect();
            socket.send(&sent).unwrap();
            let mut back = vec![0; 10_000];
            let received = socket.recv(&mut back).unwrap_or_else(|error| {
                panic!("{mode}: {vip}, {length} bytes: {error}\n{}", self.daemon.cli(&["counters"]).unwrap())
            });
            assert!(back[..received] == sent, "{mode}: {vip}: {length} bytes came back otherwise");
        }
    }
}

fn client_address(vip: IpAddr) -> IpAddr {
    Network::client_address(if vip.is_ipv4() { Family::V4 } else { Family::V6 })
}

fn config() -> String {
    let mut text = "attach = \"auto\"\n".to_owned();
    for (mode, port) in MODES {
        for family in Family::ALL {
            let of = if family == Family::V4 { "v4" } else { "v6" };
            for (protocol, check) in [
                ("tcp", r#"{ type = "tcp", interval = "500ms", rise = 1, fall = 6 }"#),
                ("udp", r#"{ type = "none" }"#),
            ] {
                text += &format!(
                    "[[service]]\nname = \"{mode}-{of}-{protocol}\"\nvip = \"{}\"\nprotocol = \"{protocol}\"\nmode = \
                     \"{mode}\"\nhealth_check = {check}\n[[service.backend]]\naddress = \"{}\"\n",
                    SocketAddr::new(Network::vip(family), port),
                    Network::endpoint(family, 1, port),
                );
            }
        }
    }
    text
}

fn assert_all_works(devices: Devices, offloads: bool, mtu: usize) {
    let site = Site::start(devices, offloads, mtu);
    let status = site.daemon.cli_json(&["status"]).unwrap();
    for interface in status["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mode"], "tc", "{interface}");
    }
    for (mode, port) in MODES {
        for family in Family::ALL {
            let vip = SocketAddr::new(Network::vip(family), port);
            site.assert_udp_echoes(mode, vip);
            site.assert_tcp_echoes(mode, vip);
        }
    }
}

macro_rules! sites {
    ($($name:ident: $devices:ident, $offloads:literal, $mtu:literal;)*) => {
        $(
            #[test]
            fn $name() {
                assert_all_works(Devices::$devices, $offloads, $mtu);
            }
        )*
    };
}

sites! {
    every_mode_works_over_veths_as_they_are: Veth, true, 1500;
    every_mode_works_over_veths_with_large_frames: Veth, true, 9000;
    every_mode_works_over_veths_without_offloads: Veth, false, 1500;
    every_mode_works_over_veths_with_large_frames_without_offloads: Veth, false, 9000;
    every_mode_works_over_bridges_as_they_are: Bridge, true, 1500;
    every_mode_works_over_bridges_with_large_frames: Bridge, true, 9000;
    every_mode_works_over_bridges_without_offloads: Bridge, false, 1500;
    every_mode_works_over_bridges_with_large_frames_without_offloads: Bridge, false, 9000;
    every_mode_works_over_macvlans_as_they_are: Macvlan, true, 1500;
    every_mode_works_over_macvlans_with_large_frames: Macvlan, true, 9000;
    every_mode_works_over_macvlans_without_offloads: Macvlan, false, 1500;
    every_mode_works_over_macvlans_with_large_frames_without_offloads: Macvlan, false, 9000;
}
