//! From a server's death to the last packet that is sent to it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::statistics::spread;
use xdp_lb_tests::{Daemon, Host, Network, until};

const PORT: u16 = 8080;
const INTERVAL: u64 = 100;
const TIMEOUT: u64 = 100;
const FALL: u64 = 2;
/// When a backend that fails stops receiving new flows, as docs/configuration.md promises; and all others, with
/// `on_down = "reset"`.
const PROMISE: u64 = FALL * INTERVAL + TIMEOUT;
/// Clients, each of which sends a datagram a millisecond: so many that each of three servers has some.
const CLIENTS: u16 = 32;

/// How a server ceases to answer.
#[derive(Clone, Copy)]
enum Death {
    /// Its process is killed: its host refuses connections.
    Killed,
    /// Nothing comes back from its host.
    Silent,
}

/// Lets the second of three servers die again and again, while clients send.
pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let network = Network::new("bench-failover", 3)?;
    let mut web: Vec<_> =
        network.backends.iter().map(|host| Nginx::start(host, PORT)).collect::<Result<_>>()?;
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config())?;
    daemon.wait_until_up()?;
    let vip = SocketAddr::from(([192, 0, 2, 10], PORT));
    let victim = &network.backends[1];
    let address = format!("{}:{PORT}", Network::backend(2));
    let mut table = Table::new(
        "From a server's death to the last packet that is sent to it",
        &format!(
            "Milliseconds, over {rounds} deaths each, with an HTTP check every {INTERVAL} ms, timeout {TIMEOUT} ms, \
             fall = {FALL}, and on_down = \"reset\": {PROMISE} ms are promised for new flows, with that key for all of them, and the interval's jitter (a tenth) comes on top. UDP, nat, \
             {CLIENTS} clients that each send a datagram a millisecond."
        ),
        &["the server", "median", "longest", "promised"],
    );
    for (death, name) in [(Death::Killed, "is killed"), (Death::Silent, "goes silent")] {
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let seen = Receiver::start(victim)?;
            let clients = Clients::start(&network.client, vip);
            until("a packet for the server", Duration::from_secs(5), || Ok(seen.last().is_some()))?;
            // Not always at the same time after a check.
            thread::sleep(Duration::from_millis(137));
            let died = Instant::now();
            match death {
                Death::Killed => web[1].stop(),
                Death::Silent => victim.run("ip route add blackhole 198.51.100.2/32").map(drop)?,
            }
            daemon.wait_for_state("service", &address, "down", Duration::from_secs(10))?;
            // What is on its way.
            thread::sleep(Duration::from_millis(50));
            let last = seen.last().context("no packet came")?;
            samples.push(last.saturating_duration_since(died).as_secs_f64() * 1_000.0);
            drop((clients, seen));
            match death {
                Death::Killed => web[1].restart()?,
                Death::Silent => victim.run("ip route del blackhole 198.51.100.2/32").map(drop)?,
            }
            daemon.wait_for_state("service", &address, "up", Duration::from_secs(10))?;
            eprint!(".");
        }
        let longest = samples.iter().copied().fold(0.0, f64::max);
        let spread = spread(samples);
        report.sampled(&[("server", name), ("time", "to the last packet")], "ms", spread);
        table.row([
            name.to_owned(),
            format!("{:.0}", spread.median),
            format!("{longest:.0}"),
            PROMISE.to_string(),
        ]);
    }
    eprintln!();
    report.tables.push(table);
    Ok(())
}

/// Every flow is recorded: else a server that came back would get no new UDP flow for `udp_idle`.
fn config() -> String {
    let mut config = format!(
        "[[service]]\nname = \"service\"\nvip = \"192.0.2.10:{PORT}\"\nprotocol = \"udp\"\nmode = \"nat\"\n\
         flow_tracking = \"always\"\non_down = \"reset\"\n\
         health_check = {{ type = \"http\", path = \"/healthz\", interval = \"{INTERVAL}ms\", \
         timeout = \"{TIMEOUT}ms\", rise = 1, fall = {FALL} }}\n"
    );
    for number in 1..=3 {
        config += &format!("[[service.backend]]\naddress = \"{}:{PORT}\"\n", Network::backend(number));
    }
    config
}

/// Notes when datagrams arrive at a host, until dropped.
struct Receiver {
    last: Arc<Mutex<Option<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start(host: &Host) -> Result<Self> {
        let socket = host
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))?
            .with_context(|| format!("cannot bind UDP port {PORT}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (last, stop) = <(Arc<Mutex<Option<Instant>>>, Arc<AtomicBool>)>::default();
        let (seen, stopped) = (Arc::clone(&last), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut datagram = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if socket.recv(&mut datagram).is_ok() {
                    *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                }
            }
        });
        Ok(Self { last, stop, thread: Some(thread) })
    }

    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Send until dropped.
struct Clients {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    fn start(client: &Host, vip: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (client, stopped) = (client.clone(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let open = || -> std::io::Result<Vec<UdpSocket>> {
                (0..CLIENTS).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).collect()
            };
            let Ok(Ok(sockets)) = client.enter(open) else { return };
            while !stopped.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // Refused and lost ones are what happens when a server dies.
                    let _ = socket.send_to(b"bench", vip);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
