//! Modes of attachment: generic XDP does what native XDP does.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;

use xdp_lb_tests::servers::{Dnsmasq, Nginx};
use xdp_lb_tests::{Daemon, Mode, Network, Service, Way, big_file, services};

/// HTTP and DNS by every way, on ports of their own for each mode.
struct Site {
    network: Network,
    _nginx: Vec<Nginx>,
    _dns: Vec<Dnsmasq>,
}

impl Site {
    fn new(name: &str) -> Self {
        let network = Network::new(name, 2).unwrap();
        let servers = || network.backends.iter().flat_map(|host| [0, 1].map(|more| (host, more)));
        let nginx = servers().map(|(host, more)| Nginx::start(host, 8080 + more).unwrap()).collect();
        let dns = servers().map(|(host, more)| Dnsmasq::start(host, 5300 + more).unwrap()).collect();
        Self { network, _nginx: nginx, _dns: dns }
    }

    fn config(&self, attach: &str) -> String {
        let config = services(Way::ALL.into_iter().flat_map(|way| {
            let more = u16::from(way.mode == Mode::FullNat);
            let vip = |port| SocketAddr::new(Network::vip(way.family), port + more);
            [
                Service::tcp(format!("web-{way}"), vip(80))
                    .mode(way.mode)
                    .backends(self.network.endpoints(way.family, 8080 + more)),
                Service::udp(format!("dns-{way}"), vip(53))
                    .mode(way.mode)
                    .backends(self.network.endpoints(way.family, 5300 + more)),
            ]
        }));
        format!("attach = \"{attach}\"\n{config}")
    }

    fn assert_serves(&self) {
        let mut expected = vec![0; 10_000_000];
        File::open(big_file().unwrap()).unwrap().read_exact(&mut expected).unwrap();
        let client = &self.network.client;
        for way in Way::ALL {
            let more = u16::from(way.mode == Mode::FullNat);
            let vip = Network::vip(way.family);
            let url = format!("http://{}/", SocketAddr::new(vip, 80 + more));
            for _ in 0..5 {
                let name = client.run(&format!("curl -sSf --max-time 30 {url}")).unwrap();
                assert!(name.starts_with("backend-"), "{way}: {name}");
                let dig = format!("dig +short +tries=1 +time=10 -p {} @{vip} www.example.test A", 53 + more);
                assert_eq!(client.run(&dig).unwrap().trim(), "203.0.113.80", "{way}");
            }
            let mut curl = client.command("curl");
            let range = format!("0-{}", expected.len() - 1);
            let output = curl.args(["-sSf", "--max-time", "60", "-r", &range, &format!("{url}big")]).output();
            assert!(output.unwrap().stdout == expected, "{way}: a download came otherwise");
        }
    }
}

/// The mode and the note of each interface, by name.
fn interfaces(daemon: &Daemon) -> Vec<(String, String, Option<String>)> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    status["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|interface| {
            let (name, mode) = (text(&interface["name"]).unwrap(), text(&interface["mode"]).unwrap());
            (name, mode, text(&interface["note"]))
        })
        .collect()
}

#[test]
fn generic_xdp_serves_http_and_dns_in_every_mode() {
    let site = Site::new("generic");
    let daemon = Daemon::start(&site.network.lb, &["eth0", "eth1"], &site.config("xdp-generic")).unwrap();
    daemon.wait_until_up().unwrap();
    let attached = ["eth0", "eth1"].map(|name| (name.to_owned(), "xdp-generic".to_owned(), None));
    assert_eq!(interfaces(&daemon), attached);
    site.assert_serves();
    assert_eq!(
        daemon.metric("xdp_lb_interface_info", &[("interface", "eth0"), ("mode", "xdp-generic")]).unwrap(),
        1.0
    );
}

#[test]
fn auto_is_at_tc_ingress_on_a_veth_and_says_why() {
    let site = Site::new("auto");
    let daemon = Daemon::start(&site.network.lb, &["eth0", "eth1"], &site.config("auto")).unwrap();
    daemon.wait_until_up().unwrap();
    for (name, mode, note) in interfaces(&daemon) {
        assert_eq!(mode, "tc", "{name}");
        assert!(note.as_ref().is_some_and(|note| note.contains("veth")), "{note:?}");
    }
    site.assert_serves();
}

/// Puts a bridge, whose driver has no native XDP, between the load balancer and its eth1, whose addresses it takes.
fn bridge_eth1(network: &Network) {
    for command in [
        "ip link add br0 type bridge",
        "ip addr flush dev eth1",
        "ip link set eth1 master br0",
        "ip link set br0 up",
        "ip addr add 198.51.100.2/24 dev br0",
        "ip addr add 2001:db8:2::2/64 dev br0 nodad",
    ] {
        network.lb.run(command).unwrap();
    }
}

#[test]
fn auto_is_at_tc_ingress_if_the_driver_has_no_xdp_and_reports_it() {
    let site = Site::new("fallback");
    bridge_eth1(&site.network);
    let daemon = Daemon::start(&site.network.lb, &["eth0", "br0"], &site.config("auto")).unwrap();
    daemon.wait_until_up().unwrap();
    let attached = interfaces(&daemon);
    let (_, mode, note) = attached.iter().find(|(name, ..)| name == "br0").unwrap();
    assert_eq!(mode, "tc");
    assert!(attached.iter().all(|(_, mode, _)| mode == "tc"), "{attached:?}");
    assert!(note.as_ref().is_some_and(|note| note.contains("XDP")), "{note:?}");
    let screen = daemon.cli(&["status"]).unwrap();
    assert!(screen.contains("tc") && screen.contains(note.as_ref().unwrap()), "{screen}");
    site.assert_serves();
}

#[test]
fn a_daemon_restarted_with_another_attach_attaches_with_it_and_serves() {
    let site = Site::new("another");
    let mut daemon = Daemon::start(&site.network.lb, &["eth0", "eth1"], &site.config("xdp")).unwrap();
    for (before, after) in [("xdp", "xdp-generic"), ("xdp-generic", "tc"), ("tc", "xdp")] {
        daemon.stop().unwrap();
        let config = daemon.config().unwrap();
        let config = config.replace(&format!("attach = \"{before}\""), &format!("attach = \"{after}\""));
        fs::write(daemon.config_file(), config).unwrap();
        daemon.run().unwrap();
        daemon.wait_until_up().unwrap();
        let attached = ["eth0", "eth1"].map(|name| (name.to_owned(), after.to_owned(), None));
        assert_eq!(interfaces(&daemon), attached);
        site.assert_serves();
    }
}

#[test]
fn native_is_refused_if_the_driver_has_no_xdp() {
    let site = Site::new("refused");
    bridge_eth1(&site.network);
    let Err(error) = Daemon::start(&site.network.lb, &["eth0", "br0"], &site.config("xdp")) else {
        panic!("the daemon started");
    };
    let error = format!("{error:#}");
    assert!(error.contains("br0") && error.contains("native XDP"), "{error}");
}
