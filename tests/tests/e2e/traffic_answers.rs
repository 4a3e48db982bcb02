//! What clients and backends are told by the load balancer itself: that nobody is there, that a connection is over, and that a
//! packet went no further.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use xdp_lb_tests::client::{ping, tcp_socket, udp_socket};
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Host, Mode, Network, Service, Way, services, until};

/// How long something may take on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a client waits that expects no answer.
const SILENCE: Duration = Duration::from_millis(900);

fn vip(way: Way, port: u16) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), port + u16::from(way.mode == Mode::FullNat))
}

/// The result of an attempt to connect, within this time.
fn connect(client: &Host, server: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { Family::V4 } else { Family::V6 };
    let source = SocketAddr::new(Network::client_address(family), 0);
    let socket = tcp_socket(client, source).unwrap();
    socket.connect_timeout(&server.into(), within)?;
    Ok(socket.into())
}

fn is_refused(client: &Host, server: SocketAddr) -> bool {
    connect(client, server, PATIENCE).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn hears_nothing(client: &Host, server: SocketAddr) -> bool {
    connect(client, server, SILENCE).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
}

/// Whether a datagram is answered by "port unreachable".
fn is_unreachable(client: &Host, server: SocketAddr, within: Duration) -> bool {
    let family = if server.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = udp_socket(client, SocketAddr::new(Network::client_address(family), 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(within)).unwrap();
    let answer = socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 16]));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A server that takes no more connections and says nothing of it, so that a check's end is long in coming: its queue is
/// full.
fn deaf(network: &Network, at: SocketAddr) -> (Socket, TcpStream) {
    let listen = || {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.bind(&at.into())?;
        socket.listen(0)?;
        io::Result::Ok(socket)
    };
    let socket = network.backends[0].enter(listen).unwrap().unwrap();
    (socket, network.lb.enter(|| TcpStream::connect(at)).unwrap().unwrap())
}

#[test]
fn a_client_of_a_service_without_a_backend_is_rejected_once_the_first_checks_have_ended() {
    let network = Network::new("reject", 1).unwrap();
    let client = &network.client;
    let _deaf = Family::ALL.map(|family| deaf(&network, Network::endpoint(family, 1, 7000)));
    let config = services(Way::ALL.into_iter().flat_map(|way| {
        let checked = Service::tcp(format!("tcp-{way}"), vip(way, 80))
            .mode(way.mode)
            .check(r#"{ type = "tcp", interval = "10s", timeout = "9s", rise = 1, fall = 1 }"#)
            .backends(network.endpoints(way.family, 7000));
        let empty = Service::udp(format!("udp-{way}"), vip(way, 80)).mode(way.mode);
        let silent = Service::tcp(format!("silent-{way}"), vip(way, 90))
            .mode(way.mode)
            .unchecked()
            .key("on_no_backends = \"drop\"");
        [checked, empty, silent]
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    for way in Way::ALL {
        assert!(hears_nothing(client, vip(way, 80)), "{way}: its backend may be well");
    }
    assert!(daemon.backends(None).unwrap().iter().all(|backend| backend["state"] == "checking"));
    for way in Way::ALL {
        let backend = Network::endpoint(way.family, 1, 7000).to_string();
        daemon.wait_for_state(&format!("tcp-{way}"), &backend, "down", PATIENCE).unwrap();
        assert!(is_refused(client, vip(way, 80)), "{way}: TCP");
        assert!(is_unreachable(client, vip(way, 80), PATIENCE), "{way}: UDP");
        assert!(hears_nothing(client, vip(way, 90)), "{way}: as the operator wants it");
        // A VIP says that this host is there, and nothing of its services.
        ping(client, Network::vip(way.family)).unwrap();
    }
    assert!(daemon.counter("no_backend_answered").unwrap() >= 8);
    assert!(daemon.counter("no_backend").unwrap() >= 8);

    // And a service that is drained.
    let way = Way::ALL[1];
    let name = format!("silent-{way}");
    let echo = TcpEcho::start(&network.backends[0], 7001).unwrap();
    daemon.cli(&["service", "remove", &name]).unwrap();
    let (at, backend) = (vip(way, 90).to_string(), Network::endpoint(way.family, 1, 7001).to_string());
    daemon.cli(&["service", "add", &name, &at, "--check", "tcp"]).unwrap();
    daemon.cli(&["backend", "add", &name, &backend]).unwrap();
    daemon.wait_for_state(&name, &backend, "up", PATIENCE).unwrap();
    connect(client, vip(way, 90), PATIENCE).unwrap();
    daemon.cli(&["service", "drain", &name]).unwrap();
    until("new connections to be refused", PATIENCE, || Ok(is_refused(client, vip(way, 90)))).unwrap();
    drop(echo);
}

#[test]
fn a_client_of_a_dead_backend_is_reset_and_no_other_backend_gets_its_packets() {
    let network = Network::new("told", 2).unwrap();
    let echoes = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap());
    let _echoes: Vec<_> = echoes.collect();
    let config = services(Way::ALL.map(|way| {
        // Every flow is recorded.
        Service::tcp(way, vip(way, 80))
            .mode(way.mode)
            .key("flow_tracking = \"always\"")
            .backends(network.endpoints(way.family, 7000))
    }));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let mut connections = Vec::new();
    for way in Way::ALL {
        for _ in 0..20 {
            let mut stream = connect(&network.client, vip(way, 80), PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut greeting = [0; 256];
            let length = stream.read(&mut greeting).unwrap();
            let greeting = String::from_utf8_lossy(&greeting[..length]).into_owned();
            connections.push((way, stream, greeting.starts_with("backend-1 ")));
        }
    }
    network.backends[0].run("ip link set eth0 down").unwrap();
    for way in Way::ALL {
        let backend = Network::endpoint(way.family, 1, 7000).to_string();
        let is_out = || Ok(daemon.backend_state(&way.to_string(), &backend)? != "up");
        until("the backend to be found dead", PATIENCE, is_out).unwrap();
    }
    let (mut told, mut others) = (0, 0);
    for (way, mut stream, is_dead) in connections {
        if !is_dead {
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 1, "{way}: the other backend's go on");
            others += 1;
            continue;
        }
        // What the client has sent is not lost on its way: the client is told, or tries until it is.
        let started = Instant::now();
        let error = stream.write_all(b"x").and_then(|()| stream.read(&mut [0; 8]));
        let error = error.expect_err("nobody answers").kind();
        assert_eq!(error, ErrorKind::ConnectionReset, "{way} after {:?}", started.elapsed());
        told += 1;
    }
    assert!(told > 10 && others > 10, "{told} told, {others} go on");
    assert!(daemon.counter("flow_ended_answered").unwrap() >= told);
}

/// Servers that hold what they accept, on a port of a backend, at this host's addresses.
fn listen(host: &Host, at: SocketAddr) -> TcpListener {
    host.enter(|| TcpListener::bind(at)).unwrap().unwrap()
}

#[test]
fn a_full_nat_backend_that_sends_after_the_flow_has_ended_is_reset() {
    let network = Network::new("over", 1).unwrap();
    let port = |way: Way| if way.mode == Mode::Nat { 7000 } else { 7001 };
    let config = "[timeouts]\ntcp_idle = \"2s\"\n".to_owned()
        + &services(Way::ALL.map(|way| {
            Service::tcp(way, vip(way, 80))
                .mode(way.mode)
                .unchecked()
                .backends(network.endpoints(way.family, port(way)))
        }));
    let listeners = Way::ALL.map(|way| {
        let at = Network::endpoint(way.family, 1, port(way));
        (way, listen(&network.backends[0], at))
    });
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let mut pairs = Vec::new();
    for way in Way::ALL {
        let client = connect(&network.client, vip(way, 80), PATIENCE).unwrap();
        let (_, listener) = listeners.iter().find(|(of, _)| *of == way).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        pairs.push((way, client, server));
    }
    let started = Instant::now();
    until("the flows to be forgotten", PATIENCE, || {
        Ok(daemon.cli_json(&["flows", "--limit", "0"])?["matching"] == 0)
    })
    .unwrap();
    // Not before records of an earlier daemon's flows had time to come back.
    thread::sleep(Duration::from_secs(16).saturating_sub(started.elapsed()));
    for (way, mut client, mut server) in pairs {
        server.write_all(b"news").unwrap();
        let mut news = [0; 8];
        if way.mode == Mode::Nat {
            assert_eq!(client.read(&mut news).unwrap(), 4, "{way}: it needs no record");
            continue;
        }
        let told = server.read(&mut news).expect_err("the client says nothing").kind();
        assert_eq!(told, ErrorKind::ConnectionReset, "{way}: the backend is told");
        client.write_all(b"x").unwrap();
        let told = client.read(&mut news).expect_err("the backend has forgotten it").kind();
        assert_eq!(told, ErrorKind::ConnectionReset, "{way}: and so is the client, with its next packet");
    }
    assert!(daemon.counter("reply_without_flow_answered").unwrap() >= 2);
}

/// Who says that a datagram with so few hops went no further: as traceroute asks.
fn router(client: &Host, target: SocketAddr, within: Duration) -> Option<IpAddr> {
    let (domain, protocol, kind) = match target {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 11),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 3),
    };
    let family = if target.is_ipv4() { Family::V4 } else { Family::V6 };
    let listener = client.enter(|| Socket::new(domain, Type::RAW, Some(protocol))).unwrap().unwrap();
    let socket = udp_socket(client, SocketAddr::new(Network::client_address(family), 0)).unwrap();
    match family {
        Family::V4 => SockRef::from(&socket).set_ttl_v4(1),
        Family::V6 => SockRef::from(&socket).set_unicast_hops_v6(1),
    }
    .unwrap();
    socket.send_to(b"which way?", target).unwrap();
    let end = Instant::now() + within;
    loop {
        let rest = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        listener.set_read_timeout(Some(rest)).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 256];
        let (length, from) = listener.recv_from(&mut buffer).ok()?;
        // SAFETY: the kernel has written so many bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // IPv4's comes with its header.
        let at = if target.is_ipv4() { usize::from(bytes[0] & 15) * 4 } else { 0 };
        if bytes[at] == kind {
            return Some(from.as_socket().unwrap().ip());
        }
    }
}

#[test]
fn a_packet_whose_ttl_runs_out_gets_time_exceeded_unless_switched_off() {
    let network = Network::new("hops", 1).unwrap();
    let all = Way::ALL.map(|way| {
        Service::udp(way, vip(way, 5000)).mode(way.mode).backends(network.endpoints(way.family, 7000))
    });
    let config = services(all);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    for way in Way::ALL {
        let found = router(&network.client, vip(way, 5000), PATIENCE);
        assert_eq!(found, Some(Network::front(way.family)), "{way}");
    }
    // The interface has another address by now.
    network.lb.run("ip address del 192.0.2.1/24 dev eth0").unwrap();
    network.lb.run("ip address add 192.0.2.3/24 dev eth0").unwrap();
    until("the new address to be told", PATIENCE, || {
        Ok(router(&network.client, vip(Way::ALL[0], 5000), SILENCE) == Some("192.0.2.3".parse()?))
    })
    .unwrap();

    let text = daemon.config().unwrap();
    std::fs::write(daemon.config_file(), format!("icmp_time_exceeded = false\n{text}")).unwrap();
    daemon.cli(&["reload"]).unwrap();
    for way in Way::ALL {
        assert_eq!(router(&network.client, vip(way, 5000), SILENCE), None, "{way}");
    }
    assert!(daemon.counter("ttl_expired").unwrap() >= 4);
}
