use proptest::prelude::*;

use super::*;
use crate::model::text::quoted;
use crate::model::{
    Affinity, Agent, Attach, Backend, CircuitBreaker, Feedback, HealthCheck, Mode, Options, PortRange,
    Prefix, Probe, Protocol, Quic, Withdraw, check, written_discovery,
};

/// The config file of the documentation's first page.
const FIRST: &str = r#"
interfaces = ["eth0", "eth1"]
attach = "auto"                         # auto | xdp | tc | xdp-generic
state_file = "/var/lib/xdp-lb/state.json"
pin_path = "/sys/fs/bpf/xdp-lb"         # several daemons on one host, or in several namespaces, each have their own

[api]
socket = "/run/xdp-lb/api.sock"         # root only, 0600

[metrics]
listen = "127.0.0.1:9799"

[[service]]
name = "web"
vip = "192.0.2.10:80"                   # IPv6: "[2001:db8::10]:80"
protocol = "tcp"                        # tcp | udp
mode = "full-nat"                       # full-nat (default) | nat | dsr | ipip | gue
snat_addresses = ["198.51.100.2"]       # full-nat; default: this host's address towards the backend

[service.health_check]
type = "http"                           # tcp | http | dns | none
path = "/healthz"
interval = "1s"
timeout = "500ms"
rise = 2
fall = 3

[[service.backend]]
address = "198.51.100.11:8080"
weight = 100
"#;

const TOP: &str = "interfaces = [\"eth0\"]\n";
const SERVICE: &str = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n";

#[track_caller]
fn valid(text: &str) -> Config {
    match parse(text) {
        Ok(config) => config,
        Err(errors) => panic!("refused:\n{errors}"),
    }
}

#[track_caller]
fn refused(text: &str) -> String {
    match parse(text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors.to_string(),
    }
}

/// What is said of a service with these lines after its name and VIP, from line 5 on.
#[track_caller]
fn service(lines: &str) -> String {
    refused(&format!("{SERVICE}{lines}"))
}

#[test]
fn the_config_of_the_first_steps_is_valid() {
    let config = valid(FIRST);
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.snat_ports, PortRange { first: 1024, last: 32767 });
    let [web] = config.services.as_slice() else { panic!("{config:?}") };
    assert_eq!((web.name.as_str(), web.protocol, web.mode), ("web", Protocol::Tcp, Mode::FullNat));
    let check = web.health_check.as_ref().expect("a check");
    assert_eq!(check.probe, Probe::Http(check::Http::get("/healthz")));
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!((check.rise, check.fall), (2, 3));
    assert_eq!(web.backends[0].weight, 100);
}

#[test]
fn the_example_file_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/xdp-lb.toml");
    let config = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.services.len(), 3);
}

#[test]
fn attach_is_one_word_or_one_for_each_interface_and_has_a_former_name() {
    let of = |text: &str| {
        let attach = valid(&format!("interfaces = [\"eth0\", \"eth1\"]\n{text}\n")).attach;
        ["eth0", "eth1"].map(|name| attach.of(name))
    };
    assert_eq!(of(""), [Attach::Auto; 2]);
    assert_eq!(of("attach = \"tc\""), [Attach::Tc; 2]);
    assert_eq!(of("attach = { eth1 = \"tc\" }"), [Attach::Auto, Attach::Tc]);
    assert_eq!(of("[attach]\ndefault = \"xdp\"\neth1 = \"xdp-generic\""), [Attach::Xdp, Attach::XdpGeneric]);
    assert_eq!(of("xdp_mode = \"native\""), [Attach::Xdp; 2]);
    assert_eq!(
        refused("interfaces = [\"eth0\"]\nattach = { eth1 = \"tc\" }\n"),
        "line 2: attach: unknown key \"eth1\"; did you mean \"eth0\"?"
    );
    assert_eq!(
        refused("interfaces = [\"eth0\"]\nattach = \"tc\"\nxdp_mode = \"generic\"\n"),
        "line 3: xdp_mode: is the former name of `attach`, which is here, too; remove it"
    );
}

#[test]
fn everything_but_the_interfaces_has_a_default() {
    let config = valid(TOP);
    assert_eq!(
        config,
        Config {
            obsolete: vec![],
            interfaces: vec!["eth0".into()],
            attach: Attaching::default(),
            state_file: "/var/lib/xdp-lb/state.json".into(),
            pin_path: "/sys/fs/bpf/xdp-lb".into(),
            flow_hash_secret: None,
            snat_ports: PortRange { first: 1024, last: 32767 },
            vips: Vips::default(),
            api: Api {
                socket: "/run/xdp-lb/api.sock".into(),
                admin_groups: Vec::new(),
                read_groups: Vec::new(),
                remote: None,
            },
            metrics: Metrics { listen: Some(([127, 0, 0, 1], 9799).into()) },
            limits: Limits {
                services: 4096,
                backends: 16384,
                slots: 4_194_304,
                flows: 1_048_576,
                source_ranges: 65_536,
                source_rates: 65_536,
                fragments: 8192
            },
            timeouts: Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) },
            drain_timeout: Duration::from_secs(3600),
            asymmetric_replies: false,
            allow_exec_checks: false,
            icmp_time_exceeded: true,
            services: vec![],
        }
    );
}

#[test]
fn the_size_of_a_removed_table_is_ignored_with_a_warning() {
    let with = valid("interfaces = [\"eth0\"]\nlimits = { half_open_flows = 4096, flows = 2048 }");
    let without = valid("interfaces = [\"eth0\"]\nlimits.flows = 2048");
    assert!(with.obsolete.len() == 1 && with.obsolete[0].contains("limits.half_open_flows"));
    assert_eq!(Config { obsolete: vec![], ..with }, without);
}

#[test]
fn every_key_is_read() {
    let config = valid(&format!(
        "interfaces = [\"bond0\"]\nxdp_mode = \"generic\"\nasymmetric_replies = true\nstate_file = \"/s\"\npin_path = \"/p/q\"\n\
         flow_hash_secret = \"{}\"\nsnat_ports = \"2000-3000\"\nvips = {{ interface = \"lo\", withdraw = \"no-backends\" }}\n\
         api.socket = \"/a\"\nmetrics.listen = \"off\"\n\
         limits = {{ services = 1, backends = 2, slots = 0x400, flows = 2048, \
         source_ranges = 3, source_rates = 4096, fragments = 1024 }}\n\
         timeouts = {{ tcp_idle = \"1h 30m\", udp_idle = \"7days\" }}\n\
         [[service]]\nname = \"d\"\nvip = \"[2001:db8::1]:53\"\nprotocol = \"udp\"\nmode = \"nat\"\n\
         backend = [{{ address = \"[2001:db8::2]:5353\", weight = 65535 }}]\n\
         health_check = {{ type = \"dns\", name = \"example.com\", record = \"aaaa\", rise = 1, fall = 100 }}\n",
        "0f".repeat(32)
    ));
    assert_eq!(config.attach.default, Attach::XdpGeneric);
    assert!(config.asymmetric_replies);
    assert_eq!((config.state_file, config.pin_path), ("/s".into(), "/p/q".into()));
    assert_eq!(config.flow_hash_secret, Some([0x0f; 32]));
    assert_eq!(config.snat_ports.to_string(), "2000-3000");
    assert_eq!(config.vips, Vips { interface: Some("lo".into()), withdraw: Withdraw::NoBackends });
    assert_eq!((config.api.socket, config.metrics.listen), ("/a".into(), None));
    let limits = Limits {
        services: 1,
        backends: 2,
        slots: 1024,
        flows: 2048,
        source_ranges: 3,
        source_rates: 4096,
        fragments: 1024,
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.timeouts.tcp_idle, Duration::from_secs(5400));
    assert_eq!(config.timeouts.udp_idle, Duration::from_secs(7 * 86400));
    let [service] = config.services.as_slice() else { panic!("one service") };
    assert_eq!((service.protocol, service.mode), (Protocol::Udp, Mode::Nat));
    assert_eq!(service.backends[0].weight, 65535);
    let check = service.check();
    assert_eq!(check.probe, Probe::Dns { name: "example.com".into(), record: "AAAA".into() });
    assert_eq!((check.rise, check.fall), (1, 100));
}

#[test]
fn all_errors_are_reported_in_the_order_of_their_lines_with_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(
        &path,
        "interfaces = [\"eth0\"]\nxdp_mod = \"auto\"\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\n\
         mode = \"tunnel\"\n[[service.backend]]\naddress = \"198.51.100.11:8080\"\nwieght = 7\nweight = 70000\n\
         [[service]]\nname = \"web\"\n[timeouts]\nudp_idle = \"8d\"\n",
    )
    .expect("written");
    let file = path.display();
    assert_eq!(
        load(&path).expect_err("refused").to_string(),
        format!(
            "{file}:2: unknown key \"xdp_mod\"; did you mean \"xdp_mode\"?\n\
             {file}:5: service \"web\": vip: \"192.0.2.10\" has no port; write \"192.0.2.10:80\"\n\
             {file}:6: service \"web\": mode: \"tunnel\" is not known; write \"full-nat\", \"nat\", \"dsr\", \"ipip\" \
             or \"gue\"\n\
             {file}:9: service \"web\": backend 198.51.100.11:8080: unknown key \"wieght\"; did you mean \"weight\"?\n\
             {file}:10: service \"web\": backend 198.51.100.11:8080: weight: 70,000 is out of range; write 0 to 65,535\n\
             {file}:11: service \"web\": vip: is missing; write vip = \"192.0.2.10:80\"\n\
             {file}:12: service \"web\": name: \"web\" is the name of another service; give each its own name\n\
             {file}:14: timeouts.udp_idle: 8days is out of range; write 1s to 7days"
        )
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let message = load(Path::new("/nonexistent/xdp-lb.toml")).expect_err("refused").to_string();
    assert_eq!(
        message,
        "/nonexistent/xdp-lb.toml: cannot be read: No such file or directory (os error 2); \
         check the path and its permissions"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    std::fs::write(&path, b"interfaces = [\"eth0\"]\n# \xff\n").expect("written");
    let message = load(&path).expect_err("refused").to_string();
    assert!(message.ends_with("lb.toml:2: is not UTF-8 here; save the file as UTF-8"), "{message}");
}

#[test]
fn syntax_errors_have_line_and_column() {
    assert_eq!(
        refused("interfaces = [\"eth0\"]\nxdp_mode = auto\n[api\n"),
        "line 2:12: string values must be quoted, expected literal string; fix TOML's syntax here\n\
         line 3:5: unclosed table, expected `]`; fix TOML's syntax here"
    );
    assert_eq!(
        refused("interfaces = [\"a\"]\ninterfaces = [\"b\"]\n"),
        "line 2:1: \"interfaces\" is written twice; keep one of them"
    );
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_known_one_or_where_it_belongs() {
    assert_eq!(
        refused("interfaces = [\"eth0\"]\nfrobnicate = 1\n"),
        "line 2: unknown key \"frobnicate\"; the keys here are \"interfaces\", \"attach\", \"xdp_mode\", \"state_file\", \
         \"pin_path\", \"flow_hash_secret\", \"snat_ports\", \"vips\", \"api\", \"metrics\", \"limits\", \"timeouts\", \
         \"drain_timeout\", \"asymmetric_replies\", \"allow_exec_checks\", \"icmp_time_exceeded\", \"service\""
    );
    assert_eq!(
        refused("interfaces = [\"eth0\"]\n[api]\nxdp_mode = \"auto\"\n"),
        "line 3: api: unknown key \"xdp_mode\"; it belongs at the top of the file, before the first table"
    );
    assert_eq!(
        service("[service.health-check]\ntype = \"tcp\"\n"),
        "line 5: service \"web\": unknown key \"health-check\"; did you mean \"health_check\"?"
    );
    assert_eq!(
        service("health_check = { type = \"tcp\", timout = \"1s\" }\n"),
        "line 5: service \"web\": health_check: unknown key \"timout\"; did you mean \"timeout\"?"
    );
}

#[test]
fn values_of_the_wrong_type_are_reported() {
    let cases = [
        ("interfaces = \"eth0\"", "line 1: interfaces: is a string; write a list of strings"),
        ("interfaces = [1]", "line 1: interfaces: is a whole number; write a string, in quotes"),
        (
            "interfaces = [\"eth0\"]\nxdp_mode = true",
            "line 2: xdp_mode: is true or false; write a string, in quotes",
        ),
        ("interfaces = [\"eth0\"]\napi = \"/run/x\"", "line 2: api: is a string; write a table, as [api]"),
        (
            "interfaces = [\"eth0\"]\n[service]\nname = \"web\"",
            "line 2: service: is a table; write a list of tables, each with the header [[service]]",
        ),
        (
            "interfaces = [\"eth0\"]\nservice = [1]",
            "line 2: service: is a whole number; write a list of tables, each with the header [[service]]",
        ),
        (
            "interfaces = [\"eth0\"]\nlimits.flows = \"4096\"",
            "line 2: limits.flows: \"4096\" is in quotes; write the number without them",
        ),
        (
            "interfaces = [\"eth0\"]\nlimits.flows = 1.5",
            "line 2: limits.flows: is a fraction; write a whole number from 1,024 to 67,108,864, such as 1024",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text), message);
    }
    assert_eq!(
        service("[service.backend]\naddress = \"198.51.100.1:80\"\n"),
        "line 5: service \"web\": backend: is a table; write a list of tables, each with the header \
         [[service.backend]]"
    );
}

#[test]
fn interfaces_are_valid_names_and_each_is_listed_once() {
    let cases = [
        (
            "",
            "config: interfaces: is missing; write the interfaces that packets arrive on, interfaces = [\"eth0\"]",
        ),
        (
            "interfaces = []",
            "line 1: interfaces: is empty; write the interfaces that packets arrive on, interfaces = [\"eth0\"]",
        ),
        (
            "interfaces = [\"eth0\",\n\"eth1\",\n\"eth0\"]",
            "line 3: interfaces: \"eth0\" is listed twice; remove one of them",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text), message);
    }
    for name in ["", "a/b", "a b", "sixteen-bytes-xx", "..", "eth0:1"] {
        assert_eq!(
            refused(&format!("interfaces = [{name:?}]")),
            format!(
                "line 1: interfaces: {name:?} is not an interface's name; write 1 to 15 bytes without \"/\", \
                 \":\" or spaces, as \"ip link\" shows it"
            )
        );
    }
    valid("interfaces = [\"fifteen-bytes-x\"]");
}

#[test]
fn paths_groups_and_secrets_are_validated() {
    let long = format!("/{}", "x".repeat(107));
    check_lines_of_the_top([
        (
            "xdp_mode = \"natve\"".to_owned(),
            "xdp_mode: \"natve\" is not known; did you mean \"native\"? One of: \"auto\", \"native\", \"generic\"".to_owned(),
        ),
        (
            "state_file = \"state.json\"".into(),
            "state_file: \"state.json\" is not absolute; write the path from \"/\" on".into(),
        ),
        ("pin_path = \"/\"".into(), "pin_path: \"/\" has no file name; write the whole path".into()),
        ("pin_path = \"/a\\u0000\"".into(), "pin_path: \"/a\\0\" contains a NUL byte; remove it".into()),
        (
            format!("api.socket = \"{long}\""),
            format!(
                "api.socket: {} has 108 bytes; a socket path has at most 107, so write a shorter one",
                quoted(&long)
            ),
        ),
        (
            "api = { admin_groups = [\"ops\", \"net ops\"] }".into(),
            "api: admin_groups: \"net ops\" is not a group name; write one, such as \"netops\"".into(),
        ),
        (
            "api = { admin_groups = [\"ops\"], read_groups = [\"users\", \"ops\"] }".into(),
            "api: read_groups: \"ops\" is also in admin_groups, who can read as well; remove one of them".into(),
        ),
        (
            "flow_hash_secret = \"hunter2\"".into(),
            "flow_hash_secret: is not 64 hex digits; write the output of \"openssl rand -hex 32\", \
             the same on every node".into(),
        ),
    ]);
}

#[test]
fn numbers_ports_and_times_have_ranges() {
    check_lines_of_the_top([
        (
            "vips.withdraw = \"no-backends\"".into(),
            "vips.withdraw: requires an interface for the VIPs; write interface = \"eth0\", or remove it"
                .into(),
        ),
        (
            "vips = { interface = \"lo\", withdraw = \"no-backend\" }".into(),
            "vips.withdraw: \"no-backend\" is not known; did you mean \"no-backends\"? One of: \"never\", \
             \"no-backends\""
                .into(),
        ),
        (
            "snat_ports = \"5-4\"".into(),
            "snat_ports: \"5-4\" is not a range of ports from 1 to 65535; write \"1024-32767\"".into(),
        ),
        (
            "snat_ports = \"0-4\"".into(),
            "snat_ports: \"0-4\" is not a range of ports from 1 to 65535; write \"1024-32767\"".into(),
        ),
        (
            "metrics.listen = \"127.0.0.1:0\"".into(),
            "metrics.listen: \"127.0.0.1:0\" has port 0, which Prometheus cannot know; write 1 to 65535"
                .into(),
        ),
        (
            "metrics.listen = \"localhost:9799\"".into(),
            "metrics.listen: \"localhost:9799\": \"localhost\" is not an IP address; write one, such as \
             \"192.0.2.10:80\" or \"[2001:db8::10]:80\" (names are not looked up)"
                .into(),
        ),
        ("limits.services = 0".into(), "limits.services: 0 is out of range; write 1 to 65,536".into()),
        ("limits.backends = -1".into(), "limits.backends: -1 is out of range; write 1 to 1,000,000".into()),
        (
            "limits.slots = 1023".into(),
            "limits.slots: 1,023 is out of range; write 1,024 to 268,435,456".into(),
        ),
        (
            "limits.fragments = 0".into(),
            "limits.fragments: 0 is out of range; write 1,024 to 1,048,576".into(),
        ),
        (
            "limits.flows = 99999999999999999999999".into(),
            "limits.flows: 99999999999999999999999 is out of range; write 1,024 to 67,108,864".into(),
        ),
        (
            "timeouts.tcp_idle = \"0s\"".into(),
            "timeouts.tcp_idle: 0s is out of range; write 1s to 7days".into(),
        ),
        (
            "timeouts.tcp_idle = \"1500ms\"".into(),
            "timeouts.tcp_idle: \"1500ms\" is not in whole seconds; write \"15m\" or \"90s\"".into(),
        ),
        (
            "timeouts.udp_idle = \"60\"".into(),
            "timeouts.udp_idle: \"60\" is not a duration (time unit needed, for example 60sec or 60ms); \
             write \"500ms\" or \"1m 30s\""
                .into(),
        ),
    ]);
}

/// Whether these lines at the top of a file are refused with these messages.
#[track_caller]
fn check_lines_of_the_top(cases: impl IntoIterator<Item = (String, String)>) {
    for (line, message) in cases {
        assert_eq!(refused(&format!("{TOP}{line}\n")), format!("line 2: {message}"));
    }
}

#[test]
fn a_vip_is_the_address_and_port_of_one_host_on_a_network() {
    let cases = [
        ("192.0.2.10", "\"192.0.2.10\" has no port; write \"192.0.2.10:80\""),
        ("2001:db8::10", "\"2001:db8::10\" has no port; write \"[2001:db8::10]:80\""),
        ("[2001:db8::10]", "\"[2001:db8::10]\" has no port; write \"[2001:db8::10]:80\""),
        ("192.0.2.10:65536", "\"65536\" is not a port; write 1 to 65535"),
        ("web", "\"web\" is not an address and port; write \"192.0.2.10:80\""),
        ("192.0.2.10:0", "\"192.0.2.10:0\" has port 0; write 1 to 65535, or \"192.0.2.10:*\" for all ports"),
        (
            "0.0.0.0:80",
            "\"0.0.0.0:80\" is the unspecified address; write the address of a host on the network",
        ),
        ("[::]:80", "\"[::]:80\" is the unspecified address; write the address of a host on the network"),
        (
            "0.1.2.3:80",
            "\"0.1.2.3:80\" is in 0.0.0.0/8, which no host may use (RFC 1122); write the address of a host on the \
             network",
        ),
        (
            "127.0.0.1:80",
            "\"127.0.0.1:80\" is a loopback address, whose packets never reach a network interface; write the \
             address of a host on the network",
        ),
        (
            "[::1]:80",
            "\"[::1]:80\" is a loopback address, whose packets never reach a network interface; write the address \
             of a host on the network",
        ),
        (
            "224.0.0.1:80",
            "\"224.0.0.1:80\" is a multicast address; write the address of a host on the network",
        ),
        (
            "[ff02::1]:80",
            "\"[ff02::1]:80\" is a multicast address; write the address of a host on the network",
        ),
        (
            "255.255.255.255:80",
            "\"255.255.255.255:80\" is the broadcast address; write the address of a host on the network",
        ),
        (
            "[fe80::1]:80",
            "\"[fe80::1]:80\" is link-local, which is ambiguous without an interface; write the address of a host \
             on the network",
        ),
        ("[2001:db8::1%2]:80", "\"[2001:db8::1%2]:80\" has a scope ID; write an address that needs none"),
        (
            "[::ffff:192.0.2.1]:80",
            "\"[::ffff:192.0.2.1]:80\" is an IPv4-mapped IPv6 address; write \"192.0.2.1:80\"",
        ),
    ];
    for (vip, message) in cases {
        assert_eq!(
            refused(&format!("{TOP}[[service]]\nname = \"web\"\nvip = \"{vip}\"\n")),
            format!("line 4: service \"web\": vip: {message}")
        );
    }
}

#[test]
fn a_service_has_a_name_of_plain_characters() {
    let long = "x".repeat(64);
    let cases = [
        ("", "service \"\": name: is empty; write a name".to_owned()),
        (
            "a b",
            "service \"a b\": name: \"a b\" contains ' '; write only letters, digits, \"-\", \"_\" and \".\""
                .into(),
        ),
        (
            "wéb",
            "service \"wéb\": name: \"wéb\" contains 'é'; write only letters, digits, \"-\", \"_\" and \".\""
                .into(),
        ),
        ("..", "service \"..\": name: \"..\" is not a name; write one with a letter or a digit".into()),
        (&long, format!("service \"{long}\": name: \"{long}\" has 64 characters; write at most 63")),
    ];
    for (name, message) in cases {
        assert_eq!(
            refused(&format!("{TOP}[[service]]\nname = \"{name}\"\nvip = \"192.0.2.10:80\"\n")),
            format!("line 3: {message}")
        );
    }
    assert_eq!(
        refused(&format!("{TOP}[[service]]\nvip = \"192.0.2.10:80\"\n")),
        "line 2: service #1: name: is missing; write name = \"web\""
    );
    valid(&format!("{TOP}[[service]]\nname = \"{}\"\nvip = \"192.0.2.10:80\"\n", "x".repeat(63)));
}

#[test]
fn unknown_protocols_and_modes_are_refused() {
    assert_eq!(
        service("protocol = \"sctp\"\n"),
        "line 5: service \"web\": protocol: \"sctp\" is not known; write \"tcp\" or \"udp\""
    );
    assert_eq!(
        service("mode = \"full_nat\"\n"),
        "line 5: service \"web\": mode: \"full_nat\" is not known; did you mean \"full-nat\"? One of: \
         \"full-nat\", \"nat\", \"dsr\", \"ipip\", \"gue\""
    );
    for (word, mode) in [("dsr", Mode::Dsr), ("ipip", Mode::Ipip), ("gue", Mode::Gue)] {
        let config = valid(&format!("{SERVICE}mode = \"{word}\"\n"));
        assert_eq!(config.services[0].mode, mode);
    }
}

#[test]
fn modes_that_keep_the_destination_need_backends_on_the_vips_port() {
    let with = |mode: &str, address: &str| {
        service(&format!("mode = \"{mode}\"\n[[service.backend]]\naddress = \"{address}\"\n"))
    };
    for mode in ["dsr", "ipip", "gue"] {
        assert_eq!(
            with(mode, "198.51.100.11:8080"),
            format!(
                "line 7: service \"web\": backend 198.51.100.11:8080: address: \"198.51.100.11:8080\" has port 8080 \
                 but the VIP 192.0.2.10:80 has 80; mode \"{mode}\" does not change ports, so write \"198.51.100.11:80\", and let the real server listen there"
            )
        );
        assert_eq!(
            with(mode, "192.0.2.10:81"),
            "line 7: service \"web\": backend 192.0.2.10:81: address: 192.0.2.10 is the VIP, which does not \
             identify a single backend; write the real server's own address"
        );
        valid(&format!("{SERVICE}mode = \"{mode}\"\nbackend = [{{ address = \"198.51.100.11:80\" }}]\n"));
    }
}

#[test]
fn the_backends_of_tunnels_may_be_of_another_family_than_the_vip() {
    assert!(
        service("mode = \"dsr\"\nbackend = [{ address = \"[2001:db8::11]:80\" }]\n").contains(
            "a service and its backends must be of one family (except in modes \"ipip\" and \"gue\")"
        )
    );
    for mode in ["ipip", "gue"] {
        let both = "backend = [{ address = \"[2001:db8::11]:80\" }, { address = \"198.51.100.11:80\" }]\n";
        valid(&format!("{SERVICE}mode = \"{mode}\"\n{both}"));
        assert_eq!(
            service(&format!("mode = \"{mode}\"\nsnat_addresses = [\"2001:db8::2\"]\n{both}")),
            "line 7: service \"web\": backend 198.51.100.11:80: address: \"198.51.100.11:80\" is not of the family \
             of snat_addresses (2001:db8::2), the source of packets to it; write snat_addresses of that family, or remove them"
        );
        assert_eq!(
            service(&format!("mode = \"{mode}\"\nsnat_addresses = [\"2001:db8::2\", \"198.51.100.2\"]\n")),
            "line 6: service \"web\": snat_addresses: \"198.51.100.2\" is not of the first one's family; write \
             addresses of one family"
        );
    }
}

#[test]
fn backends_fit_their_service() {
    let cases = [
        (
            "[2001:db8::1]:80",
            "backend [2001:db8::1]:80: address: \"[2001:db8::1]:80\" is IPv6 but the VIP 192.0.2.10:80 is IPv4; \
             a service and its backends must be of one family (except in modes \"ipip\" and \"gue\"), so give the other family its own service",
        ),
        (
            "192.0.2.10:80",
            "backend 192.0.2.10:80: address: \"192.0.2.10:80\" is the VIP of this service, so its packets would \
             come back here; write the real server's own address",
        ),
        (
            "198.51.100.2:80",
            "backend 198.51.100.2:80: address: 198.51.100.2 is one of snat_addresses, which are this host's own; \
             write the real server's own address",
        ),
        (
            "127.0.0.1:80",
            "backend 127.0.0.1:80: address: \"127.0.0.1:80\" is a loopback address, whose packets never reach a \
             network interface; write the address of a host on the network",
        ),
        ("198.51.100.9", "backend #1: address: \"198.51.100.9\" has no port; write \"198.51.100.9:80\""),
    ];
    for (address, message) in cases {
        let lines =
            format!("snat_addresses = [\"198.51.100.2\"]\n[[service.backend]]\naddress = \"{address}\"\n");
        assert_eq!(service(&lines), format!("line 7: service \"web\": {message}"));
    }
    assert_eq!(
        service("backend = [{ address = \"198.51.100.1:80\" },\n{ address = \"198.51.100.1:80\" },\n{}]\n"),
        "line 6: service \"web\": backend 198.51.100.1:80: address: \"198.51.100.1:80\" is listed twice; \
         remove one of them, and give the other the weight\n\
         line 7: service \"web\": backend #3: address: is missing; write address = \"198.51.100.11:8080\""
    );
    assert_eq!(
        service("backend = [{ address = \"198.51.100.1:80\", weight = -1 }]\n"),
        "line 5: service \"web\": backend 198.51.100.1:80: weight: -1 is out of range; write 0 to 65,535"
    );
    valid(&format!("{SERVICE}backend = [{{ address = \"198.51.100.1:80\", weight = 0 }}]\n"));
}

#[test]
fn snat_addresses_need_a_mode_that_uses_them_and_the_vips_family() {
    assert_eq!(
        service("mode = \"nat\"\nsnat_addresses = [\"198.51.100.2\"]\n"),
        "line 6: service \"web\": snat_addresses: mode \"nat\" keeps the client's address; remove \
         snat_addresses, or write mode = \"full-nat\""
    );
    let cases = [
        (
            "\"2001:db8::1\"",
            "\"2001:db8::1\" is not of the VIP's family (192.0.2.10:80); write an address of this host of that family",
        ),
        ("\"0.0.0.0\"", "\"0.0.0.0\" is the unspecified address; write the address of a host on the network"),
        (
            "\"::ffff:198.51.100.2\"",
            "\"::ffff:198.51.100.2\" is an IPv4-mapped IPv6 address; write \"198.51.100.2\"",
        ),
        ("\"198.51.100.2:80\"", "\"198.51.100.2:80\" must not have a port; write \"198.51.100.2\""),
        ("\"eth0\"", "\"eth0\" is not an IP address; write \"198.51.100.2\""),
        ("\"198.51.100.2\", \"198.51.100.2\"", "\"198.51.100.2\" is listed twice; remove one of them"),
    ];
    for (list, message) in cases {
        assert_eq!(
            service(&format!("snat_addresses = [{list}]\n")),
            format!("line 5: service \"web\": snat_addresses: {message}")
        );
    }
    let many: Vec<String> = (1..=17).map(|host| format!("\"198.51.100.{host}\"")).collect();
    assert_eq!(
        service(&format!("snat_addresses = [{}]\n", many.join(", "))),
        "line 5: service \"web\": snat_addresses: 17 addresses are too many; write at most 16"
    );
    valid(&format!("{SERVICE}snat_addresses = [{}]\n", many[..16].join(", ")));
}

#[test]
fn affinity_is_by_a_prefix_of_the_vips_family() {
    let text = format!("{SERVICE}affinity = \"source/24\"\n");
    assert_eq!(valid(&text).services[0].affinity, Affinity::SourcePrefix(24));
    for (value, message) in [
        (
            "source/33",
            "\"source/33\" is out of range for an IPv4 VIP; write \"source/1\" to \"source/32\", or \"source\"",
        ),
        (
            "source/0",
            "\"source/0\" is out of range for an IPv4 VIP; write \"source/1\" to \"source/32\", or \"source\"",
        ),
        ("source/x", "\"source/x\" is not an affinity; write \"none\", \"source\" or \"source/24\""),
        ("client", "\"client\" is not an affinity; write \"none\", \"source\" or \"source/24\""),
    ] {
        assert_eq!(
            service(&format!("affinity = \"{value}\"\n")),
            format!("line 5: service \"web\": affinity: {message}")
        );
    }
    assert_eq!((Affinity::Source.bits(true), Affinity::Source.bits(false)), (32, 64));
}

#[test]
fn clients_are_allowed_and_denied_by_ranges_of_the_vips_family() {
    let text = format!(
        "{SERVICE}allow = [\"203.0.113.0/24\", \"192.0.2.7\"]\ndeny = [\"203.0.113.64/26\", \"0.0.0.0/0\"]\n"
    );
    let config = valid(&text);
    let shown = |ranges: &[Prefix]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&config.services[0].allow), ["203.0.113.0/24", "192.0.2.7/32"]);
    assert_eq!(shown(&config.services[0].deny), ["203.0.113.64/26", "0.0.0.0/0"]);
    for (list, message) in [
        (
            "\"203.0.113.5/24\"",
            "\"203.0.113.5/24\" has host bits set; write \"203.0.113.0/24\", or \"203.0.113.5\" for the single \
             address",
        ),
        (
            "\"203.0.113.0/33\"",
            "\"203.0.113.0/33\" is not a range of addresses; write \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ),
        ("\"office\"", "\"office\" is not a range of addresses; write \"192.0.2.0/24\" or \"2001:db8::/32\""),
        (
            "\"2001:db8::/32\"",
            "\"2001:db8::/32\" is not of the VIP's family (192.0.2.10:80), so it cannot match; remove it",
        ),
        ("\"192.0.2.0/24\", \"192.0.2.0/24\"", "\"192.0.2.0/24\" is listed twice; remove one of them"),
        ("", "is empty; write ranges, or remove the key"),
    ] {
        for key in ["allow", "deny"] {
            assert_eq!(
                service(&format!("{key} = [{list}]\n")),
                format!("line 5: service \"web\": {key}: {message}")
            );
        }
    }
    assert_eq!(
        service("allow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.0/25\",\n\"192.0.2.0/24\"]\n"),
        "line 7: service \"web\": deny: \"192.0.2.0/24\" is also in allow; remove one of them"
    );
    assert_eq!(
        service("allow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.0/25\"]\n[limits]\nsource_ranges = 1\n"),
        "line 8: limits.source_ranges: there are 2 ranges in allow and deny but room for 1; raise it to 2 or more \
         (loaded tables keep their size until `xdp-lb unload`)"
    );
    let empty = serde_json::from_str::<Service>(r#"{"name":"web","vip":"192.0.2.10:80","allow":[]}"#);
    assert!(empty.expect_err("refused").to_string().contains("is empty; write ranges"));
}

#[test]
fn a_rate_of_new_flows_has_bounds_and_a_burst_alone_has_no_effect() {
    let config = valid(&format!("{SERVICE}new_flow_rate = 100\nnew_flow_burst = 1000000\n"));
    let service_read = &config.services[0];
    assert_eq!((service_read.new_flow_rate, service_read.new_flow_burst), (100, 1_000_000));
    assert_eq!(
        service("new_flow_rate = 1000001\n"),
        "line 5: service \"web\": new_flow_rate: 1,000,001 is out of range; write 0 to 1,000,000"
    );
    // As by `xdp-lb service set`, whose changes go into the file.
    let config = valid(&format!("{SERVICE}new_flow_burst = 5\n"));
    assert_eq!((config.services[0].new_flow_rate, config.services[0].new_flow_burst), (0, 5));
}

#[test]
fn a_panic_threshold_is_a_percentage_and_a_backup_a_boolean() {
    let config = valid(&format!(
        "{SERVICE}panic_threshold = 50\n[[service.backend]]\naddress = \"198.51.100.1:80\"\n\
         [[service.backend]]\naddress = \"198.51.100.2:80\"\nbackup = true\n"
    ));
    let service_read = &config.services[0];
    assert_eq!(service_read.panic_threshold, 50);
    assert_eq!(service_read.backends.iter().map(|backend| backend.backup).collect::<Vec<_>>(), [false, true]);
    let slow = valid(&format!("{SERVICE}slow_start = \"1m 30s\"\n"));
    assert_eq!(slow.services[0].slow_start, Some(Duration::from_secs(90)));
    assert_eq!(
        service("slow_start = \"500ms\"\n"),
        "line 5: service \"web\": slow_start: 500ms is out of range; write 1s to 1h"
    );
    assert_eq!(
        service("panic_threshold = 101\n"),
        "line 5: service \"web\": panic_threshold: 101 is out of range; write 0 to 100"
    );
    assert_eq!(
        service("[[service.backend]]\naddress = \"198.51.100.1:80\"\nbackup = \"yes\"\n"),
        "line 7: service \"web\": backend 198.51.100.1:80: backup: is a string; write true or false, without quotes"
    );
}

#[test]
fn an_agent_has_a_port_and_feedback_needs_an_agent_or_latency() {
    let config = valid(&format!(
        "{SERVICE}agent = {{ port = 8081, interval = \"500ms\", send = \"web\\n\", source = \"198.51.100.2\" }}\n\
         feedback = {{ hold = \"5s\" }}\n"
    ));
    let agent = Agent {
        interval: Duration::from_millis(500),
        send: "web\n".into(),
        source: Some("198.51.100.2".parse().unwrap()),
        ..Agent::at(8081)
    };
    assert_eq!(agent.timeout(), Duration::from_millis(500));
    assert_eq!(config.services[0].agent, Some(agent));
    assert_eq!(
        config.services[0].feedback,
        Some(Feedback { hold: Duration::from_secs(5), ..Feedback::default() })
    );
    let plain = valid(&format!("{SERVICE}agent = {{ port = 8081 }}\n"));
    assert_eq!(plain.services[0].agent, Some(Agent::at(8081)));
    assert_eq!(Agent::at(8081).timeout(), Duration::from_secs(1));
    for (keys, what) in [
        ("", "port: is missing; write the port that the agent listens on, such as port = 8081"),
        ("port = 0", "port: 0 is out of range; write 1 to 65,535"),
        ("port = 1, interval = \"50ms\"", "interval: 50ms is out of range; write 100ms to 1h"),
        ("port = 1, timeout = \"3s\"", "timeout: 3s is out of range; write 10ms to 2s"),
        (
            "port = 1, source = \"127.0.0.1:1\"",
            "source: \"127.0.0.1:1\" must not have a port; write \"127.0.0.1\"",
        ),
    ] {
        let line = format!("agent = {{ {keys} }}\n");
        assert_eq!(service(&line), format!("line 5: service \"web\": agent.{what}"));
    }
    let long = format!("agent = {{ port = 1, send = \"{}\" }}\n", "x".repeat(256));
    assert!(service(&long).ends_with("has 256 bytes; write at most 255"));
    assert_eq!(
        service("agent = { port = 1 }\nfeedback = { min_change = 0, hold = \"500ms\" }\n"),
        "line 6: service \"web\": feedback.min_change: 0 is out of range; write 1 to 50\n\
         line 6: service \"web\": feedback.hold: 500ms is out of range; write 1s to 10m"
    );
    assert_eq!(
        service("feedback = {}\n"),
        "line 5: service \"web\": feedback: damps weight adjustments, but nothing adjusts the weights; write \
         latency = true, add agent = { port = 8081 }, or remove it"
    );
    let latency = valid(&format!("{SERVICE}feedback = {{ latency = true, floor = 40 }}\n"));
    let expected = Feedback { latency: true, floor: Some(40), ..Feedback::default() };
    assert_eq!((latency.services[0].feedback, Feedback::default().floor()), (Some(expected), 25));
    assert_eq!(
        service("agent = { port = 1 }\nfeedback = { floor = 40 }\n"),
        "line 6: service \"web\": feedback.floor: requires latency = true; write that, or remove it"
    );
    assert_eq!(
        service("feedback = { latency = true, floor = 0 }\n"),
        "line 5: service \"web\": feedback.floor: 0 is out of range; write 1 to 100"
    );
    for unchecked in ["health_check = { type = \"none\" }\n", "protocol = \"udp\"\n"] {
        assert_eq!(
            service(&format!("{unchecked}feedback = {{ latency = true }}\n")),
            "line 6: service \"web\": feedback.latency: is the latency of health checks, but this service has none; \
             write a health_check, or remove it"
        );
    }
    let backend = "agent = { port = 1, source = \"2001:db8::2\" }\n[[service.backend]]\naddress = \"198.51.100.11:80\"\n";
    assert!(
        service(backend).contains("is not of the family of agent.source (2001:db8::2)"),
        "{}",
        service(backend)
    );
}

#[test]
fn a_circuit_breaker_has_its_ranges_and_counts_failed_flows_only_if_replies_pass() {
    let config = valid(&format!(
        "{SERVICE}circuit_breaker = {{ open = \"10s\", failure_percent = 30, min_flows = 5 }}\n"
    ));
    let breaker = CircuitBreaker {
        open: Duration::from_secs(10),
        failure_percent: Some(30),
        min_flows: Some(5),
        ..CircuitBreaker::default()
    };
    assert_eq!(config.services[0].circuit_breaker, Some(breaker));
    let empty = valid(&format!("{SERVICE}circuit_breaker = {{}}\n"));
    assert_eq!(empty.services[0].circuit_breaker, Some(CircuitBreaker::default()));
    let long = valid(&format!("{SERVICE}circuit_breaker = {{ open = \"10m\" }}\n"));
    assert_eq!(long.services[0].circuit_breaker.unwrap().max_open, Duration::from_secs(600));
    for (keys, what) in [
        ("open = \"0s\"", "open: 0s is out of range; write 1s to 1h"),
        ("open = \"20s\", max_open = \"10s\"", "max_open: 10s is out of range; write 20s to 1day"),
        ("window = \"1s\"", "window: 1s is out of range; write 2s to 10m"),
        ("half_open_portion = 51", "half_open_portion: 51 is out of range; write 1 to 50"),
        ("failure_percent = 0", "failure_percent: 0 is out of range; write 1 to 100"),
        ("min_flows = 5", "min_flows: requires failure_percent; write failure_percent, or remove it"),
        ("max_ejected = 5", "max_ejected: requires failure_percent; write failure_percent, or remove it"),
    ] {
        let line = format!("circuit_breaker = {{ {keys} }}\n");
        assert_eq!(service(&line), format!("line 5: service \"web\": circuit_breaker.{what}"));
    }
    assert_eq!(
        service("mode = \"dsr\"\ncircuit_breaker = { failure_percent = 50 }\n"),
        "line 6: service \"web\": circuit_breaker.failure_percent: in mode \"dsr\" backends' replies do not pass \
         this host, so it cannot see failures; remove it, or write mode = \"nat\" or \"full-nat\""
    );
    assert_eq!(
        service("protocol = \"udp\"\ncircuit_breaker = { failure_percent = 50 }\n"),
        "line 6: service \"web\": circuit_breaker.failure_percent: UDP has no SYNs or resets to count; remove it"
    );
    valid(&format!("{SERVICE}mode = \"dsr\"\ncircuit_breaker = {{ open = \"5s\" }}\n"));
}

#[test]
fn limits_of_flows_have_ranges() {
    let text = "max_flows = 500\nbackend = [{ address = \"198.51.100.1:80\", max_flows = 67108864 }]\n";
    let config = valid(&format!("{SERVICE}{text}"));
    assert_eq!((config.services[0].max_flows, config.services[0].backends[0].max_flows), (500, 1 << 26));
    assert_eq!(
        service("max_flows = 67108865\nbackend = [{ address = \"198.51.100.1:80\", max_flows = -1 }]\n"),
        "line 5: service \"web\": max_flows: 67,108,865 is out of range; write 0 to 67,108,864\n\
         line 6: service \"web\": backend 198.51.100.1:80: max_flows: -1 is out of range; write 0 to 67,108,864"
    );
}

#[test]
fn each_backend_of_a_quic_service_has_a_server_id() {
    let quic = |lines: &str| {
        let head =
            TOP.to_owned() + "[[service]]\nname = \"h3\"\nvip = \"192.0.2.10:443\"\nprotocol = \"udp\"\n";
        head + lines
    };
    let config = valid(&quic(
        "quic = { server_id_length = 2, config_id = 6 }\n\
         backend = [{ address = \"198.51.100.1:443\", server_id = \"0A01\" }]\n",
    ));
    assert_eq!(config.services[0].quic, Some(Quic { server_id_length: 2, config_id: 6 }));
    assert_eq!(config.services[0].backends[0].server_id.map(|id| id.to_string()).as_deref(), Some("0a01"));
    let words = |lines: &str| {
        let told = refused(&quic(lines));
        told.lines()
            .map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned())
            .collect::<Vec<_>>()
    };
    const QUIC: &str = "quic = { server_id_length = 2 }\n";
    let backend = |id: &str| format!("{QUIC}backend = [{{ address = \"198.51.100.1:443\"{id} }}]\n");
    for (lines, message) in [
        (
            backend(""),
            "service \"h3\": backend 198.51.100.1:443: server_id: is missing, but the service has quic; write the \
             server's ID as 4 hex digits",
        ),
        (
            backend(", server_id = \"0a0102\""),
            "service \"h3\": backend 198.51.100.1:443: server_id: \"0a0102\" has 3 bytes, but the service's \
             server_id_length is 2; write 4 hex digits",
        ),
        (
            backend(", server_id = \"0a0\""),
            "service \"h3\": backend 198.51.100.1:443: server_id: \"0a0\" is not a server ID; write 1 to 15 bytes \
             in hex, such as \"0a01\"",
        ),
        (
            backend(", server_id = \"0a01\" }, { address = \"198.51.100.2:443\", server_id = \"0a01\""),
            "service \"h3\": backend 198.51.100.2:443: server_id: \"0a01\" is also the ID of backend \
             198.51.100.1:443; give each backend of the service its own",
        ),
        (
            backend(", server_id = \"0a01\"").replace(QUIC, ""),
            "service \"h3\": backend 198.51.100.1:443: server_id: requires quic; remove it, or add quic to the \
             service",
        ),
        (QUIC.replace('2', "16"), "service \"h3\": quic.server_id_length: 16 is out of range; write 1 to 15"),
        (
            "quic = { server_id_length = 2, config_id = 7 }\n".into(),
            "service \"h3\": quic.config_id: 7 is out of range; write 0 to 6",
        ),
        (
            "quic = {}\n".into(),
            "service \"h3\": quic.server_id_length: is missing; write the length that the servers use, such as \
             server_id_length = 4",
        ),
    ] {
        assert_eq!(words(&lines), [message]);
    }
    assert_eq!(
        service(QUIC),
        "line 5: service \"web\": quic: QUIC runs over UDP; write protocol = \"udp\", or remove it"
    );
}

#[test]
fn services_that_conflict_are_refused() {
    let other = |lines: &str| service(&format!("[[service]]\nname = \"b\"\n{lines}"));
    assert_eq!(
        other("vip = \"192.0.2.10:80\"\n"),
        "line 7: service \"b\": vip: 192.0.2.10:80 tcp is already the VIP of service \"web\"; change the \
         address, the port or the protocol of one"
    );
    assert_eq!(
        other("vip = \"192.0.2.11:80\"\nbackend = [{ address = \"192.0.2.10:80\" }]\n"),
        "line 8: service \"b\": backend 192.0.2.10:80: address: \"192.0.2.10:80\" is the VIP of service \
         \"web\", so its packets would loop through this host; write the real server's own address"
    );
    valid(&format!("{SERVICE}[[service]]\nname = \"b\"\nvip = \"192.0.2.10:80\"\nprotocol = \"udp\"\n"));
    assert_eq!(
        service("snat_addresses = [\"192.0.2.11\"]\n[[service]]\nname = \"b\"\nvip = \"192.0.2.11:8080\"\n"),
        "line 8: service \"b\": vip: 192.0.2.11 is in snat_addresses of service \"web\" and port 8080 in \
         snat_ports (1024-32767), so replies to that service would be taken for this one's packets; change \
         the VIP, that snat address, or snat_ports"
    );
    valid(&format!(
        "{SERVICE}snat_addresses = [\"192.0.2.11\"]\n[[service]]\nname = \"b\"\nvip = \"192.0.2.11:443\"\n"
    ));
}

/// A config of services on these VIPs, each with a backend of its own that keeps the port.
fn on_ports(vips: &[&str]) -> String {
    let services = vips.iter().enumerate().map(|(number, vip)| {
        format!(
            "[[service]]\nname = \"{number}\"\nvip = \"{vip}\"\n[[service.backend]]\naddress = \"198.51.100.{number}:0\"\n"
        )
    });
    format!("interfaces = [\"eth0\"]\n{}", services.collect::<String>())
}

#[test]
fn ranges_of_ports_do_not_overlap_and_their_number_is_limited() {
    let good = ["192.0.2.10:5000-5999", "192.0.2.10:6000-6001", "192.0.2.10:*", "192.0.2.11:5000-5999"];
    let config = valid(&on_ports(&good));
    assert_eq!(config.services[2].vip.to_string(), "192.0.2.10:*");
    assert_eq!(config.services[0].check().probe, Probe::None);
    let refused_vip = |vips: &[&str], what: &str| {
        let message = refused(&on_ports(vips));
        assert!(message.contains(what), "{message}");
    };
    refused_vip(
        &["192.0.2.10:5000-5999", "192.0.2.10:5999-6001"],
        "service \"1\": vip: the ports of 192.0.2.10:5999-6001 overlap those of service \"0\" (192.0.2.10:5000-5999), and \
         neither takes precedence; write ranges that do not overlap",
    );
    refused_vip(&["192.0.2.10:*", "192.0.2.10:*"], "192.0.2.10:* tcp is already the VIP of service \"0\"");
    refused_vip(&["192.0.2.10:7-6"], "\"7-6\" is not a range of ports; write the lowest and the highest");
    refused_vip(&["0.0.0.0:*"], "is the unspecified address");
    let vips: Vec<String> =
        (1..=8).map(|range| format!("192.0.2.10:{range}0-{range}1")).chain(["192.0.2.10:*".into()]).collect();
    let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
    valid(&on_ports(&vips[..8]));
    refused_vip(&vips, "192.0.2.10 already has 8 port ranges, the maximum for an address");
}

#[test]
fn a_service_on_more_than_one_port_keeps_the_port() {
    let backend =
        |address: &str| refused(&on_ports(&["192.0.2.10:5000-5999"]).replace("198.51.100.0:0", address));
    let message = backend("198.51.100.9:8080");
    assert!(
        message.contains(
            "\"198.51.100.9:8080\" has port 8080, but the VIP 192.0.2.10:5000-5999 has more than one, so packets \
             keep their port; write \"198.51.100.9:0\""
        ),
        "{message}"
    );
    assert!(backend("192.0.2.10:0").contains("is the VIP of this service"));
    let alone = refused(&on_ports(&["192.0.2.10:80"]));
    assert!(alone.contains("\"198.51.100.0:0\" has port 0; write 1 to 65535"), "{alone}");
    let with = |check: &str| {
        on_ports(&["192.0.2.10:*"])
            .replace("[[service.backend]]", &format!("health_check = {check}\n[[service.backend]]"))
    };
    let message = refused(&with("{ type = \"tcp\" }"));
    assert!(
        message.contains("health_check.port: is missing, but the VIP 192.0.2.10:* has more than one port"),
        "{message}"
    );
    let message = refused(&with("{ type = \"none\", port = 80 }"));
    assert!(message.contains("health_check.port: does not belong to a check of type \"none\""), "{message}");
    let config = valid(&with("{ type = \"tcp\", port = 8080 }"));
    assert_eq!(config.services[0].check().port, Some(8080));
    let snat = "snat_ports = \"6000-7000\"\n".to_owned()
        + &on_ports(&["192.0.2.10:5000-6500"])
            .replace("[[service.backend]]", "snat_addresses = [\"192.0.2.10\"]\n[[service.backend]]");
    assert!(refused(&snat).contains("is in snat_addresses"));
    let looping = on_ports(&["192.0.2.10:5000-5999"])
        + "[[service]]\nname = \"b\"\nvip = \"192.0.2.11:80\"\n[[service.backend]]\naddress = \"192.0.2.10:5500\"\n";
    assert!(refused(&looping).contains("is the VIP of service \"0\", so its packets would loop"));
}

#[test]
fn services_and_backends_must_fit_the_limits() {
    assert_eq!(
        service(
            "backend = [{ address = \"198.51.100.1:80\" }, { address = \"198.51.100.2:80\" }]\n\
             [[service]]\nname = \"b\"\nvip = \"192.0.2.11:80\"\n\
             [limits]\nservices = 1\nbackends = 1\n"
        ),
        "line 10: limits.services: there are 2 services but room for 1; raise it to 2 or more (loaded tables keep \
         their size until `xdp-lb unload`)\n\
         line 11: limits.backends: there are 2 backends but room for 1; raise it to 2 or more (loaded tables keep their size until `xdp-lb unload`)"
    );
}

#[test]
fn checks_of_the_vip_need_a_mode_in_which_backends_have_it() {
    let service = |mode: &str, keys: &str, backend: &str| {
        format!(
            "{SERVICE}mode = \"{mode}\"\nhealth_check = {{ via = \"vip\", {keys} }}\nbackend = [{{ address = \"{backend}\" }}]\n"
        )
    };
    let on_v4 = |mode: &str, keys: &str| service(mode, keys, "198.51.100.11:80");
    for mode in ["dsr", "ipip", "gue"] {
        let config = valid(&on_v4(mode, "type = \"tcp\""));
        assert_eq!(config.services[0].check().via, check::Via::Vip);
    }
    for mode in ["nat", "full-nat"] {
        assert_eq!(
            refused(&on_v4(mode, "type = \"tcp\"")),
            format!(
                "line 6: service \"web\": health_check.via: \"vip\" needs mode \"dsr\", \"ipip\" or \"gue\", whose \
                 backends have the VIP, but this service's mode is \"{mode}\"; remove it, or write \"backend\""
            )
        );
    }
    for kind in ["icmp", "none", "exec\", command = [\"/bin/true\"], user = \"nobody"] {
        let message =
            refused(&format!("allow_exec_checks = true\n{}", on_v4("dsr", &format!("type = \"{kind}\""))));
        assert!(message.contains("health_check.via: does not belong to a check of type"), "{message}");
    }
    let message = refused(&on_v4("dsr", "type = \"tcp\"").replace("via = \"vip\"", "via = \"vpi\""));
    assert!(message.contains("health_check.via: \"vpi\" is not known; did you mean \"vip\"?"), "{message}");
    // The address that the VIP's packets come from is of its family, whatever the backend's.
    let message = refused(&service("ipip", "type = \"tcp\"", "[2001:db8::11]:80"));
    assert!(
        message.contains(
            "health_check.source: is missing: a backend is not of the family of the VIP 192.0.2.10:80"
        ),
        "{message}"
    );
    valid(&service("ipip", "type = \"tcp\", source = \"198.51.100.2\"", "[2001:db8::11]:80"));
    let message = refused(&on_v4("ipip", "type = \"tcp\", source = \"2001:db8::2\""));
    assert!(
        message.contains("health_check.source: 2001:db8::2 is not of the family of the VIP 192.0.2.10:80"),
        "{message}"
    );
}

#[test]
fn health_checks_have_the_keys_of_their_type_within_their_ranges() {
    check_keys_of_checks(&[
        ("", "health_check.type: is missing; write type = \"tcp\""),
        (
            "type = \"htp\"",
            "health_check.type: \"htp\" is not known; did you mean \"http\"? One of: \"tcp\", \"http\", \"https\", \
             \"dns\", \"udp\", \"icmp\", \"grpc\", \"exec\", \"none\"",
        ),
        (
            "type = \"tcp\", path = \"/\"",
            "health_check.path: belongs to a check of type \"http\" or \"https\", but this one has type \"tcp\"; \
             remove it or change the type",
        ),
        (
            "type = \"http\", record = \"A\"",
            "health_check.record: belongs to a check of type \"dns\", but this one has type \"http\"; remove it or \
             change the type",
        ),
        (
            "type = \"tcp\", interval = \"99ms\"",
            "health_check.interval: 99ms is out of range; write 100ms to 1h",
        ),
        (
            "type = \"tcp\", interval = 1",
            "health_check.interval: is a whole number; write a string, in quotes",
        ),
        (
            "type = \"tcp\", interval = \"soon\"",
            "health_check.interval: \"soon\" is not a duration (expected number at 0); write \"500ms\" or \"1m 30s\"",
        ),
        (
            "type = \"tcp\", timeout = \"2s\"",
            "health_check.timeout: 2s is not from 10ms to the interval (1s), since one check ends before the next \
             begins; write less, or a longer interval",
        ),
        (
            "type = \"tcp\", timeout = \"9ms\"",
            "health_check.timeout: 9ms is not from 10ms to the interval (1s), since one check ends before the next \
             begins; write less, or a longer interval",
        ),
        (
            "type = \"tcp\", fast_interval = \"2s\"",
            "health_check.fast_interval: 2s is not from 100ms to the interval (1s); write less, or a longer interval",
        ),
        (
            "type = \"tcp\", fast_interval = \"99ms\"",
            "health_check.fast_interval: 99ms is not from 100ms to the interval (1s); write less, or a longer interval",
        ),
        ("type = \"tcp\", jitter = 51", "health_check.jitter: 51 is out of range; write 0 to 50"),
        ("type = \"tcp\", port = 0", "health_check.port: 0 is out of range; write 1 to 65,535"),
        (
            "type = \"tcp\", source = \"eth0\"",
            "health_check.source: \"eth0\" is not an IP address; write \"198.51.100.2\"",
        ),
        (
            "type = \"tcp\", source = \"127.0.0.1\"",
            "health_check.source: \"127.0.0.1\" is a loopback address, whose packets never reach a network \
             interface; write the address of a host on the network",
        ),
        ("type = \"tcp\", rise = 0", "health_check.rise: 0 is out of range; write 1 to 100"),
        ("type = \"tcp\", fall = 101", "health_check.fall: 101 is out of range; write 1 to 100"),
    ]);
}

#[test]
fn http_and_dns_checks_ask_for_a_valid_path_or_name() {
    check_keys_of_checks(&[
        (
            "type = \"http\", path = \"healthz\"",
            "health_check.path: \"healthz\" is not the path of a request; write it from its \"/\" on, with spaces \
             and the like as %20, at most 2048 characters",
        ),
        (
            "type = \"http\", path = \"/a b\"",
            "health_check.path: \"/a b\" is not the path of a request; write it from its \"/\" on, with spaces and \
             the like as %20, at most 2048 characters",
        ),
        (
            "type = \"http\", path = \"/a\\r\\nX: y\"",
            "health_check.path: \"/a\\r\\nX: y\" is not the path of a request; write it from its \"/\" on, with \
             spaces and the like as %20, at most 2048 characters",
        ),
        (
            "type = \"http\", host = \"a\\r\\nb\"",
            "health_check.host: \"a\\r\\nb\" is not the value of a Host header; write \"example.com\" or \
             \"example.com:8080\"",
        ),
        (
            "type = \"http\", status = \"2xx\"",
            "health_check.status: \"2xx\" is not a status or a range of them; write \"200\", \"200-399\" or \"200-299, 401\"",
        ),
        (
            "type = \"http\", status = \"399-200\"",
            "health_check.status: 399-200 is not a range of statuses from 100 to 599; write \"200-399\"",
        ),
        (
            "type = \"dns\", name = \"a..b\"",
            "health_check.name: \"a..b\" is not a DNS name; write \"example.com\", or \".\" for the root",
        ),
        (
            "type = \"dns\", record = \"AXFR\"",
            "health_check.record: \"AXFR\" is not a supported record type; write one of A, AAAA, CAA, CNAME, \
             HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT",
        ),
    ]);
}

/// Whether a check with these keys is refused with these messages.
#[track_caller]
fn check_keys_of_checks(cases: &[(&str, &str)]) {
    for (keys, message) in cases {
        let told = service(&format!("health_check = {{ {keys} }}\n"));
        assert_eq!(told, format!("line 5: service \"web\": {message}"), "{keys}");
    }
}

#[test]
fn an_http_check_has_valid_headers_and_a_valid_body() {
    check_keys_of_checks(&[
        (
            r#"type = "http", method = "GTE""#,
            r#"health_check.method: "GTE" is not known; did you mean "GET"? One of: "GET", "HEAD", "OPTIONS""#,
        ),
        (
            r#"type = "http", status = "200, 2xx""#,
            r#"health_check.status: "2xx" is not a status or a range of them; write "200", "200-399" or "200-299, 401""#,
        ),
        (
            r#"type = "http", headers = ["X-Probe"]"#,
            r#"health_check.headers: "X-Probe" is not a header; write it as it is sent, "X-Probe: 1""#,
        ),
        (
            r#"type = "http", headers = ["X Probe: 1"]"#,
            r#"health_check.headers: "X Probe" is not the name of a header; write "X-Probe: 1""#,
        ),
        (
            r#"type = "http", headers = ["X: a\u0007b"]"#,
            r#"health_check.headers: "a\u{7}b" is not the value of a header; write printable characters, at most 1024"#,
        ),
        (
            r#"type = "http", headers = ["host: a"]"#,
            r#"health_check.headers: "Host" has its own key; write host = "www.example.com""#,
        ),
        (
            r#"type = "http", headers = ["Content-Length: 1"]"#,
            r#"health_check.headers: "Content-Length" is set by the connection itself; remove it"#,
        ),
        (
            r#"type = "http", headers = ["X: 1", "x: 2"]"#,
            r#"health_check.headers: "x" is listed twice; remove one of them"#,
        ),
        (
            r#"type = "http", body = "a", body_regex = "b""#,
            r#"health_check.body_regex: conflicts with "body"; remove one of them"#,
        ),
        (
            r#"type = "http", body_regex = "a(b""#,
            r#"health_check.body_regex: "a(b" is not a regular expression that can be used (unclosed group)"#,
        ),
        (
            r#"type = "http", body_regex = "(.{1000}){1000}""#,
            r#"health_check.body_regex: "(.{1000}){1000}" is not a regular expression that can be used (Compiled regex exceeds size limit of 262144 bytes.)"#,
        ),
        (
            r#"type = "http", body = """#,
            "health_check.body: is empty, which every body contains; write some text, or remove it",
        ),
        (
            r#"type = "http", body = "ok", method = "HEAD""#,
            r#"health_check.body: a response to HEAD has no body; write method = "GET", or remove it"#,
        ),
    ]);
}

#[test]
fn the_keys_of_tls_grpc_udp_and_exec_checks_fit_together() {
    let long = "x".repeat(1401);
    check_keys_of_checks(&[
        (
            r#"type = "http", verify = false"#,
            r#"health_check.verify: belongs to a check of type "https" or "grpc", but this one has type "http"; remove it or change the type"#,
        ),
        (
            r#"type = "https", verify = "no""#,
            "health_check.verify: is a string; write true or false, without quotes",
        ),
        (
            r#"type = "https", min_tls = "1.1""#,
            r#"health_check.min_tls: "1.1" is not known; did you mean "1.2"? One of: "1.2", "1.3""#,
        ),
        (
            r#"type = "https", server_name = "a b""#,
            r#"health_check.server_name: "a b" is not the name in a certificate; write "www.example.com""#,
        ),
        (
            r#"type = "https", ca_file = "ca.pem""#,
            r#"health_check.ca_file: "ca.pem" is not absolute; write the path from "/" on"#,
        ),
        (
            r#"type = "https", ca_file = "/ca.pem", verify = false"#,
            "health_check.ca_file: conflicts with verify = false, which accepts any certificate; remove one of them",
        ),
        (
            r#"type = "grpc", min_tls = "1.3""#,
            "health_check.min_tls: requires TLS; write tls = true, or remove it",
        ),
        (
            r#"type = "grpc", service = "a\n""#,
            r#"health_check.service: "a\n" is not the name of a service; write it as its .proto file has it, "shop.v1.Cart", in at most 255 bytes"#,
        ),
        (
            r#"type = "udp""#,
            r#"health_check.send: is missing; write send = "ping", or send_hex = "70696e67""#,
        ),
        (
            r#"type = "udp", send_hex = "0a0""#,
            r#"health_check.send_hex: "0a0" is not hex; write two digits per byte, such as "0a0b""#,
        ),
        (
            r#"type = "udp", send = "a", send_hex = "0a""#,
            r#"health_check.send_hex: conflicts with "send"; remove one of them"#,
        ),
        (
            r#"type = "udp", send = "a", expect = """#,
            "health_check.expect: is empty; write text that the answer must contain, or remove it to accept any \
             answer",
        ),
        (
            r#"type = "icmp", port = 80"#,
            r#"health_check.port: does not belong to a check of type "icmp"; remove it or change the type"#,
        ),
        (
            r#"type = "exec""#,
            r#"health_check.command: is missing; write command = ["/usr/local/bin/check-web", "--fast"]"#,
        ),
    ]);
    let told = service(&format!("health_check = {{ type = \"udp\", send = \"{long}\" }}\n"));
    assert_eq!(told, "line 5: service \"web\": health_check.send: has 1401 bytes; write at most 1400");
}

#[test]
fn exec_checks_are_refused_unless_the_file_allows_them() {
    let check = "health_check = { type = \"exec\", command = [\"/bin/check\"], user = \"probe\" }\n";
    assert_eq!(
        service(check),
        "line 5: service \"web\": health_check.type: \"exec\" runs a program on this host, which is not allowed; \
         write allow_exec_checks = true at the top of the config file, or use another type"
    );
    let config = valid(&format!("allow_exec_checks = true\n{SERVICE}{check}"));
    let probe = Probe::Exec { command: vec!["/bin/check".into()], user: "probe".into() };
    assert_eq!(config.services[0].check().probe, probe);
    for (command, what) in [
        ("[\"check\"]", "its program \"check\" is not absolute; write the path from \"/\" on"),
        ("[\"/bin/check\", \"a\\u0000\"]", "contains a NUL byte; remove it"),
    ] {
        let text = check.replace("[\"/bin/check\"]", command);
        let told = refused(&format!("allow_exec_checks = true\n{SERVICE}{text}"));
        assert_eq!(told, format!("line 6: service \"web\": health_check.command: {what}"));
    }
}

#[test]
fn a_checks_source_is_of_the_family_of_every_backend() {
    assert_eq!(
        service(
            "mode = \"gue\"\nhealth_check = { type = \"tcp\", source = \"198.51.100.2\" }\n\
             backend = [{ address = \"198.51.100.11:80\" }, { address = \"[2001:db8::1]:80\" }]\n"
        ),
        "line 7: service \"web\": backend [2001:db8::1]:80: address: \"[2001:db8::1]:80\" is not of the family of \
         health_check.source (198.51.100.2), which its checks come from; write a source of that family, or remove it"
    );
}

#[test]
fn health_checks_have_defaults_that_fit_the_interval() {
    let check = |keys: &str| {
        let config = valid(&format!("{SERVICE}health_check = {{ {keys} }}\n"));
        config.services[0].check()
    };
    assert_eq!(check("type = \"tcp\""), HealthCheck::new(Probe::Tcp));
    assert_eq!(check("type = \"none\"").probe, Probe::None);
    let quick = check("type = \"tcp\", interval = \"200ms\"");
    assert_eq!(quick.timeout, Duration::from_millis(200));
    let elsewhere = check(
        "type = \"tcp\", port = 9000, source = \"198.51.100.2\", fast_interval = \"250ms\", jitter = 0",
    );
    assert_eq!((elsewhere.port, elsewhere.source), (Some(9000), "198.51.100.2".parse().ok()));
    assert_eq!((elsewhere.fast_interval, elsewhere.jitter), (Some(Duration::from_millis(250)), 0));
    assert_eq!(
        check("type = \"http\", status = \"204\"").probe,
        Probe::Http(check::Http {
            status: vec![check::StatusRange { low: 204, high: 204 }],
            ..check::Http::get("/")
        })
    );
    assert_eq!(check("type = \"dns\"").probe, Probe::Dns { name: ".".into(), record: "NS".into() });
    assert_eq!(
        check("type = \"dns\", name = \"example.com\"").probe,
        Probe::Dns { name: "example.com".into(), record: "A".into() }
    );
}

#[test]
fn a_service_without_a_check_has_the_default_of_its_protocol() {
    let config =
        valid(&format!("{SERVICE}[[service]]\nname = \"b\"\nvip = \"192.0.2.1:53\"\nprotocol = \"udp\"\n"));
    assert_eq!(config.services[0].check().probe, Probe::Tcp);
    assert_eq!(config.services[1].check().probe, Probe::None);
}

#[test]
fn an_error_in_one_value_does_not_hide_those_of_others() {
    let message = service(
        "snat_addresses = [\"x\"]\nhealth_check = { type = \"tcp\", rise = 0, fall = 0 }\n\
         [[service.backend]]\naddress = \"y\"\n[[service.backend]]\naddress = \"192.0.2.10:80\"\n",
    );
    assert_eq!(message.lines().count(), 5, "{message}");
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_change_to_a_valid_file_makes_the_parser_panic(
        edits in prop::collection::vec((0..FIRST.len(), any::<char>(), any::<bool>()), 1..8),
    ) {
        let mut text: Vec<char> = FIRST.chars().collect();
        for (at, new, replace) in edits {
            let at = at.min(text.len() - 1);
            if replace { text[at] = new } else { text.insert(at, new) }
        }
        if let Err(errors) = parse(&text.into_iter().collect::<String>()) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(errors.to_string().lines().count() >= errors.errors.len());
        }
    }

    #[test]
    fn no_bytes_make_the_loader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        let _ = load(file.path());
    }
}

/// `docs/configuration.md` and the pages that it is the index of.
fn documentation() -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = std::fs::read_dir(docs.join("configuration")).expect("a folder of pages");
    let pages = pages.map(|page| page.expect("a page").path());
    let pages = std::iter::once(docs.join("configuration.md")).chain(pages);
    pages.map(|page| std::fs::read_to_string(page).expect("a page of text")).collect()
}

/// Every TOML and JSON block of the documentation, and every key's row.
#[test]
fn the_documented_config_is_valid_and_complete() {
    let text = documentation();
    let blocks = |language: &str| -> Vec<String> {
        let opening = format!("```{language}\n");
        text.split(&opening).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
    };
    let toml = blocks("toml");
    assert!(!toml.is_empty());
    for block in toml {
        valid(&block);
    }
    let json = blocks("json");
    assert!(!json.is_empty());
    for block in json {
        let state = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(state.path(), block).expect("written");
        crate::store::read::<crate::overlay::Overlay>(state.path()).expect("a state file");
    }
    for key in
        TOP_KEYS.iter().chain(API_KEYS).chain(Service::KEYS).chain(check::KEYS).chain(written_discovery::KEYS)
    {
        let row = format!("| `{key}` |");
        let heading = format!("[{key}]");
        assert!(text.contains(&row) || text.contains(&heading), "{key} is not documented");
    }
}

/// The text without the targets of its links.
fn without_links(text: &str) -> String {
    let link = regex::Regex::new(r"\[([^\]\n]*)\]\([^)\n]*\)").expect("a pattern");
    link.replace_all(text, "$1").into_owned()
}

/// The rows of the documentation begin as the options are declared; the last column may go on.
#[test]
fn each_option_is_documented_as_it_is_declared() {
    let text = without_links(&documentation());
    let service = Service::OPTIONS.iter().map(|row| (row.key, row.default, row.range, row.sentence));
    let backend = Backend::OPTIONS.iter().map(|row| (row.key, row.default, row.range, row.sentence));
    let wanted = |(key, default, range, sentence): (&str, &str, &str, &str)| {
        // The sentence may lead to a page that says more.
        format!("| `{key}` | {default} | {range} | {}", sentence.trim_end_matches('.'))
    };
    let missing: Vec<String> =
        service.chain(backend).map(wanted).filter(|row| !text.contains(&format!("\n{row}"))).collect();
    assert!(missing.is_empty(), "docs/configuration has no rows that begin so:\n{}", missing.join("\n"));
}

#[test]
fn discovery_is_read_and_every_error_in_it_has_its_line() {
    let head = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n";
    let read = |rest: &str| parse(&format!("{head}{rest}"));
    let config = read(
        "[service.discovery]\ntype = \"dns\"\nname = \"web.example.com\"\nresolvers = [\"192.0.2.53\"]\n",
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let discovery = config.services[0].discovery.clone().expect("it is there");
    assert_eq!(discovery.to_string(), "dns web.example.com");
    for (rest, errors) in [
        (
            "[service.discovery]\ntype = \"dns\"\nname = \"a..b\"\nrecord = \"AAAA\"\nmin_ttl = \"10ms\"\n\
             max_ttl = \"2days\"\ntimeout = \"1m\"\nresolvers = [\"0.0.0.0\"]\ndrain_timeout = \"9days\"\n",
            &["7: ", "8: ", "9: ", "10: ", "11: ", "12: ", "13: "][..],
        ),
        (
            "mode = \"dsr\"\n[service.discovery]\ntype = \"dns\"\nname = \"web\"\nport = 81\nmax_backends = 0\n",
            &["10: service \"web\": discovery.max_backends: 0 is out of range"],
        ),
        (
            "mode = \"dsr\"\n[service.discovery]\ntype = \"dns\"\nname = \"web\"\nport = 81\nmin_ttl = \"1h\"\n",
            &[
                "9: service \"web\": discovery.port: 81 is not the VIP's port",
                "6: service \"web\": discovery.max_ttl: 5m is shorter than min_ttl (1h)",
            ],
        ),
        (
            "protocol = \"udp\"\nquic = { server_id_length = 4 }\ndiscovery = { type = \"dns\", name = \"web\" }\n",
            &["7: service \"web\": discovery.type: DNS does not provide the server IDs"],
        ),
        (
            "discovery = { type = \"file\", path = \"web.json\" }\n",
            &["5: service \"web\": discovery.path: \"web.json\" is not absolute"],
        ),
        (
            "discovery = { type = \"dns\", nme = \"web\" }\n",
            &["did you mean \"name\"?", "discovery.name: is missing"],
        ),
    ] {
        let said = read(rest).expect_err("refused").to_string();
        for error in errors {
            assert!(said.contains(error), "{error:?} is not in:\n{said}");
        }
    }
}

#[test]
fn a_listener_for_other_hosts_needs_its_files_and_an_allowed_certificate() {
    let api = |lines: &str| parse(&format!("{TOP}[api]\n{lines}"));
    let refused = |lines: &str| api(lines).expect_err("refused").to_string();
    let files = "certificate = \"/c.pem\"\nkey = \"/c.key\"\nclient_ca = \"/ca.pem\"\n";
    let whole = format!("listen = \"[2001:db8::1]:7443\"\n{files}admin_certificates = [\"alice\"]\n");
    assert_eq!(
        api(&format!("{whole}read_certificates = [\"spiffe://example.com/x\", \"*\"]"))
            .expect("valid")
            .api
            .remote,
        Some(Remote {
            listen: "[2001:db8::1]:7443".parse().expect("an address"),
            certificate: "/c.pem".into(),
            key: "/c.key".into(),
            client_ca: "/ca.pem".into(),
            admin_certificates: vec!["alice".into()],
            read_certificates: vec!["spiffe://example.com/x".into(), "*".into()],
        })
    );
    assert_eq!(
        refused(
            "listen = \"192.0.2.1:0\"\nkey = \"x.key\"\nadmin_certificates = [\"*\", \"\", \"a\"]\n\
             read_certificates = [\"a\", \" b\"]"
        ),
        "line 2: api.certificate: is missing; write certificate = \"/etc/xdp-lb/api.pem\"\n\
         line 2: api.client_ca: is missing; write client_ca = \"/etc/xdp-lb/clients.pem\"\n\
         line 3: api.listen: \"192.0.2.1:0\" has port 0, which clients cannot know; write 1 to 65535\n\
         line 4: api.key: \"x.key\" is not absolute; write the path from \"/\" on\n\
         line 5: api: admin_certificates: \"*\" would let everyone with a certificate signed by client_ca change everything; list the names of those who may\n\
         line 5: api: admin_certificates: is empty; write a name from the certificate, such as \"alice\"\n\
         line 6: api: read_certificates: \" b\" begins or ends with a space, or contains a control character; write a name exactly as in the certificate\n\
         line 6: api: read_certificates: \"a\" is also in admin_certificates, who can read as well; remove one of them"
    );
    assert_eq!(
        refused(&format!("listen = \"192.0.2.1:7443\"\n{files}")),
        "line 3: api.listen: nobody could use it; list the certificates that may, as in admin_certificates = \
         [\"alice\"], read_certificates = [\"*\"]"
    );
    let nowhere = "requires a listen address; write listen = \"192.0.2.1:7443\", or remove it";
    let keys = ["certificate", "key", "client_ca", "read_certificates"];
    let lines: Vec<_> =
        (3..).zip(keys).map(|(line, key)| format!("line {line}: api.{key}: {nowhere}")).collect();
    assert_eq!(refused(&format!("{files}read_certificates = [\"*\"]")), lines.join("\n"));
}
