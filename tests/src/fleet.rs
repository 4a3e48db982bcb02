//! Several load balancers behind a router that spreads flows over them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::conversations::Conversations;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::Lab;
use crate::link::connect;
use crate::network::{address, plug};
use crate::servers::TcpEcho;
use crate::wait;
use crate::way::Family;
use crate::xdp_pass::XdpPass;

/// How long nodes may take to join, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port of the servers, and of the VIP.
pub const PORT: u16 = 7000;

/// The same secret on every node.
const SECRET: &str = "9f3a61d2c0b7e845aa10f4637d5c2e98b1460f7de3a95c8224d17b60ce8f3a59";

/// ```text
/// client eth0 ---- eth0 router ---- switch ---- eth0 lb1, lb2, ...; backend-1, backend-2, ...
/// 203.0.113.100/25   192.0.2.254    192.0.2.1, .2, ...; 192.0.2.101, .102, ...
/// 2001:db8:1::100    2001:db8:2::fe 2001:db8:2::1, ...;   2001:db8:2::101, ...
/// ```
///
/// The router sends what is for the VIPs, 203.0.113.200 and 2001:db8:1:1::200, to the nodes that it has been told of, by the hash of
/// addresses and ports: whenever it is told of others, it spreads all flows anew. Node N's own SNAT addresses are 198.51.100.N and
/// 2001:db8:3::N, and backends send to them by the node that [`Fleet::announce`] names.
pub struct Fleet {
    /// The lab that the hosts belong to.
    pub lab: Lab,
    /// The client.
    pub client: Host,
    /// The router.
    pub router: Host,
    /// The hosts of the load balancers, that of `lb1` first.
    pub hosts: Vec<Host>,
    /// Their daemons, as far as they run.
    pub daemons: Vec<Option<Daemon>>,
    /// The backends.
    pub backends: Vec<Host>,
    config: String,
    _servers: Vec<TcpEcho>,
    _peers: Vec<XdpPass>,
    switch: Host,
}

impl Fleet {
    /// Makes the hosts, and connects them; no daemon runs. `config`: what follows the fleet in each config file, with `SNAT4` and
    /// `SNAT6` for the node's SNAT addresses.
    pub fn new(name: &str, nodes: usize, backends: usize, config: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, router, switch) = (lab.host("client")?, lab.host("router")?, lab.host("switch")?);
        connect(&client, "eth0", &router, "eth0")?;
        address(&client, "eth0", "203.0.113.100/25", "2001:db8:1::100/64")?;
        address(&router, "eth0", "203.0.113.1/25", "2001:db8:1::1/64")?;
        client.run("ip route add default via 203.0.113.1")?;
        client.run("ip -6 route add default via 2001:db8:1::1")?;
        switch.run("ip link add bridge type bridge")?;
        switch.run("ip link set bridge up")?;
        plug(&switch, "router", &router, "eth1")?;
        address(&router, "eth1", "192.0.2.254/24", "2001:db8:2::fe/64")?;
        forward(&router)?;
        for family in ["net.ipv4.fib_multipath_hash_policy", "net.ipv6.fib_multipath_hash_policy"] {
            router.sysctl(family, "1")?;
        }
        let (mut hosts, mut peers) = (Vec::new(), vec![XdpPass::attach(&switch, "router")?]);
        for number in 1..=nodes {
            let host = lab.host(&format!("lb{number}"))?;
            plug(&switch, host.name(), &host, "eth0")?;
            address(&host, "eth0", &format!("192.0.2.{number}/24"), &format!("2001:db8:2::{number}/64"))?;
            peers.push(XdpPass::attach(&switch, host.name())?);
            host.run("ip route add default via 192.0.2.254")?;
            host.run("ip -6 route add default via 2001:db8:2::fe")?;
            address(&host, "lo", &format!("198.51.100.{number}/32"), &format!("2001:db8:3::{number}/128"))?;
            forward(&host)?;
            hosts.push(host);
        }
        let mut behind = Vec::new();
        for number in 1..=backends {
            let host = lab.host(&format!("backend-{number}"))?;
            plug(&switch, host.name(), &host, "eth0")?;
            address(&host, "eth0", &format!("192.0.2.10{number}/24"), &format!("2001:db8:2::10{number}/64"))?;
            peers.push(XdpPass::attach(&switch, host.name())?);
            host.run("ip route add default via 192.0.2.254")?;
            host.run("ip -6 route add default via 2001:db8:2::fe")?;
            behind.push(host);
        }
        for host in behind.iter().chain([&client]) {
            // Else a sender's hash changes when it sends again, and the router's choice with it.
            host.sysctl("net.core.txrehash", "0")?;
            host.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            host.sysctl("net.ipv4.conf.eth0.rp_filter", "0")?;
        }
        let servers = behind.iter().map(|host| TcpEcho::start(host, PORT)).collect::<Result<_>>()?;
        Ok(Self {
            lab,
            client,
            router,
            daemons: hosts.iter().map(|_| None).collect(),
            hosts,
            backends: behind,
            config: config.to_owned(),
            _servers: servers,
            _peers: peers,
            switch,
        })
    }

    /// The VIP.
    pub fn vip(family: Family) -> SocketAddr {
        let address = match family {
            Family::V4 => "203.0.113.200",
            Family::V6 => "2001:db8:1:1::200",
        };
        SocketAddr::new(address.parse().expect("it is an address"), PORT)
    }

    /// Where a backend listens, counted from 1.
    pub fn backend(family: Family, number: usize) -> SocketAddr {
        let address = match family {
            Family::V4 => format!("192.0.2.10{number}"),
            Family::V6 => format!("2001:db8:2::10{number}"),
        };
        SocketAddr::new(address.parse().expect("it is an address"), PORT)
    }

    /// Starts the daemons of these nodes, counted from 1, all at once, on hosts without tables, and waits until they have joined and all
    /// backends are up.
    pub fn start(&mut self, numbers: &[usize]) -> Result<()> {
        let started = thread::scope(|scope| {
            let starting: Vec<_> =
                numbers.iter().map(|number| scope.spawn(|| self.started(*number))).collect();
            let join = |it: thread::ScopedJoinHandle<'_, _>| it.join().unwrap_or_else(|it| resume_unwind(it));
            starting.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        for (number, daemon) in numbers.iter().zip(started) {
            self.daemons[number - 1] = Some(daemon);
        }
        Ok(())
    }

    fn started(&self, number: usize) -> Result<Daemon> {
        let host = &self.hosts[number - 1];
        self.switch.run(&format!("ip link set {} up", host.name()))?;
        let key = host.dir().join("fleet.key");
        fs::write(&key, "0123456789abcdef".repeat(4))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let nodes = (1..=self.hosts.len())
            .map(|it| format!("{{ name = \"lb{it}\", address = \"192.0.2.{it}:7946\" }}"))
            .collect::<Vec<_>>();
        let config = self.config.replace("SNAT4", &format!("198.51.100.{number}"));
        let config = config.replace("SNAT6", &format!("2001:db8:3::{number}"));
        let text = format!(
            "flow_hash_secret = \"{SECRET}\"\nfleet.name = \"lab\"\nfleet.node = \"lb{number}\"\n\
             fleet.key_file = {key:?}\nfleet.nodes = [{}]\n{config}",
            nodes.join(", ")
        );
        let daemon = Daemon::start(host, &["eth0"], &text)?;
        wait::until("the node to join", PATIENCE, || Ok(status(&daemon)?["joined"] == true))
            .with_context(|| daemon.log())?;
        wait::until("every backend to be checked", PATIENCE, || {
            let is_known = |backend: &Value| backend["state"] == "up" || backend["state"] == "draining";
            Ok(daemon.backends(None)?.iter().all(is_known))
        })
        .with_context(|| daemon.log())?;
        Ok(daemon)
    }

    /// Kills a node: its daemon at once, and its link.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        // It keeps its addresses and routes for when it returns.
        self.switch.run(&format!("ip link set {} down", self.hosts[number - 1].name()))?;
        let mut daemon = self.daemons[number - 1].take().context("no daemon runs there")?;
        daemon.kill()
    }

    /// A node's daemon, counted from 1.
    pub fn daemon(&self, number: usize) -> &Daemon {
        self.daemons[number - 1].as_ref().expect("it runs")
    }

    /// Tells router and backends of the nodes that are there: the router sends to all of them, a backend's packets to the client pass
    /// the first one where the router is not its way (`replies`), and SNAT addresses of the others go to the first one, too.
    pub fn announce(&self, nodes: &[usize], replies: Replies) -> Result<()> {
        for (family, [vip, gateway]) in
            [("", ["203.0.113.200/32", "192.0.2."]), ("-6", ["2001:db8:1:1::200/128", "2001:db8:2::"])]
        {
            let hops: String = nodes.iter().map(|number| format!(" nexthop via {gateway}{number}")).collect();
            self.router.run(&format!("ip {family} route replace {vip}{hops}"))?;
        }
        let first = nodes.first().context("no node is there")?;
        for backend in &self.backends {
            for number in 1..=self.hosts.len() {
                let by = if nodes.contains(&number) { number } else { *first };
                backend.run(&format!("ip route replace 198.51.100.{number} via 192.0.2.{by}"))?;
                backend.run(&format!("ip -6 route replace 2001:db8:3::{number} via 2001:db8:2::{by}"))?;
            }
            if replies == Replies::ThroughNodes {
                backend.run(&format!("ip route replace 203.0.113.0/25 via 192.0.2.{first}"))?;
                backend.run(&format!("ip -6 route replace 2001:db8:1::/64 via 2001:db8:2::{first}"))?;
            }
        }
        Ok(())
    }

    /// Gives the VIPs to the backends, which answer clients themselves.
    pub fn give_vips(&self) -> Result<()> {
        for backend in &self.backends {
            backend.run(&format!("ip addr add {}/32 dev lo", Self::vip(Family::V4).ip()))?;
            backend.run(&format!("ip addr add {}/128 dev lo nodad", Self::vip(Family::V6).ip()))?;
        }
        Ok(())
    }

    /// Runs a command on all nodes that run.
    pub fn on_all(&self, command: &[&str]) -> Result<()> {
        self.daemons.iter().flatten().try_for_each(|daemon| daemon.cli(command).map(drop))
    }

    /// Opens connections, half of them over IPv6.
    pub fn open(&self, count: usize) -> Result<Conversations> {
        let mut open = Conversations::open(&self.client, Self::vip(Family::V4), count / 2)?;
        open.open_more(&self.client, Self::vip(Family::V6), count - count / 2)?;
        Ok(open)
    }

    /// Waits until nodes that run have told each other of all that they had to tell: for a while nothing passes but what they are told of
    /// long flows now and then.
    pub fn wait_until_told(&self) -> Result<()> {
        let mut last = Vec::new();
        let mut same = 0;
        wait::until("the nodes to have told each other of all flows", PATIENCE, || {
            let sent = |daemon: &Daemon| -> Result<u64> {
                let status = status(daemon)?;
                let peers = status["peers"].as_array().context("no peers")?;
                Ok(peers.iter().filter_map(|peer| peer["sent_flows"].as_u64()).sum())
            };
            let present: Vec<u64> = self.daemons.iter().flatten().map(sent).collect::<Result<_>>()?;
            same = if present == last { same + 1 } else { 0 };
            last = present;
            thread::sleep(Duration::from_millis(250));
            Ok(same >= 3)
        })
        .map(drop)
    }
}

/// How backends' packets get to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replies {
    /// To addresses of the nodes, or straight to the router.
    Direct,
    /// Through the first of the nodes.
    ThroughNodes,
}

/// What `xdp-lb fleet status` shows.
pub fn status(daemon: &Daemon) -> Result<Value> {
    daemon.cli_json(&["fleet", "status"])
}

fn forward(host: &Host) -> Result<()> {
    host.sysctl("net.ipv4.ip_forward", "1")?;
    host.sysctl("net.ipv6.conf.all.forwarding", "1")
}
