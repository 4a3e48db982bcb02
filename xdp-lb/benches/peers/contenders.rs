//! What a user would pick instead, set up as its manual says.

use std::fs;
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use xdp_lb_tests::{Daemon, Host, Process, paths, until};

use crate::bed::{Bed, PORT, SERVERS, VIP};

/// A way to bring packets from clients to servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// Plain multipath routing to servers that own the VIP: the least that can be done.
    Routing,
    /// nftables' destination NAT.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nginx's stream module.
    NginxStream,
    /// xdp-lb in this mode.
    XdpLb(&'static str),
    /// An XDP program that looks at nothing and sends everything on.
    Bare,
}

/// What runs for it.
#[expect(dead_code, reason = "held for what their end ends")]
enum Running {
    Nothing,
    Process(Process),
    Daemon(Daemon),
}

/// A contender, at work.
pub struct Ready {
    pub contender: Contender,
    pub bed: Bed,
    _running: Running,
    _web: Option<Process>,
}

impl Contender {
    /// As it is called in tables.
    pub fn name(self) -> String {
        match self {
            Self::Routing => "plain multipath routing".to_owned(),
            Self::Nftables => "nftables DNAT".to_owned(),
            Self::Haproxy => "HAProxy, mode tcp".to_owned(),
            Self::NginxStream => "nginx stream".to_owned(),
            Self::XdpLb(mode) => format!("xdp-lb, {mode}"),
            Self::Bare => "bare XDP redirect".to_owned(),
        }
    }

    /// The package without which it cannot take part, where that is not installed.
    pub fn missing(self) -> Option<&'static str> {
        let package = match self {
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::NginxStream => "libnginx-mod-stream",
            Self::Routing | Self::XdpLb(_) | Self::Bare => return None,
        };
        paths::missing_peers().into_iter().find(|missing| *missing == package)
    }

    /// Sets it up on a bed of its own; for TCP with a web server behind it, which is there first: nginx remembers for
    /// ten seconds whom it did not reach.
    pub fn start(self, protocol: &str) -> Result<Ready> {
        let bed = Bed::new(&format!("bench-{}", self.name().replace([' ', ','], "-")))?;
        let web = (protocol == "tcp").then(|| web_server(&bed.servers)).transpose()?;
        let running = self.run(&bed, protocol).with_context(|| format!("cannot set up {}", self.name()))?;
        Ok(Ready { contender: self, bed, _running: running, _web: web })
    }

    fn run(self, bed: &Bed, protocol: &str) -> Result<Running> {
        let Bed { lb, servers, .. } = bed;
        let vip = VIP.ip();
        // With these the servers answer in the VIP's name, which the balancer's host then routes like any other.
        if matches!(self, Self::Routing | Self::XdpLb("dsr" | "ipip" | "gue")) {
            servers.run(&format!("ip addr add {vip}/32 dev lo"))?;
        } else {
            lb.run(&format!("ip addr add {vip}/32 dev eth0"))?;
        }
        match self {
            Self::Routing => {
                lb.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
                let hops: String =
                    SERVERS.iter().map(|server| format!(" nexthop via {server} dev eth1")).collect();
                lb.run(&format!("ip route add {vip}/32{hops}"))?;
                Ok(Running::Nothing)
            }
            Self::Nftables => {
                let map: Vec<_> = SERVERS
                    .iter()
                    .enumerate()
                    .map(|(number, server)| format!("{number} : {server}"))
                    .collect();
                let file = lb.dir().join("rules.nft");
                fs::write(
                    &file,
                    format!(
                        "table ip balance {{\nchain prerouting {{\ntype nat hook prerouting priority dstnat;\n\
                         ip daddr {vip} {protocol} dport {PORT} dnat to numgen inc mod {} map {{ {} }}\n}}\n}}\n",
                        SERVERS.len(),
                        map.join(", ")
                    ),
                )?;
                lb.run(&format!("nft -f {}", file.display()))?;
                Ok(Running::Nothing)
            }
            Self::Haproxy => haproxy(lb).map(Running::Process),
            Self::NginxStream => {
                let upstream: String =
                    SERVERS.iter().map(|server| format!("server {server}:{PORT};")).collect();
                let config = format!(
                    "load_module {module};\ndaemon off;\nmaster_process off;\npid {dir}/nginx.pid;\n\
                     error_log stderr;\nevents {{ worker_connections 8000; }}\nstream {{\n\
                     upstream servers {{ {upstream} }}\nserver {{ listen {VIP} backlog=4096; proxy_pass servers; }}\n}}\n",
                    module = paths::NGINX_STREAM_MODULE,
                    dir = lb.dir().display()
                );
                nginx(lb, VIP, &config).map(Running::Process)
            }
            Self::XdpLb(mode) => {
                let mut config = format!(
                    "[[service]]\nname = \"service\"\nvip = \"{VIP}\"\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n\
                     health_check = {{ type = \"none\" }}\n"
                );
                for server in SERVERS {
                    config += &format!("[[service.backend]]\naddress = \"{server}:{PORT}\"\n");
                }
                let daemon = Daemon::start(lb, &["eth0", "eth1"], &config)?;
                daemon.wait_until_up()?;
                Ok(Running::Daemon(daemon))
            }
            Self::Bare => Ok(Running::Nothing),
        }
    }
}

fn haproxy(lb: &Host) -> Result<Process> {
    let mut config = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\nlisten service\n  bind {VIP}\n  balance roundrobin\n"
    );
    for (number, server) in SERVERS.iter().enumerate() {
        config += &format!("  server s{number} {server}:{PORT}\n");
    }
    let file = lb.dir().join("haproxy.cfg");
    fs::write(&file, config)?;
    let file = file.to_string_lossy().into_owned();
    program(lb, VIP, "haproxy", &["-db", "-f", &file])
}

/// Starts the web server that all contenders have behind them.
fn web_server(servers: &Host) -> Result<Process> {
    let body = "x".repeat(1_000);
    let config = format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 8000; }}\nhttp {{\naccess_log off;\nkeepalive_requests 1000000000;\n\
         server {{ listen 0.0.0.0:{PORT} backlog=4096; location / {{ return 200 \"{body}\"; }} }}\n}}\n",
        dir = servers.dir().display()
    );
    nginx(servers, SocketAddrV4::new(SERVERS[0], PORT), &config)
}

fn nginx(host: &Host, listens_at: SocketAddrV4, config: &str) -> Result<Process> {
    let file = host.dir().join("nginx.conf");
    fs::write(&file, config).context("cannot write nginx's config")?;
    let (dir, file) = (host.dir().to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    program(host, listens_at, "nginx", &["-p", &dir, "-c", &file, "-e", "stderr"])
}

/// Starts a server, and waits until it accepts connections.
fn program(host: &Host, listens_at: SocketAddrV4, name: &str, arguments: &[&str]) -> Result<Process> {
    let file = paths::program(name).with_context(|| format!("{name} is not installed"))?;
    let mut process = host.spawn(name, &file.to_string_lossy(), arguments)?;
    until(&format!("{name} on {}", host.name()), Duration::from_secs(10), || {
        if process.exited()?.is_some() {
            anyhow::bail!("{name} ended: {}", process.log().trim());
        }
        host.enter(|| TcpStream::connect(listens_at).is_ok())
    })?;
    Ok(process)
}
