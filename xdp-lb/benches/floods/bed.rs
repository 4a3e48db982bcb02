//! The network, the servers and the real daemon; the flows that live while it is flooded, and the clients that come.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use xdp_lb_tests::client::Connection;
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Conversations, Daemon, Family, Host, Network, Process, UdpFlows, direct_return};

use crate::cpu;
use crate::flood::{Flood, Sender};
use crate::services::Service;

/// How many flows live.
pub const LIVE: usize = 500;

/// How many backends there are.
const BACKENDS: usize = 3;

/// How many flows there is room for: a flood fills that within a second.
const FLOWS: u32 = 1 << 17;

/// How often a client tries: a flood may take its half-open flow's record.
const TRIES: usize = 3;

/// How long between two clients, and between two commands.
const CLIENTS: Duration = Duration::from_millis(10);
const COMMANDS: Duration = Duration::from_millis(100);

/// The client that backends answer straight: its address, and with the prefix's length.
const FAR: (&str, &str) = ("203.0.113.100", "203.0.113.100/24");
const FAR6: (&str, &str) = ("2001:db8:3::100", "2001:db8:3::100/64");

/// Where the live datagrams come from: ports of which clients get none.
const UDP_PORTS: std::ops::Range<u16> = 20_000..20_000 + LIVE as u16;

/// All of it.
pub struct Bed {
    // The daemon ends before the network does.
    daemon: Daemon,
    network: Network,
    far: Host,
    _servers: Vec<(TcpEcho, UdpEcho)>,
    _decapsulators: Vec<Process>,
}

/// What came of a flood.
pub struct Outcome {
    /// Packets a second.
    pub rate: f64,
    /// How many of the live flows broke.
    pub broken: usize,
    /// How many clients came.
    pub clients: usize,
    /// How many of them connected more than once, since they were reset, or not answered in ten seconds.
    pub retried: usize,
    /// How many of them were refused each time, of [`TRIES`].
    pub refused: usize,
    /// Why the first try failed that did.
    pub why: Option<String>,
    /// The longest that one of the others waited.
    pub slowest_client: Duration,
    /// The longest that `xdp-lb backend list` took.
    pub slowest_command: Duration,
}

impl Bed {
    /// Starts it with these services.
    pub fn start(services: &[Service]) -> Result<Self> {
        let mut network = Network::new("floods", BACKENDS)?;
        let gateway = ["203.0.113.1/24", "2001:db8:3::1/64"];
        let far = network.add_network("eth2", gateway, "far", [FAR, FAR6].map(|it| it.1))?;
        direct_return::connect_with(&network, &far, [FAR, FAR6].map(|it| it.0))?;
        direct_return::give_vips(&network)?;
        // Replies to senders that nobody is go where those are said to be.
        network.lb.run("ip route add 198.18.0.0/15 via 192.0.2.100")?;
        let decapsulators = network
            .backends
            .iter()
            .map(|host| direct_return::decapsulator(host, &["--from", "198.51.100.2"]))
            .collect::<Result<_>>()?;
        let pairs = network.backends.iter().flat_map(|host| services.iter().map(move |it| (host, it)));
        let servers = pairs.map(|(host, service)| service.start(host)).collect::<Result<_>>()?;
        let services: String = services.iter().map(|service| service.config(BACKENDS)).collect();
        let config = format!("limits.flows = {FLOWS}\n{services}");
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1", "eth2"], &config)?;
        daemon.wait_until_up()?;
        Ok(Self { daemon, network, far, _servers: servers, _decapsulators: decapsulators })
    }

    /// The host whose clients are answered past the load balancer, or by it, and its address.
    fn client(&self, service: Service) -> (&Host, IpAddr) {
        if service.is_direct() {
            (&self.far, FAR.0.parse().expect("it is an address"))
        } else {
            (&self.network.client, Network::client_address(Family::V4))
        }
    }

    /// Opens the flows of a service that live.
    pub fn open(&self, service: Service, is_udp: bool) -> Result<Live> {
        Live::open(self.client(service).0, service.vip(), is_udp)
    }

    /// Floods a service for so long, while its flows live and clients come.
    pub fn flood(
        &self,
        sender: &mut Sender,
        service: Service,
        live: &mut Live,
        flood: Flood,
        time: Duration,
    ) -> Result<Outcome> {
        let vip = service.vip();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients = scope.spawn(|| self.clients(service, flood.is_udp(), &is_over));
            let commands = scope.spawn(|| self.commands(&is_over));
            let flows = scope.spawn(|| {
                let mut broken = 0;
                while !is_over.load(Ordering::Relaxed) {
                    broken += live.exchange();
                }
                // Once more, without the flood.
                broken + live.exchange()
            });
            // On a processor of its own, where there is one.
            let sender =
                scope.spawn(|| cpu::pin().and_then(|()| sender.send(&self.network, flood, vip, time)));
            let rate = sender.join().map_err(|_| anyhow!("the generator panicked"));
            is_over.store(true, Ordering::Relaxed);
            let seen = clients.join().map_err(|_| anyhow!("a client panicked"))??;
            let slowest_command = commands.join().map_err(|_| anyhow!("a command panicked"))??;
            let broken = flows.join().map_err(|_| anyhow!("a flow panicked"))?;
            Ok(Outcome { rate: rate??, broken, slowest_command, ..seen })
        })
    }

    /// One client after the other, each of which connects, is answered, and goes.
    fn clients(&self, service: Service, is_udp: bool, is_over: &AtomicBool) -> Result<Outcome> {
        let mut seen = Outcome {
            rate: 0.0,
            broken: 0,
            clients: 0,
            retried: 0,
            refused: 0,
            why: None,
            slowest_client: Duration::ZERO,
            slowest_command: Duration::ZERO,
        };
        let (vip, (host, address)) = (service.vip(), self.client(service));
        while !is_over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let port = 30_000 + (seen.clients % 30_000) as u16;
            seen.clients += 1;
            let mut tries = 0;
            let answered = loop {
                tries += 1;
                let answered = if is_udp {
                    let answers = UdpFlows::open(host, vip, port..port + 1)?.ask();
                    answers[0].is_some().then_some(()).ok_or_else(|| anyhow!("no answer"))
                } else {
                    Connection::open(host, SocketAddr::new(address, 0), vip).map(drop)
                };
                let Err(error) = answered else { break true };
                seen.why.get_or_insert(format!("{error:#}"));
                if tries == TRIES {
                    break false;
                }
            };
            seen.retried += usize::from(tries > 1);
            if answered {
                seen.slowest_client = seen.slowest_client.max(begin.elapsed());
            } else {
                seen.refused += 1;
            }
            sleep(CLIENTS);
        }
        Ok(seen)
    }

    /// One command after the other; the longest that one took.
    fn commands(&self, is_over: &AtomicBool) -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        while !is_over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            self.daemon.cli(&["backend", "list"])?;
            slowest = slowest.max(begin.elapsed());
            sleep(COMMANDS);
        }
        Ok(slowest)
    }

    /// What was not forwarded, and why.
    pub fn counters(&self) -> Result<String> {
        self.daemon.cli(&["counters"])
    }
}

/// Flows that live.
pub enum Live {
    Tcp(Conversations),
    Udp { flows: UdpFlows, backends: Vec<Option<String>> },
}

impl Live {
    /// Opens [`LIVE`] of them; each has been answered more than once, in more than two seconds.
    fn open(host: &Host, vip: SocketAddr, is_udp: bool) -> Result<Self> {
        let mut live = if is_udp {
            let mut flows = UdpFlows::open(host, vip, UDP_PORTS)?;
            let backends = flows.ask();
            Self::Udp { flows, backends }
        } else {
            Self::Tcp(Conversations::open(host, vip, LIVE)?)
        };
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(3_200) {
            let broken = live.exchange();
            anyhow::ensure!(broken == 0, "{broken} flows are broken before anything comes");
            sleep(Duration::from_millis(300));
        }
        Ok(live)
    }

    /// Has each ask its backend; how many have got no answer, or another one's.
    fn exchange(&mut self) -> usize {
        match self {
            Self::Tcp(conversations) => conversations.exchange().len(),
            Self::Udp { flows, backends } => {
                flows.ask().iter().zip(backends).filter(|(now, before)| now != before).count()
            }
        }
    }
}
