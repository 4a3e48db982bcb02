//! Each type of check against real servers: healthy ones are up, and others are down with a clear reason.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use xdp_lb_tests::servers::{GrpcHealth, Nginx, TlsSite, TlsSites, UdpEcho};
use xdp_lb_tests::{Authority, Daemon, Network, Validity, until};

const PATIENCE: Duration = Duration::from_secs(40);

/// Soon up, soon down; with time for an answer on a machine that does other things, too.
const QUICK: &str = "interval = \"1s\", fast_interval = \"200ms\", timeout = \"1s\", rise = 1, fall = 2";

/// Services `s0`, `s1`, ... on ports of their own, each with one backend and one of these checks; `top` are keys for the top
/// of the file.
fn config<'a>(top: &str, backend: &str, checks: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = format!("{top}\n");
    for (number, check) in checks.into_iter().enumerate() {
        let vip = if backend.starts_with('[') { "[2001:db8:1::10]" } else { "192.0.2.10" };
        write!(
            text,
            "[[service]]\nname = \"s{number}\"\nvip = \"{vip}:{}\"\nhealth_check = {{ {check}, {QUICK} }}\n\
             [[service.backend]]\naddress = \"{backend}\"\n",
            2000 + number
        )
        .unwrap();
    }
    text
}

/// Whether the operator reads in `xdp-lb status` why the service's backend is in its state, in these words or, behind a `|`, others.
fn is_told(daemon: &Daemon, service: &str, words: &str) -> anyhow::Result<bool> {
    let reason = daemon.backends(Some(service))?[0]["reason"].as_str().unwrap().to_owned();
    Ok(words.split('|').any(|words| reason.contains(words)) && daemon.cli(&["status"])?.contains(&reason))
}

/// Waits until the service's backend is in this state for a reason with these words in it.
fn wait_for(daemon: &Daemon, service: &str, state: &str, words: &str) {
    let mut last = String::new();
    until(&format!("{service} to be {state}: {words}"), PATIENCE, || {
        let backends = daemon.backends(Some(service))?;
        last = format!("{}: {}", backends[0]["state"], backends[0]["reason"]);
        Ok(backends[0]["state"] == state && is_told(daemon, service, words)?)
    })
    .unwrap_or_else(|error| panic!("{error}; it is {last}"));
}

#[test]
fn https_servers_are_up_if_certificate_and_version_are_valid() {
    let network = Network::new("probes", 1).unwrap();
    let host = &network.backends[0];
    let ca = Authority::new("Lab CA").unwrap();
    let file = ca.write(&host.dir()).unwrap();
    let issue = |names: &[&str], validity| ca.issue(names, validity).unwrap();
    let good = issue(&["www.example.com", "198.51.100.11"], Validity::Now);
    let other = issue(&["other.example.com", "198.51.100.11"], Validity::Now);
    let expired = issue(&["www.example.com"], Validity::Expired);
    let early = issue(&["www.example.com"], Validity::NotYet);
    let foreign = Authority::new("Other CA").unwrap().issue(&["www.example.com"], Validity::Now).unwrap();
    let both = "TLSv1.2 TLSv1.3";
    let site = |port, name, identity, protocols| TlsSite { port, name, identity, protocols };
    let _sites = TlsSites::start(
        host,
        &[
            site(8443, Some("www.example.com"), &good, both),
            site(8444, None, &other, both),
            site(8445, None, &expired, both),
            site(8446, None, &early, both),
            site(8447, None, &foreign, both),
            site(8448, None, &good, "TLSv1.2"),
        ],
    )
    .unwrap();
    let _plain = Nginx::start(host, 8080).unwrap();

    let trusted = format!("type = \"https\", ca_file = \"{}\"", file.display());
    let named = format!("{trusted}, server_name = \"www.example.com\"");
    let checks = [
        // Well.
        (format!("{named}, host = \"www.example.com\", port = 8443, body = \"fine\""), "up", "succeeded"),
        (format!("{trusted}, host = \"www.example.com:443\", port = 8443"), "up", "succeeded"),
        (format!("{trusted}, port = 8444"), "up", "succeeded"),
        ("type = \"https\", verify = false, port = 8445".into(), "up", "succeeded"),
        (format!("{named}, port = 8448"), "up", "succeeded"),
        // Not well.
        (
            format!("{trusted}, port = 8443"),
            "down",
            "TLS: the server refused the handshake: unrecognised name",
        ),
        (
            format!("{named}, port = 8444"),
            "down",
            "TLS: the certificate is not for www.example.com, but for other.example.com, 198.51.100.11",
        ),
        (format!("{named}, port = 8445"), "down", "TLS: the certificate expired on 2020-02-29T00:00:00Z"),
        (
            format!("{named}, port = 8446"),
            "down",
            "TLS: the certificate is not valid before 3020-01-01T00:00:00Z",
        ),
        (format!("{named}, port = 8447"), "down", "TLS: the certificate is not signed by a trusted CA"),
        (
            "type = \"https\", server_name = \"www.example.com\", port = 8443".into(),
            "down",
            "TLS: the certificate is not signed by a trusted CA",
        ),
        (
            format!("{named}, min_tls = \"1.3\", port = 8448"),
            "down",
            "TLS: the server does not support TLS 1.3",
        ),
        (format!("{named}, port = 8080"), "down", "TLS: the response is not TLS"),
        ("type = \"http\", port = 8443".into(), "down", "HTTP 400, expected 200-399"),
        (
            "type = \"https\", ca_file = \"/nonexistent/ca.pem\", port = 8443".into(),
            "down",
            "the check's ca_file: cannot read /nonexistent/ca.pem",
        ),
        (format!("{named}, port = 9999"), "down", "connection refused"),
    ];
    let text = config("", "198.51.100.11:8080", checks.iter().map(|(check, ..)| check.as_str()));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
    for (number, (_, state, words)) in checks.iter().enumerate() {
        wait_for(&daemon, &format!("s{number}"), state, words);
    }
    let list = daemon.cli(&["service", "show", "s0"]).unwrap();
    assert!(
        list.contains(
            "https GET / of www.example.com, status 200-399, body with \"fine\", TLS 1.2 or later with www.example.com"
        ),
        "{list}"
    );
}

#[test]
fn an_unexpected_http_response_is_reported_with_what_was_expected() {
    let network = Network::new("probes", 1).unwrap();
    let nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    network.lb.run("ip address add 198.51.100.3/24 dev eth1").unwrap();
    let checks = [
        ("type = \"http\", body = \"backend-1\"", "up", ""),
        ("type = \"http\", body_regex = \"^backend-[0-9]\\\\n$\"", "up", ""),
        ("type = \"http\", path = \"/healthz\", method = \"HEAD\"", "up", ""),
        ("type = \"http\", path = \"/healthz\", method = \"OPTIONS\", status = \"200, 405\"", "up", ""),
        ("type = \"http\", path = \"/probe\", headers = [\"X-Probe: let me in\"]", "up", ""),
        ("type = \"http\", path = \"/peer\", source = \"198.51.100.3\", body = \"198.51.100.3\"", "up", ""),
        (
            "type = \"http\", body = \"backend-2\"",
            "down",
            "HTTP 200, but the body \"backend-1\\n\" does not contain \"backend-2\"",
        ),
        (
            "type = \"http\", body_regex = \"^[0-9]\"",
            "down",
            "HTTP 200, but the body \"backend-1\\n\" does not match /^[0-9]/",
        ),
        ("type = \"http\", path = \"/healthz\", method = \"OPTIONS\"", "down", "HTTP 405, expected 200-399"),
        (
            "type = \"http\", path = \"/probe\", status = \"200-299, 401\"",
            "down",
            "HTTP 403, expected 200-299, 401",
        ),
        (
            "type = \"http\", source = \"198.51.100.4\"",
            "checking",
            "the check could not be run: the check's source 198.51.100.4 is not an address of this host",
        ),
    ];
    let text = config("", "198.51.100.11:8080", checks.iter().map(|(check, ..)| *check));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
    for (number, (_, state, words)) in checks.iter().enumerate() {
        wait_for(&daemon, &format!("s{number}"), state, words);
    }
    // The address comes: the check succeeds from then on.
    network.lb.run("ip address add 198.51.100.4/24 dev eth1").unwrap();
    wait_for(&daemon, "s10", "up", "succeeded");
    nginx.set_healthy(false).unwrap();
    wait_for(&daemon, "s2", "down", "HTTP 503, expected 200-399, 2 times in a row");
}

#[test]
fn a_udp_server_is_up_while_it_sends_the_expected_response() {
    let network = Network::new("probes", 1).unwrap();
    let echo = UdpEcho::start(&network.backends[0], 8080).unwrap();
    let checks = [
        "type = \"udp\", send = \"ping\"",
        "type = \"udp\", send_hex = \"00ff\", expect_hex = \"2000ff\"",
        "type = \"udp\", send = \"ping\", expect = \"pong\"",
    ];
    let text = config("", "198.51.100.11:8080", checks).replace("vip =", "protocol = \"udp\"\nvip =");
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
    wait_for(&daemon, "s0", "up", "");
    wait_for(&daemon, "s1", "up", "");
    wait_for(&daemon, "s2", "down", "the UDP response \"backend-1 ping\" does not contain \"pong\"");
    drop(echo);
    wait_for(&daemon, "s0", "down", "port unreachable, 2 times in a row");
    // Now the server is silent.
    network.backends[0].run("ip link set eth0 down").unwrap();
    until("the silence to be told", PATIENCE, || {
        let is_told = |words| is_told(&daemon, "s0", words);
        Ok(is_told("no UDP response within 1s")? || is_told("host")? || is_told("port unreachable")?)
    })
    .unwrap();
}

#[test]
fn a_host_is_up_while_it_answers_pings_by_either_kind_of_socket() {
    for range in ["1 0", "0 2147483647"] {
        let network = Network::new("probes", 1).unwrap();
        network.lb.sysctl("net.ipv4.ping_group_range", range).unwrap();
        let [v4, v6] =
            ["198.51.100.11:1", "[2001:db8:2::11]:1"].map(|backend| config("", backend, ["type = \"icmp\""]));
        let text = v4 + &v6.replace("s0", "s1");
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
        wait_for(&daemon, "s0", "up", "");
        wait_for(&daemon, "s1", "up", "");
        network.backends[0].sysctl("net.ipv4.icmp_echo_ignore_all", "1").unwrap();
        network.backends[0].sysctl("net.ipv6.icmp.echo_ignore_all", "1").unwrap();
        wait_for(&daemon, "s0", "down", "no reply to ping within 1s, 2 times in a row");
        wait_for(&daemon, "s1", "down", "no reply to ping within 1s, 2 times in a row");
        network.backends[0].sysctl("net.ipv4.icmp_echo_ignore_all", "0").unwrap();
        network.backends[0].sysctl("net.ipv6.icmp.echo_ignore_all", "0").unwrap();
        wait_for(&daemon, "s0", "up", "succeeded");
        wait_for(&daemon, "s1", "up", "succeeded");
    }
}

#[test]
fn a_grpc_server_is_up_while_its_health_service_says_serving() {
    let network = Network::new("probes", 1).unwrap();
    let host = &network.backends[0];
    let ca = Authority::new("Lab CA").unwrap();
    let file = ca.write(&host.dir()).unwrap();
    let identity = ca.issue(&["cart.example.com"], Validity::Now).unwrap();
    let plain = GrpcHealth::start(host, 8080, None).unwrap();
    let secure = GrpcHealth::start(host, 8443, Some(&identity)).unwrap();
    let _web = Nginx::start(host, 8081).unwrap();
    plain.set("shop.Cart", true);
    let tls = format!(
        "type = \"grpc\", port = 8443, tls = true, host = \"cart.example.com\", ca_file = \"{}\"",
        file.display()
    );
    let checks = [
        "type = \"grpc\"",
        "type = \"grpc\", service = \"shop.Cart\"",
        &tls,
        "type = \"grpc\", service = \"shop.Toys\"",
        "type = \"grpc\", port = 8081",
        "type = \"grpc\", port = 8443",
        "type = \"grpc\", tls = true, verify = false",
        "type = \"grpc\", port = 8443, tls = true",
    ];
    let text = config("", "198.51.100.11:8080", checks);
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
    for well in ["s0", "s1", "s2"] {
        wait_for(&daemon, well, "up", "");
    }
    wait_for(&daemon, "s3", "down", "gRPC NOT_FOUND: the server does not know this service");
    // Which of them depends on whether the server's answer or the end of the connection is seen first.
    let not_grpc = "the response is not HTTP/2|the connection was closed without a gRPC response";
    wait_for(&daemon, "s4", "down", not_grpc);
    wait_for(&daemon, "s5", "down", not_grpc);
    wait_for(&daemon, "s6", "down", "TLS: ");
    wait_for(&daemon, "s7", "down", "TLS: the certificate is not signed by a trusted CA");
    plain.set("shop.Cart", false);
    secure.set("", false);
    wait_for(&daemon, "s1", "down", "gRPC health NOT_SERVING, 2 times in a row");
    wait_for(&daemon, "s2", "down", "gRPC health NOT_SERVING, 2 times in a row");
    assert_eq!(daemon.backend_state("s0", "198.51.100.11:8080").unwrap(), "up", "the server as a whole");
    plain.set("shop.Cart", true);
    wait_for(&daemon, "s1", "up", "succeeded");
    drop(plain);
    wait_for(&daemon, "s0", "down", "connection refused, 2 times in a row");
}

#[test]
fn a_program_runs_only_if_the_file_allows_it_and_without_the_daemons_privileges() {
    let network = Network::new("probes", 1).unwrap();
    let dir = std::env::temp_dir().join(format!("xdp-lb-probes-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("check");
    let write = |script: &str| {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("exit 0");
    let check = format!("type = \"exec\", command = [\"{}\", \"-v\"]", program.display());
    let allowed = config("allow_exec_checks = true", "198.51.100.11:8080", [check.as_str()]);
    let mut daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &allowed).unwrap();
    wait_for(&daemon, "s0", "up", "");
    write("sleep 61.5 & sleep 61.5");
    wait_for(&daemon, "s0", "down", "the program did not end within 1s, 2 times in a row");
    write("exit 0");
    wait_for(&daemon, "s0", "up", "succeeded");
    until("what it had started to be killed, too", PATIENCE, || {
        Ok(!network.lb.run("ps -eo args")?.lines().any(|line| line == "sleep 61.5"))
    })
    .unwrap();
    write("echo \"$(id -un) $* $XDP_LB_SERVICE $XDP_LB_ADDRESS $XDP_LB_PORT\"; exit 7");
    wait_for(&daemon, "s0", "down", "exit code 7: nobody -v s0 198.51.100.11 8080, 2 times in a row");
    write("exit 0");
    wait_for(&daemon, "s0", "up", "succeeded");

    // One that is added at runtime runs as nobody, and not at all where the file forbids it.
    let command = program.display().to_string();
    let add = ["service", "add", "new", "192.0.2.10:3000", "--check", "exec", "--check-command", &command];
    daemon.cli(&add).unwrap();
    daemon.cli(&["backend", "add", "new", "198.51.100.11:8080"]).unwrap();
    wait_for(&daemon, "new", "up", "");
    let text = daemon.config().unwrap();
    fs::write(daemon.config_file(), text.replace("allow_exec_checks = true", "")).unwrap();
    let refused = daemon.cli(&["reload"]).unwrap_err().to_string();
    assert!(refused.contains("allow_exec_checks = true"), "{refused}");
    assert_eq!(daemon.backend_state("s0", "198.51.100.11:8080").unwrap(), "up");
    fs::write(
        daemon.config_file(),
        text.split("[[service]]").next().unwrap().replace("allow_exec_checks = true", ""),
    )
    .unwrap();
    let refused = daemon.cli(&["reload"]).unwrap_err().to_string();
    assert!(refused.contains("(added at runtime): health_check.type: \"exec\" runs a program"), "{refused}");
    daemon.cli(&["service", "remove", "new"]).unwrap();
    daemon.cli(&["reload"]).unwrap();
    let refused = daemon.cli(&add).unwrap_err().to_string();
    assert!(refused.contains("write allow_exec_checks = true at the top of the config file"), "{refused}");
    daemon.stop().unwrap();
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_flapping_backend_stays_up_and_a_failed_one_is_detected_soon_by_the_fast_interval() {
    let network = Network::new("probes", 1).unwrap();
    let nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let text = config("", "198.51.100.11:8080", ["type = \"http\", path = \"/healthz\""]).replace(
        QUICK,
        "interval = \"1s\", fast_interval = \"100ms\", jitter = 0, timeout = \"90ms\", rise = 10, fall = 30",
    );
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text).unwrap();
    wait_for(&daemon, "s0", "up", "");
    // For up to a second, so ten checks at the most: unwell, recovered.
    for _ in 0..2 {
        nginx.set_healthy(false).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        nginx.set_healthy(true).unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(daemon.backend_state("s0", "198.51.100.11:8080").unwrap(), "up");
    }
    nginx.set_healthy(false).unwrap();
    let failed = Instant::now();
    wait_for(&daemon, "s0", "down", "HTTP 503, expected 200-399, 30 times in a row");
    // 29 fast intervals at least; and one interval more at most, and what the machine takes. Slowly it were half a minute.
    let took = failed.elapsed();
    assert!((2800..20_000).contains(&took.as_millis()), "it took {took:?}");
    nginx.set_healthy(true).unwrap();
    let well = Instant::now();
    wait_for(&daemon, "s0", "up", "the check succeeded, 10 times in a row");
    // Slowly it were ten seconds.
    assert!(well.elapsed() < Duration::from_secs(8), "it took {:?}", well.elapsed());
}
