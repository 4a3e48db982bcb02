//! Weights that follow how long the health checks take.

use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::Unruly;
use xdp_lb_tests::{Daemon, Network, Requests, Site, until, web, web_backend};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_backend_with_slow_checks_gets_less_until_they_are_fast_again() {
    let network = Network::new("latency", 3).unwrap();
    let servers: Vec<_> = network.backends.iter().map(|host| Unruly::start(host, 8080).unwrap()).collect();
    let config = web("nat", &[1, 2, 3])
        .replacen("mode =", "feedback = { latency = true, floor = 30, hold = \"1s\" }\nmode =", 1)
        .replacen("interval = \"500ms\"", "interval = \"200ms\"", 1)
        .replacen("timeout = \"500ms\"", "timeout = \"200ms\"", 1);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let second = || -> Value { daemon.backends(Some("web")).unwrap().swap_remove(1) };
    let ratio = || second()["weight_ratio"].as_f64().unwrap();
    until("backend 2 to have all of its weight", PATIENCE, || Ok(ratio() == 1.0)).unwrap();

    servers[1].set_delay(Duration::from_millis(100));
    let took = until("backend 2 to have its least", PATIENCE, || Ok(ratio() == 0.3)).unwrap();
    println!("at its least after {took:?}");
    let backend = second();
    assert!(backend["check_latency_average_seconds"].as_f64().unwrap() > 0.02, "{backend}");
    assert!(backend["share"].as_f64().unwrap() < 0.25, "{backend}");
    let list = daemon.cli(&["backend", "list"]).unwrap();
    assert!(list.contains("30 % of 100"), "{list}");
    assert!(daemon.log().contains("30 % of its weight 100: checks take "), "it is logged");
    assert_eq!(daemon.metric("xdp_lb_backend_weight_ratio", &[("backend", &web_backend(2))]).unwrap(), 0.3);
    // Of 2.3 shares it has 0.3, or of less where the others are busy, too.
    let requests = Requests::start(&network.client, Site::vip(), 4);
    let answers = requests.next_by_backend(200).unwrap();
    drop(requests);
    assert!((5..=50).contains(&answers["backend-2"]), "{answers:?}");

    servers[1].set_delay(Duration::ZERO);
    let took = until("backend 2 to have most of its weight again", PATIENCE, || Ok(ratio() >= 0.7)).unwrap();
    println!("back after {took:?}");
}
