//! The commands of `docs/guide`, page by page, as its readers type them.
//!
//! The pages use the paths of a real host. So each test has file systems of its own at `/etc`, `/run`, `/var/lib` and
//! `/sys/fs/bpf`. What needs systemd and the package (`sh debian`) is left to `cargo xtask test --packages`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use xdp_lb_tests::guide::{self, Block, Place, Step};
use xdp_lb_tests::servers::{Nginx, Nsd};
use xdp_lb_tests::{Host, Network, Process, connect, output, paths, until};

/// How long a daemon may take to start and check its backends, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(90);

/// The guide's network, with the servers that its pages mention.
struct Bed {
    network: Network,
    daemon: Option<Process>,
    decapsulators: Vec<Process>,
    _nginx: Vec<Nginx>,
    _nsd: Nsd,
}

impl Bed {
    fn new() -> Self {
        let network = Network::new("guide", 3).unwrap();
        // The pages have the daemon add it.
        network.lb.run("ip address del 192.0.2.10/32 dev eth0").unwrap();
        // The client is its own router to the backends, past the load balancer.
        connect(&network.switch, "router", &network.client, "eth1").unwrap();
        network.switch.run("ip link set router master bridge").unwrap();
        network.client.run("ip address add 198.51.100.1/24 dev eth1").unwrap();
        for interface in ["all", "eth0", "eth1"] {
            network.client.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0").unwrap();
        }
        let nginx = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
        let resolver = network.add_neighbour("resolver", 53).unwrap();
        let records = "web A 198.51.100.11\nweb A 198.51.100.12\nbackend-1 A 198.51.100.11\nbackend-2 A 198.51.100.12\n\
                       _http._tcp.web SRV 10 60 8080 backend-1\n_http._tcp.web SRV 10 40 8080 backend-2\n";
        let nsd = Nsd::start_zone(&resolver, "example.com", records).unwrap();
        own_file_systems();
        Self { network, daemon: None, decapsulators: Vec::new(), _nginx: nginx, _nsd: nsd }
    }

    fn carry_out(&mut self, block: &Block) {
        match &block.step {
            // Of a host with systemd.
            Step::Run(Place::Debian) => {}
            Step::Run(Place::Lb) => run(&self.network.lb, &block.text),
            Step::Run(Place::Client) => run(&self.network.client, &block.text),
            Step::Run(Place::Backends) => {
                self.network.backends.iter().for_each(|host| run(host, &block.text));
            }
            Step::Start => {
                for host in &self.network.backends {
                    let process = host.spawn_command("decap", shell(host, &block.text)).unwrap();
                    until("the decapsulator to be attached", PATIENCE, || {
                        Ok(host.run("ip link show dev eth0")?.contains("xdp"))
                    })
                    .unwrap();
                    self.decapsulators.push(process);
                }
            }
            Step::Write { path, start } => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, &block.text).unwrap();
                if *start {
                    self.start(path);
                }
            }
        }
    }

    /// Starts a daemon as on a host that has had none.
    fn start(&mut self, config: &Path) {
        let lb = &self.network.lb;
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop().unwrap();
            run(lb, "xdp-lb unload; rm -r /var/lib/xdp-lb; mkdir /var/lib/xdp-lb");
        }
        let mut command = lb.command(paths::daemon());
        command.args(["run", "--config"]).arg(config);
        let daemon = self.daemon.insert(lb.spawn_command("xdp-lb", command).unwrap());
        let mut seen = String::new();
        let up = until("every backend to be up", PATIENCE, || {
            assert!(daemon.exited()?.is_none(), "the daemon has ended: {}", daemon.log());
            let list = shell(lb, "xdp-lb backend list --output json").output()?;
            seen = String::from_utf8_lossy(&list.stdout).into_owned();
            let backends: Vec<Value> = serde_json::from_str(&seen).unwrap_or_default();
            let serves = |backend: &Value| ["up", "standby"].iter().any(|it| backend["state"] == *it);
            Ok(!backends.is_empty() && backends.iter().all(serves))
        });
        assert!(up.is_ok(), "{seen}\n{}", daemon.log());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.daemon.take().is_some() {
            let _ = shell(&self.network.lb, "xdp-lb unload").status();
        }
    }
}

/// Gives this thread and its children file systems that they can fill with the paths of a real host.
fn own_file_systems() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    for place in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    }
    for folder in ["/run/etc", "/run/etc-work", "/run/xdp-lb", "/var/lib/xdp-lb"] {
        fs::create_dir(folder).unwrap();
    }
    let layers = "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work";
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers)).unwrap();
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
}

/// A shell on this host that has `xdp-lb` on its path and ends at the first command that fails.
fn shell(host: &Host, text: &str) -> Command {
    let mut command = host.command("bash");
    let programs = paths::daemon().parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    command.args(["-euo", "pipefail", "-c", text]);
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
    command
}

fn run(host: &Host, text: &str) {
    let said = output(&mut shell(host, text)).unwrap_or_else(|error| panic!("{}: {error:#}", host.name()));
    println!("{}: {text}{said}", host.name());
}

/// Carries out a page from its first block to its last.
fn carry_out(page: &str) {
    let blocks = guide::blocks(page).unwrap();
    let mut bed = Bed::new();
    for block in &blocks {
        println!("{page}.md:{}", block.line);
        bed.carry_out(block);
    }
}

macro_rules! pages {
    ($($test:ident: $page:literal,)+) => {
        const PAGES: &[&str] = &[$($page),+];

        $(
            #[test]
            fn $test() {
                carry_out($page);
            }
        )+
    };
}

pages! {
    the_commands_of_the_page_on_capacity_work: "capacity",
    the_commands_of_the_page_on_dns_work: "dns",
    the_commands_of_the_page_on_the_first_hour_work: "first-hour",
    the_commands_of_the_page_on_health_work: "health",
    the_commands_of_the_page_on_hosts_work: "hosts",
    the_commands_of_the_page_on_layers_4_and_7_work: "layer-4-or-7",
    the_commands_of_the_page_on_migrating_work: "migrating",
    the_commands_of_the_page_on_packets_work: "packets",
    the_commands_of_the_page_on_security_work: "security",
    the_commands_of_the_page_on_topologies_work: "topologies",
    the_commands_of_the_page_on_upgrades_work: "upgrades",
}

#[test]
fn every_page_with_commands_is_carried_out() {
    let with_commands: Vec<String> =
        guide::pages().unwrap().into_iter().filter(|page| !guide::blocks(page).unwrap().is_empty()).collect();
    assert_eq!(with_commands, PAGES);
}
