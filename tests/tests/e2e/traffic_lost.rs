//! What the kernel drops after the program's verdict is counted, told with its fix, and kept from backends.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_tests::client::{Connection, tcp_socket};
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, connect, until, until_some};

use crate::operations_trace::follow;

#[test]
fn a_veth_whose_peer_takes_no_redirected_frames_is_found_and_its_backends_are_not_up_until_it_is_fixed() {
    let network = Network::new("lost", 1).unwrap();
    let (lb, far) = (network.lb.clone(), network.lab.host("far").unwrap());
    connect(&far, "eth0", &lb, "eth2").unwrap();
    far.run("ethtool -K eth0 gro off").unwrap();
    for (host, command) in [
        (&lb, "ip address add 203.0.113.1/24 dev eth2"),
        (&far, "ip address add 203.0.113.11/24 dev eth0"),
        (&far, "ip route add default via 203.0.113.1"),
    ] {
        host.run(command).unwrap();
    }
    let _servers = [&network.backends[0], &far].map(|host| TcpEcho::start(host, 7000).unwrap());
    let vip = SocketAddr::new(Network::vip(Family::V4), 7000);
    let backend = "203.0.113.11:7000";
    let near = Network::endpoint(Family::V4, 1, 7000);
    let config = [
        Service::tcp("far", vip).mode(Mode::Nat).backend(backend.parse().unwrap(), 100),
        Service::tcp("near", SocketAddr::new(vip.ip(), 7001)).mode(Mode::Nat).backend(near, 100),
    ];
    let config: String = config.iter().map(ToString::to_string).collect();
    let daemon = Daemon::start(&lb, &["eth0", "eth1", "eth2"], &config).unwrap();
    let wait = |state| daemon.wait_for_state("far", backend, state, Duration::from_secs(40)).unwrap();
    let doctor = || String::from_utf8(daemon.cli_output(&["doctor"]).unwrap().stdout).unwrap();
    let why = "the driver of eth2 does not transmit redirected frames";

    // Before a packet is lost.
    let reason = until_some("the reason to be told", Duration::from_secs(40), || {
        let reason = daemon.backends(Some("far"))?[0]["reason"].as_str().unwrap_or_default().to_owned();
        Ok(reason.contains(why).then_some(reason))
    });
    let reason = reason.unwrap();
    assert!(reason.contains("ethtool -K PEER gro on"), "{reason}");
    wait("unresolved");
    daemon.wait_for_state("near", &near.to_string(), "up", Duration::from_secs(40)).unwrap();
    let status = daemon.cli_output(&["status"]).unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.status.code() == Some(3) && said.contains("TROUBLE: forwarded packets are lost"),
        "{said}"
    );
    assert_eq!(doctor().matches(why).count(), 1, "one cause is told once: {}", doctor());
    assert_eq!(daemon.counter("redirect_failed").unwrap(), 0);

    // The printed fix, where the peer is.
    let fix = || {
        far.run("ethtool -K eth0 gro off").unwrap();
        far.run("ethtool -K eth0 gro on").unwrap();
    };
    fix();
    wait("up");
    let source = SocketAddr::new(Network::client_address(Family::V4), 0);
    let mut connection = Connection::open(&network.client, source, vip).unwrap();
    assert_eq!(connection.name, "far");
    assert!(!doctor().contains(why), "{}", doctor());

    // It breaks under a connection, whose packets are counted as what they are, also while somebody follows them.
    let trace = follow(&daemon, &["--service", "far", "--time", "60s"]);
    far.run("ethtool -K eth0 gro off").unwrap();
    until("the lost packets to be counted", Duration::from_secs(20), || {
        connection.stream.get_mut().write_all(b"anybody there?")?;
        Ok(daemon.counter("redirect_failed")? > 0)
    })
    .unwrap();
    drop(trace);
    wait("unresolved");
    let counters = daemon.cli_json(&["counters"]).unwrap();
    let losses = counters["losses"].as_array().unwrap();
    assert_eq!(losses.len(), 1, "{losses:#?}");
    assert_eq!((&losses[0]["interface"], &losses[0]["error"]), (&"eth2".into(), &95.into()), "{losses:#?}");
    let lost = losses[0]["packets"].as_u64().unwrap();
    assert!(lost > 0 && daemon.counter("redirect_failed").unwrap() >= lost);
    let labels = [("interface", "eth2"), ("verdict", "redirect"), ("error", "95")];
    assert!(daemon.metric("xdp_lb_interface_lost_packets_total", &labels).unwrap() >= lost as f64);
    let text = daemon.cli(&["counters"]).unwrap();
    assert!(text.contains("LOST AT") && text.contains(why), "{text}");
    until("the loss to be logged", Duration::from_secs(20), || {
        Ok(daemon.log().contains("eth2: the kernel dropped "))
    })
    .unwrap();
    // Nobody new is sent there.
    let socket = tcp_socket(&network.client, source).unwrap();
    assert!(socket.connect_timeout(&vip.into(), Duration::from_secs(2)).is_err());

    fix();
    wait("up");
    assert_eq!(Connection::open(&network.client, source, vip).unwrap().name, "far");
    until("the trouble to be over", Duration::from_secs(30), || {
        Ok(daemon.cli_output(&["status"])?.status.code() == Some(0))
    })
    .unwrap();
}
