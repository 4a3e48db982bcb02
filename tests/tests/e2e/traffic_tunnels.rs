//! Modes `dsr`, `ipip` and `gue`: the backends have the VIP and answer clients themselves, by another way than the
//! clients' packets come.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_tests::client::{Connection, udp_socket};
use xdp_lb_tests::servers::{Nginx, TcpEcho, UdpEcho};
use xdp_lb_tests::{
    Daemon, Family, Network, Process, behind_a_narrow_link, big_file, direct_return, downloads,
};

/// The modes, each on a port of its own.
const MODES: [(&str, u16); 3] = [("dsr", 8080), ("ipip", 8081), ("gue", 8083)];

/// Two backends with the VIPs and nginx on all ports, decapsulators, and the daemon. In the tunnels' services, the
/// first backend is reached by the VIP's family, the second by the other one.
struct Site {
    network: Network,
    nginx: Vec<Vec<Nginx>>,
    decapsulators: Vec<Process>,
    daemon: Daemon,
}

impl Site {
    fn start(name: &str) -> Self {
        let network = Network::new(name, 2).unwrap();
        direct_return::connect_with_client(&network).unwrap();
        direct_return::give_vips(&network).unwrap();
        let backends = &network.backends;
        let nginx = backends
            .iter()
            .map(|host| MODES.iter().map(|(_, port)| Nginx::start(host, *port).unwrap()).collect())
            .collect();
        let allowed = ["--from", "198.51.100.2", "--from", "2001:db8:2::/64"];
        let decapsulators = backends.iter().map(|host| direct_return::decapsulator(host, &allowed).unwrap());
        let decapsulators = decapsulators.collect();
        let config = ["tcp", "udp"].map(config).concat();
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        Self { network, nginx, decapsulators, daemon }
    }

    /// Runs curl on the client and returns its stdout, byte for byte.
    fn curl(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = self.network.client.command("curl");
        command.args(["-sSf", "--connect-timeout", "5", "--max-time", "60"]).args(arguments);
        let output = command.output().unwrap();
        let counters = self.daemon.cli(&["counters"]).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {arguments:?}: {stderr}\n{counters}");
        output.stdout
    }
}

fn vip(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(Network::vip(family), port)
}

fn name(mode: &str, family: Family) -> String {
    format!("{mode}-{}", if family == Family::V4 { "v4" } else { "v6" })
}

/// The family of the way to the second backend: a tunnel's is the other one.
fn second_family(mode: &str, family: Family) -> Family {
    match family {
        _ if mode == "dsr" => family,
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// The services of a protocol: those of TCP are checked.
fn config(protocol: &str) -> String {
    let (mark, check) = match protocol {
        "tcp" => ("", r#"{ type = "tcp", interval = "500ms", rise = 1, fall = 6 }"#),
        _ => ("-udp", r#"{ type = "none" }"#),
    };
    let mut text = String::new();
    for (mode, port) in MODES {
        for family in Family::ALL {
            let other = second_family(mode, family);
            text += &format!(
                "[[service]]\nname = \"{}{mark}\"\nvip = \"{}\"\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n\
                 health_check = {check}\n\
                 [[service.backend]]\naddress = \"{}\"\n[[service.backend]]\naddress = \"{}\"\n\n",
                name(mode, family),
                vip(family, port),
                Network::endpoint(family, 1, port),
                Network::endpoint(other, 2, port),
            );
        }
    }
    text
}

#[test]
fn backends_reply_directly_over_v4_and_v6_and_one_in_the_other() {
    let mut site = Site::start("tunnels");
    let mut content = vec![0; 10_000_000];
    File::open(big_file().unwrap()).unwrap().read_exact(&mut content).unwrap();
    let range = format!("0-{}", content.len() - 1);
    for (mode, port) in MODES {
        for family in Family::ALL {
            let way = name(mode, family);
            let url = format!("http://{}", vip(family, port));
            let mut served = BTreeSet::new();
            for _ in 0..40 {
                let page = String::from_utf8(site.curl(&[&format!("{url}/")])).unwrap();
                served.insert(page.trim().to_owned());
            }
            assert_eq!(served.into_iter().collect::<Vec<_>>(), ["backend-1", "backend-2"], "{way}");
            let peer = String::from_utf8(site.curl(&[&format!("{url}/peer")])).unwrap();
            assert_eq!(peer.trim(), Network::client_address(family).to_string(), "{way}");
            for _ in 0..2 {
                let big = site.curl(&["-r", &range, &format!("{url}/big")]);
                assert!(big == content, "{way}: a download came otherwise");
            }
            let shown = site.daemon.cli_json(&["service", "show", &way]).unwrap();
            let traffic = &shown["service"]["traffic"];
            assert!(traffic["packets_in"].as_u64() > Some(100), "{way}: {traffic}");
            assert_eq!(traffic["packets_out"], 0, "{way}: replies came through the load balancer");
        }
    }
    for decapsulator in &mut site.decapsulators {
        assert!(decapsulator.stop().unwrap().success());
        let log = decapsulator.log();
        for words in ["decapsulated: IP in IP", "decapsulated: GUE", "detached from eth0"] {
            assert!(log.contains(words), "{words}: {log}");
        }
    }
    // Without them, dsr alone goes on.
    site.curl(&[&format!("http://{}/", vip(Family::V4, 8080))]);
    let mut tunnelled = site.network.client.command("curl");
    tunnelled.args(["-s", "--max-time", "2", &format!("http://{}/", vip(Family::V4, 8081))]);
    assert!(!tunnelled.status().unwrap().success());
}

#[test]
fn an_upload_through_a_tunnel_arrives_whole_because_the_client_learns_the_smaller_mtu() {
    let site = Site::start("tunnel-mtu");
    let mut content = vec![0; 5_000_000];
    File::open(big_file().unwrap()).unwrap().read_exact(&mut content).unwrap();
    let file = site.network.client.dir().join("upload");
    fs::write(&file, &content).unwrap();
    let mut answered = 0;
    for (place, (mode, port)) in MODES.into_iter().enumerate() {
        for family in Family::ALL {
            for number in 0..8 {
                let upload = format!("{}-{number}", name(mode, family));
                let url = format!("http://{}/upload/{upload}", vip(family, port));
                let response = site.curl(&["-i", "-T", file.to_str().unwrap(), &url]);
                let response = String::from_utf8(response).unwrap();
                let by = (0..2).find(|by| response.contains(&format!("X-Backend: backend-{}\r\n", by + 1)));
                let by = by.unwrap_or_else(|| panic!("{upload}: nobody took it: {response}"));
                let uploaded = fs::read(site.nginx[by][place].uploaded(&upload)).unwrap();
                assert!(uploaded == content, "{upload}: it came otherwise");
            }
            let now = site.daemon.counter("too_big_answered").unwrap();
            // The way to a backend takes 1500 bytes: as much as the client's packets have.
            assert_eq!(now > answered, mode != "dsr", "{mode} {family:?}: {now} answers, {answered} before");
            answered = now;
            if mode != "dsr" {
                let route =
                    site.network.client.run(&format!("ip route get {}", Network::vip(family))).unwrap();
                assert!(route.contains(" mtu 14"), "{mode} {family:?}: {route}");
            }
            site.network.client.run("ip route flush cache").unwrap();
            site.network.client.run("ip -6 route flush cache").unwrap();
        }
    }
    assert!(answered < 200, "{answered} answers to 32 uploads");
}

#[test]
fn large_datagrams_reach_the_backends_in_fragments_and_come_back() {
    let site = Site::start("tunnel-frags");
    let _echoes: Vec<_> = site
        .network
        .backends
        .iter()
        .flat_map(|host| {
            MODES
                .iter()
                .flat_map(|(_, port)| Family::ALL.map(|family| vip(family, *port)))
                .map(move |at| (host, at))
        })
        .map(|(host, at)| UdpEcho::start_at(host, at).unwrap())
        .collect();
    for (mode, port) in MODES {
        for family in Family::ALL {
            let way = name(mode, family);
            // Each port is a flow of its own: some go to one backend, some to the other. Few flows may all go to one.
            let mut shown = serde_json::Value::Null;
            let reaches_both = (0..40).any(|_| {
                let socket =
                    udp_socket(&site.network.client, SocketAddr::new(Network::client_address(family), 0))
                        .unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket.connect(vip(family, port)).unwrap();
                for length in [1473, 4000, 9001, 60_000] {
                    let sent: Vec<u8> = (0..length).map(|place| (place * 31 % 251) as u8).collect();
                    let mut back = vec![0; 65_536];
                    // The first may be lost: to address resolution, or since the client has yet to hear what fits into
                    // the tunnel.
                    let comes_back = (0..6).any(|_| {
                        let _ = socket.send(&sent);
                        socket.recv(&mut back).is_ok_and(|received| back[..received] == sent)
                    });
                    assert!(comes_back, "{way}: {length} bytes did not come back");
                }
                shown = site.daemon.cli_json(&["service", "show", &format!("{way}-udp")]).unwrap();
                let backends = shown["backends"].as_array().unwrap();
                let packets = |backend: &serde_json::Value| backend["traffic"]["packets_in"].as_u64();
                backends.iter().all(|backend| packets(backend).is_some_and(|packets| packets > 40))
            });
            assert!(reaches_both, "{way}: {shown}");
        }
    }
}

#[test]
fn a_backend_with_direct_return_learns_a_small_mtu_through_the_tunnel() {
    let site = Site::start("tunnel-pmtu");
    let Network { backends, .. } = &site.network;
    let direct: Vec<_> = backends.iter().map(|host| (host, ["198.51.100.100", "2001:db8:2::100"])).collect();
    let far = behind_a_narrow_link(&site.network, "eth2", &direct).unwrap();
    let on_all = |line: &str| backends.iter().for_each(|host| _ = host.run(line).unwrap());
    for (mode, port) in MODES {
        for family in Family::ALL {
            let way = name(mode, family);
            let vip = vip(family, port);
            // Who is asked for the first time is not waited for below.
            far.run(&format!("curl -sgf --retry 3 --retry-connrefused http://{vip}/")).unwrap();

            // A backend that does not hear the router sends segments that never arrive.
            on_all("nft add table inet deaf");
            on_all("nft add chain inet deaf input { type filter hook input priority 0 ; }");
            on_all("nft add rule inet deaf input icmp type destination-unreachable drop");
            on_all("nft add rule inet deaf input icmpv6 type packet-too-big drop");
            // The connection of the last such download still sends now and then, and what it was told is forgotten only now.
            on_all("ip route flush cache");
            on_all("ip -6 route flush cache");
            assert!(!downloads(&far, vip, 5), "{way}: the link was not too narrow for the download");

            on_all("nft delete table inet deaf");
            for _ in 0..4 {
                assert!(downloads(&far, vip, 30), "{way}: a backend was not told how narrow the link is");
                // What it learnt for one connection is nothing that it knows for the next.
                on_all("ip route flush cache");
                on_all("ip -6 route flush cache");
            }
        }
    }
    assert_eq!(site.daemon.counter("icmp_without_flow").unwrap(), 0);
}

#[test]
fn a_range_of_ports_added_at_runtime_works_in_each_mode_over_tcp_and_udp() {
    let site = Site::start("tunnel-ranges");
    let Network { client, backends, .. } = &site.network;
    let mut servers = Vec::new();
    let mut ways = Vec::new();
    for (first, (mode, _)) in (9000..).step_by(100).zip(MODES) {
        for port in [first, first + 50] {
            for host in backends {
                servers.push(TcpEcho::start(host, port).unwrap());
            }
        }
        for family in Family::ALL {
            let range = format!("{}-{}", vip(family, first), first + 99);
            let ends = [(family, 1), (second_family(mode, family), 2)]
                .map(|(family, number)| Network::endpoint(family, number, 0).to_string());
            for protocol in ["tcp", "udp"] {
                let service = format!("{}-{protocol}-range", name(mode, family));
                let line = ["service", "add", &service, &range, "--protocol", protocol, "--mode", mode];
                let rest = ["--check", "none", "--backend", &ends[0], "--backend", &ends[1]];
                site.daemon.cli(&[&line[..], &rest].concat()).unwrap();
            }
            ways.push((mode, family, first));
        }
    }
    site.daemon.wait_until_up().unwrap();
    for (mode, family, first) in ways {
        let source = SocketAddr::new(Network::client_address(family), 0);
        for vip in [vip(family, first), vip(family, first + 50)] {
            let served: BTreeSet<_> =
                (0..20).map(|_| Connection::open(client, source, vip).unwrap().name).collect();
            assert_eq!(served.into_iter().collect::<Vec<_>>(), ["backend-1", "backend-2"], "{mode} {vip}");
            let _echoes: Vec<_> = backends.iter().map(|host| UdpEcho::start_at(host, vip).unwrap()).collect();
            for _ in 0..6 {
                let socket = udp_socket(client, source).unwrap();
                socket.connect(vip).unwrap();
                socket.send(b"to the range").unwrap();
                let mut back = [0; 64];
                let length = socket.recv(&mut back).unwrap_or_else(|error| panic!("{mode} {vip}: {error}"));
                assert_eq!(back[..length], *b"to the range");
            }
        }
        let service = format!("{}-udp-range", name(mode, family));
        let shown = site.daemon.cli_json(&["service", "show", &service]).unwrap();
        assert_eq!(shown["service"]["traffic"]["packets_in"], 12, "{service}: {shown}");
    }
}
