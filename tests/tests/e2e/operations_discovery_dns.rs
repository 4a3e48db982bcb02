//! Discovery by DNS: a real server's zone changes under traffic.

use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::{Nginx, Nsd};
use xdp_lb_tests::{
    Daemon, Download, Host, Network, Requests, Site, by_backend, request, until, web, web_backend,
};

const PATIENCE: Duration = Duration::from_secs(40);

/// A site whose service `web` finds its backends by DNS, with these keys; and the DNS server.
struct Found {
    site: Site,
    dns: Nsd,
    _dns_host: Host,
}

fn discovery(keys: &str) -> String {
    format!(
        "\n[service.discovery]\ntype = \"dns\"\nresolvers = [\"198.51.100.53\"]\nmin_ttl = \"1s\"\nmax_ttl = \"1s\"\n\
         timeout = \"1s\"\nhold = \"0s\"\n{keys}\n"
    )
}

fn start(backends: usize, zone: &str, keys: &str) -> Found {
    let network = Network::new("discovery", backends).unwrap();
    let host = network.add_neighbour("dns", 53).unwrap();
    let dns = Nsd::start(&host, zone).unwrap();
    let nginx =
        network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<anyhow::Result<_>>().unwrap();
    let config = web("full-nat", &[]) + &discovery(keys);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    Found { site: Site { daemon, nginx, network }, dns, _dns_host: host }
}

const BY_ADDRESS: &str = "name = \"web.example.test\"\nport = 8080";

/// The A records of `web` for these backends.
fn hosts(numbers: &[usize]) -> String {
    numbers.iter().map(|number| format!("web A {}\n", Network::backend(*number))).collect()
}

impl Found {
    fn view(&self) -> Value {
        self.site.daemon.cli_json(&["service", "show", "web"]).unwrap()["service"]["discovery"].clone()
    }

    /// Waits until these backends of `web` are in these states, and no others are there.
    fn wait_for(&self, wanted: &[(usize, &str)]) {
        let wanted: Vec<_> =
            wanted.iter().map(|(number, state)| (web_backend(*number), (*state).to_owned())).collect();
        let mut last = Vec::new();
        let found = until("the backends that DNS names", PATIENCE, || {
            let backends = self.site.daemon.backends(Some("web"))?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            last = backends.iter().map(|it| (text(&it["address"]), text(&it["state"]))).collect();
            Ok(last == wanted)
        });
        assert!(found.is_ok(), "{last:?} and not {wanted:?}:\n{}", self.site.daemon.log());
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = until(what, PATIENCE, || {
            last = self.view();
            Ok(is_so(&last))
        });
        assert!(found.is_ok(), "{what}: {last:#}");
        last
    }
}

#[test]
fn backends_follow_the_addresses_of_a_name_and_a_removed_one_keeps_its_flows_until_they_end() {
    let mut found = start(3, &hosts(&[1, 2]), BY_ADDRESS);
    found.wait_for(&[(1, "up"), (2, "up")]);
    let backends = found.site.daemon.backends(Some("web")).unwrap();
    assert!(backends.iter().all(|it| it["origin"] == "dns"), "{backends:?}");
    let listed = found.site.daemon.cli(&["backend", "list", "web"]).unwrap();
    assert!(listed.contains("ORIGIN") && listed.contains(" dns "), "{listed}");
    let client = found.site.network.client.clone();
    let download = Download::start_at(&client, Site::vip(), "backend-2").unwrap();
    let requests = found.site.requests(1);

    found.dns.set_zone(&hosts(&[1, 3])).unwrap();
    found.wait_for(&[(1, "up"), (2, "draining"), (3, "up")]);
    let answers = requests.next_by_backend(100).unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["backend-1", "backend-3"], "{answers:?}");
    let refused = found.site.daemon.cli_output(&["backend", "remove", "web", &web_backend(1)]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("comes from discovery"), "{refused:?}");
    download.wait_for_progress().unwrap();

    found.dns.set_zone(&hosts(&[1, 2, 3])).unwrap();
    found.wait_for(&[(1, "up"), (2, "up"), (3, "up")]);
    requests.wait_for("backend-2", PATIENCE).unwrap();
    found.dns.set_zone(&hosts(&[1, 3])).unwrap();
    found.wait_for(&[(1, "up"), (2, "draining"), (3, "up")]);
    download.finish().unwrap();
    until("the backend to go with its last flow", Duration::from_secs(90), || {
        Ok(found.site.daemon.backends(Some("web"))?.len() == 2)
    })
    .unwrap();
    by_backend(&requests.stop()).unwrap();
    assert!(found.site.daemon.log().contains("its flows have ended"), "{}", found.site.daemon.log());
}

#[test]
fn ports_and_weights_follow_srv_records_of_the_lowest_priority() {
    let hosts: String = (1..=3).map(|number| format!("b{number} A {}\n", Network::backend(number))).collect();
    let zone = |weights: [u16; 2]| {
        format!(
            "{hosts}_web._tcp SRV 1 {} 8080 b1\n_web._tcp SRV 1 {} 8080 b2\n_web._tcp SRV 2 900 8080 b3\n",
            weights[0], weights[1]
        )
    };
    let mut found = start(3, &zone([300, 100]), "name = \"_web._tcp.example.test\"\nrecord = \"SRV\"");
    found.wait_for(&[(1, "up"), (2, "up")]);
    let share_of_first = |wanted: f64| {
        until(&format!("a share of {wanted}"), PATIENCE, || {
            let backends = found.site.daemon.backends(Some("web"))?;
            Ok((backends[0]["share"].as_f64().unwrap_or_default() - wanted).abs() < 0.02)
        })
        .unwrap();
    };
    share_of_first(0.75);
    let requests = found.site.requests(1);
    let answers = requests.next_by_backend(400).unwrap();
    let part = answers["backend-1"] as f64 / answers.values().sum::<usize>() as f64;
    assert!((part - 0.75).abs() < 0.1, "{answers:?}");
    found.dns.set_zone(&zone([100, 100])).unwrap();
    share_of_first(0.5);
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn known_backends_stay_while_the_name_or_the_server_is_gone_also_over_a_restart_of_the_daemon() {
    let mut found = start(2, &hosts(&[1, 2]), BY_ADDRESS);
    found.wait_for(&[(1, "up"), (2, "up")]);
    let requests = found.site.requests(2);

    found.dns.set_zone("").unwrap();
    found.wait_until("NXDOMAIN to be told", |it| {
        it["trouble"].as_str().is_some_and(|it| it.contains("NXDOMAIN"))
    });
    found.dns.stop();
    let view = found.wait_until("the server's end to be told", |it| {
        it["trouble"].as_str().is_some_and(|it| it.contains("does not answer"))
    });
    assert_eq!(view["found"], 2, "{view}");
    let status = found.site.daemon.cli(&["status"]).unwrap();
    assert!(
        status.contains("web: discovery has been failing for ") && status.contains("198.51.100.53:53"),
        "{status}"
    );
    assert_eq!(found.site.daemon.metric("xdp_lb_discovery_up", &[("service", "web")]).unwrap(), 0.0);

    found.site.daemon.kill().unwrap();
    found.site.daemon.run().unwrap();
    found.wait_for(&[(1, "up"), (2, "up")]);
    let view = found.wait_until("a failed lookup", |it| it["failures"].as_u64() > Some(0));
    assert_eq!((&view["last_answer_seconds"], &view["found"]), (&Value::Null, &2.into()), "{view}");
    assert!(found.site.daemon.log().contains("keeping the known backends"), "{}", found.site.daemon.log());

    found.dns.restart().unwrap();
    found.dns.set_zone(&hosts(&[1, 2])).unwrap();
    found
        .wait_until("discovery to be well", |it| it["trouble"].is_null() && it["answers"].as_u64() > Some(0));
    assert!(found.site.daemon.log().contains("discovery has recovered"), "{}", found.site.daemon.log());
    until("the metric to say so", PATIENCE, || {
        Ok(found.site.daemon.metric("xdp_lb_discovery_up", &[("service", "web")])? == 1.0)
    })
    .unwrap();
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn a_removed_name_drains_all_if_configured_and_its_soa_says_when_to_query_again() {
    let keys = format!("{BY_ADDRESS}\non_empty = \"drain\"");
    let mut found = start(1, &hosts(&[1]), &keys);
    found.wait_for(&[(1, "up")]);
    let download = Download::start(&found.site.network.client, Site::vip()).unwrap();
    found.dns.set_zone("").unwrap();
    found.wait_for(&[(1, "draining")]);
    assert!(request(&found.site.network.client, Site::vip()).is_err(), "nobody takes new flows");
    download.wait_for_progress().unwrap();
    found.dns.set_zone(&hosts(&[1])).unwrap();
    found.wait_for(&[(1, "up")]);
    assert_eq!(request(&found.site.network.client, Site::vip()).unwrap(), "backend-1");
    download.finish().unwrap();
}

#[test]
fn an_answer_too_long_for_udp_is_fetched_by_tcp_and_invalid_addresses_in_it_are_refused() {
    let mut zone: String = (1..=200).map(|host| format!("web A 203.0.113.{host}\n")).collect();
    zone += "web A 127.0.0.1\nweb A 224.0.0.5\nweb A 192.0.2.10\n";
    let found = start(0, &zone, "name = \"web.example.test\"");
    let cut = found
        .site
        .network
        .lb
        .run("dig @198.51.100.53 +notcp +ignore +bufsize=1232 web.example.test A")
        .unwrap();
    assert!(cut.contains("flags: qr aa tc"), "it fits into UDP:\n{cut}");
    let view = found.wait_until("two hundred backends", |it| it["found"] == 200);
    let refused = view["refused"].to_string();
    assert_eq!(view["refused"].as_array().unwrap().len(), 3, "{refused}");
    for words in ["127.0.0.1:80", "loopback", "224.0.0.5:80", "multicast", "is the VIP of this service"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let status = found.site.daemon.cli(&["status"]).unwrap();
    assert!(status.contains("web: discovery: ") && status.contains("loopback"), "{status}");
}

#[test]
fn backends_of_an_ipv6_service_are_found_by_aaaa_records_from_a_resolver_over_ipv6() {
    let network = Network::new("discovery", 2).unwrap();
    let host = network.add_neighbour("dns", 53).unwrap();
    let _dns =
        Nsd::start(&host, "web AAAA 2001:db8:2::11\nweb AAAA 2001:db8:2::12\nweb A 198.51.100.11\n").unwrap();
    let _nginx: Vec<_> = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
    let vip = "[2001:db8:1::10]:80";
    let config = (web("full-nat", &[]) + &discovery(BY_ADDRESS))
        .replace(&Site::vip().to_string(), vip)
        .replace("198.51.100.53", "2001:db8:2::53");
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    let mut last = Vec::new();
    let found = until("the backends that DNS names", PATIENCE, || {
        last = daemon.backends(Some("web"))?;
        let is = |it: &Value, address: &str| it["address"] == address && it["state"] == "up";
        let wanted = ["[2001:db8:2::11]:8080", "[2001:db8:2::12]:8080"];
        Ok(last.len() == 2 && last.iter().zip(wanted).all(|(it, address)| is(it, address)))
    });
    assert!(found.is_ok(), "{last:?}:\n{}", daemon.log());
    let requests = Requests::start(&network.client, vip.parse().unwrap(), 1);
    let answers = requests.next_by_backend(100).unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["backend-1", "backend-2"], "{answers:?}");
}
