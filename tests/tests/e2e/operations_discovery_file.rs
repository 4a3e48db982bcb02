//! Discovery by a file that is replaced.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Network, Site, by_backend, until, web, web_backend};

const PATIENCE: Duration = Duration::from_secs(30);

fn list(backends: &[(usize, u16)]) -> String {
    let lines: Vec<_> = backends
        .iter()
        .map(|(number, weight)| {
            format!("  {{\"address\": \"{}\", \"weight\": {weight}}}", web_backend(*number))
        })
        .collect();
    format!("{{\"backends\": [\n{}\n]}}\n", lines.join(",\n"))
}

fn view(site: &Site) -> Value {
    site.daemon.cli_json(&["service", "show", "web"]).unwrap()["service"]["discovery"].clone()
}

fn wait_for_trouble(site: &Site, words: &str) {
    let mut last = Value::Null;
    let told = until("the trouble to be told", PATIENCE, || {
        last = view(site);
        Ok(last["trouble"].as_str().is_some_and(|it| it.contains(words)))
    });
    assert!(told.is_ok(), "{words:?}: {last}");
}

#[test]
fn a_replaced_file_takes_effect_at_once_and_an_incomplete_or_invalid_one_changes_nothing() {
    let network = Network::new("discovery", 3).unwrap();
    let path = network.lb.dir().join("web.json");
    let replace = |text: &str| {
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &path).unwrap();
    };
    replace(&list(&[(1, 100)]));
    let keys = format!("\n[service.discovery]\ntype = \"file\"\npath = {path:?}\n");
    let nginx =
        network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<anyhow::Result<_>>().unwrap();
    let config = web("full-nat", &[3]) + &keys;
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    let mut site = Site { daemon, nginx, network };
    until("the file to be read", PATIENCE, || Ok(site.daemon.backends(Some("web"))?.len() == 2)).unwrap();
    site.wait_for(1, "up").unwrap();
    let origins: Vec<_> =
        site.daemon.backends(Some("web")).unwrap().iter().map(|it| it["origin"].clone()).collect();
    assert_eq!(origins, ["watched-file", "file"]);
    let requests = site.requests(1);

    let began = Instant::now();
    replace(&list(&[(1, 100), (2, 300)]));
    until("the second backend to be there", PATIENCE, || Ok(site.daemon.backends(Some("web"))?.len() == 3))
        .unwrap();
    // The poll that stands in where nothing is heard comes every 10 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    site.wait_for(2, "up").unwrap();
    let shares: Vec<_> =
        site.daemon.backends(Some("web")).unwrap().iter().map(|it| it["share"].as_f64().unwrap()).collect();
    assert!((shares[1] - 0.6).abs() < 0.03, "{shares:?}");
    let standing = |site: &Site| {
        let backends = site.daemon.backends(Some("web")).unwrap();
        backends
            .iter()
            .map(|it| format!("{} {} {}", it["address"], it["state"], it["weight"]))
            .collect::<Vec<_>>()
    };
    let before = standing(&site);

    // Written in place and torn off: nothing changes.
    fs::write(&path, &list(&[(1, 100)])[..40]).unwrap();
    wait_for_trouble(&site, "line 2: ");
    wait_for_trouble(&site, "rename it into place");
    replace(&list(&[(1, 100), (2, 1)]).replace(&web_backend(1), "127.0.0.1:8080"));
    wait_for_trouble(&site, "line 2: backend 127.0.0.1:8080: ");
    assert_eq!(standing(&site), before);
    let status = site.daemon.cli(&["status"]).unwrap();
    assert!(status.contains("discovery has been failing for ") && status.contains("loopback"), "{status}");
    assert!(site.daemon.log().contains("loopback"), "{}", site.daemon.log());
    site.daemon.kill().unwrap();
    fs::remove_file(&path).unwrap();
    site.daemon.run().unwrap();
    wait_for_trouble(&site, "cannot read it");
    assert_eq!(standing(&site), before);

    replace(&list(&[(2, 300)]));
    until("the first backend to leave", PATIENCE, || {
        let backends = site.daemon.backends(Some("web"))?;
        Ok(backends[0]["state"] != "up" && backends.len() > 1 || backends.len() == 2)
    })
    .unwrap();
    assert_eq!(view(&site)["trouble"], Value::Null);
    let answers = requests.next_by_backend(100).unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["backend-2", "backend-3"], "{answers:?}");
    by_backend(&requests.stop()).unwrap();
}
