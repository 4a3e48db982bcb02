//! HTTP through the load balancer: pages, long downloads and uploads, byte for byte.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Mode, Network, Service, Way, big_file, output, services, sha256};

/// A service of nginx for each way: the two modes on ports of their own, before backends of their own.
fn port(mode: Mode) -> u16 {
    match mode {
        Mode::Nat => 8080,
        Mode::FullNat => 8081,
    }
}

fn vip(way: Way) -> SocketAddr {
    SocketAddr::new(Network::vip(way.family), port(way.mode))
}

struct Web {
    network: Network,
    nginx: Vec<[Nginx; 2]>,
    daemon: Daemon,
}

impl Web {
    fn start(backends: usize) -> Self {
        let network = Network::new("http", backends).unwrap();
        let nginx = network
            .backends
            .iter()
            .map(|host| Mode::ALL.map(|mode| Nginx::start(host, port(mode)).unwrap()))
            .collect();
        let config = services(Way::ALL.map(|way| {
            let backends = network.endpoints(way.family, port(way.mode));
            Service::tcp(way, vip(way)).mode(way.mode).backends(backends)
        }));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        Self { network, nginx, daemon }
    }

    /// Runs curl on the client and returns its stdout, byte for byte.
    fn curl(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = self.network.client.command("curl");
        command.args(["-sSf", "--connect-timeout", "5", "--max-time", "60"]).args(arguments);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl {arguments:?}: {stderr}");
        output.stdout
    }

    /// The SHA-256 sum of what a URL gives the client, once it has all come.
    fn download(&self, url: &str) -> Child {
        let mut command = self.network.client.command("bash");
        command.args([
            "-c",
            "set -o pipefail; curl -sSf --connect-timeout 5 --max-time 120 \"$0\" | sha256sum",
            url,
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Every packet that went on: a reason to drop one would be a bug.
    fn assert_nothing_dropped(&self) {
        let counters = self.daemon.cli_json(&["counters"]).unwrap();
        let dropped: Vec<_> = counters["counters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|counter| counter["verdict"] == "drop" && counter["packets"] != 0)
            // The first reply to a client that the load balancer's ARP does not know yet; it is sent again.
            .filter(|counter| counter["name"] != "reply_neighbour_missing")
            .collect();
        assert!(dropped.is_empty(), "{dropped:?}");
    }
}

/// An HTTP response without the one header that time changes.
fn without_date(response: &[u8]) -> Vec<u8> {
    let lines = response.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"Date: ")).flatten().copied().collect()
}

#[test]
fn a_response_is_the_same_byte_for_byte_whatever_its_length_over_v4_and_v6_in_both_modes() {
    let web = Web::start(1);
    let mut content = vec![0; 1 << 20];
    File::open(big_file().unwrap()).unwrap().read_exact(&mut content).unwrap();
    for way in Way::ALL {
        let backend = Network::endpoint(way.family, 1, port(way.mode));
        for length in [1, 2, 3, 1000, 1447, 1448, 1449, 65_537, content.len()] {
            let range = format!("0-{}", length - 1);
            let through = web.curl(&["-i", "-r", &range, &format!("http://{}/big", vip(way))]);
            let mut straight = web.network.backends[0].command("curl");
            straight.args([
                "-sSf",
                "-o",
                "/dev/null",
                "-D",
                "-",
                "-r",
                &range,
                &format!("http://{backend}/big"),
            ]);
            let headers = output(&mut straight).unwrap();
            let expected = [without_date(headers.as_bytes()), content[..length].to_vec()].concat();
            assert!(without_date(&through) == expected, "{way}: {length} bytes came otherwise");
        }
    }
    web.assert_nothing_dropped();
}

#[test]
fn several_downloads_of_100_mb_at_once_arrive_whole_over_v4_and_v6_in_both_modes() {
    let web = Web::start(2);
    let expected = sha256(&big_file().unwrap()).unwrap();
    let downloads = Way::ALL.map(|way| {
        let url = format!("http://{}/big", vip(way));
        (way, web.download(&url))
    });
    for (way, download) in downloads {
        let output = download.wait_with_output().unwrap();
        assert!(output.status.success(), "{way}");
        let sum = String::from_utf8(output.stdout).unwrap();
        assert_eq!(sum.split_whitespace().next(), Some(expected.as_str()), "{way}");
    }
    web.assert_nothing_dropped();
}

#[test]
fn an_upload_of_20_mb_arrives_whole_over_v4_and_v6_in_both_modes() {
    let web = Web::start(2);
    let mut content = vec![0; 20_000_000];
    File::open(big_file().unwrap()).unwrap().read_exact(&mut content).unwrap();
    let file = web.network.client.dir().join("upload");
    fs::write(&file, &content).unwrap();
    for way in Way::ALL {
        let name = way.to_string();
        let url = format!("http://{}/upload/{name}", vip(way));
        let response = web.curl(&["-i", "-T", file.to_str().unwrap(), &url]);
        let response = String::from_utf8(response).unwrap();
        let by = web
            .network
            .backends
            .iter()
            .position(|host| response.contains(&format!("X-Backend: {}\r\n", host.name())));
        let by = by.unwrap_or_else(|| panic!("{way}: nobody took it: {response}"));
        let nginx = &web.nginx[by][usize::from(way.mode == Mode::FullNat)];
        assert!(fs::read(nginx.uploaded(&name)).unwrap() == content, "{way}: it came otherwise");
    }
    web.assert_nothing_dropped();
}
