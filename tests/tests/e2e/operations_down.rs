//! Checks fail, links flap, hosts die: a flow lives as long as its backend, and clients of a dead one are reset.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use xdp_lb_tests::client::udp_socket;
use xdp_lb_tests::servers::{Dnsmasq, Nginx, TcpEcho, UdpEcho};
use xdp_lb_tests::{
    Conversations, Daemon, Family, Host, Mode, Network, Service, UdpFlows, Way, direct_return, services,
    until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Flows of each way.
const FLOWS: usize = 75;
const ECHO: u16 = 7;
/// Where backends say whether they are well, which is another server than the one that has the flows.
const CHECK: &str = r#"{ type = "http", port = 8080, path = "/healthz", interval = "500ms", timeout = "500ms", rise = 1, fall = 3 }"#;
/// `fall` x `interval` + `timeout`.
const DETECTION: Duration = Duration::from_millis(2000);
/// `down_grace`, as it is where nothing is written.
const GRACE: Duration = Duration::from_secs(2);
/// For a machine that does other things, too.
const SLACK: Duration = Duration::from_millis(2500);

/// Three backends, each with an echo server for the flows and a web server for the checks, behind a service for each way.
struct Echoes {
    daemon: Daemon,
    checks: Vec<Nginx>,
    _echoes: Vec<TcpEcho>,
    network: Network,
    keys: &'static str,
}

impl Echoes {
    /// With these keys in each service.
    fn start(name: &str, keys: &'static str) -> Self {
        let network = Network::new(name, 3).unwrap();
        let hosts = || network.backends.iter();
        let checks = hosts().map(|host| Nginx::start(host, 8080).unwrap()).collect();
        let echoes = hosts().map(|host| TcpEcho::start(host, ECHO).unwrap()).collect();
        let config = services(Way::ALL.map(|way| {
            let backends = network.endpoints(way.family, ECHO);
            Service::tcp(way, vip(way)).mode(way.mode).check(CHECK).key(keys).backends(backends)
        }));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        Self { daemon, checks, _echoes: echoes, network, keys }
    }

    fn open(&self) -> Vec<Conversations> {
        let open = |way| Conversations::open(&self.network.client, vip(way), FLOWS).unwrap();
        Way::ALL.map(open).into()
    }

    /// Waits until these backends of all services are in this state.
    fn wait_for(&self, numbers: &[usize], state: &str) {
        until(&format!("backends {numbers:?} to be {state}"), PATIENCE, || {
            let all = self.daemon.backends(None)?;
            let is_one = |address: &str| {
                numbers.iter().any(|number| {
                    Family::ALL
                        .iter()
                        .any(|family| Network::endpoint(*family, *number, ECHO).to_string() == address)
                })
            };
            let mut those = all.iter().filter(|it| is_one(it["address"].as_str().unwrap_or_default()));
            Ok(those.all(|it| it["state"] == state))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.daemon.log()));
    }
}

/// A service's VIP: both families' have both modes.
fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), if way.mode == Mode::Nat { 7000 } else { 7001 })
}

/// Lets all of them exchange data over and over for a time; none may break.
fn talk(all: &mut [Conversations], time: Duration, what: &str) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        for (conversations, way) in all.iter_mut().zip(Way::ALL) {
            let broken = conversations.exchange();
            assert!(broken.is_empty(), "{what}: {} of {way} broke, such as {:?}", broken.len(), broken[0]);
        }
        sleep(Duration::from_millis(50));
    }
}

/// The checks of some backends fail for longer than their clients would wait, while their flows are well.
fn checks_fail(name: &str, keys: &'static str, numbers: &[usize], meanwhile: &str) {
    let site = Echoes::start(name, keys);
    let mut flows = site.open();
    for round in 0..2 {
        let set_healthy = |is_healthy| {
            numbers.iter().for_each(|number| site.checks[number - 1].set_healthy(is_healthy).unwrap());
        };
        set_healthy(false);
        site.wait_for(numbers, meanwhile);
        talk(&mut flows, GRACE + Duration::from_secs(3), "while checks fail");
        if numbers.len() < 3 {
            for way in Way::ALL {
                let new = Conversations::open(&site.network.client, vip(way), 20).unwrap();
                let failing: usize =
                    numbers.iter().map(|number| new.with(&format!("backend-{number}"))).sum();
                assert_eq!(failing, 0, "{way}: new connections go elsewhere");
            }
        }
        set_healthy(true);
        site.wait_for(numbers, "up");
        talk(&mut flows, Duration::from_secs(1), "after checks failed");
        assert_eq!(
            flows.iter().map(Conversations::len).sum::<usize>(),
            4 * FLOWS,
            "round {round}, {}",
            site.keys
        );
    }
}

#[test]
fn no_flow_breaks_while_the_checks_of_one_working_backend_fail() {
    checks_fail("downone", "", &[2], "down");
}

#[test]
fn no_flow_breaks_while_the_checks_of_all_working_backends_fail() {
    checks_fail("downall", "", &[1, 2, 3], "down");
}

#[test]
fn no_flow_breaks_while_the_checks_of_all_working_backends_fail_and_a_panic_uses_them() {
    checks_fail("downpanic", "panic_threshold = 50", &[1, 2, 3], "panic");
}

#[test]
fn no_flow_breaks_when_the_balancer_s_own_link_flaps() {
    let site = Echoes::start("ownlink", "");
    let Network { lb, switch, .. } = &site.network;
    // As whoever configures a host's network adds the addresses again.
    lb.sysctl("net.ipv6.conf.eth1.keep_addr_on_down", "1").unwrap();
    let mut flows = site.open();
    for round in 0..10 {
        // Down, or without a carrier.
        let (host, device) = if round % 2 == 0 { (lb, "eth1") } else { (switch, "lb") };
        host.run(&format!("ip link set {device} down")).unwrap();
        sleep(Duration::from_secs(1));
        if round == 0 {
            site.wait_for(&[1, 2, 3], "unresolved");
            let backends = site.daemon.backends(None).unwrap();
            assert!(backends.iter().all(|it| it["health"] == "up"), "{backends:?}");
        }
        host.run(&format!("ip link set {device} up")).unwrap();
        site.wait_for(&[1, 2, 3], "up");
        talk(&mut flows, Duration::from_millis(300), &format!("after the link was down {round} times"));
    }
    let log = site.daemon.log();
    assert!(!log.contains("-> down"), "the link's trouble is not the backends': {log}");
}

#[test]
fn a_link_that_stays_down_is_reported_as_this_hosts_problem_and_breaks_no_flow() {
    let site = Echoes::start("longlink", "");
    let Network { lb, .. } = &site.network;
    lb.sysctl("net.ipv6.conf.eth1.keep_addr_on_down", "1").unwrap();
    let mut flows = site.open();
    lb.run("ip link set eth1 down").unwrap();
    site.wait_for(&[1, 2, 3], "unresolved");
    // Longer than any check takes to fail, and than a backend that is down may be silent.
    sleep(DETECTION + 2 * GRACE);
    for backend in site.daemon.backends(None).unwrap() {
        let reason = backend["reason"].as_str().unwrap();
        assert!(backend["state"] == "unresolved" && backend["health"] == "up", "{backend}");
        assert!(reason.contains("the check could not be run: "), "{reason}");
        assert!(reason.contains("established flows are kept"), "{reason}");
    }
    lb.run("ip link set eth1 up").unwrap();
    site.wait_for(&[1, 2, 3], "up");
    talk(&mut flows, Duration::from_secs(1), "after the link was down");
}

#[test]
fn a_daemon_that_was_stopped_for_a_while_takes_no_backend_down() {
    let site = Echoes::start("stopped", "");
    let pid = site.daemon.process().unwrap().id().to_string();
    let host = site.daemon.host();
    for _ in 0..4 {
        host.run(&format!("kill -STOP {pid}")).unwrap();
        sleep(DETECTION + Duration::from_secs(1));
        host.run(&format!("kill -CONT {pid}")).unwrap();
        sleep(Duration::from_millis(700));
    }
    site.wait_for(&[1, 2, 3], "up");
    let log = site.daemon.log();
    assert!(!log.contains("-> down"), "{log}");
}

/// Sends and waits, over and over, until the connection ends; returns when that was, and how.
fn until_it_ends(mut stream: TcpStream, patience: Duration) -> (Instant, Option<ErrorKind>) {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let begin = Instant::now();
    let mut data = [0; 1024];
    while begin.elapsed() < patience {
        if let Err(error) = stream.write_all(b"are you there?") {
            return (Instant::now(), Some(error.kind()));
        }
        match stream.read(&mut data) {
            Ok(0) => return (Instant::now(), None),
            Ok(_) => sleep(Duration::from_millis(50)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return (Instant::now(), Some(error.kind())),
        }
    }
    (Instant::now(), Some(ErrorKind::TimedOut))
}

/// A connection to this backend.
fn connection_to(client: &Host, vip: SocketAddr, backend: &str) -> TcpStream {
    client
        .enter(|| {
            (0..200).find_map(|_| {
                let mut stream = TcpStream::connect(vip).ok()?;
                let mut greeting = [0; 128];
                let length = stream.read(&mut greeting).ok()?;
                greeting[..length].starts_with(format!("{backend} ").as_bytes()).then_some(stream)
            })
        })
        .unwrap()
        .unwrap_or_else(|| panic!("no connection to {backend}"))
}

/// How many connections of each way meet a dead backend, one half a second after the other. What a client sends again comes
/// later each time; together, they ask all along.
const ASKERS: u32 = 6;

/// When a connection ended after its backend was known to be down, and how.
type Ended = (Duration, Option<ErrorKind>);

/// Backend 2 vanishes without a word. How its clients' connections end, by way.
fn dies(name: &str, keys: &'static str, patience: Duration) -> BTreeMap<String, Vec<Ended>> {
    let site = Echoes::start(name, keys);
    let client = &site.network.client;
    let open = |way| [(); ASKERS as usize].map(|()| connection_to(client, vip(way), "backend-2"));
    let streams = Way::ALL.map(|way| (way, open(way)));
    site.network.backends[1].run("ip link set eth0 down").unwrap();
    let ask = |(number, stream): (u32, TcpStream)| {
        spawn(move || {
            sleep(number * Duration::from_millis(500));
            until_it_ends(stream, patience)
        })
    };
    let clients = streams.map(|(way, streams)| (way, (0..).zip(streams).map(ask).collect::<Vec<_>>()));
    until("backend 2 to be out of service", PATIENCE, || {
        let all = site.daemon.backends(None)?;
        let gone = |family| {
            let address = Network::endpoint(family, 2, ECHO).to_string();
            let mut those = all.iter().filter(|it| it["address"] == address.as_str());
            those.all(|it| it["state"] == "down" || it["state"] == "unresolved")
        };
        Ok(Family::ALL.into_iter().all(gone))
    })
    .unwrap();
    let detected = Instant::now();
    // New connections go elsewhere at once.
    for way in Way::ALL {
        let new = Conversations::open(client, vip(way), 20).unwrap();
        assert_eq!(new.with("backend-2"), 0, "{way}");
    }
    let ended = clients.map(|(way, clients)| {
        let end = |client: JoinHandle<(Instant, Option<ErrorKind>)>| {
            let (at, how) = client.join().unwrap();
            (at.saturating_duration_since(detected), how)
        };
        (way.to_string(), clients.into_iter().map(end).collect())
    });
    println!("{keys:?}: {ended:?}");
    ended.into()
}

/// That all of them were reset, and that the first client was told in time: the others are when they send again.
fn assert_reset(ended: BTreeMap<String, Vec<Ended>>, within: Duration) {
    for (way, ended) in ended {
        assert!(ended.iter().all(|(_, how)| *how == Some(ErrorKind::ConnectionReset)), "{way}: {ended:?}");
        let first = ended.iter().map(|(after, _)| *after).min().unwrap();
        assert!(first <= within, "{way}: {first:?} after it was known to be down");
    }
}

#[test]
fn clients_of_a_backend_that_died_are_reset_once_it_has_been_silent_for_the_grace() {
    assert_reset(dies("died", "", PATIENCE), GRACE + SLACK);
}

#[test]
fn with_on_down_reset_flows_are_reset_as_soon_as_the_backend_is_down() {
    assert_reset(dies("reset", "on_down = \"reset\"", PATIENCE), SLACK);
}

#[test]
fn with_on_down_keep_flows_are_kept() {
    for (way, ended) in dies("keep", "on_down = \"keep\"", Duration::from_secs(15)) {
        assert!(ended.iter().all(|(_, how)| *how == Some(ErrorKind::TimedOut)), "{way}: {ended:?}");
    }
}

#[test]
fn datagrams_go_to_another_backend_at_once_and_recorded_flows_stay_while_their_backend_answers() {
    let network = Network::new("downudp", 3).unwrap();
    let checks: Vec<_> = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
    // Each service has backends of its own: those that several share record every flow.
    let ports = [("auto", 5000), ("always", 5001)];
    let echo = |host| ports.map(|(_, port)| UdpEcho::start(host, port).unwrap());
    let _echoes: Vec<_> = network.backends.iter().map(echo).collect();
    let config = services(ports.map(|(tracking, port)| {
        Service::udp(tracking, SocketAddr::new(Network::vip(Family::V4), port))
            .mode(Mode::Nat)
            .check(CHECK)
            .key(format!("flow_tracking = \"{tracking}\""))
            .backends(network.endpoints(Family::V4, port))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    until("the rings to settle", PATIENCE, || Ok(daemon.unsettled_slots("auto")? == 0)).unwrap();
    let open = |port: u16, ports| {
        UdpFlows::open(&network.client, SocketAddr::new(Network::vip(Family::V4), port), ports).unwrap()
    };
    let (mut auto, mut always) = (open(5000, 20_000..20_100), open(5001, 20_100..20_200));
    let (auto_before, always_before) = (auto.ask(), always.ask());
    let second = Some("backend-2".to_owned());
    assert!(auto_before.contains(&second) && always_before.contains(&second));
    checks[1].set_healthy(false).unwrap();
    for (name, port) in ports {
        let backend = Network::endpoint(Family::V4, 2, port).to_string();
        daemon.wait_for_state(name, &backend, "down", PATIENCE).unwrap();
    }
    let begin = Instant::now();
    while begin.elapsed() < GRACE + Duration::from_secs(2) {
        let (auto_now, always_now) = (auto.ask(), always.ask());
        assert!(!auto_now.contains(&second) && !auto_now.contains(&None), "{auto_now:?}");
        for (before, now) in auto_before.iter().zip(&auto_now) {
            assert!(*before == second || before == now, "only those of the backend that fails have moved");
        }
        assert_eq!(always_now, always_before);
    }
}

/// The modes whose replies do not pass here, each on a port of its own.
const DIRECT: [(&str, u16); 3] = [("dsr", 7100), ("ipip", 7101), ("gue", 7102)];
/// Of a server that has the flows, too.
const TCP_CHECK: &str = r#"{ type = "tcp", interval = "500ms", timeout = "500ms", rise = 1, fall = 3 }"#;

/// A service over all backends in each family, with these keys.
fn direct_services(network: &Network, mode: &str, port: u16, keys: &str) -> String {
    let of = |family| {
        let backends: String = network
            .endpoints(family, port)
            .map(|address| format!("[[service.backend]]\naddress = \"{address}\"\n"))
            .collect();
        format!(
            "[[service]]\nname = \"{mode}-{family:?}\"\nvip = \"{}\"\nmode = \"{mode}\"\n{keys}\n{backends}\n",
            SocketAddr::new(Network::vip(family), port)
        )
    };
    Family::ALL.map(of).concat()
}

#[test]
fn if_replies_do_not_pass_here_flows_of_a_dead_host_and_only_those_end_after_the_down_timeout() {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let network = Network::new("downdirect", 3).unwrap();
    direct_return::connect_with_client(&network).unwrap();
    direct_return::give_vips(&network).unwrap();
    let hosts = || network.backends.iter();
    let from = ["--from", "198.51.100.2", "--from", "2001:db8:2::/64"];
    let _decapsulators: Vec<_> =
        hosts().map(|host| direct_return::decapsulator(host, &from).unwrap()).collect();
    let _echoes: Vec<_> =
        hosts().map(|host| DIRECT.map(|(_, port)| TcpEcho::start(host, port).unwrap())).collect();
    let keys = format!("health_check = {TCP_CHECK}\ndown_timeout = \"6s\"");
    let config = DIRECT.map(|(mode, port)| direct_services(&network, mode, port, &keys)).concat();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let client = &network.client;
    let vips: Vec<_> = DIRECT
        .iter()
        .flat_map(|(mode, port)| {
            Family::ALL
                .map(|family| (format!("{mode}-{family:?}"), SocketAddr::new(Network::vip(family), *port)))
        })
        .collect();
    let mut others: Vec<_> = vips
        .iter()
        .map(|(_, vip)| {
            let mut flows = Conversations::open(client, *vip, 30).unwrap();
            flows.forget("backend-2");
            flows
        })
        .collect();
    let doomed: Vec<_> =
        vips.iter().map(|(_, vip)| [(); 2].map(|()| connection_to(client, *vip, "backend-2"))).collect();
    network.backends[1].run("ip link set eth0 down").unwrap();
    let died = Instant::now();
    // Together, they ask all along: what a client sends again comes later each time.
    let mut count = 0;
    let clients: Vec<Vec<_>> = doomed
        .into_iter()
        .map(|streams| {
            let ask = |stream| {
                count += 1;
                let wait = (count % 2) * Duration::from_millis(1500);
                spawn(move || {
                    sleep(wait);
                    until_it_ends(stream, PATIENCE)
                })
            };
            streams.map(ask).into()
        })
        .collect();
    until("backend 2 to be out of service", PATIENCE, || {
        let all = daemon.backends(None)?;
        let dead = Family::ALL.map(|family| Network::endpoint(family, 2, 0).ip().to_string());
        let mut those = all.iter().filter(|it| {
            let address: SocketAddr = it["address"].as_str().unwrap_or_default().parse().unwrap();
            dead.contains(&address.ip().to_string())
        });
        Ok(those.all(|it| it["state"] == "down" || it["state"] == "unresolved"))
    })
    .unwrap();
    let detected = Instant::now();
    while detected.elapsed() < TIMEOUT + Duration::from_secs(1) {
        for (flows, (name, _)) in others.iter_mut().zip(&vips) {
            let broken = flows.exchange();
            assert!(broken.is_empty(), "{name}: {} broke, such as {:?}", broken.len(), broken[0]);
        }
        sleep(Duration::from_millis(100));
    }
    for (clients, (name, _)) in clients.into_iter().zip(&vips) {
        for client in clients {
            let (at, how) = client.join().unwrap();
            assert_eq!(how, Some(ErrorKind::ConnectionReset), "{name}");
            let after = at - died;
            assert!(
                after >= TIMEOUT,
                "{name}: reset {after:?} after the host died: no earlier than {TIMEOUT:?}"
            );
        }
    }
}

#[test]
fn unanswered_datagrams_go_to_another_backend_once_theirs_is_dead() {
    let network = Network::new("downoneway", 2).unwrap();
    let checks: Vec<_> = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
    let port = |way: Way| if way.mode == Mode::Nat { 7200 } else { 7201 };
    let config = services(Way::ALL.map(|way| {
        Service::udp(way, SocketAddr::new(Network::vip(way.family), port(way)))
            .mode(way.mode)
            .check(CHECK)
            .backends(network.endpoints(way.family, port(way)))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    // What each backend gets, and never answers.
    let sink = |host: &Host, way: Way| {
        let at = SocketAddr::new(way.family.any(), port(way));
        let socket = host.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let heard = |sink: &UdpSocket| {
        let mut datagram = [0; 16];
        std::iter::from_fn(|| sink.recv(&mut datagram).ok()).count()
    };
    for way in Way::ALL {
        let sinks: Vec<_> = network.backends.iter().map(|host| sink(host, way)).collect();
        let client = udp_socket(&network.client, SocketAddr::new(way.family.any(), 0)).unwrap();
        client.connect(SocketAddr::new(Network::vip(way.family), port(way))).unwrap();
        // A refusal that came for an earlier one is the client's to take.
        let send = || drop(client.send(b"line"));
        let counts = |time: Duration| {
            let begin = Instant::now();
            while begin.elapsed() < time {
                send();
                sleep(Duration::from_millis(20));
            }
            sinks.iter().map(heard).collect::<Vec<_>>()
        };
        let before = counts(Duration::from_secs(4));
        let its = usize::from(before[1] > 0);
        assert_eq!(before[1 - its], 0, "{way}: one flow has one backend: {before:?}");
        let backend = Network::endpoint(way.family, its + 1, port(way)).to_string();
        network.backends[its].run("ip link set eth0 down").unwrap();
        let begin = Instant::now();
        until(&format!("{way}: datagrams at the other backend"), PATIENCE, || {
            Ok(counts(Duration::from_millis(100))[1 - its] > 0)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
        let took = begin.elapsed();
        println!("{way}: {took:?}");
        assert!(took <= DETECTION + GRACE + SLACK, "{way}: {took:?}");
        let after = counts(Duration::from_secs(1));
        assert!(after[1 - its] >= 40, "{way}: {after:?}");
        network.backends[its].run("ip link set eth0 up").unwrap();
        network.backends[its]
            .run(&format!("ip route replace default via {}", Network::back(Family::V4)))
            .unwrap();
        network.backends[its]
            .run(&format!("ip -6 address replace {}/64 dev eth0 nodad", Network::backend6(its + 1)))
            .unwrap();
        network.backends[its]
            .run(&format!("ip -6 route replace default via {}", Network::back(Family::V6)))
            .unwrap();
        daemon.wait_for_state(&way.to_string(), &backend, "up", PATIENCE).unwrap();
    }
    drop(checks);
}

#[test]
fn dns_with_direct_return_is_answered_again_after_the_death_of_a_host_is_detected() {
    let network = Network::new("downdns", 3).unwrap();
    direct_return::connect_with_client(&network).unwrap();
    direct_return::give_vips(&network).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| Dnsmasq::start(host, 53).unwrap()).collect();
    let keys = r#"protocol = "udp"
health_check = { type = "dns", name = "www.example.test", interval = "500ms", timeout = "500ms", rise = 1, fall = 3 }"#;
    let config = direct_services(&network, "dsr", 53, keys);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let ask = |family| {
        let line = format!("dig +short +tries=1 +time=2 @{} whoami.example.test TXT", Network::vip(family));
        network.client.run(&line).unwrap_or_default().trim().trim_matches('"').to_owned()
    };
    let answers = |family| (0..40).map(|_| ask(family)).collect::<Vec<String>>();
    for family in Family::ALL {
        assert!(answers(family).contains(&"backend-2".to_owned()), "{family:?}");
    }
    network.backends[1].run("ip link set eth0 down").unwrap();
    for family in Family::ALL {
        let backend = Network::endpoint(family, 2, 53).to_string();
        until(&format!("{backend} to be out of service"), PATIENCE, || {
            let state = daemon.backend_state(&format!("dsr-{family:?}"), &backend)?;
            Ok(state == "down" || state == "unresolved")
        })
        .unwrap();
        // Each from a port of its own: none of them waits for the down_timeout, which is for flows that are recorded.
        let after = answers(family);
        assert!(after.iter().all(|name| name == "backend-1" || name == "backend-3"), "{family:?}: {after:?}");
    }
}
