//! The daemon ends in every possible way and starts again: traffic continues, and nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::servers::UdpEcho;
use xdp_lb_tests::{
    Daemon, Download, Network, Site, UdpFlows, by_backend, paths, request, until, until_some, web,
    web_backend,
};

/// What of a backend may not change by a restart, by its address.
fn standing(daemon: &Daemon, service: &str) -> BTreeMap<String, Value> {
    let detail = daemon.cli_json(&["service", "show", service]).unwrap();
    let backends = detail["backends"].as_array().unwrap().iter();
    let keep = |backend: &Value| {
        let kept: Vec<_> =
            ["weight", "share", "admin", "state", "origin"].map(|field| backend[field].clone()).into();
        (backend["address"].as_str().unwrap().to_owned(), Value::from(kept))
    };
    backends.map(keep).chain([("ring".into(), detail["service"]["ring_slots"].clone())]).collect()
}

fn new_flows(daemon: &Daemon) -> BTreeMap<String, u64> {
    let backends = daemon.cli_json(&["backend", "list"]).unwrap();
    let flows = |backend: &Value| {
        let address = backend["address"].as_str().unwrap().to_owned();
        (address, backend["traffic"]["new_flows"].as_u64().unwrap())
    };
    backends.as_array().unwrap().iter().map(flows).collect()
}

fn is_adopted(daemon: &Daemon) -> bool {
    daemon.cli_json(&["status"]).unwrap()["adopted"].as_bool().unwrap()
}

#[test]
fn kill_9_of_the_daemon_does_not_stop_traffic_and_the_next_one_takes_over_in_full_nat() {
    kill_and_restart("full-nat");
}

#[test]
fn kill_9_of_the_daemon_does_not_stop_traffic_and_the_next_one_takes_over_in_nat() {
    kill_and_restart("nat");
}

fn kill_and_restart(mode: &str) {
    // Backends 2 to 4 stand in the file. The places of a table that was made anew would be others.
    let mut site = Site::start("restart", 4, &web(mode, &[2, 3, 4])).unwrap();
    assert!(!is_adopted(&site.daemon));
    for change in [
        ["backend", "add", "web", &web_backend(1), "--weight=100"],
        ["backend", "set-weight", "web", &web_backend(2), "50"],
        ["backend", "drain", "web", &web_backend(4), "--output=table"],
    ] {
        site.daemon.cli(&change).unwrap();
    }
    site.wait_for(1, "up").unwrap();
    let client = site.network.client.clone();
    let requests = site.requests(2);
    let downloads = ["backend-1", "backend-2", "backend-3"]
        .map(|backend| Download::start_at(&client, Site::vip(), backend).unwrap());
    let (before, flows_before) = (standing(&site.daemon, "web"), new_flows(&site.daemon));

    site.daemon.kill().unwrap();
    // Without a daemon: old connections go on, new ones are made, and they go where they should.
    let answers = requests.next_by_backend(200).unwrap();
    assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["backend-1", "backend-2", "backend-3"]);
    let orphan = Download::start(&client, Site::vip()).unwrap();
    for download in &downloads {
        download.wait_for_progress().unwrap();
    }

    site.daemon.run().unwrap();
    assert!(is_adopted(&site.daemon), "{}", site.daemon.log());
    assert_eq!(standing(&site.daemon, "web"), before, "shares, weights, states and the ring stay");
    for (backend, flows) in new_flows(&site.daemon) {
        assert!(flows >= flows_before[&backend], "{backend}: the counter went back");
    }
    let answers = requests.next_by_backend(100).unwrap();
    assert!(!answers.contains_key("backend-4"), "it drains: {answers:?}");
    for download in downloads.into_iter().chain([orphan]) {
        download.wait_for_progress().unwrap();
        download.finish().unwrap();
    }
    by_backend(&requests.stop()).unwrap();

    // The new daemon checks health and drains as the old one did.
    site.nginx[2].set_healthy(false).unwrap();
    site.wait_for(3, "down").unwrap();
    site.daemon.cli(&["backend", "enable", "web", &web_backend(4)]).unwrap();
    let requests = site.requests(2);
    requests.wait_for("backend-4", Duration::from_secs(30)).unwrap();
    assert!(!requests.next_by_backend(50).unwrap().contains_key("backend-3"));
}

#[test]
fn no_slot_moves_when_a_daemon_takes_over() {
    let network = Network::new("restart", 5).unwrap();
    let _echo: Vec<_> = network.backends.iter().map(|host| UdpEcho::start(host, 7).unwrap()).collect();
    let mut config = "[timeouts]\nudp_idle = \"1s\"\n[[service]]\nname = \"echo\"\nvip = \"192.0.2.10:7\"\n\
                      protocol = \"udp\"\n"
        .to_owned();
    for number in 2..=5 {
        config += &format!("[[service.backend]]\naddress = \"{}:7\"\n", Network::backend(number));
    }
    let mut daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.cli(&["backend", "add", "echo", "198.51.100.11:7"]).unwrap();
    for number in 1..=5 {
        let backend = format!("{}:7", Network::backend(number));
        daemon.wait_for_state("echo", &backend, "up", Duration::from_secs(30)).unwrap();
    }
    let mut flows = UdpFlows::open(&network.client, "192.0.2.10:7".parse().unwrap(), 20_000..20_200).unwrap();
    // A flow that has been silent for longer than the idle time is a new one, and chooses by its slot.
    let forget = || std::thread::sleep(Duration::from_millis(2500));
    flows.ask();
    forget();
    let before = flows.ask();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    forget();
    assert_eq!(flows.ask(), before, "the same flow, begun again, goes to the same backend");
    for how in [Daemon::kill, Daemon::stop] {
        how(&mut daemon).unwrap();
        forget();
        assert_eq!(flows.ask(), before, "without a daemon");
        daemon.run().unwrap();
        forget();
        assert_eq!(flows.ask(), before, "with the next daemon");
    }
}

#[test]
fn sigterm_ends_the_daemon_and_forwarding_continues() {
    let mut site = Site::start("restart", 2, &web("full-nat", &[1, 2])).unwrap();
    let requests = site.requests(2);
    let download = Download::start(&site.network.client, Site::vip()).unwrap();
    site.daemon.stop().unwrap();
    assert!(!site.daemon.socket().exists(), "the socket is left");
    assert_eq!(requests.next_by_backend(100).unwrap().len(), 2);
    download.wait_for_progress().unwrap();
    let output = site.daemon.cli_output(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    site.daemon.run().unwrap();
    assert!(is_adopted(&site.daemon));
    download.finish().unwrap();
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn a_daemon_started_with_a_changed_file_applies_only_the_difference() {
    let mut site = Site::start("restart", 4, &web("full-nat", &[1, 2, 3])).unwrap();
    let requests = site.requests(2);
    let download = Download::start_at(&site.network.client, Site::vip(), "backend-1").unwrap();
    site.daemon.kill().unwrap();
    // Backend 1 stays, 2 gets another weight, 3 is replaced by 4.
    let config = site.daemon.config().unwrap();
    let (second, third) = (web_backend(2), web_backend(3));
    let config = config
        .replace(&format!("\"{second}\""), &format!("\"{second}\"\nweight = 50"))
        .replace(&third, &web_backend(4));
    fs::write(site.daemon.config_file(), config).unwrap();
    site.daemon.run().unwrap();
    site.wait_for(4, "up").unwrap();
    let up = Instant::now();
    requests.wait_for("backend-4", Duration::from_secs(30)).unwrap();
    requests.next(100).unwrap();
    let answers = by_backend(&requests.since(up)).unwrap();
    assert!(!answers.contains_key("backend-3"), "{answers:?}");
    // Backend 3 leaves once its flows are over.
    let expected = [(web_backend(1), 100), (second, 50), (web_backend(4), 100)];
    until("the backends to be those of the file", Duration::from_secs(30), || {
        let detail = site.daemon.cli_json(&["service", "show", "web"])?;
        let backends = detail["backends"].as_array().unwrap();
        let weights: Vec<_> = backends
            .iter()
            .map(|it| {
                (it["address"].as_str().unwrap_or_default().to_owned(), it["weight"].as_u64().unwrap_or(0))
            })
            .collect();
        Ok(weights == expected)
    })
    .unwrap();
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    // Those that backend 3 was answering when it was removed are lost with it.
    for request in requests.stop() {
        assert!(request.outcome.is_ok() || request.began < up, "{request:?}");
    }
}

#[test]
fn a_daemon_started_with_another_attach_attaches_again() {
    let mut site = Site::start("restart", 1, &web("full-nat", &[1])).unwrap();
    let mode = |daemon: &Daemon| daemon.cli_json(&["status"]).unwrap()["interfaces"][0]["mode"].clone();
    assert_eq!(mode(&site.daemon), "xdp");
    let config = site.daemon.config().unwrap();
    for wanted in ["xdp-generic", "tc", "xdp", "tc", "xdp-generic"] {
        site.daemon.kill().unwrap();
        let config = config.replace("attach = \"xdp\"", &format!("attach = \"{wanted}\""));
        fs::write(site.daemon.config_file(), config).unwrap();
        site.daemon.run().unwrap();
        assert_eq!(mode(&site.daemon), wanted);
        assert!(is_adopted(&site.daemon));
        request(&site.network.client, Site::vip()).unwrap();
    }
}

#[test]
fn readiness_is_reported_once_traffic_is_served() {
    let site_without_daemon = Network::new("ready", 2).unwrap();
    let network = &site_without_daemon;
    let nginx: Vec<_> = network
        .backends
        .iter()
        .map(|host| xdp_lb_tests::servers::Nginx::start(host, 8080).unwrap())
        .collect();
    let mut daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &web("full-nat", &[1, 2])).unwrap();
    daemon.cli(&["unload"]).unwrap();
    daemon.kill().unwrap();
    // The neighbours are not known either.
    network.lb.run("ip neigh flush all").unwrap();

    let path = network.lb.dir().join("notify.sock");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = network.lb.command(paths::daemon());
    command.arg("run").arg("--config").arg(daemon.config_file()).env("NOTIFY_SOCKET", &path);
    let process = network.lb.spawn_command("xdp-lb-notify", command).unwrap();
    let mut message = [0; 4096];
    let length = notify.recv(&mut message).unwrap_or_else(|error| panic!("{error}: {}", process.log()));
    let message = String::from_utf8_lossy(&message[..length]);
    assert!(message.lines().any(|line| line == "READY=1"), "{message}");
    // At once, and by every backend.
    let states = daemon.cli_json(&["backend", "list"]).unwrap();
    for backend in states.as_array().unwrap() {
        assert_eq!(backend["state"], "up", "ready was told too early: {backend}");
    }
    for _ in 0..20 {
        request(&network.client, Site::vip()).unwrap();
    }
    drop(nginx);

    // And the end is told, too.
    process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    let stopping = until_some("STOPPING=1", Duration::from_secs(30), || {
        let mut message = [0; 4096];
        let length = notify.recv(&mut message)?;
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        Ok(message.lines().any(|line| line == "STOPPING=1").then_some(message))
    });
    stopping.unwrap();
}
