//! A backend that fails its flows, or flaps, gets none for a while, is tried with a few, and comes back.

use std::time::{Duration, Instant};

use xdp_lb_tests::servers::Unruly;
use xdp_lb_tests::{Daemon, Network, Requests, Site, until, web, web_backend};

const PATIENCE: Duration = Duration::from_secs(40);

/// A breaker that opens for a short time.
const BREAKER: &str = "circuit_breaker = { open = \"3s\", max_open = \"1m\", window = \"2s\", failure_percent = 50, \
                       min_flows = 10, half_open_portion = 20 }\nmode =";

/// The service `web` over this many backends that can be made unruly.
fn unruly(name: &str, mode: &str, backends: &[usize]) -> (Network, Vec<Unruly>, Daemon) {
    let network = Network::new(name, backends.len()).unwrap();
    let servers = network.backends.iter().map(|host| Unruly::start(host, 8080).unwrap()).collect();
    let config = web(mode, backends).replacen("mode =", BREAKER, 1);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    (network, servers, daemon)
}

fn reason(daemon: &Daemon, number: usize) -> String {
    daemon.backends(Some("web")).unwrap()[number - 1]["reason"].as_str().unwrap().to_owned()
}

fn wait_for(daemon: &Daemon, number: usize, state: &str) -> Duration {
    daemon.wait_for_state("web", &web_backend(number), state, PATIENCE).unwrap()
}

/// A backend turns unruly, and well-behaved again.
fn ejected_tried_and_used_again(mode: &str) {
    let (network, servers, daemon) = unruly("unruly", mode, &[1, 2, 3]);
    let requests = Requests::start(&network.client, Site::vip(), 3);
    requests.wait_for("backend-2", PATIENCE).unwrap();
    servers[1].set_unruly(true);
    let took = wait_for(&daemon, 2, "ejected");
    println!("{mode}: ejected after {took:?}");
    assert!(
        reason(&daemon, 2).contains("new flows were reset or not answered; open for "),
        "{}",
        reason(&daemon, 2)
    );
    let backend = &daemon.backends(Some("web")).unwrap()[1];
    assert_eq!(backend["health"], "up", "its check is green: {backend}");
    assert!(daemon.metric("xdp_lb_backend_resets_total", &[("backend", &web_backend(2))]).unwrap() >= 5.0);

    // While it is out, no request fails. It is for as many whole seconds more, at least.
    let out = Instant::now();
    let rest = daemon.backends(Some("web")).unwrap()[1]["tried_in_seconds"].as_u64().unwrap();
    let mut answers = requests.next(30).unwrap();
    answers.retain(|request| request.began < out + Duration::from_secs(rest));
    assert!(answers.iter().all(|request| request.outcome.is_ok()), "{answers:?}");
    // On trial it fails still, and the time it is out has doubled, or is up to a fifth less.
    let told = |parts: &[&str], times: usize| {
        let what = format!("the log to tell {times} times of {parts:?}");
        let is_it = |line: &&str| parts.iter().all(|part| line.contains(part));
        until(&what, PATIENCE, || Ok(daemon.log().lines().filter(is_it).count() >= times))
            .unwrap_or_else(|error| panic!("{error:#}:\n{}", daemon.log()));
    };
    let backend = web_backend(2);
    told(&[&backend, "ejected -> half-open"], 1);
    told(&[&backend, "half-open -> ejected"], 1);
    let log = daemon.log();
    let again =
        log.lines().find(|line| line.contains(&backend) && line.contains("half-open -> ejected")).unwrap();
    assert!(["4s", "5s", "6s"].iter().any(|span| again.contains(&format!("open for {span}"))), "{again}");
    assert!(daemon.metric("xdp_lb_backend_ejections_total", &[("backend", &web_backend(2))]).unwrap() >= 2.0);

    servers[1].set_unruly(false);
    told(&[&backend, "half-open -> up"], 1);
    requests.wait_for("backend-2", PATIENCE).unwrap();
    let log = requests.next(100).unwrap();
    assert!(log.iter().all(|request| request.outcome.is_ok()), "{log:?}");
}

#[test]
fn a_healthy_backend_that_resets_every_connection_is_ejected_and_comes_back_in_full_nat() {
    ejected_tried_and_used_again("full-nat");
}

#[test]
fn a_healthy_backend_that_resets_every_connection_is_ejected_and_comes_back_in_nat() {
    ejected_tried_and_used_again("nat");
}

#[test]
fn a_backend_that_does_not_answer_syns_is_ejected_and_the_last_one_never() {
    let (network, _servers, daemon) = unruly("silent", "nat", &[1, 2]);
    // So many that their first SYNs alone are enough for the breaker: it looks at no more than two seconds, and those that
    // are not answered are followed by no others for some time.
    let requests = Requests::start(&network.client, Site::vip(), 16);
    requests.wait_for("backend-2", PATIENCE).unwrap();
    // The check's packets have a way back, the clients' have none.
    network.backends[1].run("ip route add blackhole 192.0.2.100/32").unwrap();
    wait_for(&daemon, 2, "ejected");
    network.backends[0].run("ip route add blackhole 192.0.2.100/32").unwrap();
    until("backend 1 to be spared", PATIENCE, || Ok(reason(&daemon, 1).contains("; not ejected, because ")))
        .unwrap();
    assert_eq!(daemon.backend_state("web", &web_backend(1)).unwrap(), "up");
    drop(requests);
}

#[test]
fn a_backend_whose_check_flaps_stays_out_for_the_time_of_its_breaker() {
    let config = web("full-nat", &[1, 2]).replacen(
        "mode =",
        "circuit_breaker = { open = \"6s\", window = \"2s\" }\nmode =",
        1,
    );
    let site = Site::start("flapping", 2, &config).unwrap();
    site.nginx[1].set_healthy(false).unwrap();
    site.wait_for(2, "down").unwrap();
    let down = Instant::now();
    site.nginx[1].set_healthy(true).unwrap();
    // Up by its check within a second, and not yet used.
    site.wait_for(2, "ejected").unwrap();
    let waits = site.daemon.backends(Some("web")).unwrap()[1]["tried_in_seconds"].as_u64().unwrap();
    assert!(waits <= 6, "{waits}");
    site.wait_for(2, "half-open").unwrap();
    assert!(down.elapsed() > Duration::from_millis(2500), "{:?}", down.elapsed());
    site.wait_for(2, "up").unwrap();
}
