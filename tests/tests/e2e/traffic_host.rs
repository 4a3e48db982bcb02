//! The load balancer's host stays a normal host.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use xdp_lb_tests::client::{Connection, crowd, ping};
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, Way, services, until};

/// A connection that is in use all the time, as an ssh session is.
struct Session {
    server: SocketAddr,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Session {
    fn open(host: &Host, server: SocketAddr) -> Self {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let mut connection = Connection::open(host, SocketAddr::new(any, 0), server).unwrap();
        assert_eq!(connection.name, "lb", "{server} is not the load balancer itself");
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let round = counted.load(Ordering::Relaxed);
                connection.stream.get_mut().write_all(&round.to_be_bytes())?;
                let mut back = [0; 4];
                connection.stream.read_exact(&mut back)?;
                assert_eq!(u32::from_be_bytes(back), round);
                counted.store(round + 1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        Self { server, stop, rounds, thread }
    }

    /// Ends it; it must have gone on all the time, and go on still.
    fn close(self) {
        let rounds = || self.rounds.load(Ordering::Relaxed);
        let so_far = rounds();
        let what = format!("the session with {} to go on after {so_far} rounds", self.server);
        until(&what, Duration::from_secs(30), || Ok(self.thread.is_finished() || rounds() > so_far)).unwrap();
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap()
            .unwrap_or_else(|error| panic!("the session with {}: {error}", self.server));
    }
}

#[test]
fn the_hosts_own_sessions_continue_and_it_answers_pings_while_services_change() {
    let network = Network::new("host", 2).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap()).collect();
    let _ssh = TcpEcho::start(&network.lb, 2222).unwrap();
    let config = services(Way::ALL.map(|way| {
        let vip = SocketAddr::new(Network::vip(way.family), if way.mode == Mode::Nat { 80 } else { 81 });
        Service::tcp(way, vip).mode(way.mode).backends(network.endpoints(way.family, 7000))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();

    let mut sessions = Vec::new();
    for family in Family::ALL {
        for address in [Network::front(family), Network::vip(family)] {
            sessions.push(Session::open(&network.client, (address, 2222).into()));
        }
        sessions.push(Session::open(&network.backends[0], (Network::back(family), 2222).into()));
    }
    for round in 0..3 {
        for way in Way::ALL {
            let name = format!("extra-{way}");
            let vip = SocketAddr::new(Network::vip(way.family), if way.mode == Mode::Nat { 82 } else { 83 });
            let backend = Network::endpoint(way.family, 2, 7000).to_string();
            let (vip_text, mode) = (vip.to_string(), way.mode.to_string());
            daemon
                .cli(&[
                    "service",
                    "add",
                    &name,
                    &vip_text,
                    "--mode",
                    &mode,
                    "--backend",
                    &backend,
                    "--check",
                    "none",
                ])
                .unwrap();
            daemon.wait_for_state(&name, &backend, "up", Duration::from_secs(30)).unwrap();
            let source = SocketAddr::new(Network::client_address(way.family), 0);
            let connection = Connection::open(&network.client, source, vip).unwrap();
            assert_eq!(connection.name, "backend-2", "{way}, round {round}");
            daemon.cli(&["service", "remove", &name, "--now"]).unwrap();
        }
        // ARP and neighbour discovery, from both ends: nobody knows anybody's address any more.
        for host in [&network.client, &network.lb, &network.backends[0]] {
            host.run("ip neigh flush all").unwrap();
        }
        for family in Family::ALL {
            for address in [Network::front(family), Network::vip(family), Network::back(family)] {
                ping(&network.client, address).unwrap();
                ping(&network.backends[0], address).unwrap();
            }
            ping(&network.lb, Network::client_address(family)).unwrap();
            ping(&network.lb, Network::endpoint(family, 1, 0).ip()).unwrap();
            // What the host routes, as before.
            ping(&network.client, Network::endpoint(family, 1, 0).ip()).unwrap();
            // New connections to the host.
            let source = SocketAddr::new(Network::client_address(family), 0);
            let connection = Connection::open(&network.client, source, (Network::vip(family), 2222).into());
            assert_eq!(connection.unwrap().name, "lb");
        }
    }
    sessions.into_iter().for_each(Session::close);
}

#[test]
fn the_host_itself_can_use_the_backends_of_its_services() {
    let network = Network::new("host", 2).unwrap();
    let mut servers = Vec::new();
    for host in &network.backends {
        servers.extend([7000, 7001].map(|port| TcpEcho::start(host, port).unwrap()));
    }
    let port = |mode| if mode == Mode::Nat { 7000 } else { 7001 };
    let config = services(Way::ALL.map(|way| {
        let vip = SocketAddr::new(Network::vip(way.family), port(way.mode));
        Service::tcp(way, vip).mode(way.mode).backends(network.endpoints(way.family, port(way.mode)))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        let own = Network::back(way.family);
        for number in [1, 2] {
            let backend = Network::endpoint(way.family, number, port(way.mode));
            let connection = Connection::open(&network.lb, SocketAddr::new(own, 0), backend).unwrap();
            assert_eq!(connection.name, format!("backend-{number}"), "{way}");
            assert_eq!(connection.seen.ip(), own, "{way}");
        }
    }
}

#[test]
fn health_checks_work_from_the_address_that_full_nat_uses_for_thousands_of_flows() {
    let network = Network::new("host", 2).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap()).collect();
    let check = r#"{ type = "tcp", interval = "200ms", timeout = "200ms", rise = 1, fall = 15 }"#;
    let vip = SocketAddr::new(Network::vip(Family::V4), 80);
    let service = Service::tcp("echo", vip).check(check).backends(network.endpoints(Family::V4, 7000));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &service.to_string()).unwrap();
    daemon.wait_until_up().unwrap();
    let answered_before = daemon.counter("not_a_reply").unwrap();

    let source = Network::client_address(Family::V4);
    let answers = crowd(&network.client, source, 20_000, 3000, vip).unwrap();
    assert_eq!(answers.values().sum::<u64>(), 3000);

    // Some rounds of checks later: answers to them were passed to the host, and none was missed again and again.
    until("answers to health checks", Duration::from_secs(30), || {
        Ok(daemon.counter("not_a_reply")? >= answered_before + 50)
    })
    .unwrap();
    let log = daemon.log();
    assert!(!log.contains("-> down"), "{log}");
}
