//! What the operator types and reads: errors, exit codes, documents, counters and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::{Daemon, Site, paths, request, until, web, web_backend};

fn site() -> Site {
    Site::start("cli", 2, &web("full-nat", &[1, 2])).unwrap()
}

/// What the CLI says on stderr as it ends with this exit code, having printed nothing.
fn failure(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let output = daemon.cli_output(arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
    assert!(!said.trim().is_empty(), "{arguments:?} fails without a word");
    said
}

#[test]
fn an_unknown_name_is_reported_with_the_known_ones() {
    let site = site();
    let (daemon, backend) = (&site.daemon, web_backend(1));
    for arguments in [
        &["service", "show", "wbe"][..],
        &["service", "remove", "wbe"],
        &["backend", "list", "wbe"],
        &["backend", "add", "wbe", &backend],
        &["backend", "drain", "wbe", &backend],
        &["backend", "drain", "wbe", &backend, "--wait"],
        &["backend", "set-weight", "wbe", &backend, "1"],
    ] {
        let said = failure(daemon, arguments, 1);
        assert!(
            said.contains("wbe") && said.lines().any(|line| line.contains("web")),
            "{arguments:?}: {said}"
        );
        let known = said.replace("wbe", "");
        assert!(known.contains("web"), "{arguments:?} does not list the services: {said}");
    }
    for arguments in [
        &["backend", "remove", "web", "198.51.100.99:8080"][..],
        &["backend", "drain", "web", "198.51.100.99:8080"],
        &["backend", "enable", "web", "198.51.100.99:8080"],
        &["backend", "set-weight", "web", "198.51.100.99:8080", "1"],
    ] {
        let said = failure(daemon, arguments, 1);
        for part in ["198.51.100.99:8080", &web_backend(1), &web_backend(2)] {
            assert!(said.contains(part), "{arguments:?} does not name {part}: {said}");
        }
    }
}

#[test]
fn a_command_line_that_is_wrong_is_refused_with_exit_code_2() {
    let site = site();
    let backend = web_backend(1);
    for (arguments, part) in [
        (&["backend", "add", "web", "198.51.100.99"][..], "port"),
        (&["backend", "add", "web", "nonsense:80"], "nonsense"),
        (&["backend", "add", "web", &backend, "--weight", "70000"], "70000"),
        (&["backend", "set-weight", "web", &backend, "-1"], "-1"),
        (&["backend", "drain", "web", &backend, "--timeout", "5s"], "--wait"),
        (&["backend", "drain", "web", &backend, "--wait", "--timeout", "soon"], "soon"),
        (&["service", "add", "x", "192.0.2.10"], "port"),
        (&["service", "add", "x", "192.0.2.10:81", "--check", "htpt"], "htpt"),
        (&["service", "add", "x", "192.0.2.10:81", "--check-path", "/"], "--check"),
        (&["status", "--output", "xml"], "xml"),
        (&["backned", "list"], "backned"),
        (&["service", "show"], "NAME"),
    ] {
        let said = failure(&site.daemon, arguments, 2);
        assert!(said.contains(part), "{arguments:?} does not say {part:?}: {said}");
    }
    let list = site.daemon.cli_json(&["backend", "list"]).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2, "nothing was changed");
}

#[test]
fn what_the_daemon_refuses_is_exit_code_1_and_changes_nothing() {
    let site = site();
    let backend = web_backend(1);
    for (arguments, part) in [
        (&["service", "add", "other", "192.0.2.10:80"][..], "web"),
        (&["service", "add", "web", "192.0.2.10:81"], "already"),
        (&["service", "add", "bad name", "192.0.2.10:81"], "bad name"),
        (&["service", "add", "x", "[2001:db8:1::10]:80", "--backend", &backend], &backend),
        (&["service", "add", "x", "224.0.0.1:80"], "multicast"),
        (
            &["service", "add", "x", "192.0.2.10:81", "--mode", "nat", "--snat-address", "198.51.100.2"],
            "snat",
        ),
        (&["backend", "add", "web", &backend, "--weight", "7"], "set-weight"),
        (&["backend", "add", "web", "127.0.0.1:80"], "loopback"),
        (&["backend", "add", "web", "192.0.2.10:80"], "VIP"),
    ] {
        let said = failure(&site.daemon, arguments, 1);
        assert!(
            said.to_lowercase().contains(&part.to_lowercase()),
            "{arguments:?} does not say {part:?}: {said}"
        );
    }
    assert_eq!(site.daemon.cli_json(&["service", "list"]).unwrap().as_array().unwrap().len(), 1);
    assert_eq!(site.daemon.cli_json(&["backend", "list"]).unwrap().as_array().unwrap().len(), 2);
}

#[test]
fn without_a_daemon_every_command_says_how_to_start_one() {
    let mut site = site();
    site.daemon.stop().unwrap();
    let backend = web_backend(1);
    for arguments in [
        &["status"][..],
        &["counters"],
        &["reload"],
        &["service", "list"],
        &["service", "show", "web"],
        &["backend", "list"],
        &["backend", "drain", "web", &backend],
    ] {
        let said = failure(&site.daemon, arguments, 1);
        assert!(
            said.contains("xdp-lb run --config FILE") && said.contains("api.sock"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_change_that_is_in_effect_already_is_reported_and_not_an_error() {
    let site = site();
    let (daemon, backend) = (&site.daemon, web_backend(1));
    for (change, said) in [
        (&["backend", "drain", "web", &backend][..], "already draining"),
        (&["backend", "enable", "web", &backend], "already enabled"),
        (&["backend", "set-weight", "web", &backend, "5"], "already has weight 5"),
    ] {
        assert_eq!(daemon.cli_json(change).unwrap()["changed"], true, "{change:?}");
        let again = daemon.cli_json(change).unwrap();
        assert_eq!(again["changed"], false, "{change:?}");
        assert!(again["message"].as_str().unwrap().contains(said), "{again}");
    }
}

#[test]
fn a_service_takes_every_flag_and_shows_what_it_was_given() {
    let site = site();
    let add = [
        "service",
        "add",
        "full",
        "192.0.2.10:82",
        "--protocol",
        "tcp",
        "--mode",
        "full-nat",
        "--snat-address",
        "198.51.100.2",
        "--backend",
        "198.51.100.11:8080",
        "--backend",
        "198.51.100.12:8080=7",
        "--check",
        "http",
        "--check-path",
        "/healthz?full=1",
        "--check-host",
        "www.example.test",
        "--check-status",
        "200-204",
        "--check-interval",
        "700ms",
        "--check-timeout",
        "300ms",
        "--check-rise",
        "1",
        "--check-fall",
        "4",
    ];
    site.daemon.cli(&add).unwrap();
    let detail = site.daemon.cli_json(&["service", "show", "full"]).unwrap();
    let service = &detail["service"];
    assert_eq!(service["vip"], "192.0.2.10:82");
    assert_eq!(service["snat_addresses"], serde_json::json!(["198.51.100.2"]));
    assert_eq!(
        service["health_check"],
        serde_json::json!({
            "type": "http", "path": "/healthz?full=1", "host": "www.example.test", "status": "200-204",
            "interval": "700ms", "timeout": "300ms", "rise": 1, "fall": 4,
        })
    );
    let weights: Vec<_> = detail["backends"].as_array().unwrap().iter().map(|it| &it["weight"]).collect();
    assert_eq!(weights, [100, 7]);
    site.daemon.wait_for_state("full", &web_backend(1), "up", Duration::from_secs(30)).unwrap();
    request(&site.network.client, "192.0.2.10:82".parse().unwrap()).unwrap();

    let dns = [
        "service",
        "add",
        "dns",
        "192.0.2.10:53",
        "--protocol",
        "udp",
        "--mode",
        "nat",
        "--backend",
        "198.51.100.11:53",
        "--check",
        "dns",
        "--check-name",
        "www.example.test",
        "--check-record",
        "AAAA",
    ];
    site.daemon.cli(&dns).unwrap();
    let detail = site.daemon.cli_json(&["service", "show", "dns"]).unwrap();
    assert_eq!(detail["service"]["health_check"]["record"], "AAAA");
    assert_eq!(detail["service"]["protocol"], "udp");
    // No DNS server is there: what the check says is told.
    site.daemon.wait_for_state("dns", "198.51.100.11:53", "down", Duration::from_secs(30)).unwrap();
}

#[test]
fn check_counts_what_a_valid_file_describes_and_names_every_error_of_an_invalid_one() {
    let site = site();
    let file = site.daemon.config_file();
    let file = file.to_str().unwrap();
    let said = site.daemon.cli(&["check", file]).unwrap();
    assert!(said.contains("is valid: 1 service, 2 backends"), "{said}");
    let document = site.daemon.cli_json(&["check", file]).unwrap();
    assert_eq!(document, serde_json::json!({"file": file, "services": 1, "backends": 2}));

    let config = site.daemon.config().unwrap();
    fs::write(file, config.replace("mode = ", "moed = ").replacen("\"500ms\"", "\"500\"", 1)).unwrap();
    let said = failure(&site.daemon, &["check", file], 1);
    assert!(said.contains("did you mean \"mode\"") && said.contains("interval"), "{said}");
    assert!(failure(&site.daemon, &["check", "/nonexistent.toml"], 1).contains("/nonexistent.toml"));
    fs::write(file, config).unwrap();

    let example = paths::workspace().join("examples/xdp-lb.toml");
    site.daemon.cli(&["check", example.to_str().unwrap()]).unwrap();
}

/// The fields that docs/api.md documents under a heading: the first column of its table.
fn documented(heading: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(paths::workspace().join("docs/api.md")).unwrap();
    let section = text.split_once(&format!("\n### {heading}\n")).unwrap().1;
    let section = section.split("\n#").next().unwrap();
    let fields = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|it| it.0));
    fields.map(str::to_owned).collect()
}

fn assert_documented(heading: &str, document: &Value) {
    let fields: BTreeSet<String> = document.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, documented(heading), "the fields of a {heading} and those in docs/api.md");
}

#[test]
fn every_list_is_a_json_document_with_just_the_fields_that_are_documented() {
    let site = site();
    request(&site.network.client, Site::vip()).unwrap();
    let daemon = &site.daemon;
    let status = daemon.cli_json(&["status"]).unwrap();
    assert_documented("status", &status);
    assert_eq!(status["pid"], daemon.process().unwrap().id());
    assert_eq!(status["adopted"], false);
    assert_eq!(status["pin_path"], daemon.pins().to_str().unwrap());
    let names = |of: &Value| {
        of.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&status["interfaces"]), ["eth0", "eth1"]);
    assert_eq!(status["interfaces"][0]["mode"], "xdp");
    let tables = ["services", "backends", "slots", "flows", "source_ranges"];
    assert_eq!(names(&status["tables"]), tables);
    assert_eq!(status["tables"][0]["used"], 1);

    let services = daemon.cli_json(&["service", "list"]).unwrap();
    assert_documented("service", &services[0]);
    assert_eq!(services[0]["backends_serving"], 2);
    let backends = daemon.cli_json(&["backend", "list"]).unwrap();
    assert_eq!(
        backends,
        daemon.cli_json(&["backend", "list", "web"]).unwrap_or_default(),
        "of one service and of all"
    );
    assert_documented("backend", &backends[0]);
    assert_eq!(backends[0]["next_hop"]["interface"], "eth1");
    let shares: f64 = backends.as_array().unwrap().iter().map(|it| it["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{backends}");
    let detail = daemon.cli_json(&["service", "show", "web"]).unwrap();
    assert_documented("service", &detail["service"]);
    assert_documented("backend", &detail["backends"][0]);
    let traffic = [
        "accepted",
        "bytes_in",
        "bytes_out",
        "bytes_per_second",
        "new_flows",
        "new_flows_per_second",
        "packets_in",
        "packets_out",
        "packets_per_second",
        "resets",
        "resets_per_second",
    ];
    let shown = detail["service"]["traffic"].as_object().unwrap();
    assert_eq!(shown.keys().map(String::as_str).collect::<BTreeSet<_>>(), traffic.into());
    assert_eq!(detail["service"]["traffic"]["new_flows"], 1);
}

#[test]
fn tables_show_the_same_to_people() {
    let site = site();
    site.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    let status = site.daemon.cli(&["status"]).unwrap();
    for part in
        ["eth0", "eth1", "xdp", "web", "192.0.2.10:80", &web_backend(1), "up", "draining", "1/2", "slots"]
    {
        assert!(status.contains(part), "{part:?} is not in:\n{status}");
    }
    let list = site.daemon.cli(&["backend", "list", "web"]).unwrap();
    let row = list.lines().find(|line| line.contains(&web_backend(2))).unwrap();
    assert!(row.contains("draining") && row.contains("drained by the operator"), "{row}");
    assert!(!list.contains('\x1b'), "colours where there is no terminal");
    let detail = site.daemon.cli(&["service", "show", "web"]).unwrap();
    assert!(detail.contains("http GET /healthz") && detail.contains("every 500ms"), "{detail}");
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    let document = daemon.cli_json(&["counters"]).unwrap();
    let counters = document["counters"].as_array().unwrap();
    counters.iter().find(|it| it["name"] == name).unwrap()["packets"].as_u64().unwrap()
}

#[test]
fn every_reason_has_a_counter_with_words_and_counts() {
    let site = site();
    let daemon = &site.daemon;
    let document = daemon.cli_json(&["counters"]).unwrap();
    let counters = document["counters"].as_array().unwrap();
    assert!(counters.len() >= 15, "{}", counters.len());
    let table = daemon.cli(&["counters", "--all"]).unwrap();
    for counter in counters {
        let (name, meaning) = (counter["name"].as_str().unwrap(), counter["meaning"].as_str().unwrap());
        assert!(meaning.split_whitespace().count() >= 4, "{name}: {meaning:?}");
        assert!(["drop", "pass", "answer"].contains(&counter["verdict"].as_str().unwrap()), "{counter}");
        assert!(table.lines().any(|line| line.contains(&format!(" {name} "))), "{name} is not in:\n{table}");
    }

    let (not_unicast, no_service) = (counter(daemon, "not_unicast"), counter(daemon, "no_service"));
    // An ARP request, and a TCP port of the host's own.
    site.network.client.run("ip neigh flush all").unwrap();
    assert!(request(&site.network.client, "192.0.2.1:9".parse().unwrap()).is_err());
    assert!(counter(daemon, "not_unicast") > not_unicast);
    assert!(counter(daemon, "no_service") > no_service);
    for number in [1, 2] {
        daemon.cli(&["backend", "drain", "web", &web_backend(number)]).unwrap();
    }
    assert!(request(&site.network.client, Site::vip()).is_err());
    assert!(counter(daemon, "no_backend_answered") > 0);
    let counted = daemon.cli_json(&["counters"]).unwrap();
    let drops = counted["counters"].as_array().unwrap().iter().filter(|counter| counter["verdict"] == "drop");
    let drops: u64 = drops.map(|counter| counter["packets"].as_u64().unwrap()).sum();
    let dropped = daemon.cli_json(&["status"]).unwrap()["dropped_packets"].as_u64().unwrap();
    assert!(dropped >= drops, "{dropped} of {drops}");
}

/// One scrape in Prometheus' text format 0.0.4, by series; an error in the format is a panic.
fn scrape(site: &Site) -> BTreeMap<String, f64> {
    let text = site.network.lb.run("curl -sSf http://127.0.0.1:9799/metrics").unwrap();
    let mut types = BTreeMap::new();
    let mut series = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["HELP", _, help] => assert!(!help.is_empty(), "{line}"),
                ["TYPE", name, kind] => {
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} comes twice");
                }
                _ => panic!("not in the format: {line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not in the format: {line}"));
        let family = name.split('{').next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end));
        let kind = of_histogram.filter(|family| types.get(*family).is_some_and(|kind| kind == "histogram"));
        let kind = types.get(kind.unwrap_or(family)).unwrap_or_else(|| panic!("{family} has no type"));
        assert_eq!(family.ends_with("_total"), kind == "counter", "{line}");
        assert_eq!(name.contains('{'), name.ends_with('}'), "{line}");
        assert_eq!(series.insert(name.to_owned(), value.parse().unwrap()), None, "{name} comes twice");
    }
    series
}

#[test]
fn metrics_can_be_scraped_move_with_traffic_and_follow_health() {
    let mut site = site();
    let before = scrape(&site);
    // Every metric that is documented is there, and every one that is there is documented.
    let docs = fs::read_to_string(paths::workspace().join("docs/metrics.md")).unwrap();
    let documented: BTreeSet<&str> =
        docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|it| it.0)).collect();
    // A histogram has three kinds of series.
    let family = |name: &'_ str| -> String {
        let name = name.split('{').next().unwrap();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        histogram.filter(|it| documented.contains(it)).unwrap_or(name).to_owned()
    };
    let found: BTreeSet<String> = before.keys().map(|name| family(name)).collect();
    // Here the daemon finds no backends by itself, puts no VIP on the host, limits no flows and asks no agents, and the kernel
    // loses no packet.
    let is_elsewhere = |name: &&str| {
        name.starts_with("xdp_lb_discovery_")
            || name.ends_with("_max_flows")
            || ["xdp_lb_vip_present", "xdp_lb_backend_agent_up", "xdp_lb_interface_lost_packets_total"]
                .contains(name)
    };
    let wanted = documented.iter().filter(|name| !is_elsewhere(name)).map(|name| (*name).to_owned());
    assert_eq!(found, wanted.collect());

    for _ in 0..20 {
        request(&site.network.client, Site::vip()).unwrap();
    }
    // The last packets of the last connection may still be on their way.
    let packets = |scraped: &BTreeMap<String, f64>| -> Vec<f64> {
        let is_one = |name: &str| name.starts_with("xdp_lb_service_packets_total");
        scraped.iter().filter(|(name, _)| is_one(name)).map(|(_, value)| *value).collect()
    };
    let mut after = scrape(&site);
    until("the last packets", Duration::from_secs(30), || {
        let earlier = std::mem::replace(&mut after, scrape(&site));
        Ok(packets(&earlier) == packets(&after))
    })
    .unwrap();
    let service = r#"service="web",vip="192.0.2.10:80",protocol="tcp""#;
    let grown = |name: &str| after[name] - before[name];
    assert_eq!(grown(&format!("xdp_lb_service_new_flows_total{{{service}}}")), 20.0);
    for direction in ["in", "out"] {
        let packets = grown(&format!("xdp_lb_service_packets_total{{{service},direction=\"{direction}\"}}"));
        let bytes = grown(&format!("xdp_lb_service_bytes_total{{{service},direction=\"{direction}\"}}"));
        // A SYN, a request, its answer and the ends, at least; and none is shorter than its headers.
        assert!(
            packets >= 20.0 * 4.0 && bytes >= packets * 54.0,
            "{direction}: {packets} packets, {bytes} bytes"
        );
        let by_backend: f64 = [1, 2]
            .map(|number| {
                let backend = web_backend(number);
                grown(&format!(
                    "xdp_lb_backend_packets_total{{service=\"web\",backend=\"{backend}\",direction=\"{direction}\"}}"
                ))
            })
            .iter()
            .sum();
        assert_eq!(by_backend, packets, "what the backends had is what the service had");
    }

    let up = format!("xdp_lb_backend_up{{service=\"web\",backend=\"{}\"}}", web_backend(2));
    assert_eq!(after[&up], 1.0);
    site.nginx[1].stop();
    until("the metric to say that the backend is down", Duration::from_secs(30), || {
        Ok(scrape(&site)[&up] == 0.0)
    })
    .unwrap();
    let down = scrape(&site);
    let state = |state: &str| {
        format!("xdp_lb_backend_state{{service=\"web\",backend=\"{}\",state=\"{state}\"}}", web_backend(2))
    };
    assert_eq!((down.get(&state("down")), down.get(&state("up"))), (Some(&1.0), None));
    assert_eq!(down[&format!("xdp_lb_service_backends_serving{{{service}}}")], 1.0);
    site.nginx[1].restart().unwrap();
    until("the metric to say that it is up", Duration::from_secs(30), || Ok(scrape(&site)[&up] == 1.0))
        .unwrap();

    // Counters go on across a restart, but for what the new process and its checks begin with.
    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    let restarted = scrape(&site);
    let goes_on = |name: &str| {
        name.contains("_total")
            && !name.starts_with("process_")
            && !name.starts_with("xdp_lb_backend_checks_")
    };
    for (name, value) in after.iter().filter(|(name, _)| goes_on(name)) {
        assert!(restarted[name] >= *value, "{name} went back from {value} to {}", restarted[name]);
    }
}
