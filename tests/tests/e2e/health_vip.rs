//! Checks of the VIP on one backend, which test what clients use.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xdp_lb_tests::servers::{GrpcHealth, Nginx, UdpEcho};
use xdp_lb_tests::{
    Daemon, Family, Host, Network, Process, Requests, UdpStream, by_backend, direct_return, until,
};

/// The modes, each on a port of its own.
const MODES: [(&str, u16); 3] = [("dsr", 8080), ("ipip", 8081), ("gue", 8083)];

/// Fast checks: down within 500 ms and three timeouts, which a server that is slow on a busy machine does not exceed.
const QUICK: &str =
    "interval = \"500ms\", fast_interval = \"200ms\", timeout = \"500ms\", rise = 1, fall = 3";

/// How long a change of health may take on a machine that does other things, too.
const SOON: Duration = Duration::from_secs(30);

struct Site {
    network: Network,
    _servers: Vec<Nginx>,
    decapsulators: Vec<Process>,
    daemon: Daemon,
}

impl Site {
    /// Two backends with the VIPs, nginx and decapsulators, and the daemon with a service for each mode and family.
    fn start(name: &str, top: &str, more: &str) -> Self {
        let network = Network::new(name, 2).unwrap();
        direct_return::give_vips(&network).unwrap();
        let servers = network.backends.iter().flat_map(|host| {
            MODES.iter().map(|(_, port)| Nginx::start(host, *port).unwrap()).collect::<Vec<_>>()
        });
        let servers = servers.collect();
        let decapsulators = network.backends.iter().map(decapsulator).collect();
        let daemon =
            Daemon::start(&network.lb, &["eth0", "eth1"], &format!("{top}\n{}{more}", config())).unwrap();
        daemon.wait_until_up().unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
        Self { network, _servers: servers, decapsulators, daemon }
    }

    /// Asserts that backend `number` is soon in this state in each of these services, and the other one is up.
    fn becomes(&self, number: usize, state: &str, ways: &[(&str, Family)]) {
        for (mode, family) in ways {
            let port = MODES.iter().find(|(name, _)| name == mode).unwrap().1;
            let service = format!("{mode}-{family:?}");
            let at = |number| Network::endpoint(*family, number, port).to_string();
            let waited = self.daemon.wait_for_state(&service, &at(number), state, SOON);
            waited.unwrap_or_else(|error| panic!("{error:#}: {:?}", self.daemon.backends(Some(&service))));
            let waited = self.daemon.wait_for_state(&service, &at(3 - number), "up", SOON);
            waited.unwrap_or_else(|error| panic!("{error:#}: {:?}", self.daemon.backends(Some(&service))));
        }
    }

    /// Asserts that backend `number` answers at its own address.
    fn answers_itself(&self, number: usize) {
        for family in Family::ALL {
            let own = Network::endpoint(family, number, 8080);
            self.network.lb.run(&format!("curl -sgf --max-time 10 http://{own}/")).unwrap();
        }
    }

    fn pid(&self) -> i32 {
        self.daemon.cli_json(&["status"]).unwrap()["pid"].as_i64().unwrap() as i32
    }

    /// How many processes make sockets for a daemon.
    fn heirs(&self) -> String {
        // Its exit code is another where there is none.
        let counted = self.network.lb.command("pgrep").args(["-fc", "[s]erve-checks"]).output().unwrap();
        String::from_utf8_lossy(&counted.stdout).trim().to_owned()
    }

    /// The daemon's interfaces on the load balancer.
    fn doors(&self) -> usize {
        self.network.lb.run("ip -o link show").unwrap().matches(": xdp-lb-").count()
    }
}

fn decapsulator(host: &Host) -> Process {
    direct_return::decapsulator(host, &[]).unwrap()
}

fn set_vip(backend: &Host, family: Family, is_there: bool) {
    direct_return::set_vip(backend, family, is_there).unwrap();
}

fn config() -> String {
    let mut text = String::new();
    for (mode, port) in MODES {
        for family in Family::ALL {
            let vip = std::net::SocketAddr::new(Network::vip(family), port);
            text += &format!(
                "[[service]]\nname = \"{mode}-{family:?}\"\nvip = \"{vip}\"\nmode = \"{mode}\"\n\
                 health_check = {{ type = \"http\", via = \"vip\", path = \"/peer\", body = \"{}\", {QUICK} }}\n\
                 [[service.backend]]\naddress = \"{}\"\n[[service.backend]]\naddress = \"{}\"\n\n",
                Network::back(family),
                Network::endpoint(family, 1, port),
                Network::endpoint(family, 2, port),
            );
        }
    }
    text
}

/// How many resets this host's own TCP has sent.
fn resets(host: &Host) -> u64 {
    let text = host.run("cat /proc/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "OutRsts").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

#[test]
fn a_backend_without_the_vip_or_without_decapsulation_is_down_although_its_own_address_answers() {
    let mut site = Site::start("health-vip", "", "");
    let of = |family: Family| MODES.map(|(mode, _)| (mode, family));
    let backends = site.network.backends.clone();

    set_vip(&backends[0], Family::V4, false);
    site.becomes(1, "down", &of(Family::V4));
    site.answers_itself(1);
    site.becomes(1, "up", &of(Family::V6));
    set_vip(&backends[0], Family::V4, true);
    site.becomes(1, "up", &of(Family::V4));
    set_vip(&backends[1], Family::V6, false);
    site.becomes(2, "down", &of(Family::V6));
    set_vip(&backends[1], Family::V6, true);
    site.becomes(2, "up", &of(Family::V6));

    // One that drains is checked, too.
    let drained = Network::endpoint(Family::V4, 1, 8081).to_string();
    site.daemon.cli(&["backend", "drain", "ipip-V4", &drained]).unwrap();
    for health in ["down", "up"] {
        set_vip(&backends[0], Family::V4, health == "up");
        until(health, SOON, || {
            let all = site.daemon.backends(Some("ipip-V4"))?;
            let it = all.iter().find(|backend| backend["address"] == drained.as_str()).unwrap();
            Ok(it["health"] == health && it["admin"] == "draining")
        })
        .unwrap();
    }
    site.daemon.cli(&["backend", "enable", "ipip-V4", &drained]).unwrap();
    site.becomes(1, "up", &of(Family::V4));

    // Tunnels need their other end, and dsr does not.
    assert!(site.decapsulators[1].stop().unwrap().success());
    for family in Family::ALL {
        site.becomes(2, "down", &[("ipip", family), ("gue", family)]);
        site.becomes(2, "up", &[("dsr", family)]);
    }
    site.answers_itself(2);
    site.decapsulators[1] = decapsulator(&backends[1]);
    for family in Family::ALL {
        site.becomes(2, "up", &of(family));
    }

    // Nor does it matter whether the VIPs are addresses of the balancer, whose own TCP sees nothing of it.
    let lb = &site.network.lb;
    let before = resets(lb);
    lb.run(&format!("ip addr del {}/32 dev eth0", Network::VIP)).unwrap();
    lb.run(&format!("ip addr del {}/128 dev eth0", Network::VIP6)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    for family in Family::ALL {
        site.becomes(1, "up", &of(family));
    }
    set_vip(&backends[0], Family::V4, false);
    site.becomes(1, "down", &of(Family::V4));
    assert_eq!(resets(lb), before, "the balancer's own TCP has answered a backend");
    let mut connections = String::new();
    until("the connections of checks to be closed", SOON, || {
        connections = backends[1].run("ss -Htn state established state close-wait")?;
        Ok(connections.lines().count() < 10)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {connections}"));
    // No client was there.
    for backend in site.daemon.backends(None).unwrap() {
        assert_eq!(backend["traffic"]["packets_in"], 0, "{backend}");
    }
}

#[test]
fn udp_and_grpc_services_are_checked_at_the_vip_also_at_tc_ingress_and_all_is_cleaned_up() {
    let vip = Network::VIP;
    let more = format!(
        "[[service]]\nname = \"echo\"\nvip = \"{vip}:7000\"\nprotocol = \"udp\"\nmode = \"gue\"\n\
         health_check = {{ type = \"udp\", send = \"ping\", via = \"vip\", {QUICK} }}\n\
         [[service.backend]]\naddress = \"198.51.100.11:7000\"\n\
         [[service]]\nname = \"grpc\"\nvip = \"{vip}:7001\"\nmode = \"dsr\"\n\
         health_check = {{ type = \"grpc\", via = \"vip\", {QUICK} }}\n\
         [[service.backend]]\naddress = \"198.51.100.11:7001\"\n\
         [[service]]\nname = \"elsewhere\"\nvip = \"{vip}:7000-7999\"\nmode = \"ipip\"\n\
         health_check = {{ type = \"tcp\", port = 8080, via = \"vip\", {QUICK} }}\n\
         [[service.backend]]\naddress = \"198.51.100.11:0\"\n"
    );
    let mut site = Site::start("health-vip2", "attach = \"tc\"", "");
    let backend = &site.network.backends[0];
    let echo = UdpEcho::start_at(backend, format!("{vip}:7000").parse().unwrap()).unwrap();
    let grpc = GrpcHealth::start(backend, 7001, None).unwrap();
    let config = site.daemon.config().unwrap();
    std::fs::write(site.daemon.config_file(), format!("{config}\n{more}")).unwrap();
    site.daemon.cli(&["reload"]).unwrap();
    site.daemon.wait_until_up().unwrap();
    let shown = site.daemon.cli(&["service", "show", "echo"]).unwrap();
    assert!(shown.contains("udp \"ping\", to the VIP, every 500ms"), "{shown}");
    grpc.set("", false);
    site.daemon.wait_for_state("grpc", "198.51.100.11:7001", "down", SOON).unwrap();
    drop(echo);
    site.daemon.wait_for_state("echo", "198.51.100.11:7000", "down", SOON).unwrap();

    assert_eq!(site.doors(), 1);
    // Not even a daemon that was killed leaves its interface, and the next one has its own.
    site.daemon.kill().unwrap();
    until("the interface to be gone", SOON, || Ok(site.doors() == 0)).unwrap();
    site.daemon.run().unwrap();
    for family in Family::ALL {
        site.becomes(1, "up", &[("dsr", family), ("ipip", family), ("gue", family)]);
    }
    assert_eq!(site.doors(), 1);
    set_vip(&site.network.backends[1], Family::V4, false);
    site.becomes(2, "down", &[("dsr", Family::V4), ("ipip", Family::V4), ("gue", Family::V4)]);
    site.daemon.cli(&["unload"]).unwrap();
    until("the interface to be gone", SOON, || Ok(site.doors() == 0)).unwrap();
}

#[test]
fn an_upgrade_takes_over_the_namespace_of_checks_and_loses_no_result_and_no_packet() {
    let more = format!(
        "[[service]]\nname = \"echo\"\nvip = \"{}:7000\"\nprotocol = \"udp\"\nmode = \"gue\"\n\
         backend = [{{ address = \"198.51.100.11:7000\" }}]\n",
        Network::VIP
    );
    let site = Site::start("health-vip3", "", &more);
    direct_return::connect_with_client(&site.network).unwrap();
    let of = |family: Family| MODES.map(|(mode, _)| (mode, family));
    let Network { client, backends, .. } = &site.network;
    let vip = |port: u16| format!("{}:{port}", Network::VIP).parse().unwrap();
    let _echo = UdpEcho::start_at(&backends[0], vip(7000)).unwrap();
    set_vip(&backends[1], Family::V4, false);
    site.becomes(2, "down", &of(Family::V4));

    let stream = UdpStream::start(client, vip(7000)).unwrap();
    let requests = Requests::start(client, vip(8081), 2);
    // From a daemon that made the namespace, and from one that has it from another.
    for _ in 0..2 {
        let (pid, before) = (site.pid(), site.daemon.log().len());
        site.daemon.cli(&["upgrade"]).unwrap_or_else(|error| panic!("{error:#}\n{}", site.daemon.log()));
        assert_ne!(site.pid(), pid);
        let log = site.daemon.log()[before..].to_owned();
        // One that was down gets no flows before its first check, and one that was up keeps them.
        let changed = log.lines().find(|line| line.contains(": up -> ") || line.contains(" -> up: "));
        assert_eq!(changed, None, "{log}");
        until("the process before to be gone", SOON, || Ok(site.heirs() == "1")).unwrap();
        // Checks go on to find what changes.
        set_vip(&backends[1], Family::V6, false);
        site.becomes(2, "down", &[("ipip", Family::V6), ("gue", Family::V6), ("dsr", Family::V6)]);
        set_vip(&backends[1], Family::V6, true);
        site.becomes(2, "up", &of(Family::V6));
        site.becomes(2, "down", &of(Family::V4));
        assert_eq!(site.doors(), 1);
    }
    let by_now = stream.sent();
    until("the stream to go on", Duration::from_secs(10), || Ok(stream.sent() > by_now + 100)).unwrap();
    let streamed = stream.stop().unwrap();
    assert!(streamed.lost.is_empty(), "{streamed:?}");
    by_backend(&requests.stop()).unwrap();

    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).unwrap();
    until("all to be gone", SOON, || Ok(site.doors() == 0 && site.heirs() == "0")).unwrap();
}
