//! `xdp-lb doctor` finds the problems of a host, and none on a healthy one.

use std::fs;
use std::process::Output;

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Network, paths, web};

/// A host to examine, and a config file for it.
struct Bed {
    network: Network,
}

impl Bed {
    fn new() -> Self {
        Self { network: Network::new("doctor", 1).unwrap() }
    }

    /// Runs it on this config, without a daemon.
    fn run(&self, config: &str) -> Output {
        let host = &self.network.lb;
        let file = host.dir().join("xdp-lb.toml");
        let pins = format!("/sys/fs/bpf/{}", self.network.lab.name());
        let text = if config.contains("interfaces") {
            config.to_owned()
        } else {
            format!("interfaces = [\"eth0\", \"eth1\"]\n{config}")
        };
        let state = host.dir().join("state.json");
        fs::write(&file, format!("pin_path = \"{pins}\"\nstate_file = {state:?}\n{text}")).unwrap();
        let mut command = host.command(paths::daemon());
        command.args(["doctor", "--output", "json", "--config"]).arg(&file);
        // No daemon of another test.
        command.arg("--socket").arg(host.dir().join("none.sock")).output().unwrap()
    }

    /// What it finds: checks, what is wrong, and fixes.
    fn findings(&self, config: &str) -> Vec<[String; 3]> {
        let output = self.run(config);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!findings.is_empty())), "{report}");
        let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        findings.iter().map(|finding| ["check", "what", "fix"].map(|key| word(finding, key))).collect()
    }

    /// Asserts that it finds just this.
    #[track_caller]
    fn assert_finds(&self, config: &str, check: &str, what: &str, fix: &str) {
        let findings = self.findings(config);
        let is_it =
            |found: &&[String; 3]| found[0] == check && found[1].contains(what) && found[2].contains(fix);
        assert_eq!(
            (findings.len(), findings.iter().filter(is_it).count()),
            (1, 1),
            "{check}: {what}: {findings:#?}"
        );
    }
}

fn tunnel(mode: &str) -> String {
    web(mode, &[1]).replace("192.0.2.10:80", "192.0.2.10:8080")
}

#[test]
fn each_problem_of_a_host_is_found_with_its_fix_and_a_healthy_host_has_none() {
    let bed = Bed::new();
    let lb = bed.network.lb.clone();
    let run = |line: &str| lb.run(line).unwrap();
    let well = web("nat", &[1]);
    assert_eq!(bed.findings(&well), Vec::<[String; 3]>::new());

    // Forwarding, VIPs and ports: what the daemon warns of, too.
    lb.sysctl("net.ipv4.conf.eth1.forwarding", "0").unwrap();
    bed.assert_finds(&well, "host", "ipv4 forwarding is off on eth1", "sysctl -w net.ipv4.ip_forward=1");
    lb.sysctl("net.ipv4.ip_forward", "1").unwrap();
    lb.sysctl("net.ipv4.conf.eth1.forwarding", "1").unwrap();
    run("ip address del 192.0.2.10/32 dev eth0");
    bed.assert_finds(
        &well,
        "host",
        "this host does not own the VIP 192.0.2.10",
        "ip address add 192.0.2.10/32",
    );
    run("ip address add 192.0.2.10/32 dev eth0");
    lb.sysctl("net.ipv4.ip_local_port_range", "20000 60999").unwrap();
    bed.assert_finds(
        &web("full-nat", &[1]),
        "host",
        "this host's own ports",
        "ip_local_reserved_ports=20000-32767",
    );
    lb.sysctl("net.ipv4.ip_local_port_range", "32768 60999").unwrap();

    // The reverse path.
    lb.sysctl("net.ipv4.conf.eth0.rp_filter", "1").unwrap();
    bed.assert_finds(
        &well,
        "rp-filter",
        "eth0 uses strict reverse path filtering",
        "net.ipv4.conf.eth0.rp_filter=2",
    );
    lb.sysctl("net.ipv4.conf.eth0.rp_filter", "0").unwrap();

    // Interfaces, and what is attached to them.
    let other = format!("interfaces = [\"eth0\", \"eth1\", \"eth9\"]\n{well}");
    bed.assert_finds(
        &other,
        "interfaces",
        "interface eth9 is in the config but does not exist",
        "existing \
        interfaces: lo, eth0, eth1",
    );
    run("ip link add spare type veth peer name peer");
    let spare = format!("interfaces = [\"eth0\", \"eth1\", \"spare\"]\n{well}");
    bed.assert_finds(&spare, "interfaces", "spare is down", "ip link set spare up");
    run("ip link set spare up");
    bed.assert_finds(&spare, "interfaces", "spare has no carrier", "switch port");
    let program = XdpPass::attach(&lb, "eth0").unwrap();
    bed.assert_finds(&well, "xdp", "another XDP program is attached to eth0", "ip link set dev eth0 xdp off");
    drop(program);
    assert_eq!(bed.findings(&well), Vec::<[String; 3]>::new());

    // Offloads, where the kernel has VLAN devices.
    match lb.run("ip link add link eth1 name eth1.7 type vlan id 7") {
        Ok(_) => {
            run("ethtool -K eth1 rxvlan on");
            bed.assert_finds(
                &well,
                "offloads",
                "eth1 has VLAN devices, but strips VLAN tags",
                "ethtool -K eth1 \
                rxvlan off",
            );
            run("ethtool -K eth1 rxvlan off");
            assert_eq!(bed.findings(&well), Vec::<[String; 3]>::new());
        }
        Err(error) => println!("VLAN offloads are not examined: {error:#}"),
    }

    // MTU, and backends that cannot be reached, or by another way.
    bed.assert_finds(&tunnel("ipip"), "mtu", "mode ipip adds 20 bytes", "ip link set eth1 mtu 1520");
    bed.assert_finds(&tunnel("gue"), "mtu", "mode gue adds 28 bytes", "ip link set eth1 mtu 1528");
    run("ip link set eth1 mtu 1528");
    // The largest that clients send is that of the clients' interface.
    assert_eq!(
        bed.findings(&format!("interfaces = [\"eth0\"]\n{}", tunnel("gue"))),
        Vec::<[String; 3]>::new()
    );
    run("ip link set eth1 mtu 1500");
    let silent = well.replace("198.51.100.11", "198.51.100.77");
    bed.assert_finds(&silent, "next-hops", "198.51.100.77:8080 is unreachable", "fix the route");
    let unrouted = well.replace("198.51.100.11", "203.0.113.77");
    bed.assert_finds(&unrouted, "next-hops", "no route to 203.0.113.77", "fix the route");
    let stray = format!("interfaces = [\"eth0\"]\n{well}");
    bed.assert_finds(&stray, "next-hops", "through eth1, which is not in `interfaces`", "add eth1");

    // VIPs that the daemon puts there.
    bed.assert_finds(
        &format!("vips.interface = \"vips9\"\n{well}"),
        "vips",
        "vips.interface names vips9, which does not exist",
        "write one of",
    );
    let v6 =
        well.replace("192.0.2.10:80", "[2001:db8:1::10]:80").replace("198.51.100.11", "[2001:db8:2::11]");
    bed.assert_finds(
        &format!("vips.interface = \"lo\"\n{v6}"),
        "vips",
        "an IPv6 VIP on lo",
        "the interface towards clients",
    );

    // A file system without pins, and too few neighbours and files.
    let elsewhere = well.clone();
    let output = {
        let file = lb.dir().join("elsewhere.toml");
        fs::write(&file, format!("interfaces = [\"eth0\", \"eth1\"]\npin_path = \"/run/pins\"\n{elsewhere}"))
            .unwrap();
        let mut command = lb.command("sh");
        let words = format!(
            "ulimit -n 64; exec {} doctor --socket /run/none --config {}",
            paths::daemon().display(),
            file.display()
        );
        command.args(["-c", &words]).output().unwrap()
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("fix: mount -t bpf bpf /run/pins") && said.contains("fix: set LimitNOFILE="),
        "{said}"
    );

    // A firewall, where there is nft.
    if paths::program("nft").is_some() {
        run("nft add table inet filter");
        run("nft add chain inet filter output { type filter hook output priority 0 ; policy drop ; }");
        let findings = bed.findings(&well);
        assert!(
            findings
                .iter()
                .any(|found| found[0] == "firewall" && found[2].contains("nft add rule inet filter output")),
            "{findings:#?}"
        );
    }
}

#[test]
fn a_failed_examination_exits_with_2() {
    let bed = Bed::new();
    let output = bed.run("interfaces = [\"eth0\"]\nvpis = 1\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot examine this host") && said.contains("did you mean \"vips\""), "{said}");
}

#[test]
fn with_a_daemon_its_troubles_are_found_and_its_programs_are_recognized() {
    let bed = Bed::new();
    let lb = bed.network.lb.clone();
    let _nginx = Nginx::start(&bed.network.backends[0], 8080).unwrap();
    let auto = format!("attach = \"auto\"\n{}", web("full-nat", &[1]));
    let daemon = Daemon::start(&lb, &["eth0", "eth1"], &auto).unwrap();
    daemon.wait_until_up().unwrap();
    let said = daemon.cli(&["doctor"]).unwrap();
    assert!(
        said.trim_end().ends_with("14 checks, 0 findings") || said.contains("13 checks, 0 findings"),
        "{said}"
    );
    // Native XDP on a veth loses what its other end sends by default.
    drop(daemon);
    let daemon = Daemon::start(&lb, &["eth0", "eth1"], &web("full-nat", &[1])).unwrap();
    let output = daemon.cli_output(&["doctor"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("native XDP on eth0, a veth") && said.contains("attach = \"tc\""), "{said}");
}
