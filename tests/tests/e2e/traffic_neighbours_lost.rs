//! The kernel forgets neighbours, and neighbours change their addresses, with a daemon and without one: no packet is lost that a
//! router would not lose.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::direct_return::{connect_with_client, give_vips};
use xdp_lb_tests::servers::UdpEcho;
use xdp_lb_tests::{Daemon, Family, Network, UdpStream, until};

/// What comes back through the load balancer, and what does not: each takes a network of its own.
const THROUGH: &[(&str, u16)] = &[("nat", 7001), ("full-nat", 7002)];
const PAST: &[(&str, u16)] = &[("dsr", 7003)];

struct Bed {
    network: Network,
    daemon: Daemon,
    _servers: Vec<UdpEcho>,
}

impl Bed {
    fn start(name: &str, modes: &[(&str, u16)], keys: &str) -> Self {
        let network = Network::new(name, 1).unwrap();
        let backend = &network.backends[0];
        if modes.iter().any(|(mode, _)| *mode == "dsr") {
            give_vips(&network).unwrap();
            connect_with_client(&network).unwrap();
        }
        let start = |(mode, port): &(&str, u16)| match *mode {
            // They answer in the VIP's name.
            "dsr" => Family::ALL.map(|family| UdpEcho::start_at(backend, vip(family, *port)).unwrap()).into(),
            _ => vec![UdpEcho::start(backend, *port).unwrap()],
        };
        let servers = modes.iter().flat_map(start).collect();
        let mut config = keys.to_owned();
        for (mode, port) in modes {
            for family in Family::ALL {
                config += &format!(
                    "\n[[service]]\nname = \"{mode}-{family:?}\"\nvip = \"{}\"\nprotocol = \"udp\"\nmode = \"{mode}\"\n\
                     health_check = {{ type = \"none\" }}\nbackend = [{{ address = \"{}\" }}]\n",
                    vip(family, *port),
                    Network::endpoint(family, 1, *port),
                );
            }
        }
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        Self { network, daemon, _servers: servers }
    }

    /// A stream through each service.
    fn streams(&self, modes: &[(&str, u16)]) -> Vec<(String, UdpStream)> {
        let start = |(mode, port): &(&str, u16), family| {
            let stream = UdpStream::start(&self.network.client, vip(family, *port)).unwrap();
            (format!("{mode} over {family:?}"), stream)
        };
        modes.iter().flat_map(|mode| Family::ALL.map(|family| start(mode, family))).collect()
    }

    /// Has the load balancer's kernel forget the client, and the backend where it is to, again and again.
    fn forget(&self, with_backend: bool, times: u32) {
        for _ in 0..times {
            for family in Family::ALL {
                let client = (Network::client_address(family), "eth0");
                let backend = (Network::endpoint(family, 1, 0).ip(), "eth1");
                for (address, interface) in [client].into_iter().chain(with_backend.then_some(backend)) {
                    // One that is not known is as good as forgotten.
                    let _ = self.network.lb.run(&format!("ip neigh del {address} dev {interface}"));
                }
            }
            sleep(Duration::from_millis(200));
        }
    }
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::vip(family), port)
}

fn assert_whole(streams: Vec<(String, UdpStream)>) {
    for (name, stream) in streams {
        let streamed = stream.stop().unwrap();
        assert!(streamed.lost.is_empty(), "{name}: {} of {} lost", streamed.lost.len(), streamed.sent);
    }
}

#[test]
fn with_a_daemon_the_first_reply_to_a_client_whose_neighbour_entry_is_gone_is_not_lost() {
    for keys in ["", "attach = \"xdp-generic\"\n", "attach = \"tc\"\n"] {
        let bed = Bed::start("forgotten", THROUGH, keys);
        let streams = bed.streams(THROUGH);
        bed.forget(false, 20);
        assert_whole(streams);
        assert!(bed.daemon.counter("handed_to_host").unwrap() > 0, "the kernel has sent some");
        assert_eq!(bed.daemon.counter("reply_neighbour_missing").unwrap(), 0);
    }
}

#[test]
fn without_a_daemon_nothing_is_lost_when_the_kernel_drops_neighbour_entries() {
    for modes in [THROUGH, PAST] {
        let mut bed = Bed::start("orphaned", modes, "");
        bed.daemon.kill().unwrap();
        let streams = bed.streams(modes);
        // With the addresses that the daemon has left, and then, once its silence is found, with the kernel's.
        bed.forget(true, 75);
        assert_whole(streams);
        // A daemon that comes back finds all as it was.
        bed.daemon.run().unwrap();
        assert!(bed.daemon.counter("handed_to_host").unwrap() > 0, "the kernel has sent some");
        let streams = bed.streams(modes);
        sleep(Duration::from_secs(2));
        assert_whole(streams);
    }
}

#[test]
fn without_a_daemon_traffic_follows_a_backend_whose_mac_address_changes_unannounced() {
    for modes in [THROUGH, PAST] {
        let mut bed = Bed::start("moved", modes, "");
        let lb = &bed.network.lb;
        for family in ["ipv4", "ipv6"] {
            for (name, value) in [
                ("base_reachable_time_ms", "1000"),
                ("delay_first_probe_time", "1"),
                ("retrans_time_ms", "200"),
            ] {
                lb.sysctl(&format!("net.{family}.neigh.eth1.{name}"), value).unwrap();
            }
        }
        bed.daemon.kill().unwrap();
        let streams = bed.streams(modes);
        bed.network.backends[0].run("ip link set dev eth0 address 02:00:5e:00:53:01").unwrap();
        for (mode, port) in modes {
            for family in Family::ALL {
                until(&format!("{mode} over {family:?} to follow"), Duration::from_secs(60), || {
                    let socket = udp_socket(&bed.network.client, SocketAddr::new(family.any(), 0))?;
                    socket.connect(vip(family, *port))?;
                    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                    socket.send(b"who")?;
                    Ok(socket.recv(&mut [0; 64]).is_ok())
                })
                .unwrap();
            }
        }
        for (_, stream) in streams {
            stream.stop().unwrap();
        }
        let streams = bed.streams(modes);
        sleep(Duration::from_secs(5));
        assert_whole(streams);
    }
}

#[test]
fn the_program_that_resolves_neighbours_outlives_the_daemon_is_adopted_and_removed_by_unload() {
    let mut bed = Bed::start("attached", &THROUGH[..1], "");
    let pins = |bed: &Bed| {
        let layouts = std::fs::read_dir(bed.daemon.pins()).into_iter().flatten().flatten();
        let entries =
            layouts.flat_map(|layout| std::fs::read_dir(layout.path()).into_iter().flatten().flatten());
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("tc-")).count()
    };
    assert_eq!(pins(&bed), 2);
    bed.daemon.kill().unwrap();
    assert_eq!(pins(&bed), 2);
    bed.daemon.run().unwrap();
    assert_eq!(pins(&bed), 2);
    let status = bed.daemon.cli_json(&["status"]).unwrap();
    assert!(status["interfaces"].as_array().unwrap().iter().all(|it| it["note"].is_null()), "{status}");
    bed.daemon.cli(&["unload"]).unwrap();
    assert_eq!(pins(&bed), 0);
}
