//! The daemon puts VIPs on the host, announces them, and takes them away.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Host, Network, Process, paths, request, until};

const SOON: Duration = Duration::from_secs(40);
const VIPS: [&str; 2] = ["198.51.100.10", "2001:db8:2::10"];

/// A service at each of the VIPs, with the first backend, and where the VIPs are put.
fn config(interface: &str, more: &str) -> String {
    let mut text = format!("[vips]\ninterface = \"{interface}\"\n{more}\n");
    for (name, vip, backend) in [
        ("web", "198.51.100.10:80", "198.51.100.11:8080"),
        ("web6", "[2001:db8:2::10]:80", "[2001:db8:2::11]:8080"),
    ] {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nhealth_check = {{ type = \"tcp\", interval = \"500ms\", \
             fast_interval = \"200ms\", timeout = \"500ms\", rise = 1, fall = 4 }}\nbackend = [{{ address = \"{backend}\" }}]\n"
        );
    }
    text
}

/// The addresses of a host's interface.
fn addresses(host: &Host, interface: &str) -> Vec<String> {
    let links: Value =
        serde_json::from_str(&host.run(&format!("ip -j address show dev {interface}")).unwrap()).unwrap();
    let infos = links[0]["addr_info"].as_array().unwrap().iter();
    infos.map(|info| info["local"].as_str().unwrap().to_owned()).collect()
}

fn has_vips(host: &Host, interface: &str) -> bool {
    let addresses = addresses(host, interface);
    VIPS.iter().all(|vip| addresses.iter().any(|address| address == vip))
}

fn has_no_vip(host: &Host, interface: &str) -> bool {
    let addresses = addresses(host, interface);
    VIPS.iter().all(|vip| !addresses.iter().any(|address| address == vip))
}

fn mac(host: &Host, interface: &str) -> String {
    let links: Value =
        serde_json::from_str(&host.run(&format!("ip -j link show dev {interface}")).unwrap()).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// The Ethernet address that a host has for a neighbour.
fn neighbour(host: &Host, address: &str) -> Option<String> {
    let found: Value = serde_json::from_str(&host.run("ip -j neigh show dev eth0").unwrap()).unwrap();
    let of = found.as_array()?.iter().find(|neighbour| neighbour["dst"] == address)?;
    Some(of["lladdr"].as_str()?.to_owned())
}

/// What happens to a host's addresses, a line each; and what it has seen before it was quiet for a time: the kernel tells a
/// second late that a new IPv6 address is deprecated.
fn monitor(host: &Host) -> (Process, String) {
    let monitor = host.spawn("monitor", "ip", &["monitor", "address"]).unwrap();
    // Again and again: it is not known when it begins to listen.
    until("the monitor to see", SOON, || {
        host.run("ip address flush dev lo to 203.0.113.250/32")?;
        host.run("ip address add 203.0.113.250/32 dev lo")?;
        Ok(monitor.log().contains("203.0.113.250"))
    })
    .unwrap();
    let mut before = monitor.log();
    until("the addresses to stay as they are", SOON, || {
        sleep(Duration::from_secs(3));
        let now = monitor.log();
        Ok(std::mem::replace(&mut before, now.clone()) == now)
    })
    .unwrap();
    (monitor, before)
}

fn vip(number: usize) -> std::net::SocketAddr {
    (VIPS[number].parse::<std::net::IpAddr>().unwrap(), 80).into()
}

#[test]
fn a_clients_neighbour_cache_follows_the_vips_to_a_second_balancer() {
    let network = Network::new("vips", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let client = network.add_neighbour("client-2", 100).unwrap();
    let second = network.add_neighbour("lb-2", 3).unwrap();
    let _peer = XdpPass::attach(&network.switch, "lb-2").unwrap();
    let first = Daemon::start(&network.lb, &["eth1"], &config("eth1", "")).unwrap();
    first.wait_until_up().unwrap();
    for (number, address) in VIPS.iter().enumerate() {
        until("an answer", SOON, || Ok(request(&client, vip(number)).is_ok())).unwrap();
        assert_eq!(neighbour(&client, address).unwrap(), mac(&network.lb, "eth1"), "{address}");
    }
    let packets = |daemon: &Daemon| {
        daemon.cli_json(&["status"]).unwrap()["services"][0]["traffic"]["packets_in"].as_u64()
    };
    // The first announces for 8 seconds. Until it has said it all, the client would go from one to the other and back.
    sleep(Duration::from_secs(9));
    // curl ends before its connections do.
    until("the connections to end", SOON, || {
        Ok(client.run("ss -Htn state connected exclude time-wait")?.trim().is_empty())
    })
    .unwrap();
    let before = packets(&first).unwrap();

    // The other has them too now, and says so. The client asks nobody.
    let other = Daemon::start(&second, &["eth0"], &config("eth0", "")).unwrap();
    for address in VIPS {
        until(&format!("the client to have the second's address for {address}"), SOON, || {
            Ok(neighbour(&client, address).as_deref() == Some(&mac(&second, "eth0")))
        })
        .unwrap();
    }
    other.wait_until_up().unwrap();
    for number in [0, 1] {
        until("an answer through the second", SOON, || Ok(request(&client, vip(number)).is_ok())).unwrap();
    }
    assert!(packets(&other).unwrap() > 0);
    assert_eq!(packets(&first).unwrap(), before);
}

#[test]
fn a_vip_is_withdrawn_with_the_last_backend_and_comes_back_with_the_first() {
    let network = Network::new("vips", 1).unwrap();
    let mut nginx = Some(Nginx::start(&network.backends[0], 8080).unwrap());
    let daemon =
        Daemon::start(&network.lb, &["eth0", "eth1"], &config("lo", "withdraw = \"no-backends\"")).unwrap();
    until("the VIPs", SOON, || Ok(has_vips(&network.lb, "lo"))).unwrap();
    for _ in 0..2 {
        nginx = None;
        until("the VIPs to go", SOON, || Ok(has_no_vip(&network.lb, "lo"))).unwrap();
        // The kernel knows it first.
        until("the daemon to say so", SOON, || {
            Ok(daemon.cli_json(&["status"])?["vips"][0]["state"] == "withdrawn"
                && daemon.metric("xdp_lb_vip_present", &[("vip", VIPS[0])])? == 0.0)
        })
        .unwrap();
        nginx.replace(Nginx::start(&network.backends[0], 8080).unwrap());
        until("the VIPs to come back", SOON, || Ok(has_vips(&network.lb, "lo"))).unwrap();
        request(&network.client, vip(0)).unwrap();
    }
    drop(nginx);
}

#[test]
fn neither_kill_9_nor_a_restart_changes_the_vips_and_unload_removes_them() {
    let network = Network::new("vips", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let mut daemon =
        Daemon::start(&network.lb, &["eth0", "eth1"], &config("eth1", "withdraw = \"no-backends\"")).unwrap();
    until("the VIPs", SOON, || Ok(has_vips(&network.lb, "eth1"))).unwrap();
    let (monitor, before) = monitor(&network.lb);
    for end in [Daemon::kill, Daemon::stop] {
        end(&mut daemon).unwrap();
        assert!(has_vips(&network.lb, "eth1"));
        daemon.run().unwrap();
        daemon.wait_until_up().unwrap();
        assert!(has_vips(&network.lb, "eth1"));
    }
    let log = monitor.log();
    let seen = log.strip_prefix(&before).unwrap();
    assert!(VIPS.iter().all(|vip| !seen.contains(vip)), "{seen}");
    assert_eq!(daemon.cli_json(&["status"]).unwrap()["vips"][0]["added_by_daemon"], true);

    let said = daemon.cli(&["unload"]).unwrap();
    assert!(said.contains("removed 198.51.100.10 from eth1"), "{said}");
    assert!(has_no_vip(&network.lb, "eth1"));

    // And where no daemon runs that could.
    daemon.run().unwrap();
    until("the VIPs", SOON, || Ok(has_vips(&network.lb, "eth1"))).unwrap();
    daemon.kill().unwrap();
    let mut command = network.lb.command(paths::daemon());
    let output = command.args(["unload", "--config"]).arg(daemon.config_file()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("removed 2001:db8:2::10 from eth1"), "{output:?}");
    assert!(has_no_vip(&network.lb, "eth1"));
}

#[test]
fn a_vip_added_by_something_else_is_used_and_never_removed() {
    let network = Network::new("vips", 1).unwrap();
    network.lb.run("ip address add 198.51.100.10/32 dev eth1").unwrap();
    let daemon =
        Daemon::start(&network.lb, &["eth0", "eth1"], &config("lo", "withdraw = \"no-backends\"")).unwrap();
    // There is no backend.
    // That it is unwanted is known before it has been looked at; how to remove it, after that.
    until("the daemon to say that it leaves the address, and how to remove it", SOON, || {
        let vip = &daemon.cli_json(&["status"])?["vips"][0];
        Ok(vip["state"] == "stays"
            && vip["added_by_daemon"] == false
            && daemon.cli(&["status"])?.contains("ip address del 198.51.100.10/32 dev eth1"))
    })
    .unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    daemon.wait_until_up().unwrap();
    until("the other VIP", SOON, || Ok(addresses(&network.lb, "lo").contains(&VIPS[1].to_owned()))).unwrap();
    assert!(!addresses(&network.lb, "lo").contains(&VIPS[0].to_owned()), "it is there already");
    daemon.cli(&["unload"]).unwrap();
    assert_eq!(
        addresses(&network.lb, "lo").iter().filter(|address| VIPS.contains(&address.as_str())).count(),
        0
    );
    assert!(addresses(&network.lb, "eth1").contains(&VIPS[0].to_owned()), "it was not the daemon's");
}

#[test]
fn a_vip_that_is_removed_alone_or_with_its_interface_is_restored() {
    let network = Network::new("vips", 1).unwrap();
    network.lb.run("ip link add vips type bridge").unwrap();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config("vips", "")).unwrap();
    let is_back = || until("the VIPs", SOON, || Ok(has_vips(&network.lb, "vips"))).unwrap();
    is_back();
    network.lb.run("ip address del 198.51.100.10/32 dev vips").unwrap();
    is_back();
    until("the log to tell of it", SOON, || Ok(daemon.log().contains("added to vips again")))
        .unwrap_or_else(|error| panic!("{error:#}: {}", daemon.log()));
    network.lb.run("ip link del vips").unwrap();
    until("the daemon to miss them", SOON, || {
        let status = daemon.cli_json(&["status"])?;
        let vip = &status["vips"][0];
        Ok(vip["state"] == "missing"
            && vip["note"]
                .as_str()
                .is_some_and(|note| note.contains("vips.interface names vips, which does not exist")))
    })
    .unwrap();
    network.lb.run("ip link add vips type bridge").unwrap();
    is_back();
    // Put elsewhere, they are there before they are gone here.
    let text = daemon.config().unwrap().replace("interface = \"vips\"", "interface = \"lo\"");
    std::fs::write(daemon.config_file(), text).unwrap();
    let said = daemon.cli(&["reload"]).unwrap();
    assert!(said.contains("vips.interface vips -> lo"), "{said}");
    until("the VIPs to have moved", SOON, || {
        Ok(has_vips(&network.lb, "lo") && has_no_vip(&network.lb, "vips"))
    })
    .unwrap();
}
