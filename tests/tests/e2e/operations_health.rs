//! A backend fails: it is down in time, no request fails from then on, and it comes back when it has recovered.

use std::time::{Duration, Instant};

use xdp_lb_tests::servers::{Dnsmasq, Nginx};
use xdp_lb_tests::{Daemon, Network, Requests, Site, WEB_CHECK, by_backend, until, web, web_backend};

/// The times of the checks in this file.
const TIMES: &str = "interval = \"500ms\"\ntimeout = \"500ms\"\nfall = 3\n";

/// When a backend that fails stops receiving new flows: fall x interval + timeout.
const BOUND: Duration = Duration::from_millis(2000);

/// For asking (a process is started for each look) and for the scheduling of a machine that does other things, too. To the
/// millisecond, the times of checks are tested with a clock that waits for them.
const SLACK: Duration = Duration::from_millis(3000);

/// How long a change of state may take to be seen.
const SOON: Duration = Duration::from_secs(30);

/// Three failures lie two intervals apart at least, of which each may be a tenth shorter.
const SOONEST: Duration = Duration::from_millis(890);

/// The service `web` with these backends, and checks at these times.
fn timed_web(mode: &str, backends: &[usize]) -> String {
    let text = web(mode, backends);
    assert!(text.contains(WEB_CHECK));
    text.replace(WEB_CHECK, TIMES)
}

/// What a failure of backend 2 looked like from outside.
struct Detection {
    failed: Instant,
    detected: Instant,
}

/// Makes backend 2 fail, and waits until the daemon says that it is out of service.
fn fail(site: &mut Site, requests: &Requests, how: impl FnOnce(&mut Site)) -> Detection {
    requests.wait_for("backend-2", SOON).unwrap();
    let failed = Instant::now();
    how(site);
    until("backend 2 to be out of service", SOON, || {
        Ok(site.daemon.backend_state("web", &web_backend(2))? != "up")
    })
    .unwrap();
    let detection = Detection { failed, detected: Instant::now() };
    let took = detection.detected - failed;
    println!("out of service after {took:?}");
    assert!(took <= BOUND + SLACK, "detection took {took:?}");
    assert!(took >= SOONEST, "it was out of service after {took:?}: fewer than three checks had failed");
    detection
}

/// No request that began after the detection may fail, or be answered by backend 2.
fn assert_spared(requests: &Requests, detection: &Detection) {
    requests.next(200).unwrap();
    let answers = by_backend(&requests.since(detection.detected)).unwrap();
    assert!(answers.len() == 2 && !answers.contains_key("backend-2"), "{answers:?}");
    let log = requests.since(detection.failed);
    if let Some(last) = log.iter().filter(|request| request.outcome.is_err()).map(|it| it.began).max() {
        let after = last - detection.failed;
        println!("the last request that failed began after {after:?}");
        assert!(after <= BOUND + SLACK, "a request failed {after:?} after the backend");
    }
}

/// Makes backend 2 recover, and waits until it is used.
fn fix(site: &mut Site, requests: &Requests, how: impl FnOnce(&mut Site)) {
    let began = Instant::now();
    how(site);
    site.wait_for(2, "up").unwrap();
    // Two successes lie an interval apart.
    assert!(began.elapsed() >= Duration::from_millis(400), "up after {:?}", began.elapsed());
    requests.wait_for("backend-2", SOON).unwrap();
}

fn reason(site: &Site) -> String {
    let detail = site.daemon.cli_json(&["service", "show", "web"]).unwrap();
    detail["backends"][1]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_backend_that_reports_itself_unhealthy_is_taken_down_without_a_failed_request() {
    let mut site = Site::start("health", 3, &timed_web("full-nat", &[1, 2, 3])).unwrap();
    let requests = site.requests(2);
    let detection = fail(&mut site, &requests, |site| site.nginx[1].set_healthy(false).unwrap());
    assert!(reason(&site).contains("503"), "{}", reason(&site));
    assert_spared(&requests, &detection);
    fix(&mut site, &requests, |site| site.nginx[1].set_healthy(true).unwrap());
    by_backend(&requests.stop()).unwrap();
    let log = site.daemon.log();
    let told = log.lines().filter(|line| line.contains("up -> down") && line.contains(&web_backend(2)));
    assert_eq!(told.count(), 1, "the transition is told once: {log}");
}

#[test]
fn after_the_detection_of_a_killed_server_no_request_fails() {
    let config =
        timed_web("nat", &[1, 2, 3]).replace("type = \"http\"\npath = \"/healthz\"", "type = \"tcp\"");
    let mut site = Site::start("health", 3, &config).unwrap();
    let requests = site.requests(2);
    let detection = fail(&mut site, &requests, |site| site.nginx[1].stop());
    assert!(reason(&site).contains("refused"), "{}", reason(&site));
    assert_spared(&requests, &detection);
    fix(&mut site, &requests, |site| site.nginx[1].restart().unwrap());
}

#[test]
fn a_host_that_vanishes_silently_is_taken_down_in_time() {
    let mut site = Site::start("health", 3, &timed_web("full-nat", &[1, 2, 3])).unwrap();
    // A client whose request goes to the lost host waits for two seconds.
    let requests = site.requests(4);
    let detection = fail(&mut site, &requests, |site| {
        drop(site.network.backends[1].run("ip link set eth0 down").unwrap())
    });
    assert_spared(&requests, &detection);
    fix(&mut site, &requests, |site| drop(site.network.backends[1].run("ip link set eth0 up").unwrap()));
}

#[test]
fn a_stopped_dns_server_is_taken_down_in_time_and_no_query_fails_after_that() {
    let network = Network::new("health", 3).unwrap();
    let mut servers: Vec<_> = network.backends.iter().map(|host| Dnsmasq::start(host, 53).unwrap()).collect();
    let mut config = "[[service]]\nname = \"dns\"\nvip = \"192.0.2.10:53\"\nprotocol = \"udp\"\n\
                      health_check = { type = \"dns\", name = \"www.example.test\", interval = \"500ms\", timeout = \"500ms\" }\n"
        .to_owned();
    for number in 1..=3 {
        config += &format!("[[service.backend]]\naddress = \"{}:53\"\n", Network::backend(number));
    }
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    let backend = "198.51.100.12:53";
    daemon.wait_for_state("dns", backend, "up", SOON).unwrap();
    let query = || {
        let answer = network.client.run("dig +short +tries=1 +time=5 TXT whoami.example.test @192.0.2.10");
        answer.map(|name| name.trim().trim_matches('"').to_owned())
    };
    until("backend-2 to answer", SOON, || Ok(query()? == "backend-2")).unwrap();

    let failed = Instant::now();
    servers[1].stop();
    daemon.wait_for_state("dns", backend, "down", SOON).unwrap();
    let took = failed.elapsed();
    assert!((SOONEST..=BOUND + SLACK).contains(&took), "detection took {took:?}");
    for _ in 0..30 {
        let name = query().unwrap();
        assert!(["backend-1", "backend-3"].contains(&name.as_str()), "{name:?} answered");
    }
    servers[1].restart().unwrap();
    daemon.wait_for_state("dns", backend, "up", SOON).unwrap();
    until("backend-2 to answer again", SOON, || Ok(query()? == "backend-2")).unwrap();
}

#[test]
fn an_unreachable_backend_is_unresolved_gets_nothing_and_says_why() {
    let mut network = Network::new("health", 1).unwrap();
    let _first = Nginx::start(&network.backends[0], 8080).unwrap();
    // Backend 2 is not there yet: nobody answers for its address.
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &web("full-nat", &[1, 2])).unwrap();
    daemon.wait_for_state("web", &web_backend(1), "up", SOON).unwrap();
    daemon.wait_for_state("web", &web_backend(2), "unresolved", SOON).unwrap();
    let requests = Requests::start(&network.client, Site::vip(), 2);
    let answers = requests.next_by_backend(50).unwrap();
    assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["backend-1"]);

    let host = network.add_backend().unwrap();
    let _second = Nginx::start(&host, 8080).unwrap();
    daemon.wait_for_state("web", &web_backend(2), "up", SOON).unwrap();
    requests.wait_for("backend-2", SOON).unwrap();
    by_backend(&requests.stop()).unwrap();
}
