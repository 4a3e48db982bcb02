//! What is removed or changed under a running daemon is detected, reported and restored, while flows continue.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::servers::TcpEcho;
use xdp_lb_tests::xdp_pass::{self, XdpPass};
use xdp_lb_tests::{
    Conversations, Daemon, Family, Host, Mode, Network, Service, connect, output, services, until,
};

/// What a busy machine may take beside the two seconds between two looks.
const SOON: Duration = Duration::from_secs(40);
const PORT: u16 = 7000;
const FLOWS: usize = 60;

/// Two backends behind a VIP of each family, and flows to each.
struct Bed {
    network: Network,
    _servers: Vec<TcpEcho>,
    daemon: Daemon,
    flows: Vec<Conversations>,
}

impl Bed {
    fn new(mode: Mode) -> Self {
        let network = Network::new("verify", 2).unwrap();
        let servers = network.backends.iter().map(|host| TcpEcho::start(host, PORT).unwrap()).collect();
        let of = |family: Family| {
            let vip = SocketAddr::new(Network::vip(family), PORT);
            let name = if family == Family::V4 { "echo" } else { "echo6" };
            Service::tcp(name, vip).mode(mode).unchecked().backends(network.endpoints(family, PORT))
        };
        let config = services([Family::V4, Family::V6].map(of));
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
        daemon.wait_until_up().unwrap();
        let open = |family| {
            let vip = SocketAddr::new(Network::vip(family), PORT);
            Conversations::open(&network.client, vip, FLOWS).unwrap()
        };
        let flows = [Family::V4, Family::V6].map(open).into();
        Self { network, _servers: servers, daemon, flows }
    }

    fn status(&self) -> Value {
        self.daemon.cli_json(&["status"]).unwrap()
    }

    fn troubles(&self) -> Vec<String> {
        let status = self.status();
        let kind = |trouble: &Value| trouble["kind"].as_str().unwrap().to_owned();
        status["troubles"].as_array().unwrap().iter().map(kind).collect()
    }

    /// Every flow continues, with its backend.
    #[track_caller]
    fn assert_flows(&mut self, when: &str) {
        for flows in &mut self.flows {
            let broken = flows.exchange();
            assert!(
                broken.is_empty(),
                "{when}: {} flows broke: {:?}; {}",
                broken.len(),
                broken[0],
                self.daemon.log()
            );
        }
    }

    #[track_caller]
    fn wait_for_trouble(&self, kinds: &[&str]) {
        until(&format!("trouble {kinds:?}"), SOON, || Ok(self.troubles() == kinds))
            .unwrap_or_else(|error| panic!("{error}: {}: {}", self.status(), self.daemon.log()));
    }

    /// Where the layout's pins are.
    fn layout(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.daemon.pins()).unwrap().map(|entry| entry.unwrap().path());
        entries.next().expect("there is a layout")
    }

    fn pins(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.daemon.pins()) else { return Vec::new() };
        let layouts = entries.map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = layouts
            .flat_map(|layout| fs::read_dir(layout).into_iter().flatten())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Detaches the link of an interface by force, as `bpftool link detach` does.
    fn detach(&self, device: &str) {
        let link = self.layout().join(format!("link-native-{}", self.index(device)));
        xdp_pass::detach_pinned(&link).unwrap();
    }

    fn index(&self, device: &str) -> u64 {
        let links: Value =
            serde_json::from_str(&self.network.lb.run(&format!("ip -j link show dev {device}")).unwrap())
                .unwrap();
        links[0]["ifindex"].as_u64().unwrap()
    }
}

const MODES: [Mode; 2] = Mode::ALL;

#[test]
fn removed_pins_do_not_end_forwarding_and_are_restored() {
    for mode in MODES {
        let mut bed = Bed::new(mode);
        let before = bed.pins();
        assert!(before.len() > 20, "{before:?}");
        fs::remove_dir_all(bed.daemon.pins()).unwrap();
        bed.assert_flows("without pins");
        until("the pins", SOON, || Ok(bed.pins() == before)).unwrap();
        bed.assert_flows("with new pins");
        assert_eq!(bed.troubles(), Vec::<String>::new());
        assert!(bed.status()["restored"].as_u64().unwrap() > 20);
        assert!(bed.daemon.metric("xdp_lb_restored_total", &[]).unwrap() > 20.0);
        // They are as good as the first ones.
        bed.daemon.kill().unwrap();
        bed.assert_flows("without a daemon");
        bed.daemon.run().unwrap();
        assert_eq!(bed.status()["adopted"], true);
        bed.assert_flows("with another daemon");
    }
}

#[test]
fn a_drain_is_acknowledged_only_with_the_pins_in_place() {
    let bed = Bed::new(Mode::FullNat);
    let before = bed.pins();
    fs::remove_dir_all(bed.daemon.pins()).unwrap();
    let endpoint = Network::endpoint(Family::V4, 1, PORT).to_string();
    let drained = bed.daemon.cli_output(&["backend", "drain", "echo", &endpoint]).unwrap();
    assert_eq!(bed.pins(), before, "they are back when the drain is acknowledged");
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
}

/// Mounts a bpffs of its own for the pins and takes it away, in a way that open files survive.
#[test]
fn an_unmounted_bpffs_is_reported_and_forwarding_continues_until_it_is_mounted_again() {
    let mut bed = Bed::new(Mode::FullNat);
    // The daemon's own mount of pins would be the sandbox's, which other tests use.
    let mount = bed.network.lb.dir().join("bpf");
    fs::create_dir_all(&mount).unwrap();
    run("mount", &["-t", "bpf", "bpf", mount.to_str().unwrap()]);
    let config = bed.daemon.config().unwrap();
    bed.flows.clear();
    bed.daemon.cli(&["unload"]).unwrap();
    bed.daemon.kill().unwrap();
    let pins = mount.join("pins");
    let config = config.replace(bed.daemon.pins().to_str().unwrap(), pins.to_str().unwrap());
    fs::write(bed.daemon.config_file(), config).unwrap();
    bed.daemon.run().unwrap();
    bed.daemon.wait_until_up().unwrap();
    let vip = SocketAddr::new(Network::vip(Family::V4), PORT);
    bed.flows.push(Conversations::open(&bed.network.client, vip, FLOWS).unwrap());

    run("umount", &["-l", mount.to_str().unwrap()]);
    bed.wait_for_trouble(&["pins"]);
    let status = bed.status();
    assert!(status["trouble"].as_str().unwrap().contains("is not on a BPF file system"), "{status}");
    assert_eq!(bed.daemon.cli_output(&["status"]).unwrap().status.code(), Some(3));
    assert_eq!(bed.daemon.metric("xdp_lb_trouble", &[("kind", "pins")]).unwrap(), 1.0);
    assert_eq!(bed.daemon.metric("xdp_lb_tables_in_sync", &[]).unwrap(), 1.0);
    bed.assert_flows("without a bpffs");
    let endpoint = Network::endpoint(Family::V4, 1, PORT).to_string();
    let weighed = bed.daemon.cli_output(&["backend", "set-weight", "echo", &endpoint, "50"]).unwrap();
    assert_eq!(weighed.status.code(), Some(3), "{weighed:?}");
    assert!(
        String::from_utf8_lossy(&weighed.stderr).contains("so forwarding would end with this daemon"),
        "{weighed:?}"
    );
    let upgraded = bed.daemon.cli_output(&["upgrade"]).unwrap();
    assert_eq!(upgraded.status.code(), Some(1), "{upgraded:?}");

    run("mount", &["-t", "bpf", "bpf", mount.to_str().unwrap()]);
    bed.wait_for_trouble(&[]);
    assert!(pins.exists());
    bed.daemon.kill().unwrap();
    bed.assert_flows("without a daemon");
    bed.daemon.run().unwrap();
    assert_eq!(bed.status()["adopted"], true);
    bed.daemon.cli(&["unload"]).unwrap();
    run("umount", &["-l", mount.to_str().unwrap()]);
}

#[test]
fn a_detached_link_is_restored_and_flows_continue() {
    for mode in MODES {
        let mut bed = Bed::new(mode);
        for device in ["eth0", "eth1"] {
            bed.detach(device);
            until("the program to be there again", SOON, || Ok(has_program(&bed.network.lb, device)))
                .unwrap();
            bed.assert_flows(device);
        }
        assert_eq!(bed.troubles(), Vec::<String>::new());
        // The status is published behind the restoration.
        until("both restorations to be told", SOON, || Ok(bed.status()["restored"] == 2)).unwrap();
        assert!(bed.daemon.log().contains("attached again: eth0"), "{}", bed.daemon.log());
    }
}

#[test]
fn a_detached_program_at_tc_ingress_is_restored_and_works() {
    let mut bed = Bed::new(Mode::Nat);
    let before = bed.pins();
    for (number, device) in (1..).zip(["eth0", "eth1"]) {
        let pin = bed.layout().join(format!("tc-{}", bed.index(device)));
        xdp_pass::detach_pinned(&pin).unwrap();
        until("it to be attached again", SOON, || Ok(bed.status()["restored"] == number))
            .unwrap_or_else(|error| panic!("{error}: {}: {}", bed.status(), bed.daemon.log()));
        let told = format!("attached again: the program at TC ingress of {device}");
        assert!(bed.daemon.log().contains(&told), "{}", bed.daemon.log());
    }
    assert_eq!(bed.pins(), before);
    assert_eq!(bed.troubles(), Vec::<String>::new());
    for _ in 0..10 {
        for family in Family::ALL {
            // One that is not known is as good as forgotten.
            let client = Network::client_address(family);
            let _ = bed.network.lb.run(&format!("ip neigh del {client} dev eth0"));
        }
        bed.assert_flows("clients' neighbours forgotten");
    }
    assert!(bed.daemon.counter("handed_to_host").unwrap() > 0, "it has sent some");
}

#[test]
fn another_program_on_the_interface_is_reported_and_left_alone_until_it_is_gone() {
    let mut bed = Bed::new(Mode::FullNat);
    // Both in one go, before the daemon looks again.
    bed.daemon.process().unwrap().signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    bed.detach("eth1");
    let foreign = XdpPass::attach(&bed.network.lb, "eth1").unwrap();
    bed.daemon.process().unwrap().signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    bed.wait_for_trouble(&["interfaces"]);
    let status = bed.status();
    let interface = status["interfaces"].as_array().unwrap().iter().find(|it| it["name"] == "eth1").unwrap();
    assert!(interface["mode"].is_null(), "{interface}");
    let note = interface["note"].as_str().unwrap();
    assert!(note.contains("another XDP program") && note.contains("id "), "{note}");
    assert_eq!(bed.daemon.metric("xdp_lb_interface_attached", &[("interface", "eth1")]).unwrap(), 0.0);
    assert_eq!(bed.daemon.metric("xdp_lb_trouble", &[("kind", "interfaces")]).unwrap(), 1.0);
    // A drain is saved, and says what it is worth.
    let endpoint = Network::endpoint(Family::V4, 1, PORT).to_string();
    let drained = bed.daemon.cli_output(&["backend", "drain", "echo", &endpoint]).unwrap();
    assert_eq!(drained.status.code(), Some(3), "{drained:?}");
    assert!(String::from_utf8_lossy(&drained.stderr).contains("another XDP program"), "{drained:?}");
    assert!(has_program(&bed.network.lb, "eth1"), "the foreign program is left alone");
    drop(foreign);
    bed.wait_for_trouble(&[]);
    bed.assert_flows("the foreign program has gone");
}

/// Entries of the tables that anybody with the right may change.
#[test]
fn externally_changed_tables_are_restored() {
    let mut bed = Bed::new(Mode::Nat);
    let layout = bed.layout();
    for table in [
        "BACKENDS",
        "SLOTS",
        "SERVICE_PLACES",
        "SERVICES",
        "REPLY_PLACES",
        "ADDRESSES",
        "OWN_MACS",
        "SETTINGS",
    ] {
        let before = bed.status()["restored"].as_u64().unwrap();
        let changed = xdp_pass::zero_pinned_array(&layout.join(table)).unwrap();
        assert!(changed > 0, "{table}: nothing stood there");
        until(&format!("{table} to be restored"), SOON, || {
            Ok(bed.status()["restored"].as_u64().unwrap() > before)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", bed.daemon.log()));
        bed.assert_flows(table);
    }
    assert_eq!(bed.troubles(), Vec::<String>::new());
    assert!(bed.daemon.log().contains("something else changed the BPF tables"), "{}", bed.daemon.log());
    for family in [Family::V4, Family::V6] {
        let vip = SocketAddr::new(Network::vip(family), PORT);
        Conversations::open(&bed.network.client, vip, 20).unwrap();
    }
}

#[test]
fn interfaces_that_swap_their_names_keep_every_flow() {
    for mode in MODES {
        let mut bed = Bed::new(mode);
        let lb = bed.network.lb.clone();
        for round in 0..4 {
            // Interfaces that are up may be renamed since 6.2; all in one go.
            let lines = "link set eth0 name swap\nlink set eth1 name eth0\nlink set swap name eth1\n";
            batch(&lb, lines);
            bed.assert_flows(&format!("{mode}: swap {round}"));
        }
        until("the status to follow", SOON, || Ok(bed.troubles().is_empty())).unwrap();
        bed.assert_flows("at the end");
        // The program never left either of them.
        assert_eq!(bed.status()["restored"], 0, "{}", bed.daemon.log());
    }
}

#[test]
fn a_renamed_interface_keeps_every_flow_until_the_config_names_it_again() {
    for mode in MODES {
        let mut bed = Bed::new(mode);
        let lb = bed.network.lb.clone();
        batch(&lb, "link set eth1 name back0\n");
        bed.wait_for_trouble(&["interfaces"]);
        bed.assert_flows("renamed");
        let status = bed.status();
        assert!(status["trouble"].as_str().unwrap().contains("renamed to back0"), "{status}");
        let config = bed.daemon.config().unwrap().replace("\"eth1\"", "\"back0\"");
        fs::write(bed.daemon.config_file(), config).unwrap();
        bed.daemon.cli(&["reload"]).unwrap();
        assert_eq!(bed.troubles(), Vec::<String>::new());
        bed.assert_flows("reloaded");
        assert_eq!(bed.status()["restored"], 0);
    }
}

/// Every flow goes on in each mode after an interface was remade by `remake`.
fn remade(remake: impl Fn(&Network) -> XdpPass, which: &str) {
    for mode in MODES {
        let mut bed = Bed::new(mode);
        let _peer = remake(&bed.network);
        bed.assert_flows(&format!("{mode}: {which}"));
        bed.wait_for_trouble(&[]);
    }
}

#[test]
fn a_recreated_interface_of_clients_keeps_every_flow() {
    remade(make_front_anew, "towards the client");
}

#[test]
fn a_recreated_interface_of_a_backend_keeps_every_flow() {
    remade(make_back_anew, "towards the backends");
}

/// A client that has nothing to say waits for its backend, whose packets would leave by an interface that is gone.
#[test]
fn a_backend_sends_first_after_the_clients_interface_was_recreated() {
    const QUIET: u16 = 7100;
    let network = Network::new("speaks", 1).unwrap();
    let families = [Family::V4, Family::V6];
    let listen = |family: Family| {
        // One port a family: the IPv6 one would take both.
        let port = QUIET + u16::from(family == Family::V6);
        let listener =
            network.backends[0].enter(|| TcpListener::bind((family.any(), port))).unwrap().unwrap();
        (family, port, listener)
    };
    let listeners = families.map(listen);
    let of = |(family, port): (Family, u16)| {
        let name = if family == Family::V4 { "quiet" } else { "quiet6" };
        Service::tcp(name, SocketAddr::new(Network::vip(family), port))
            .mode(Mode::FullNat)
            .unchecked()
            .backends(network.endpoints(family, port))
    };
    let config = services(listeners.iter().map(|(family, port, _)| of((*family, *port))));
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();
    daemon.wait_until_up().unwrap();
    let flows = listeners.each_ref().map(|(family, port, listener)| {
        let vip = SocketAddr::new(Network::vip(*family), *port);
        let client = network.client.enter(|| TcpStream::connect(vip)).unwrap().unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        (client, listener.accept().unwrap().0)
    });
    let _client_peer = make_front_anew(&network);
    until("the program to be there", SOON, || {
        Ok(has_program(&network.lb, "eth0") && daemon.cli_json(&["status"])?["trouble"].is_null())
    })
    .unwrap();
    for (mut client, mut server) in flows {
        server.write_all(b"news").unwrap();
        let mut heard = [0; 4];
        client.read_exact(&mut heard).unwrap_or_else(|error| panic!("{error}: {}", daemon.log()));
        assert_eq!(&heard, b"news");
    }
}

/// Deletes the link between the client and the load balancer, and makes another like it. The client is the same machine, with
/// the same Ethernet address.
fn make_front_anew(network: &Network) -> XdpPass {
    let (lb, client) = (&network.lb, &network.client);
    let links: Value = serde_json::from_str(&client.run("ip -j link show dev eth0").unwrap()).unwrap();
    let mac = links[0]["address"].as_str().unwrap();
    lb.run("ip link del eth0").unwrap();
    connect(client, "eth0", lb, "eth0").unwrap();
    client.run(&format!("ip link set eth0 address {mac}")).unwrap();
    let peer = XdpPass::attach(client, "eth0").unwrap();
    // Until the daemon has heard of it, packets to a VIP that is an address of this host are the host's to answer.
    until("the program on the new interface", SOON, || Ok(has_program(lb, "eth0"))).unwrap();
    for (host, line) in [
        (lb, "192.0.2.1/24"),
        (lb, "192.0.2.10/32"),
        (lb, "2001:db8:1::1/64"),
        (lb, "2001:db8:1::10/128"),
        (client, "192.0.2.100/24"),
        (client, "2001:db8:1::100/64"),
    ] {
        let nodad = if line.contains(':') { "nodad" } else { "" };
        host.run(&format!("ip address add {line} dev eth0 {nodad}")).unwrap();
    }
    client.run("ip route add default via 192.0.2.1").unwrap();
    client.run("ip -6 route add default via 2001:db8:1::1").unwrap();
    peer
}

/// Deletes the link between the load balancer and the backends' switch, and makes another like it. The load balancer keeps
/// its Ethernet address.
fn make_back_anew(network: &Network) -> XdpPass {
    let (lb, switch) = (&network.lb, &network.switch);
    let links: Value = serde_json::from_str(&lb.run("ip -j link show dev eth1").unwrap()).unwrap();
    let mac = links[0]["address"].as_str().unwrap();
    lb.run("ip link del eth1").unwrap();
    connect(switch, "lb", lb, "eth1").unwrap();
    switch.run("ip link set lb master bridge").unwrap();
    let peer = XdpPass::attach(switch, "lb").unwrap();
    lb.run(&format!("ip link set eth1 address {mac}")).unwrap();
    lb.run("ip address add 198.51.100.2/24 dev eth1").unwrap();
    lb.run("ip address add 2001:db8:2::2/64 dev eth1 nodad").unwrap();
    peer
}

fn batch(host: &Host, lines: &str) {
    let file = host.dir().join("batch");
    fs::write(&file, lines).unwrap();
    host.run(&format!("ip -batch {}", file.display())).unwrap();
}

fn run(program: &str, arguments: &[&str]) {
    output(Command::new(program).args(arguments)).unwrap();
}

/// Whether an XDP program is attached to a device.
fn has_program(host: &Host, device: &str) -> bool {
    let links: Value =
        serde_json::from_str(&host.run(&format!("ip -j link show dev {device}")).unwrap()).unwrap();
    links[0].get("xdp").is_some()
}
