//! `xdp-lb explain`: what it tells of a packet is what becomes of it, and asking changes nothing.

use std::net::SocketAddr;

use serde_json::{Value, json};
use xdp_lb_tests::client::Connection;
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::{Daemon, Family, Mode, Network, Service, Way};

/// The answer about a packet.
fn explain(daemon: &Daemon, client: SocketAddr, vip: SocketAddr, more: &[&str]) -> Value {
    let (client, vip) = (client.to_string(), vip.to_string());
    daemon.cli_json(&[&["explain", client.as_str(), vip.as_str()], more].concat()).unwrap()
}

/// What was found at a step; empty where it was not taken.
fn step<'a>(answer: &'a Value, name: &str) -> &'a str {
    let mut steps = answer["steps"].as_array().unwrap().iter();
    steps.find(|step| step["step"] == name).map_or("", |step| step["finding"].as_str().unwrap())
}

/// What the datapath counts and records of backends, and why it dropped packets.
fn state(daemon: &Daemon) -> (Vec<Value>, Value) {
    let counts = ["packets_in", "packets_out", "new_flows"];
    let of = |backend: Value| json!(counts.map(|count| backend["traffic"][count].clone()));
    let backends = daemon.backends(None).unwrap().into_iter().map(of).collect();
    (backends, daemon.cli_json(&["flows"]).unwrap()["matching"].clone())
}

#[test]
fn what_is_told_of_a_flow_is_what_becomes_of_it_and_asking_changes_nothing() {
    let network = Network::new("explain", 3).unwrap();
    let _servers: Vec<_> = network.backends.iter().map(|host| TcpEcho::start(host, 7000).unwrap()).collect();
    let port = |mode| if mode == Mode::Nat { 7000 } else { 7001 };
    let vip = |way: Way| SocketAddr::new(Network::vip(way.family), port(way.mode));
    let services = Way::ALL.map(|way| {
        let backends = network.endpoints(way.family, 7000);
        Service::tcp(way, vip(way)).mode(way.mode).backends(backends).to_string()
    });
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &services.concat()).unwrap();
    daemon.wait_until_up().unwrap();

    let client = |way: Way, port| SocketAddr::new(Network::client_address(way.family), port);
    let before = state(&daemon);
    let flows: Vec<_> =
        Way::ALL.into_iter().flat_map(|way| (30_001..30_009).map(move |port| (way, port))).collect();
    let told: Vec<Value> =
        flows.iter().map(|(way, port)| explain(&daemon, client(*way, *port), vip(*way), &[])).collect();
    assert_eq!(state(&daemon), before, "asking changes nothing");

    for ((way, port), told) in flows.into_iter().zip(told) {
        let connection = Connection::open(&network.client, client(way, port), vip(way)).unwrap();
        let number = network.backends.iter().position(|host| host.name() == connection.name).unwrap() + 1;
        let backend = Network::endpoint(way.family, number, 7000).to_string();
        assert_eq!(
            (&told["verdict"], &told["service"]),
            (&json!("forward"), &json!(way.to_string())),
            "{told:#}"
        );
        assert_eq!(told["backend"], backend, "{told:#}");
        // In full-nat also the address and port by which the backend will know the client.
        assert_eq!(told["sent"]["source"], connection.seen.to_string(), "{told:#}");
        assert_eq!(told["sent"]["destination"], backend, "{told:#}");
        assert_eq!((&told["interface"], &told["sent"]["interface"]), (&json!("eth0"), &json!("eth1")));

        // While it lasts, its record is what decides, where it has one.
        let later = explain(&daemon, client(way, port), vip(way), &["--flags", "ack,psh"]);
        assert_eq!(later["backend"], backend, "{later:#}");
        assert_eq!(later["sent"]["source"], connection.seen.to_string(), "{later:#}");
        let record = step(&later, "record");
        if way.mode == Mode::FullNat {
            assert!(record.starts_with("established, to "), "{record}");
            assert!(step(&later, "backend").contains("the flow's record names it"), "{later:#}");
        } else {
            assert_eq!(record, "not looked for", "{later:#}");
            assert!(step(&later, "slot").contains("settled"), "{later:#}");
        }
    }
    let text = daemon.cli(&["explain", "192.0.2.100:30001", "192.0.2.10:7000"]).unwrap();
    assert!(
        text.contains("\nSTEP ") && text.contains("\nslot ") && text.contains("leaves through eth1"),
        "{text}"
    );
}

#[test]
fn a_packet_that_is_not_forwarded_is_told_why() {
    let network = Network::new("explain", 1).unwrap();
    let vip = |port| SocketAddr::new(Network::vip(Family::V4), port);
    let backend = Network::endpoint(Family::V4, 1, 7000);
    let config = [
        Service::tcp("denied", vip(80)).unchecked().key("deny = [\"203.0.113.0/24\"]").backend(backend, 100),
        Service::tcp("empty", vip(81)).unchecked(),
        Service::udp("dns", vip(53)).backend(backend, 100),
    ];
    let config: String = config.iter().map(ToString::to_string).collect();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let client = |text: &str| text.parse::<SocketAddr>().unwrap();
    let near = client("192.0.2.100:1234");
    let told = |client, vip, more: &[&str], verdict: &str, reason: &str| {
        let told = explain(&daemon, client, vip, more);
        assert_eq!((&told["verdict"], &told["reason"]), (&json!(verdict), &json!(reason)), "{told:#}");
        assert_eq!(told["backend"], Value::Null, "{told:#}");
        told
    };
    let denied = told(client("203.0.113.9:1234"), vip(80), &[], "drop", "source_denied");
    assert!(step(&denied, "access").contains("the service denies"), "{denied:#}");
    let answered = told(near, vip(81), &[], "answer", "no_backend_answered");
    assert_eq!(
        answered["sent"]["destination"],
        near.to_string(),
        "the reset goes to the client: {answered:#}"
    );
    assert_eq!(answered["sent"]["interface"], "eth0", "{answered:#}");
    told(near, vip(81), &["--flags", "ack"], "drop", "no_backend");
    let none = told(near, vip(82), &[], "pass", "no_service");
    assert_eq!(step(&none, "service"), "none at 192.0.2.10 port 82 for tcp", "{none:#}");
    told(near, client("192.0.2.1:80"), &[], "pass", "no_service");
    told(client("127.0.0.1:1234"), vip(80), &[], "drop", "martian_source");
    let dns = explain(&daemon, near, vip(53), &["--protocol", "udp"]);
    assert_eq!((&dns["backend"], &dns["flags"]), (&json!(backend.to_string()), &json!([])), "{dns:#}");

    for (words, why) in [
        (&["192.0.2.2:1", "[2001:db8:1::10]:80"][..], "not of one address family"),
        (&["192.0.2.2:1", "192.0.2.10:80", "--interface", "eth7"], "it is attached to: eth"),
        (&["192.0.2.2:1", "192.0.2.10:80", "--flags", "sny"], "syn"),
        (&["192.0.2.2:1", "192.0.2.10:53", "--protocol", "udp", "--flags", "ack"], "UDP has no flags"),
        (&["192.0.2.2", "192.0.2.10:80"], "has no port"),
    ] {
        let output = daemon.cli_output(&[&["explain"], words].concat()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{words:?}: {said}");
    }
}

#[test]
fn direct_modes_and_the_spread_of_many_clients_are_told() {
    let network = Network::new("explain", 2).unwrap();
    let vip = |port| SocketAddr::new(Network::vip(Family::V4), port);
    let config: String = [("dsr", 8080), ("ipip", 8081), ("gue", 8083)]
        .map(|(mode, port)| {
            format!(
                "[[service]]\nname = \"{mode}\"\nvip = \"{}\"\nmode = \"{mode}\"\nhealth_check = {{ type = \"none\" }}\n\
                 [[service.backend]]\naddress = \"198.51.100.11:{port}\"\nweight = 100\n\
                 [[service.backend]]\naddress = \"198.51.100.12:{port}\"\nweight = 300\n",
                vip(port)
            )
        })
        .concat();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let near: SocketAddr = "192.0.2.100:1234".parse().unwrap();
    for (mode, port) in [("dsr", 8080), ("ipip", 8081), ("gue", 8083)] {
        let told = explain(&daemon, near, vip(port), &[]);
        let sent = &told["sent"];
        assert_eq!((&told["verdict"], &told["service"]), (&json!("forward"), &json!(mode)), "{told:#}");
        let inner = (json!(near.to_string()), json!(vip(port).to_string()));
        assert_eq!((&sent["source"], &sent["destination"]), (&inner.0, &inner.1), "{told:#}");
        let backend: SocketAddr = told["backend"].as_str().unwrap().parse().unwrap();
        if mode == "dsr" {
            assert_eq!(sent["tunnel"], Value::Null, "{told:#}");
        } else {
            assert_eq!(sent["tunnel"]["destination"], backend.ip().to_string(), "{told:#}");
            assert_eq!(sent["tunnel"]["source"], "198.51.100.2", "{told:#}");
        }
    }
    let told = explain(&daemon, near, vip(8080), &["--clients", "5000"]);
    let spread = told["spread"].as_array().unwrap();
    assert_eq!(spread.iter().map(|it| it["flows"].as_u64().unwrap()).sum::<u64>(), 5000, "{told:#}");
    assert_eq!((spread.len(), &spread[0]["backend"]), (2, &json!("198.51.100.12:8080")), "{told:#}");
    let number = |it: &Value, key: &str| it[key].as_f64().unwrap();
    for (of, wanted) in spread.iter().zip([0.75, 0.25]) {
        // Four standard deviations of 5,000 draws are 2.4 %.
        assert!((number(of, "share") - wanted).abs() < 0.025, "{told:#}");
        assert!((number(of, "ring_share") - wanted).abs() < 0.005, "{told:#}");
    }
}
