//! The daemon follows changes of the network within a second, even if notifications were lost.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use xdp_lb_tests::client::Connection;
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Family, Network, Service, connect, services, until};

/// Within what time a change is followed; and what a busy machine and the asking may take beside. All is read anew every
/// minute only.
const FOLLOWED: Duration = Duration::from_millis(1_000 + 5_000);
const SOON: Duration = Duration::from_secs(40);
const PORT: u16 = 7000;

struct Bed {
    network: Network,
    _servers: Vec<TcpEcho>,
    daemon: Daemon,
}

impl Bed {
    /// A backend that is reached by a route, and another beside it that could be. Nothing but the kernel tells the
    /// daemon of changes.
    fn new() -> Self {
        let network = Network::new("changes", 2).unwrap();
        let servers = network.backends.iter().map(|host| TcpEcho::start(host, PORT).unwrap()).collect();
        for host in &network.backends {
            host.run("ip addr add 203.0.113.10/32 dev lo").unwrap();
        }
        network.lb.run("ip route add 203.0.113.10 via 198.51.100.11").unwrap();
        let service =
            Service::tcp("echo", vip()).unchecked().backends(["203.0.113.10:7000".parse().unwrap()]);
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services([service])).unwrap();
        daemon.wait_until_up().unwrap();
        let bed = Self { network, _servers: servers, daemon };
        assert_eq!(bed.answer().unwrap(), "backend-1");
        bed
    }

    fn backend(&self) -> Value {
        self.daemon.backends(Some("echo")).unwrap().remove(0)
    }

    fn interface(&self, name: &str) -> Value {
        let status = self.daemon.cli_json(&["status"]).unwrap();
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().find(|interface| interface["name"] == name).unwrap().clone()
    }

    /// The name of the backend that answers a new connection.
    fn answer(&self) -> anyhow::Result<String> {
        let source = SocketAddr::new(Network::client_address(Family::V4), 0);
        Ok(Connection::open(&self.network.client, source, vip())?.name)
    }

    #[track_caller]
    fn assert_followed(&self, what: &str, since: Instant, holds: impl Fn() -> bool) {
        until(what, SOON, || Ok(holds())).unwrap();
        let took = since.elapsed();
        assert!(took < FOLLOWED, "{what} took {took:?}");
    }
}

fn vip() -> SocketAddr {
    SocketAddr::new(Network::vip(Family::V4), PORT)
}

#[test]
fn an_interface_that_goes_down_and_up_is_followed_within_a_second() {
    let bed = Bed::new();
    let lb = &bed.network.lb;
    let since = Instant::now();
    lb.run("ip link set eth1 down").unwrap();
    bed.assert_followed("the backend to be unresolved", since, || bed.backend()["state"] == "unresolved");
    until("the interface to be down", SOON, || Ok(bed.interface("eth1")["up"] == false)).unwrap();
    lb.run("ip link set eth1 up").unwrap();
    // The kernel took the route with the link.
    lb.run("ip route replace 203.0.113.10 via 198.51.100.11").unwrap();
    let since = Instant::now();
    bed.assert_followed("the backend to be up", since, || bed.backend()["state"] == "up");
    assert_eq!(bed.answer().unwrap(), "backend-1");
}

#[test]
fn another_route_and_another_ethernet_address_are_followed_within_a_second() {
    let bed = Bed::new();
    let lb = &bed.network.lb;
    let since = Instant::now();
    lb.run("ip route replace 203.0.113.10 via 198.51.100.12").unwrap();
    bed.assert_followed("the route", since, || bed.answer().is_ok_and(|name| name == "backend-2"));
    let backend = &bed.network.backends[1];
    backend.sysctl("net.ipv4.conf.eth0.arp_notify", "1").unwrap();
    // Once its first answer is a second old (`locktime`), the kernel believes another.
    std::thread::sleep(Duration::from_millis(1_100));
    let since = Instant::now();
    backend.run("ip link set dev eth0 address 02:00:5e:00:53:02").unwrap();
    bed.assert_followed("the address", since, || bed.backend()["next_hop"]["mac"] == "02:00:5e:00:53:02");
    assert_eq!(bed.answer().unwrap(), "backend-2");
}

#[test]
fn a_renamed_interface_keeps_working_and_is_attached_again_under_its_name() {
    let bed = Bed::new();
    let lb = &bed.network.lb;
    let rename = |from: &str, to: &str| {
        for line in [
            format!("ip link set {from} down"),
            format!("ip link set {from} name {to}"),
            format!("ip link set {to} up"),
            "ip route replace 203.0.113.10 via 198.51.100.11".to_owned(),
        ] {
            lb.run(&line).unwrap();
        }
        Instant::now()
    };
    let since = rename("eth1", "back0");
    bed.assert_followed("the interface to be missed", since, || bed.interface("eth1")["mode"].is_null());
    bed.assert_followed("the backend to be up behind the new name", since, || {
        let backend = bed.backend();
        backend["state"] == "up" && backend["next_hop"]["interface"] == "back0"
    });
    until("an answer, since its program is still there", SOON, || Ok(bed.answer().is_ok())).unwrap();
    let since = rename("back0", "eth1");
    bed.assert_followed("the program to be noted", since, || bed.interface("eth1")["mode"] == "xdp");
    until("an answer", SOON, || Ok(bed.answer().is_ok())).unwrap();
}

#[test]
fn a_recreated_interface_gets_the_program_within_a_second() {
    let bed = Bed::new();
    let (lb, switch) = (&bed.network.lb, &bed.network.switch);
    let since = Instant::now();
    lb.run("ip link del eth1").unwrap();
    bed.assert_followed("the interface to be missed", since, || bed.interface("eth1")["mode"].is_null());
    until("the backend to be unresolved", SOON, || Ok(bed.backend()["state"] == "unresolved")).unwrap();
    connect(switch, "lb", lb, "eth1").unwrap();
    let since = Instant::now();
    bed.assert_followed("the program", since, || bed.interface("eth1")["mode"] == "xdp");
    switch.run("ip link set lb master bridge").unwrap();
    let _peer = XdpPass::attach(switch, "lb").unwrap();
    lb.run("ip address add 198.51.100.2/24 dev eth1").unwrap();
    lb.run("ip route replace 203.0.113.10 via 198.51.100.11").unwrap();
    let since = Instant::now();
    bed.assert_followed("the backend to be up", since, || bed.backend()["state"] == "up");
    until("an answer", SOON, || Ok(bed.answer().is_ok())).unwrap();
}

#[test]
fn notifications_lost_by_a_full_queue_are_made_up_for_by_reading_everything_again() {
    let bed = Bed::new();
    let lb = &bed.network.lb;
    let process = bed.daemon.process().unwrap();
    process.signal(Signal::SIGSTOP).unwrap();
    // Far more than the queue of 4 MiB holds; and behind it, what counts.
    let mut lines = String::new();
    for number in 0..40_000 {
        writeln!(lines, "route replace 192.0.2.200/32 dev eth0 mtu {}", 1000 + number % 400).unwrap();
    }
    lines += "route replace 203.0.113.10/32 via 198.51.100.12\n";
    let file = lb.dir().join("batch");
    fs::write(&file, lines).unwrap();
    lb.run(&format!("ip -batch {}", file.display())).unwrap();
    let since = Instant::now();
    process.signal(Signal::SIGCONT).unwrap();
    bed.assert_followed("the route", since, || bed.answer().is_ok_and(|name| name == "backend-2"));
    until("the log to tell of the loss", SOON, || {
        Ok(bed.daemon.log().contains("network changes arrived faster than they could be read"))
    })
    .unwrap_or_else(|error| panic!("nothing was lost: {error:#}: {}", bed.daemon.log()));
}
