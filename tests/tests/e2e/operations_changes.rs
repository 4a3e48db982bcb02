//! Services and backends are added and removed under traffic, by the CLI and the config file.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::{Daemon, Download, Requests, Site, by_backend, request, web, web_backend};

const SECOND: [&str; 18] = [
    "service",
    "add",
    "second",
    "192.0.2.10:81",
    "--mode",
    "nat",
    "--check",
    "http",
    "--check-path",
    "/healthz",
    "--check-interval",
    "500ms",
    "--check-timeout",
    "500ms",
    "--backend",
    "198.51.100.12:8080=50",
    "--backend",
    "198.51.100.13:8080",
];

fn second_vip() -> SocketAddr {
    "192.0.2.10:81".parse().unwrap()
}

fn wait_for_second(daemon: &Daemon) {
    for number in [2, 3] {
        daemon.wait_for_state("second", &web_backend(number), "up", Duration::from_secs(30)).unwrap();
    }
}

/// The shares of new flows, by the backends' order.
fn shares(daemon: &Daemon, service: &str) -> Vec<f64> {
    let backends = daemon.cli_json(&["backend", "list", service]).unwrap();
    backends.as_array().unwrap().iter().map(|backend| backend["share"].as_f64().unwrap()).collect()
}

fn assert_close(what: &str, is: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(is.len(), wanted.len(), "{what}: {is:?}");
    let is_close = is.iter().zip(wanted).all(|(is, wanted)| (is - wanted).abs() <= tolerance);
    assert!(is_close, "{what}: {is:?} is not within {tolerance} of {wanted:?}");
}

/// What part of these many new requests each of the backends 1 to 4 answers.
fn measured(requests: &Requests, count: usize) -> Vec<f64> {
    let answers = requests.next_by_backend(count).unwrap();
    let total: usize = answers.values().sum();
    let part = |number| *answers.get(&format!("backend-{number}")).unwrap_or(&0) as f64 / total as f64;
    (1..=4).map(part).collect()
}

#[test]
fn a_second_service_is_added_while_the_first_serves_and_survives_a_restart() {
    let mut site = Site::start("changes", 3, &web("full-nat", &[1, 2])).unwrap();
    let client = site.network.client.clone();
    let requests = site.requests(2);
    let download = Download::start(&client, Site::vip()).unwrap();
    assert!(request(&client, second_vip()).is_err(), "there is no second service yet");

    let said = site.daemon.cli(&SECOND).unwrap();
    assert!(said.contains("second") && said.contains("2 backends"), "{said}");
    wait_for_second(&site.daemon);
    let seconds = Requests::start(&client, second_vip(), 1);
    let answers = seconds.next_by_backend(100).unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["backend-2", "backend-3"], "{answers:?}");
    assert!(answers["backend-3"] > answers["backend-2"], "weights 50 and 100: {answers:?}");
    let again = site.daemon.cli(&SECOND).unwrap();
    assert!(again.contains("already"), "the same once more is not an error: {again}");

    site.daemon.kill().unwrap();
    seconds.next_by_backend(20).unwrap();
    site.daemon.run().unwrap();
    let detail = site.daemon.cli_json(&["service", "show", "second"]).unwrap();
    assert_eq!(detail["service"]["origin"], "runtime");
    assert_eq!(detail["service"]["mode"], "nat");
    assert_eq!(detail["service"]["health_check"]["path"], "/healthz");
    seconds.next_by_backend(20).unwrap();
    by_backend(&seconds.stop()).unwrap();

    site.daemon.cli(&["service", "remove", "second", "--now"]).unwrap();
    assert!(request(&client, second_vip()).is_err(), "the service is removed");
    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    assert_eq!(site.daemon.cli_json(&["service", "list"]).unwrap().as_array().unwrap().len(), 1);
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn new_flows_follow_the_weights_and_downloads_on_other_backends_continue() {
    let mut site = Site::start("changes", 4, &web("full-nat", &[1, 2, 3])).unwrap();
    let client = site.network.client.clone();
    let requests = site.requests(2);
    let first = Download::start_at(&client, Site::vip(), "backend-1").unwrap();
    let second = Download::start_at(&client, Site::vip(), "backend-2").unwrap();
    // 600 requests: a standard deviation is 2 %.
    let check = |daemon: &Daemon, wanted: [f64; 4]| {
        let present: Vec<f64> = wanted.into_iter().filter(|share| *share > 0.0).collect();
        let shown: Vec<f64> = shares(daemon, "web").into_iter().filter(|share| *share > 0.0).collect();
        assert_close("the shares", &shown, &present, 0.02);
        assert_close("the requests", &measured(&requests, 600), &wanted, 0.08);
    };
    check(&site.daemon, [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);

    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), "300"]).unwrap();
    check(&site.daemon, [0.6, 0.2, 0.2, 0.0]);

    site.daemon.cli(&["backend", "add", "web", &web_backend(4), "--weight", "500"]).unwrap();
    site.wait_for(4, "up").unwrap();
    check(&site.daemon, [0.3, 0.1, 0.1, 0.5]);

    // Weight 0: it keeps what it has.
    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "0"]).unwrap();
    check(&site.daemon, [1.0 / 3.0, 0.0, 1.0 / 9.0, 5.0 / 9.0]);
    by_backend(&requests.since(Instant::now() - Duration::from_secs(600))).unwrap();

    // Removed at once, with its flows: a request that it was answering may fail, and no other.
    let removing = Instant::now();
    site.daemon.cli(&["backend", "remove", "web", &web_backend(4), "--now"]).unwrap();
    let removed = Instant::now();
    assert_close("the requests", &measured(&requests, 300), &[0.75, 0.0, 0.25, 0.0], 0.1);
    let failed = requests.since(removing).into_iter().filter(|request| request.outcome.is_err());
    assert!(failed.clone().all(|request| request.began < removed), "{:?}", failed.collect::<Vec<_>>());

    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    assert_close("the shares after a restart", &shares(&site.daemon, "web"), &[0.75, 0.0, 0.25], 0.02);
    for download in [first, second] {
        download.wait_for_progress().unwrap();
        download.finish().unwrap();
    }
}

/// Replaces the config file's text, and reloads.
fn reload(daemon: &Daemon, edit: impl FnOnce(String) -> String) -> Value {
    fs::write(daemon.config_file(), edit(daemon.config().unwrap())).unwrap();
    daemon.cli_json(&["reload"]).unwrap()
}

#[test]
fn a_reload_applies_what_changed_says_what_and_leaves_other_services_alone() {
    let second = web("nat", &[3]).replace("\"web\"", "\"second\"").replace(":80\"\nmode", ":81\"\nmode");
    let config = format!("{}{second}", web("full-nat", &[1, 2]));
    let site = Site::start("reload", 4, &config).unwrap();
    let client = &site.network.client;
    let seconds = Requests::start(client, second_vip(), 1);
    let untouched = Download::start(client, second_vip()).unwrap();
    let touched = Download::start_at(client, Site::vip(), "backend-1").unwrap();

    let nothing = reload(&site.daemon, |text| text);
    assert_eq!(nothing["changes"], Value::Array(vec![]));
    assert!(site.daemon.cli(&["reload"]).unwrap().contains("nothing changed"));

    let changes = reload(&site.daemon, |text| {
        text.replacen(&format!("\"{}\"", web_backend(1)), &format!("\"{}\"\nweight = 300", web_backend(1)), 1)
            .replace(&web_backend(2), &web_backend(4))
            .replace(
                "[[service]]\nname = \"web\"",
                "[metrics]\nlisten = \"off\"\n[[service]]\nname = \"web\"",
            )
    });
    let said = changes["changes"].to_string();
    for part in ["weight", "300", &web_backend(2), &web_backend(4)] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(changes["needs_restart"], serde_json::json!(["metrics.listen"]));
    site.wait_for(4, "up").unwrap();
    // The second leaves, with a share of 0.
    assert_close("the shares", &shares(&site.daemon, "web"), &[0.75, 0.0, 0.25], 0.02);
    let requests = site.requests(1);
    let answers = requests.next_by_backend(60).unwrap();
    assert_eq!(answers.into_keys().collect::<Vec<_>>(), ["backend-1", "backend-4"]);

    for download in [untouched, touched] {
        download.wait_for_progress().unwrap();
        download.finish().unwrap();
    }
    by_backend(&seconds.stop()).unwrap();
}

#[test]
fn an_invalid_file_changes_nothing_and_every_error_is_reported_with_line_and_fix() {
    let site = Site::start("reload", 3, &web("full-nat", &[1, 2])).unwrap();
    let daemon = &site.daemon;
    let good = daemon.config().unwrap();
    let requests = site.requests(2);
    let download = Download::start(&site.network.client, Site::vip()).unwrap();
    let standing = |daemon: &Daemon| {
        let mut detail = daemon.cli_json(&["service", "show", "web"]).unwrap();
        let backends = detail["backends"].as_array_mut().unwrap();
        backends.iter().map(|it| (it["address"].to_string(), it["share"].to_string())).collect::<Vec<_>>()
    };
    let before = standing(daemon);
    let line = |text: &str, part: &str| {
        let before = text.split_once(part).unwrap().0;
        format!("{}:{}:", daemon.config_file().display(), before.matches('\n').count() + 1)
    };
    let third = web("nat", &[3]).replace("\"web\"", "\"third\"");
    // Each of them asks for a change that would be seen, too, and comes before what is wrong.
    let changed =
        good.replace(&format!("\"{}\"", web_backend(2)), &format!("\"{}\"\nweight = 1", web_backend(2)));
    let bad: [(String, Vec<(&str, &str)>); 4] = [
        (format!("{changed}\nnonsense\n"), vec![("nonsense", "=")]),
        (format!("{changed}wieght = 5\n"), vec![("wieght", "did you mean \"weight\"")]),
        (format!("{changed}{third}"), vec![("vip = \"192.0.2.10:80\"\nmode = \"nat\"", "web")]),
        (
            format!("{good}weight = 70000\n{}", third.replace("192.0.2.10:80", "192.0.2.10")),
            vec![("weight = 70000", "65,535"), ("vip = \"192.0.2.10\"\n", "192.0.2.10:80")],
        ),
    ];
    for (text, errors) in bad {
        fs::write(daemon.config_file(), &text).unwrap();
        let output = daemon.cli_output(&["reload"]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
        for (part, fix) in errors {
            // The line that the part begins on.
            let at = line(&text, part);
            let told = said.lines().find(|line| line.contains(&at));
            let told = told.unwrap_or_else(|| panic!("no error begins with {at:?}:\n{said}"));
            assert!(told.contains(fix), "{told:?} does not say {fix:?}");
        }
        let checked = daemon.cli_output(&["check", daemon.config_file().to_str().unwrap()]).unwrap();
        assert_eq!(checked.status.code(), Some(1), "`check` and `reload` agree");
        assert_eq!(standing(daemon), before);
        assert_eq!(daemon.cli_json(&["service", "list"]).unwrap().as_array().unwrap().len(), 1);
    }
    assert_eq!(requests.next_by_backend(60).unwrap().len(), 2);
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    by_backend(&requests.stop()).unwrap();
    fs::write(daemon.config_file(), good).unwrap();
    assert!(daemon.cli(&["reload"]).unwrap().contains("nothing changed"));
}

#[test]
fn sighup_reloads_too() {
    let site = Site::start("reload", 2, &web("full-nat", &[1])).unwrap();
    let config = site.daemon.config().unwrap();
    fs::write(site.daemon.config_file(), config.replace(&web_backend(1), &web_backend(2))).unwrap();
    site.daemon.process().unwrap().signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    xdp_lb_tests::until("the reload", Duration::from_secs(30), || {
        Ok(site.daemon.backend_state("web", &web_backend(2)).is_ok_and(|state| state == "up"))
    })
    .unwrap();
    assert_eq!(request(&site.network.client, Site::vip()).unwrap(), "backend-2");
}

#[test]
fn hundreds_of_services_are_added_and_removed_and_the_others_lose_no_request() {
    let site = Site::start("changes", 2, &web("nat", &[1, 2])).unwrap();
    let requests = site.requests(4);
    let download = Download::start(&site.network.client, Site::vip()).unwrap();
    let good = site.daemon.config().unwrap();
    let many: String = (0..400)
        .map(|number| {
            format!(
                "\n[[service]]\nname = \"more-{number}\"\nvip = \"192.0.2.{}:{}\"\nmode = \"nat\"\n\
                 health_check = {{ type = \"none\" }}\nbackend = [{{ address = \"198.51.100.11:{}\" }}]\n",
                // Not the client's own, 192.0.2.100: what comes from a VIP is not balanced.
                11 + number % 80,
                20_000 + number,
                30_000 + number
            )
        })
        .collect();
    for round in 0..4 {
        // Many at once, which takes a new table; and by themselves, which does not.
        reload(&site.daemon, |text| text + &many);
        for number in 0..5 {
            let (name, vip) = (format!("one-{round}-{number}"), format!("192.0.2.10:{}", 9000 + number));
            let add = ["service", "add", &name, &vip, "--check", "none", "--backend", "198.51.100.12:9999"];
            site.daemon.cli(&add).unwrap();
            site.daemon.cli(&["service", "remove", &name, "--now"]).unwrap();
        }
        let services = site.daemon.cli_json(&["service", "list"]).unwrap();
        assert_eq!(services.as_array().unwrap().len(), 401);
        fs::write(site.daemon.config_file(), &good).unwrap();
        site.daemon.cli(&["reload", "--now"]).unwrap();
    }
    requests.next_by_backend(200).unwrap();
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    by_backend(&requests.stop()).unwrap();
}
