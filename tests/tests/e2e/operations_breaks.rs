//! What breaks on and around a host that balances load: each is made for real, found by `xdp-lb doctor`, and gone once the printed fix
//! was made.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Host, Network, Site, request, until, until_some, web, web_backend};

const PATIENCE: Duration = Duration::from_secs(60);

/// What doctor finds: checks, what is wrong, and fixes.
fn findings(daemon: &Daemon) -> Vec<[String; 3]> {
    let config = daemon.config_file();
    let words = ["doctor", "--output", "json", "--config", config.to_str().unwrap()];
    let output = daemon.cli_output(&words).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let all = report["findings"].as_array().unwrap().iter();
    all.map(|finding| ["check", "what", "fix"].map(|key| word(finding, key))).collect()
}

/// The same config at TC ingress: doctor finds native XDP on a veth.
fn at_tc(config: &str) -> String {
    format!("attach = \"tc\"\n{config}")
}

/// Waits until doctor finds this, and returns the fix.
#[track_caller]
fn found(daemon: &Daemon, check: &str, what: &str) -> String {
    let mut last = Vec::new();
    let fix = until_some(&format!("{check}: {what} to be found"), PATIENCE, || {
        last = findings(daemon);
        Ok(last.iter().find(|it| it[0] == check && it[1].contains(what)).map(|it| it[2].clone()))
    });
    fix.unwrap_or_else(|error| panic!("{error:#}: {last:#?}"))
}

/// Waits until doctor finds nothing.
#[track_caller]
fn well(daemon: &Daemon) {
    let mut last = Vec::new();
    let gone = until("every finding to be gone", PATIENCE, || {
        last = findings(daemon);
        Ok(last.is_empty())
    });
    assert!(gone.is_ok(), "{last:#?}");
}

/// Runs a printed fix: what stands before a comma, a semicolon or a parenthesis.
#[track_caller]
fn run(host: &Host, fix: &str) {
    let command = fix.split(['(', ';', ',']).next().unwrap();
    host.run(command).unwrap_or_else(|error| panic!("{fix}: {error:#}"));
}

#[test]
fn a_host_whose_addresses_filters_forwarding_and_links_break_is_told_how_to_fix_each() {
    let site = Site::start("breaks", 2, &at_tc(&web("nat", &[1, 2]))).unwrap();
    let (daemon, network) = (&site.daemon, &site.network);
    let lb = &network.lb;
    well(daemon);

    lb.run("ip address del 192.0.2.10/32 dev eth0").unwrap();
    run(lb, &found(daemon, "host", "does not own the VIP 192.0.2.10"));
    well(daemon);

    network.client.run("ip address add 192.0.2.10/32 dev eth0").unwrap();
    let fix = found(daemon, "vips", "another host on eth0 answers ARP for the VIP 192.0.2.10");
    run(&network.client, &fix.replace("on that host: ", "").replace("DEV", "eth0"));
    well(daemon);

    lb.sysctl("net.ipv4.conf.eth0.rp_filter", "1").unwrap();
    run(lb, &found(daemon, "rp-filter", "eth0 uses strict reverse path filtering"));
    well(daemon);

    lb.sysctl("net.ipv4.conf.eth1.forwarding", "0").unwrap();
    run(lb, &found(daemon, "host", "ipv4 forwarding is off on eth1"));
    well(daemon);

    lb.run("ip link set eth1 down").unwrap();
    run(lb, &found(daemon, "interfaces", "eth1 is down"));
    well(daemon);
}

#[test]
fn a_firewall_that_drops_checks_or_their_answers_is_told_with_the_rule_that_fixes_it() {
    let site = Site::start("breaks", 1, &at_tc(&web("full-nat", &[1]))).unwrap();
    let (daemon, lb) = (&site.daemon, &site.network.lb);
    well(daemon);
    lb.run("nft add table inet filter").unwrap();
    for (hook, words) in [("output", "drops outgoing packets"), ("input", "drops incoming packets")] {
        let chain = format!(
            "nft add chain inet filter {hook} {{ type filter hook {hook} priority 0 ; policy drop ; }}"
        );
        lb.run(&chain).unwrap();
        run(lb, &found(daemon, "firewall", words).replace("established,related", "established"));
        well(daemon);
        lb.run(&format!("nft flush chain inet filter {hook}")).unwrap();
        lb.run(&format!("nft delete chain inet filter {hook}")).unwrap();
    }
    lb.run("nft add chain inet filter output { type filter hook output priority 0 ; }").unwrap();
    lb.run("nft add rule inet filter output ip daddr 198.51.100.11 tcp dport 8080 counter drop").unwrap();
    run(lb, &found(daemon, "firewall", "drops what this host sends to backend 198.51.100.11:8080"));
    well(daemon);
}

#[test]
fn backends_that_die_or_answer_by_another_way_are_told_and_so_is_a_daemon_that_is_dead() {
    let list = |number| format!("{{\"backends\": [{{\"address\": \"{}\"}}]}}", web_backend(number));
    let network = Network::new("breaks", 3).unwrap();
    let file = network.lb.dir().join("found.json");
    fs::write(&file, list(3)).unwrap();
    let nginx = network.backends.iter().map(|host| Nginx::start(host, 8080));
    let nginx = nginx.collect::<anyhow::Result<Vec<_>>>().unwrap();
    let keys = format!("\n[service.discovery]\ntype = \"file\"\npath = {file:?}\n");
    let config = at_tc(&(web("nat", &[1, 2]) + &keys));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    let mut site = Site { daemon, nginx, network };
    site.daemon.wait_until_up().unwrap();
    well(&site.daemon);

    // The server, the host, and the way back.
    drop(site.nginx.remove(0));
    let fix = found(&site.daemon, "services", "1 of 3 backends are down: 198.51.100.11:8080");
    assert!(fix.starts_with("start or fix the server at 198.51.100.11:8080"), "{fix}");
    site.nginx.insert(0, Nginx::start(&site.network.backends[0], 8080).unwrap());
    well(&site.daemon);
    site.network.backends[1].run("ip link set eth0 down").unwrap();
    found(&site.daemon, "next-hops", "198.51.100.12:8080 is unreachable");
    site.network.backends[1].run("ip link set eth0 up").unwrap();
    site.network.backends[1].run("ip route replace default via 198.51.100.2").unwrap();
    well(&site.daemon);
    let lost = &site.network.backends[0];
    lost.run("ip route del default").unwrap();
    let ask = |site: &Site| {
        for _ in 0..8 {
            // Some fail while the way is broken: the client waits for a second.
            let _ = site.network.client.run("curl -s -m 1 -o /dev/null http://192.0.2.10/");
        }
    };
    let fix = until_some("the lost way back to be found", Duration::from_secs(120), || {
        ask(&site);
        let all = findings(&site.daemon);
        Ok(all.into_iter().find(|it| it[1].contains("198.51.100.11:8080 is up, but")).map(|it| it[2].clone()))
    });
    let fix = fix.unwrap();
    assert_eq!(fix, "on the backend: ip route replace default via 198.51.100.2");
    run(lost, &fix.replace("on the backend: ", ""));
    until("the backend to answer again", Duration::from_secs(120), || {
        (0..40).try_for_each(|_| request(&site.network.client, Site::vip()).map(drop))?;
        Ok(findings(&site.daemon).is_empty())
    })
    .unwrap();

    // Who finds backends, and who does all of this.
    fs::write(&file, "nothing that is JSON").unwrap();
    let fix = found(&site.daemon, "discovery", "backends have not been found for");
    assert!(fix.contains("xdp-lb service show web"), "{fix}");
    fs::write(&file, list(3)).unwrap();
    well(&site.daemon);
    site.daemon.kill().unwrap();
    let fix = found(&site.daemon, "daemon", "no daemon has been running for");
    assert!(fix.contains("systemctl start xdp-lb"), "{fix}");
    let status =
        site.daemon.cli_output(&["status", "--pin-path", site.daemon.pins().to_str().unwrap()]).unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(3), "{said}");
    assert!(said.contains("no daemon has been running for") && said.contains("198.51.100.11:8080"), "{said}");
    let pins = site.daemon.pins().to_owned();
    let pinned =
        |command: &str| site.daemon.cli_json(&[command, "--pin-path", pins.to_str().unwrap()]).unwrap();
    let before = pinned("status")["services"][0]["backends"][0]["packets_in"].as_u64().unwrap();
    assert!(before > 0);
    assert!(pinned("counters")["counters"].as_array().unwrap().len() > 40);
    // Those whose slots moved when backends came and went.
    let flows = pinned("flows");
    assert!(flows["matching"].as_u64().unwrap() > 0, "{flows}");
    assert!(flows["flows"].as_array().unwrap().iter().all(|flow| flow["vip"] == "192.0.2.10:80"), "{flows}");
    site.daemon.run().unwrap();
    site.daemon.wait_until_up().unwrap();
    well(&site.daemon);
}
