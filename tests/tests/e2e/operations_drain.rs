//! A backend, a service and the node are drained for maintenance while they serve.

use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::{Download, Host, Site, by_backend, paths, until, web, web_backend};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn a_drain_lets_a_download_end_and_sends_new_connections_to_other_backends_in_full_nat() {
    drain("full-nat");
}

#[test]
fn a_drain_lets_a_download_end_and_sends_new_connections_to_other_backends_in_nat() {
    drain("nat");
}

fn drain(mode: &str) {
    // In `nat` only where all flows are recorded are they counted at once.
    let config = web(mode, &[1, 2, 3]).replacen("mode =", "flow_tracking = \"always\"\nmode =", 1);
    let site = Site::start("drain", 3, &config).unwrap();
    let (daemon, client, backend) = (&site.daemon, &site.network.client, web_backend(2));
    let download = Download::start_at(client, Site::vip(), "backend-2").unwrap();
    let requests = site.requests(2);
    requests.wait_for("backend-2", SOON).unwrap();

    let said = daemon.cli(&["backend", "drain", "web", &backend]).unwrap();
    assert!(said.contains(&backend) && said.contains("drain"), "{said}");
    let answers = requests.next_by_backend(200).unwrap();
    assert!(answers.len() == 2 && !answers.contains_key("backend-2"), "{answers:?}");
    download.wait_for_progress().unwrap();
    assert_eq!(daemon.backend_state("web", &backend).unwrap(), "draining");

    // The requests are forgotten soon (in `nat`, where the backend's FIN is not seen, 10 s after their last packet).
    until("the download to be the last flow", Duration::from_secs(60), || {
        let backends = daemon.cli_json(&["backend", "list", "web"])?;
        Ok(backends[1]["flows"] == 1)
    })
    .unwrap();
    // Impatience changes nothing, and says what is left.
    let wait = ["backend", "drain", "web", &backend, "--wait"];
    let impatient = daemon.cli_output(&[&wait[..], &["--timeout", "1s"]].concat()).unwrap();
    assert_eq!(impatient.status.code(), Some(1));
    let said = String::from_utf8_lossy(&impatient.stdout);
    assert!(said.contains("not drained within 1s: 198.51.100.12:8080 of web still has 1 flow."), "{said}");

    // Patience ends when the download does.
    let mut command = site.network.lb.command(paths::daemon());
    command.args(wait).args(["--timeout", "150s", "--output", "json", "--socket"]).arg(daemon.socket());
    let mut waiting = site.network.lb.spawn_command("drain", command).unwrap();
    download.wait_for_progress().unwrap();
    assert_eq!(waiting.exited().unwrap(), None, "the drain ended before the download: {}", waiting.log());
    download.finish().unwrap();
    let status = waiting.wait(Duration::from_secs(60)).unwrap();
    let said: Value = serde_json::from_str(&waiting.log()).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!((&said["drained"], &said["flows"]), (&true.into(), &0.into()), "{said}");
    assert!(said["message"].as_str().unwrap().contains("the last flow has ended"), "{said}");

    daemon.cli(&["backend", "enable", "web", &backend]).unwrap();
    requests.wait_for("backend-2", SOON).unwrap();
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn a_drain_of_flows_without_records_ends_once_all_live_flows_are_known_to_have_ended() {
    let config = format!("timeouts.tcp_idle = \"8s\"\n{}", web("nat", &[1, 2]));
    let site = Site::start("drain", 2, &config).unwrap();
    let (daemon, client, backend) = (&site.daemon, &site.network.client, web_backend(2));
    // Where the backends came up one after the other, the slots that the second got move from the first.
    until("the ring to settle", Duration::from_secs(60), || Ok(daemon.unsettled_slots("web")? == 0)).unwrap();
    let download = Download::start_at(client, Site::vip(), "backend-2").unwrap();
    let listed = || daemon.cli_json(&["flows", "web", "--backend", &backend]);
    assert_eq!(listed().unwrap()["matching"], 0, "a settled ring remembers no flow");

    daemon.cli(&["backend", "drain", "web", &backend]).unwrap();
    let service = &daemon.cli_json(&["service", "show", "web"]).unwrap()["service"];
    assert!(service["moving"]["moving_slots"].as_u64().unwrap() > 100, "{service}");
    assert!(service["moving"]["all_recorded_in_seconds"].as_u64().unwrap() <= 9, "{service}");
    let status = daemon.cli(&["status"]).unwrap();
    assert!(
        status.contains("web: rebalancing: ") && status.contains("; all their flows are tracked in "),
        "{status}"
    );
    download.wait_for_progress().unwrap();
    until("the download to be recorded", SOON, || Ok(listed()?["matching"] == 1)).unwrap();
    until("only the download's slot to wait", Duration::from_secs(60), || {
        let service = &daemon.cli_json(&["service", "show", "web"])?["service"]["moving"];
        Ok(service["moving_slots"] == 0 && service["recorded_slots"] == 1)
    })
    .unwrap();
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    let said = daemon.cli(&["backend", "drain", "web", &backend, "--wait", "--timeout", "60s"]).unwrap();
    assert!(said.contains("the last flow has ended"), "{said}");
}

#[test]
fn a_drained_backend_whose_server_dies_is_down_and_comes_back_drained() {
    let mut site = Site::start("drain", 2, &web("full-nat", &[1, 2])).unwrap();
    site.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    site.nginx[1].stop();
    site.wait_for(2, "down").unwrap();
    site.nginx[1].restart().unwrap();
    site.wait_for(2, "draining").unwrap();
    let requests = site.requests(1);
    let answers = requests.next_by_backend(50).unwrap();
    assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["backend-1"]);
}

#[test]
fn draining_the_last_backend_refuses_new_connections_and_keeps_the_old_ones() {
    let site = Site::start("drain", 1, &web("full-nat", &[1])).unwrap();
    let client = &site.network.client;
    let download = Download::start(client, Site::vip()).unwrap();
    site.daemon.cli(&["backend", "drain", "web", &web_backend(1)]).unwrap();
    assert!(xdp_lb_tests::request(client, Site::vip()).is_err(), "a drained backend took a new connection");
    let counters = site.daemon.cli_json(&["counters"]).unwrap();
    let counters = counters["counters"].as_array().unwrap();
    let refused = counters.iter().find(|counter| counter["name"] == "no_backend_answered").unwrap();
    assert!(refused["packets"].as_u64().unwrap() > 0, "{refused}");
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    site.daemon.cli(&["backend", "enable", "web", &web_backend(1)]).unwrap();
    until("the backend to answer", SOON, || Ok(xdp_lb_tests::request(client, Site::vip()).is_ok())).unwrap();
}

/// Two services at a VIP that is routed to the load balancer, and the VIP on its loopback.
fn routed() -> String {
    let mut config = "vips.interface = \"lo\"\n".to_owned();
    for (name, port) in [("web", 80), ("more", 81)] {
        config += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"203.0.113.10:{port}\"\nhealth_check = {{ type = \"tcp\", interval = \
             \"500ms\", timeout = \"500ms\", rise = 1, fall = 5 }}\nbackend = [{{ address = \"{}\" }}]\n",
            web_backend(1)
        );
    }
    config
}

fn has_vip(host: &Host) -> bool {
    host.run("ip address show dev lo").unwrap().contains("203.0.113.10/32")
}

#[test]
fn a_drained_node_withdraws_its_vips_keeps_its_flows_and_stays_drained_over_a_restart() {
    let mut site = Site::start("drain", 1, &routed()).unwrap();
    let (client, host) = (site.network.client.clone(), site.network.lb.clone());
    let vip = "203.0.113.10:80".parse().unwrap();
    until("the VIP", SOON, || Ok(has_vip(&host))).unwrap();
    let download = Download::start(&client, vip).unwrap();
    let said = site.daemon.cli(&["node", "drain"]).unwrap();
    assert!(said.contains("VIPs are withdrawn"), "{said}");
    until("the VIP to go", SOON, || Ok(!has_vip(&host))).unwrap();
    assert_eq!(site.daemon.metric("xdp_lb_node_drained", &[]).unwrap(), 1.0);

    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    download.wait_for_progress().unwrap();
    assert!(!has_vip(&host) && site.daemon.cli(&["status"]).unwrap().starts_with("DRAINED"));

    let waiting = ["node", "drain", "--wait", "--timeout", "1s"];
    let output = site.daemon.cli_output(&waiting).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("this node still has 1 flow"), "{said}");
    download.finish().unwrap();
    let said = site.daemon.cli(&["node", "drain", "--wait", "--timeout", "60s"]).unwrap();
    assert!(said.starts_with("drained this node: the last flow has ended"), "{said}");

    site.daemon.cli(&["node", "undrain"]).unwrap();
    until("the VIP to come back", SOON, || Ok(has_vip(&host))).unwrap();
    xdp_lb_tests::request(&client, vip).unwrap();
}

#[test]
fn a_drained_service_gets_no_new_flows_and_its_vip_stays_for_the_others() {
    let mut site = Site::start("drain", 1, &routed()).unwrap();
    let (client, host) = (site.network.client.clone(), site.network.lb.clone());
    let [web, more] = ["203.0.113.10:80", "203.0.113.10:81"].map(|vip| vip.parse().unwrap());
    until("the VIP", SOON, || Ok(has_vip(&host))).unwrap();
    let download = Download::start(&client, web).unwrap();
    site.daemon.cli(&["service", "drain", "web"]).unwrap();
    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    assert!(xdp_lb_tests::request(&client, web).is_err(), "a drained service took a new connection");
    xdp_lb_tests::request(&client, more).unwrap();
    assert!(has_vip(&host), "the other service has it");
    download.wait_for_progress().unwrap();
    site.daemon.cli(&["service", "drain", "more"]).unwrap();
    until("the VIP to go with the last service", SOON, || Ok(!has_vip(&host))).unwrap();
    download.finish().unwrap();
    let said = site.daemon.cli(&["service", "drain", "web", "--wait", "--timeout", "30s"]).unwrap();
    assert!(said.starts_with("drained service web: the last flow has ended"), "{said}");
    site.daemon.cli(&["service", "enable", "web"]).unwrap();
    until("the service to answer", SOON, || Ok(xdp_lb_tests::request(&client, web).is_ok())).unwrap();
    until("the VIP to come back", SOON, || Ok(has_vip(&host))).unwrap();
}
