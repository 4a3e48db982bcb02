//! Where it takes place: the network, the servers, the daemon, and what was asked of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::balancer::{Balancer, path};
use super::clients::Shared;
use super::kind::{Kind, Protocol};
use super::ledger::{Change, Ledger};
use super::servers::Servers;
use crate::host::Host;
use crate::network::Network;
use crate::process::Process;
use crate::servers::Nginx;
use crate::{direct_return, wait};

/// How many backends there are.
pub const BACKENDS: usize = 7;

/// Those that the config file names all along.
pub const LISTED: std::ops::RangeInclusive<usize> = 1..=4;

/// Those that come and go: by the config file, by the command line and the API, and by discovery.
pub const BY_FILE: usize = 5;
pub const BY_HAND: usize = 6;
pub const BY_DISCOVERY: usize = 7;

/// How long one that leaves keeps its flows.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// The weight that backends have at first.
const WEIGHT: u16 = 100;

/// How long the daemon may take to follow what it hears of, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(40);

/// The load balancer's interfaces: towards the clients whose replies pass it, towards the backends, and towards the clients
/// that backends answer straight.
pub const INTERFACES: [&str; 3] = ["eth0", "eth1", "eth2"];

/// The check asks another port than the flows go to: it can fail while they are well.
const CHECK: &str = r#"{ type = "http", port = 8080, path = "/healthz", interval = "1s", fast_interval = "200ms", timeout = "500ms", rise = 1, fall = 3 }"#;

/// All of it.
pub struct Bed {
    /// What it shares with the flows.
    pub shared: Shared,
    /// The daemon. It ends before the network does.
    pub balancer: Balancer,
    /// What was acknowledged.
    pub ledger: Ledger,
    /// The servers that answer the checks, that of the first backend first.
    pub checks: Vec<Nginx>,
    /// The client whose replies come past the load balancer.
    pub far: Host,
    /// The rest of the network.
    pub network: Network,
    /// What comes before the services in the config file.
    preamble: String,
    _servers: Servers,
    _decapsulators: Vec<Process>,
}

impl Bed {
    /// Makes all of it, and waits until every backend is up.
    pub fn start(shared: Shared) -> Result<Self> {
        let mut network = Network::new("soak", BACKENDS)?;
        let far = far_client(&mut network)?;
        keep_addresses(&network, &far)?;
        direct_return::give_vips(&network)?;
        let backends = &network.backends;
        let decapsulators = decapsulators(backends)?;
        let checks = backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<_>>()?;
        let servers = Servers::start(backends)?;

        let lists = network.lb.dir();
        for kind in Kind::all() {
            fs::write(list_path(&lists, kind), list(kind, None))
                .context("cannot write a list of backends")?;
        }
        let services = services(&lists, Some(WEIGHT));
        let timeouts = "timeouts.tcp_idle = \"60s\"\ntimeouts.udp_idle = \"60s\"\n";
        let config = format!("drain_timeout = \"{}s\"\n{timeouts}{services}", DRAIN_TIMEOUT.as_secs());
        let balancer = Balancer::start(&network.lb, &INTERFACES, &config)?;
        let text = balancer.daemon().config()?;
        let preamble = text.strip_suffix(&services).context("the config file ends otherwise")?.to_owned();

        let mut ledger = Ledger::default();
        for kind in Kind::all() {
            for backend in LISTED.chain([BY_FILE]) {
                ledger.acknowledged(kind, backend, Change::Joins(WEIGHT));
            }
        }
        let bed = Self {
            shared,
            balancer,
            ledger,
            checks,
            far,
            network,
            preamble,
            _servers: servers,
            _decapsulators: decapsulators,
        };
        bed.wait_until_well()?;
        Ok(bed)
    }

    /// The host whose flows have this way back.
    pub fn client(&self, is_direct: bool) -> &Host {
        if is_direct { &self.far } else { &self.network.client }
    }

    /// Waits until every backend takes flows that is to; an error names those that do not, and why.
    pub fn wait_until_well(&self) -> Result<()> {
        let mut last = String::new();
        wait::until("every backend to be up again", PATIENCE, || {
            let listed = match self.balancer.daemon().backends(None) {
                Ok(listed) => listed,
                Err(error) => {
                    last = format!("{error:#}");
                    return Ok(false);
                }
            };
            let is_to_serve = |(kind, backend): &(Kind, usize)| {
                self.ledger.serves(*kind, *backend) && !self.shared.standing.is_dead(*backend)
            };
            let all = Kind::all().flat_map(|kind| (1..=BACKENDS).map(move |backend| (kind, backend)));
            let ill = all.filter(is_to_serve).filter_map(|(kind, backend)| {
                let (service, address) = (kind.to_string(), kind.backend(backend).to_string());
                let found = listed.iter().find(|it| it["service"] == *service && it["address"] == *address);
                let found = found.unwrap_or(&Value::Null);
                let words = format!("{address} of {service} is {}: {}", found["state"], found["reason"]);
                (found["state"] != "up").then_some(words)
            });
            let ill: Vec<_> = ill.collect();
            last = format!("{} backends, such as {}", ill.len(), ill.first().map_or("none", |it| it));
            Ok(ill.is_empty())
        })
        .map(drop)
        .with_context(|| last)
    }

    /// Compares what is there with what was acknowledged.
    pub fn verify(&mut self) -> Result<()> {
        let listed = self.balancer.daemon().backends(None)?;
        for lost in self.ledger.compare(&listed) {
            self.shared.tally.lost_change(&lost);
        }
        Ok(())
    }

    /// Changes a backend of a service by hand: through the API, or by the command line.
    pub fn change(&mut self, kind: Kind, backend: usize, change: Change, by_api: bool) -> Result<()> {
        self.ledger.asked(kind, backend, change);
        if by_api {
            self.ask(kind, backend, change)?;
        } else {
            self.type_in(kind, backend, change)?;
        }
        self.ledger.acknowledged(kind, backend, change);
        self.shared.tally.acknowledged();
        Ok(())
    }

    fn type_in(&self, kind: Kind, backend: usize, change: Change) -> Result<()> {
        let (service, address) = (kind.to_string(), kind.backend(backend).to_string());
        let number;
        let (verb, more): (&str, &[&str]) = match change {
            Change::Joins(weight) => {
                number = weight.to_string();
                ("add", &["--weight", &number])
            }
            Change::Leaves => ("remove", &[]),
            Change::Weighs(weight) => {
                number = weight.to_string();
                ("set-weight", &[&number])
            }
            Change::Drains(true) => ("drain", &[]),
            Change::Drains(false) => ("enable", &[]),
        };
        let words = [&["backend", verb, &service, &address], more].concat();
        self.balancer.daemon().cli(&words).map(drop)
    }

    fn ask(&self, kind: Kind, backend: usize, change: Change) -> Result<()> {
        let patch = |body: &str| self.balancer.ask("PATCH", &path(kind, backend), body);
        match change {
            Change::Joins(weight) => {
                let body = format!(r#"{{"address": "{}", "weight": {weight}}}"#, kind.backend(backend));
                self.balancer.ask("POST", &format!("services/{kind}/backends"), &body)
            }
            Change::Leaves => self.balancer.ask("DELETE", &path(kind, backend), ""),
            Change::Weighs(weight) => patch(&format!(r#"{{"weight": {weight}}}"#)),
            Change::Drains(drains) => {
                let admin = if drains { "draining" } else { "enabled" };
                patch(&format!(r#"{{"admin": "{admin}"}}"#))
            }
        }
        .map(drop)
    }

    /// Writes the config file with [`BY_FILE`] in all services, of this weight, or in none, and has it read.
    pub fn reload(&mut self, weight: Option<u16>) -> Result<()> {
        let change = weight.map_or(Change::Leaves, Change::Joins);
        let text = format!("{}{}", self.preamble, services(&self.network.lb.dir(), weight));
        let file = self.balancer.daemon().config_file();
        replace(&file, &text)?;
        Kind::all().for_each(|kind| self.ledger.asked(kind, BY_FILE, change));
        self.balancer.daemon().cli(&["reload"])?;
        Kind::all().for_each(|kind| self.ledger.acknowledged(kind, BY_FILE, change));
        self.shared.tally.acknowledged();
        Ok(())
    }

    /// Puts [`BY_DISCOVERY`] into the lists of all services, with this weight, or takes it out, and waits until the daemon
    /// has followed: that is how it acknowledges.
    pub fn discover(&mut self, weight: Option<u16>) -> Result<()> {
        let change = weight.map_or(Change::Leaves, Change::Joins);
        for kind in Kind::all() {
            self.ledger.asked(kind, BY_DISCOVERY, change);
            replace(&list_path(&self.network.lb.dir(), kind), &list(kind, weight))?;
        }
        wait::until("the daemon to follow the lists", PATIENCE, || {
            let listed = self.balancer.daemon().backends(None)?;
            let has = |kind: Kind| {
                let (service, address) = (kind.to_string(), kind.backend(BY_DISCOVERY).to_string());
                listed
                    .iter()
                    .any(|it| it["service"] == *service && it["address"] == *address && it["leaving"] != true)
            };
            Ok(Kind::all().all(|kind| has(kind) == weight.is_some()))
        })?;
        for kind in Kind::all() {
            self.ledger.acknowledged(kind, BY_DISCOVERY, change);
            self.shared.tally.acknowledged();
        }
        Ok(())
    }
}

/// A client on a network of its own, and a way from the backends straight to it.
fn far_client(network: &mut Network) -> Result<Host> {
    let addresses = ["203.0.113.100/24", "2001:db8:3::100/64"];
    let far = network.add_network("eth2", ["203.0.113.1/24", "2001:db8:3::1/64"], "far", addresses)?;
    direct_return::connect_with(network, &far, addresses.map(|it| it.split_once('/').map_or(it, |it| it.0)))?;
    Ok(far)
}

/// Starts them on all backends at once.
fn decapsulators(backends: &[Host]) -> Result<Vec<Process>> {
    let from = ["--from", "198.51.100.2", "--from", "2001:db8:2::2"];
    thread::scope(|scope| {
        let start = |host| scope.spawn(move || direct_return::decapsulator(host, &from));
        let starting: Vec<_> = backends.iter().map(start).collect();
        let started = |start: thread::ScopedJoinHandle<'_, _>| {
            start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        starting.into_iter().map(started).collect()
    })
}

/// As whoever configures a host's network adds the addresses again when a link comes back.
fn keep_addresses(network: &Network, far: &Host) -> Result<()> {
    for host in network.backends.iter().chain([&network.lb, &network.client, far]) {
        for interfaces in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{interfaces}.keep_addr_on_down"), "1")?;
        }
    }
    Ok(())
}

/// The services of the config file, with [`BY_FILE`] of this weight or without it.
fn services(lists: &Path, by_file: Option<u16>) -> String {
    let mut text = String::new();
    for kind in Kind::all() {
        // A datagram says nothing of whether it begins a flow: only flows that are recorded stay where they are when the
        // ring moves.
        let tracking = if kind.protocol == Protocol::Udp { "always" } else { "auto" };
        text += &format!(
            "\n[[service]]\nname = \"{kind}\"\nvip = \"{}\"\nprotocol = \"{}\"\nmode = \"{}\"\nflow_tracking = \"{tracking}\"\n\
             health_check = {CHECK}\n[service.discovery]\ntype = \"file\"\npath = {:?}\ndrain_timeout = \"{}s\"\n",
            kind.vip(),
            kind.protocol,
            kind.mode,
            list_path(lists, kind),
            DRAIN_TIMEOUT.as_secs(),
        );
        let listed = LISTED.map(|backend| (backend, WEIGHT));
        for (backend, weight) in listed.chain(by_file.map(|weight| (BY_FILE, weight))) {
            let address = kind.backend(backend);
            text += &format!("[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n");
        }
    }
    text
}

fn list_path(dir: &Path, kind: Kind) -> PathBuf {
    dir.join(format!("{kind}.json"))
}

/// The list of backends for a service to find.
fn list(kind: Kind, weight: Option<u16>) -> String {
    let address = kind.backend(BY_DISCOVERY);
    let entry = weight.map(|weight| format!(r#"{{"address": "{address}", "weight": {weight}}}"#));
    format!("{{\"backends\": [{}]}}\n", entry.unwrap_or_default())
}

/// Replaces a file by renaming, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}
