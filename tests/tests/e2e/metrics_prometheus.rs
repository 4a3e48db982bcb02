//! The dashboard and the alert rules in `examples`, by a real Prometheus that scrapes a real daemon.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use xdp_lb_tests::{Host, Site, paths, request, until, until_some, web};

const LONG: Duration = Duration::from_secs(60);
const PROMETHEUS: &str = "http://127.0.0.1:9090/api/v1";

/// What Prometheus answers.
fn ask(host: &Host, path: &str, query: Option<&str>) -> Result<Value> {
    let mut command = host.command("curl");
    command.args(["-sS", "-G"]);
    if let Some(query) = query {
        command.arg("--data-urlencode").arg(format!("query={query}"));
    }
    let text = xdp_lb_tests::output(command.arg(format!("{PROMETHEUS}/{path}")))?;
    serde_json::from_str(&text).with_context(|| text)
}

/// The queries of the dashboard, each with its panel's title, for all nodes and services.
fn queries() -> Vec<(String, String)> {
    let file = paths::workspace().join("examples/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "15s");
            let query =
                ["$instance", "$service", "$job"].into_iter().fold(query, |it, name| it.replace(name, ".*"));
            assert!(!query.contains('$'), "{query}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

/// The state of each alert rule, by name: `inactive`, `pending` or `firing`.
fn states(host: &Host) -> Result<Vec<(String, String)>> {
    let rules = ask(host, "rules", None)?;
    let mut states = Vec::new();
    for rule in rules["data"]["groups"][0]["rules"].as_array().context("no rules")? {
        let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(["ok", "unknown"].contains(&text("health").as_str()), "{rule}");
        states.push((text("name"), text("state")));
    }
    Ok(states)
}

#[test]
fn each_panel_of_the_dashboard_has_data_and_alerts_fire_for_failures_and_not_for_wanted_drops() {
    let Some(prometheus) = paths::program("prometheus") else {
        // Not by println, which libtest keeps to itself where a test passes.
        let words = "SKIPPED: the dashboard and the alert rules are not tested, since there is no Prometheus; `cargo xtask \
                     setup` installs it, and says why it cannot";
        std::io::stderr().write_all(format!("{words}\n").as_bytes()).unwrap();
        return;
    };
    // One service with everything, and one that denies its clients.
    let denied = "[[service]]\nname = \"denied\"\nvip = \"192.0.2.10:81\"\ndeny = [\"192.0.2.0/24\"]\n\
                  health_check = { type = \"none\" }\nbackend = [{ address = \"198.51.100.11:8080\" }]\n";
    let mut site = Site::start("prometheus", 2, &format!("{}\n{denied}", web("full-nat", &[1, 2]))).unwrap();
    let lb = site.network.lb.clone();
    let config = lb.dir().join("prometheus.yml");
    let rules = paths::workspace().join("examples/alerts.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
         scrape_configs: [{{ job_name: xdp-lb, static_configs: [{{ targets: ['127.0.0.1:9799'] }}] }}]\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = lb.command(prometheus);
    command.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(lb.dir().join("prometheus"));
    command.args(["--web.listen-address", "127.0.0.1:9090", "--log.level", "warn"]);
    let prometheus = lb.spawn_command("prometheus", command).unwrap();
    until("Prometheus to have scraped the daemon", LONG, || {
        let up = ask(&lb, "query", Some("xdp_lb_build_info")).unwrap_or_default();
        Ok(up["data"]["result"].as_array().is_some_and(|series| !series.is_empty()))
    })
    .with_context(|| prometheus.log())
    .unwrap();

    let requests = site.requests(2);
    let client = site.network.client.clone();
    let knock = |count: usize| {
        // Each is denied: nobody answers.
        let port = "192.0.2.10:81".parse().unwrap();
        let knocks = (0..count).map(|_| client.clone());
        let knocks: Vec<_> =
            knocks.map(|client| std::thread::spawn(move || request(&client, port).is_err())).collect();
        assert!(knocks.into_iter().all(|knock| knock.join().unwrap()), "it is let in");
    };
    knock(40);
    // A dropped packet, a passed one and an answered one are there by now: ARP is passed, and no backend listens at 8081.
    for (title, query) in queries() {
        let answer = until_some(&format!("data for {title}: {query}"), LONG, || {
            let answer = ask(&lb, "query", Some(&query))?;
            anyhow::ensure!(answer["status"] == "success", "{title}: {query}: {answer}");
            let has_data = answer["data"]["result"].as_array().is_some_and(|series| !series.is_empty());
            // What nothing happened to has no series above 0.
            Ok((has_data || query.ends_with("> 0")).then_some(answer))
        });
        answer.unwrap();
    }
    let states_now = states(&lb).unwrap();
    assert!(states_now.len() >= 15, "{states_now:?}");
    let is = |name: &str, wanted: &[&str]| {
        let states = states(&lb)?;
        let (_, state) =
            states.iter().find(|(it, _)| it == name).with_context(|| format!("no rule {name}"))?;
        Ok(wanted.contains(&state.as_str()))
    };
    let dropped = lb.run("curl -sSf http://127.0.0.1:9799/metrics").unwrap();
    assert!(dropped.contains("xdp_lb_packets_dropped_total{reason=\"source_denied\"}"), "{dropped}");
    let rate = "sum(increase(xdp_lb_packets_dropped_total{reason=\"source_denied\"}[2m]))";
    until("the denied packets to be counted", LONG, || {
        let answer = ask(&lb, "query", Some(rate))?;
        let value = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0").parse::<f64>()?;
        Ok(value > 30.0)
    })
    .unwrap();
    assert!(is("XdpLbPacketsDropped", &["inactive"]).unwrap(), "wanted drops do not alert");
    assert!(is("XdpLbForwardingInTrouble", &["inactive"]).unwrap());
    drop(requests);

    // What fails alerts.
    site.nginx.iter_mut().for_each(xdp_lb_tests::servers::Nginx::stop);
    let file = site.daemon.config().unwrap();
    fs::write(site.daemon.config_file(), format!("{file}\nnonsense = 1\n")).unwrap();
    site.daemon.cli(&["reload"]).unwrap_err();
    until("the alert of a service without backends to fire", LONG, || {
        is("XdpLbServiceWithoutBackends", &["firing"])
    })
    .unwrap();
    for name in ["XdpLbBackendDown", "XdpLbReloadFailed"] {
        until(&format!("{name} to be pending"), LONG, || is(name, &["pending", "firing"])).unwrap();
    }
}
