//! `xdp-lb trace`: real packets, what became of them, and what left; and the datapath is as before, however it ends.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::{Daemon, Host, Process, Site, paths, request, until, web};

/// The XDP program of an interface, as the kernel numbers it.
fn program(host: &Host, interface: &str) -> String {
    let shown = host.run(&format!("ip link show dev {interface}")).unwrap();
    let rest = shown.split("prog/xdp id ").nth(1).unwrap_or_else(|| panic!("no program: {shown}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Starts a trace, and waits until the tracing program is in its place.
pub fn follow(daemon: &Daemon, more: &[&str]) -> Process {
    let host = daemon.host();
    let before = program(host, "eth0");
    let process = start(daemon, more);
    until("the tracing program to be attached", Duration::from_secs(30), || {
        Ok(program(host, "eth0") != before)
    })
    .unwrap();
    process
}

/// Starts a trace.
fn start(daemon: &Daemon, more: &[&str]) -> Process {
    let host = daemon.host();
    let mut command = host.command(paths::daemon());
    command.args(["trace", "--output", "json", "--socket"]).arg(daemon.socket()).args(more);
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("trace-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    host.spawn_command(&name, command).unwrap()
}

/// What it has printed.
fn packets(trace: &Process) -> Vec<Value> {
    trace.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_for_end(trace: &mut Process) {
    until("the trace to end", Duration::from_secs(40), || Ok(trace.exited()?.is_some())).unwrap();
}

fn wait_for_program(host: &Host, wanted: &str) {
    until("the other program to be back", Duration::from_secs(20), || {
        Ok(["eth0", "eth1"].iter().all(|interface| program(host, interface) == wanted))
    })
    .unwrap();
}

#[test]
fn packets_are_followed_from_their_arrival_to_where_they_leave_and_a_capture_is_read_by_tshark() {
    let config = web("nat", &[1, 2]).replace("mode = ", "deny = [\"192.0.2.77\"]\nmode = ");
    let site = Site::start("trace", 2, &config).unwrap();
    let (daemon, client) = (&site.daemon, &site.network.client);
    let plain = program(daemon.host(), "eth0");
    let file = daemon.host().dir().join("packets.pcapng");
    let pcap = file.to_str().unwrap();

    let mut trace =
        follow(daemon, &["--service", "web", "--client", "192.0.2.0/24", "--count", "6", "--pcap", pcap]);
    let refused = daemon.cli_output(&["trace", "--time", "1s"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("somebody follows packets already"), "{said}");
    for _ in 0..3 {
        client.run("curl -sSf -m 10 http://192.0.2.10/?secret").unwrap();
    }
    wait_for_end(&mut trace);
    let seen = packets(&trace);
    assert_eq!(seen.len(), 6, "{}", trace.log());
    let first = &seen[0];
    let backend = first["backend"].as_str().unwrap();
    assert_eq!((&first["verdict"], &first["service"]), (&"forward".into(), &"web".into()), "{first:#}");
    assert_eq!(first["decision"], format!("sent to {backend}"), "{first:#}");
    let summary = |frame: &str| first[frame]["summary"].as_str().unwrap().to_owned();
    assert!(summary("before").starts_with("192.0.2.100:") && summary("before").ends_with(" > 192.0.2.10:80"));
    assert!(summary("after").ends_with(&format!(" > {backend}")), "{first:#}");
    assert_eq!(
        (&first["before"]["interface"], &first["after"]["interface"]),
        (&"eth0".into(), &"eth1".into())
    );
    let from_backend = |packet: &&Value| packet["before"]["interface"] == "eth1";
    let reply = seen.iter().find(from_backend).unwrap_or_else(|| panic!("no reply: {seen:#?}"));
    assert!(reply["after"]["summary"].as_str().unwrap().starts_with("192.0.2.10:80 > "), "{reply:#}");

    // Headers alone: nothing of what the client asked for.
    let secret = |text: &str| text.contains(&hex("secret"));
    assert!(!secret(&trace.log()));
    let shown = daemon
        .host()
        .run(&format!("tshark -r {pcap} -T fields -e frame.comment -e frame.interface_name -e ip.dst"));
    let shown = shown.unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 12, "each as it came and as it left: {shown}");
    assert!(lines[0].contains(&format!("web: sent to {backend}")) && lines[0].contains("eth0"), "{shown}");
    assert!(
        lines[1].contains("as it left") && lines[1].ends_with(backend.split(':').next().unwrap()),
        "{shown}"
    );
    assert!(!String::from_utf8_lossy(&fs::read(&file).unwrap()).contains("secret"));
    wait_for_program(daemon.host(), &plain);

    // With payload, and of one backend, without its health checks.
    let of_clients = ["--client", "192.0.2.0/24", "--backend", backend];
    let mut trace =
        follow(daemon, &[&of_clients[..], &["--payload", "--count", "8", "--time", "20s"]].concat());
    until("enough packets to be seen", Duration::from_secs(30), || {
        client.run("curl -sSf -m 10 http://192.0.2.10/?secret")?;
        Ok(trace.exited()?.is_some())
    })
    .unwrap();
    assert!(secret(&trace.log()), "{}", trace.log());
    assert!(packets(&trace).iter().all(|packet| packet["backend"] == backend), "{}", trace.log());
    wait_for_program(daemon.host(), &plain);

    // What is dropped, by its reason.
    client.run("ip address add 192.0.2.77/24 dev eth0").unwrap();
    let mut trace = follow(daemon, &["--reason", "source_denied", "--count", "1", "--time", "20s"]);
    assert!(client.run("curl -sSf -m 1 --interface 192.0.2.77 http://192.0.2.10/").is_err());
    wait_for_end(&mut trace);
    let dropped = &packets(&trace)[0];
    assert_eq!(
        (&dropped["verdict"], &dropped["reason"]),
        (&"drop".into(), &"source_denied".into()),
        "{dropped:#}"
    );
    assert_eq!(dropped["after"], Value::Null);
    assert!(dropped["decision"].as_str().unwrap().contains("the service denies the client's address"));
    wait_for_program(daemon.host(), &plain);

    // It is known to be of this service.
    let of_web = daemon.cli_json(&["counters", "--service", "web"]).unwrap();
    let denied = of_web.as_array().unwrap().iter().find(|it| it["reason"] == "source_denied").unwrap();
    let packets = denied["packets"].as_u64().unwrap();
    assert!(packets > 0 && denied["verdict"] == "drop" && denied["backend"].is_null(), "{of_web:#}");
    let labels = [("service", "web"), ("verdict", "drop"), ("reason", "source_denied")];
    assert!(daemon.metric("xdp_lb_service_unforwarded_packets_total", &labels).unwrap() >= packets as f64);
    let shown = daemon.cli(&["service", "show", "web"]).unwrap();
    assert!(
        shown.contains("not forwarded since the daemon started") && shown.contains("source_denied"),
        "{shown}"
    );
    for (words, why) in [
        (["--reason", "source_denid"], "source_denied"),
        (["--service", "wbe"], "the services are: web"),
        (["--client", "192.0.2.1/24"], "host bits set"),
        (["--backend", "198.51.100.99:1"], "198.51.100.11:8080"),
    ] {
        let output = daemon.cli_output(&[&["trace"], &words[..]].concat()).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{words:?}: {said}");
    }
}

#[test]
fn packets_are_followed_at_tc_ingress_too() {
    let config = format!("attach = \"tc\"\n{}", web("nat", &[1, 2]));
    let site = Site::start("trace-tc", 2, &config).unwrap();
    let (daemon, client) = (&site.daemon, &site.network.client);
    let mut trace = start(daemon, &["--service", "web", "--count", "6", "--time", "30s"]);
    until("enough packets to be seen", Duration::from_secs(40), || {
        client.run("curl -sSf -m 10 http://192.0.2.10/")?;
        Ok(trace.exited()?.is_some())
    })
    .unwrap();
    let seen = packets(&trace);
    assert_eq!(seen.len(), 6, "{}", trace.log());
    let from = |interface: &str| {
        let packet = seen.iter().find(|packet| packet["before"]["interface"] == interface);
        packet.unwrap_or_else(|| panic!("nothing from {interface}: {seen:#?}"))
    };
    let (first, reply) = (from("eth0"), from("eth1"));
    let backend = first["backend"].as_str().unwrap();
    assert_eq!(first["verdict"], "forward", "{first:#}");
    assert_eq!(first["after"]["interface"], "eth1", "{first:#}");
    assert!(first["after"]["summary"].as_str().unwrap().ends_with(&format!(" > {backend}")), "{first:#}");
    assert!(reply["after"]["summary"].as_str().unwrap().starts_with("192.0.2.10:80 > "), "{reply:#}");
    // The daemon knows its own tracing program, and the other one is back.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(daemon.metric("xdp_lb_restored_total", &[]).unwrap(), 0.0);
    client.run("curl -sSf -m 10 http://192.0.2.10/").unwrap();
}

#[test]
fn whoever_watches_drops_sees_the_first_of_each_source_with_its_reason_and_other_events_between_them() {
    let config = web("full-nat", &[1]).replace("mode = ", "deny = [\"192.0.2.77\"]\nmode = ");
    let site = Site::start("trace", 1, &config).unwrap();
    let (daemon, client) = (&site.daemon, &site.network.client);
    client.run("ip address add 192.0.2.77/24 dev eth0").unwrap();
    let watch = |name: &str, more: &[&str]| {
        let mut command = daemon.host().command(paths::daemon());
        command.args(["watch", "--output", "json", "--socket"]).arg(daemon.socket()).args(more);
        daemon.host().spawn_command(name, command).unwrap()
    };
    let (with, without) = (watch("watch-drops", &["--drops"]), watch("watch", &[]));
    let drops =
        || -> Vec<Value> { packets(&with).into_iter().filter(|event| event["event"] == "drop").collect() };
    until("a dropped packet to be shown", Duration::from_secs(30), || {
        assert!(client.run("curl -sSf -m 1 --interface 192.0.2.77 http://192.0.2.10/").is_err());
        Ok(!drops().is_empty())
    })
    .unwrap();
    let drop = &drops()[0];
    assert_eq!((&drop["reason"], &drop["service"]), (&"source_denied".into(), &"web".into()), "{drop:#}");
    assert!(drop["client"].as_str().unwrap().starts_with("192.0.2.77:"), "{drop:#}");
    assert_eq!((&drop["destination"], &drop["interface"]), (&"192.0.2.10:80".into(), &"eth0".into()));
    // Many of one source are shown once a second; other events are there, too, for both.
    let (before, start) = (drops().len(), Instant::now());
    for _ in 0..3 {
        let _ = client.run("curl -s -Z -m 1 --interface 192.0.2.77 http://192.0.2.10/[1-20]");
    }
    let (shown, seconds) = (drops().len() - before, start.elapsed().as_secs() as usize);
    assert!(shown <= seconds + 2, "{shown} within {seconds} seconds");
    daemon.cli(&["node", "drain"]).unwrap();
    for process in [&with, &without] {
        until("the other event", Duration::from_secs(20), || {
            Ok(packets(process).iter().any(|event| event["event"] == "node"))
        })
        .unwrap();
    }
    assert!(packets(&without).iter().all(|event| event["event"] != "drop"), "{}", without.log());
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_other_program_is_back_when_the_command_or_the_daemon_is_killed_while_packets_are_followed() {
    let mut site = Site::start("trace", 1, &web("full-nat", &[1])).unwrap();
    let lb = site.network.lb.clone();
    let plain = program(&lb, "eth0");
    let is_served = |site: &Site| request(&site.network.client, Site::vip()).is_ok();

    let mut trace = follow(&site.daemon, &["--time", "60s"]);
    trace.kill().unwrap();
    wait_for_program(&lb, &plain);
    assert!(is_served(&site));

    let trace = follow(&site.daemon, &["--time", "60s"]);
    assert!(is_served(&site), "while packets are followed");
    site.daemon.kill().unwrap();
    wait_for_program(&lb, &plain);
    assert!(is_served(&site));
    drop(trace);

    // The next daemon can follow packets, too.
    site.daemon.run().unwrap();
    let again = program(&lb, "eth0");
    let trace = follow(&site.daemon, &["--time", "60s"]);
    site.daemon.stop().unwrap();
    wait_for_program(&lb, &again);
    drop(trace);
    assert!(is_served(&site));
}
