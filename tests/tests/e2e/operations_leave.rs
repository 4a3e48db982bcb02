//! Removed backends and services keep their flows, and are gone when those have ended.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Download, Network, Site, by_backend, until, web, web_backend};

const SOON: Duration = Duration::from_secs(60);

/// Flows without a record are known to have ended after this.
const SHORT: &str = "timeouts.tcp_idle = \"8s\"\n";

fn leaving(daemon: &Daemon) -> Vec<String> {
    let backends = daemon.backends(None).unwrap();
    let leave = backends.iter().filter(|it| it["leaving"] == true);
    leave.map(|it| it["address"].as_str().unwrap().to_owned()).collect()
}

fn wait_until_up(daemon: &Daemon, number: usize) {
    until("the backend to be up", SOON, || {
        let backends = daemon.backends(None)?;
        Ok(backends.iter().any(|it| it["address"] == web_backend(number) && it["state"] == "up"))
    })
    .unwrap();
}

fn wait_until_gone(daemon: &Daemon, address: &str) {
    until("the backend to go", SOON, || Ok(daemon.backends(None)?.iter().all(|it| it["address"] != address)))
        .unwrap();
}

#[test]
fn a_backend_removed_from_the_file_keeps_its_flows_until_they_end_in_full_nat() {
    taken_out_of_the_file("full-nat");
}

#[test]
fn a_backend_removed_from_the_file_keeps_its_flows_until_they_end_in_nat() {
    taken_out_of_the_file("nat");
}

fn taken_out_of_the_file(mode: &str) {
    let mut site = Site::start("leave", 2, &format!("{SHORT}{}", web(mode, &[1, 2]))).unwrap();
    until("the ring to settle", SOON, || Ok(site.daemon.unsettled_slots("web")? == 0)).unwrap();
    let download = Download::start_at(&site.network.client, Site::vip(), "backend-2").unwrap();
    let whole = site.daemon.config().unwrap();
    let entry = format!("\n[[service.backend]]\naddress = \"{}\"\n", web_backend(2));
    fs::write(site.daemon.config_file(), whole.replace(&entry, "")).unwrap();
    let line = format!("service web: backend {} removed: draining, with ", web_backend(2));
    for words in [&["diff"][..], &["reload", "--dry-run"], &["reload"]] {
        let output = site.daemon.cli_output(words).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with(&line), "{words:?}: {said}");
    }
    assert_eq!(leaving(&site.daemon), [web_backend(2)]);
    let requests = site.requests(2);
    let answers = requests.next_by_backend(100).unwrap();
    assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["backend-1"]);
    download.wait_for_progress().unwrap();

    // Over a restart, and back again: it is simply itself.
    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    download.wait_for_progress().unwrap();
    assert_eq!(leaving(&site.daemon), [web_backend(2)]);
    fs::write(site.daemon.config_file(), &whole).unwrap();
    site.daemon.cli(&["reload"]).unwrap();
    site.wait_for(2, "up").unwrap();
    requests.wait_for("backend-2", SOON).unwrap();
    download.wait_for_progress().unwrap();

    let said = site.daemon.cli(&["backend", "remove", "web", &web_backend(2)]).unwrap();
    assert!(said.contains("; draining, with "), "{said}");
    let status = site.daemon.cli(&["backend", "list"]).unwrap();
    assert!(status.contains("removed: it leaves once its flows have ended"), "{status}");
    download.wait_for_progress().unwrap();
    // Longer than a silent flow could live that has no record.
    std::thread::sleep(Duration::from_secs(12));
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    wait_until_gone(&site.daemon, &web_backend(2));
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn a_daemon_that_starts_with_another_file_drains_what_is_missing() {
    let mut site = Site::start("leave", 2, &web("full-nat", &[1, 2])).unwrap();
    let download = Download::start_at(&site.network.client, Site::vip(), "backend-2").unwrap();
    let whole = site.daemon.config().unwrap();
    let entry = format!("\n[[service.backend]]\naddress = \"{}\"\n", web_backend(2));
    site.daemon.stop().unwrap();
    fs::write(site.daemon.config_file(), whole.replace(&entry, "")).unwrap();
    site.daemon.run().unwrap();
    assert_eq!(leaving(&site.daemon), [web_backend(2)]);
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    wait_until_gone(&site.daemon, &web_backend(2));
}

#[test]
fn a_removal_with_now_takes_effect_at_once_and_reports_the_flows_that_end() {
    let site = Site::start("leave", 2, &web("full-nat", &[1, 2])).unwrap();
    let (daemon, client) = (&site.daemon, &site.network.client);
    let kept = Download::start_at(client, Site::vip(), "backend-1").unwrap();
    let _cut = Download::start_at(client, Site::vip(), "backend-2").unwrap();
    until("both to be counted", SOON, || {
        Ok(daemon.backends(Some("web"))?.iter().all(|it| it["flows"].as_u64() >= Some(1)))
    })
    .unwrap();
    // Nobody is asked where there is no terminal.
    let said = daemon.cli(&["backend", "remove", "web", &web_backend(2), "--now"]).unwrap();
    assert!(said.contains("this ended ") && said.contains(" recorded flow"), "{said}");
    assert_eq!(daemon.backends(Some("web")).unwrap().len(), 1);
    kept.wait_for_progress().unwrap();

    // A service: it drains, is itself again, and goes at once.
    let said = daemon.cli(&["service", "remove", "web"]).unwrap();
    assert!(said.contains("; draining, with "), "{said}");
    assert!(xdp_lb_tests::request(client, Site::vip()).is_err(), "a service that leaves took a connection");
    kept.wait_for_progress().unwrap();
    assert_eq!(leaving(daemon), [web_backend(1)]);
    let said = daemon.cli(&["service", "remove", "web", "--now"]).unwrap();
    assert!(said.contains("is now removed; this ended 1 recorded flow"), "{said}");
    assert_eq!(daemon.cli_json(&["service", "list"]).unwrap(), Value::Array(vec![]));
}

#[test]
fn a_service_removed_from_the_file_keeps_its_flows_and_its_vip_until_they_end() {
    let config =
        format!("{SHORT}vips.interface = \"lo\"\n{}", web("nat", &[1]).replace(Network::VIP, "203.0.113.10"));
    let site = Site::start("leave", 1, &config).unwrap();
    let (daemon, client, vip) = (&site.daemon, &site.network.client, "203.0.113.10:80".parse().unwrap());
    let download = Download::start(client, vip).unwrap();
    let whole = daemon.config().unwrap();
    fs::write(daemon.config_file(), &whole[..whole.find("[[service]]").unwrap()]).unwrap();
    let said = daemon.cli(&["reload"]).unwrap();
    assert!(said.contains("service web: removed, with 1 backend: draining"), "{said}");
    // Longer than a silent flow could live that has no record.
    std::thread::sleep(Duration::from_secs(12));
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    until("the service to go", SOON, || Ok(daemon.cli_json(&["service", "list"])? == Value::Array(vec![])))
        .unwrap();
    until("the VIP to go", SOON, || {
        Ok(!site.network.lb.run("ip address show dev lo")?.contains("203.0.113.10"))
    })
    .unwrap();
}

#[test]
fn backends_discovered_in_a_series_of_deploys_wait_for_draining_ones() {
    let network = Network::new("leave", 3).unwrap();
    let path = network.lb.dir().join("web.json");
    let put = |number: usize| {
        let new = path.with_extension("new");
        fs::write(&new, format!("{{\"backends\": [{{\"address\": \"{}\"}}]}}", web_backend(number))).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    put(1);
    let keys = format!("\n[service.discovery]\ntype = \"file\"\npath = {path:?}\nmax_backends = 1\n");
    let nginx =
        network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<anyhow::Result<_>>().unwrap();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &(web("full-nat", &[]) + &keys)).unwrap();
    let site = Site { daemon, nginx, network };
    let mut downloads = Vec::new();
    for number in [1, 2] {
        put(number);
        wait_until_up(&site.daemon, number);
        let backend = format!("backend-{number}");
        downloads.push(Download::start_at(&site.network.client, Site::vip(), &backend).unwrap());
    }
    put(3);
    let discovery =
        || site.daemon.cli_json(&["service", "show", "web"]).unwrap()["service"]["discovery"].clone();
    until("the third to wait", SOON, || Ok(discovery()["waiting"] == 1)).unwrap();
    let status = site.daemon.cli(&["status"]).unwrap();
    let words = format!("backend {}: found, but waiting for room: max_backends = 1", web_backend(3));
    assert!(status.contains(&words) && site.daemon.log().contains(&words), "{status}");
    for download in &downloads {
        download.wait_for_progress().unwrap();
    }
    downloads.remove(0).finish().unwrap();
    wait_until_up(&site.daemon, 3);
    assert_eq!(discovery()["waiting"], 0);
    xdp_lb_tests::request(&site.network.client, Site::vip()).unwrap();
    downloads.remove(0).finish().unwrap();
    wait_until_gone(&site.daemon, &web_backend(2));
}

#[test]
fn a_node_drain_names_the_vips_that_stay_and_fails_and_names_those_that_the_daemon_does_not_manage() {
    let config = web("full-nat", &[1]).replace(Network::VIP, "203.0.113.10");
    let mut site = Site::start("leave", 1, &config).unwrap();
    let said = site.daemon.cli(&["node", "drain"]).unwrap();
    assert!(said.contains("remove their addresses or routes yourself: 203.0.113.10"), "{said}");
    site.daemon.cli(&["node", "undrain"]).unwrap();
    let text = site.daemon.config().unwrap();
    fs::write(site.daemon.config_file(), format!("vips.interface = \"lo\"\n{text}")).unwrap();
    site.daemon.cli(&["reload"]).unwrap();
    site.daemon.cli(&["node", "drain"]).unwrap();
    assert!(
        !site.network.lb.run("ip address show dev lo").unwrap().contains("203.0.113.10"),
        "it says so too soon"
    );
    site.daemon.cli(&["node", "undrain"]).unwrap();

    // Somebody else's address is left alone.
    site.daemon.cli(&["node", "drain"]).unwrap();
    site.network.lb.run("ip address add 203.0.113.10/32 dev lo").unwrap();
    until("the daemon to see it", SOON, || {
        Ok(site.daemon.cli_json(&["status"])?["vips"][0]["state"] == "stays")
    })
    .unwrap();
    let refused = site.daemon.cli(&["node", "drain"]).unwrap_err().to_string();
    assert!(
        refused.contains("203.0.113.10 on lo") && refused.contains("ip address del 203.0.113.10/32 dev lo"),
        "{refused}"
    );
    site.daemon.stop().unwrap();
}
