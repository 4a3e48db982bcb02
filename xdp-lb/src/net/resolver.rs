//! The task that watches the kernel and keeps the state.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::kernel::{Change, Changes, HopId, Kernel, Route, connect};
use super::state::State;
use super::{Event, OwnMacs};

/// The multicast groups to which this subscribes.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// More changes may follow the first (a removed link takes its routes and addresses with it), so routes are looked up after
/// this time.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// The interval at which everything is read again, jittered by a tenth, since the kernel does not report every change (not a
/// learned path MTU, nor that of a nexthop object).
const REFRESH: Duration = Duration::from_secs(60);

/// The time after which a failed resync is repeated.
const RESYNC_RETRY: Duration = Duration::from_secs(1);

/// Maximum number of requests of each kind that wait for the kernel's answer.
const IN_FLIGHT: usize = 32;

/// How many changes are handled before anything else.
const BURST: usize = 1024;

/// How many neighbours the datapath can have solicited per second, each of them once.
const SOLICITED_PER_SECOND: usize = 256;

/// The handle to the task that watches routes, neighbours, links and addresses. When it is dropped, the task and its events end.
#[derive(Debug)]
pub struct Resolver {
    watch: mpsc::UnboundedSender<BTreeSet<IpAddr>>,
    solicit: mpsc::Sender<HopId>,
}

impl Resolver {
    /// Starts to watch routes, neighbours, links and addresses of the calling thread's network namespace. While `events` is full,
    /// changes are merged, and the latest state is sent once there is room. If `events` closes, the netlink connection broke, and
    /// the reason was logged. Returns the MACs of the interfaces, which are also the first event.
    ///
    /// # Errors
    /// If the netlink sockets cannot be opened, or interfaces or neighbours cannot be listed.
    pub async fn start(events: mpsc::Sender<Event>) -> anyhow::Result<(Self, OwnMacs)> {
        // Subscribe before reading anything, so that no change is missed.
        let changes = Changes::of(&GROUPS)?;
        let (kernel, connection) = connect()?;
        let (watch, watches) = mpsc::unbounded_channel();
        let (solicit, solicitations) = mpsc::channel(SOLICITED_PER_SECOND);
        let mut task = Task {
            kernel,
            state: State::default(),
            routing: FuturesUnordered::new(),
            route_queue: VecDeque::new(),
            batch: (Instant::now(), Instant::now()),
            route_at: None,
            soliciting: FuturesUnordered::new(),
            solicited: HashSet::new(),
            solicited_since: Instant::now(),
            resync_at: Instant::now(),
            is_overrun: false,
            _connection: connection,
        };
        task.resync().await.context("cannot read the state of the network from the kernel")?;
        let own_macs = task.state.own_macs();
        tokio::spawn(task.run(changes, watches, solicitations, events));
        Ok((Self { watch, solicit }, own_macs))
    }

    /// Replaces the set of addresses whose next hop is wanted.
    pub fn watch(&self, addresses: BTreeSet<IpAddr>) {
        // The task ends only with the netlink connection, and then `events` closes.
        let _ = self.watch.send(addresses);
    }

    /// Makes the kernel resolve a neighbour that the datapath needs, on the interface with index `ifindex` (the VLAN device's, if
    /// it is on a VLAN). At most once per second for each neighbour, and 256 neighbours per second. Other requests are ignored:
    /// the next packet repeats them.
    pub fn solicit(&self, ifindex: u32, address: IpAddr) {
        let _ = self.solicit.try_send(HopId { ifindex, address });
    }
}

struct Task {
    kernel: Kernel,
    state: State,
    /// Route lookups that wait for the kernel's answer.
    routing: FuturesUnordered<BoxFuture<'static, (IpAddr, Result<Route, String>)>>,
    /// Route lookups of the same batch that have not been sent.
    route_queue: VecDeque<IpAddr>,
    /// When the current or last batch began and ended.
    batch: (Instant, Instant),
    /// When the next batch of route lookups may begin.
    route_at: Option<Instant>,
    soliciting: FuturesUnordered<BoxFuture<'static, (HopId, Result<(), String>)>>,
    /// What the datapath had solicited in the current second.
    solicited: HashSet<HopId>,
    solicited_since: Instant,
    resync_at: Instant,
    /// Whether changes were lost, so that the subscription must be renewed.
    is_overrun: bool,
    /// Ends the connection for requests with the task.
    _connection: JoinSet<()>,
}

impl Task {
    async fn run(
        mut self,
        mut changes: Changes,
        mut watches: mpsc::UnboundedReceiver<BTreeSet<IpAddr>>,
        mut solicitations: mpsc::Receiver<HopId>,
        events: mpsc::Sender<Event>,
    ) {
        let mut event = None;
        loop {
            self.send_requests();
            event = event.or_else(|| self.state.next_event());
            let wake_at = tokio::time::Instant::from_std(self.wake_at());
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else {
                        tracing::error!("the netlink connection failed: next hops are no longer updated");
                        return;
                    };
                    self.take_in(change);
                    for _ in 0..BURST {
                        let Some(Some(change)) = changes.next().now_or_never() else { break };
                        self.take_in(change);
                    }
                }
                watched = watches.recv() => {
                    let Some(watched) = watched else { return };
                    self.state.watch(&watched);
                }
                Some(hop) = solicitations.recv() => self.solicit_for_datapath(hop),
                Some((address, route)) = self.routing.next() => {
                    let now = Instant::now();
                    self.batch.1 = now;
                    self.state.routed(address, route, now);
                }
                Some((hop, answer)) = self.soliciting.next() => {
                    if let Err(reason) = answer {
                        tracing::debug!(address = %hop.address, ifindex = hop.ifindex, reason, "cannot solicit a neighbour");
                        self.state.refused(hop, &reason);
                    }
                }
                permit = events.reserve(), if event.is_some() => {
                    let Ok(permit) = permit else { return };
                    if let Some(event) = event.take() {
                        permit.send(event);
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
            if std::mem::take(&mut self.is_overrun) {
                // What still waits in the old queue is older than what is read now; and a queue that has overrun tells
                // of nothing new until it has been emptied.
                match Changes::of(&GROUPS) {
                    Ok(anew) => changes = anew,
                    Err(error) => tracing::warn!("{error:#}"),
                }
            }
            if self.state.take_addresses_are_old()
                && let Err(error) = self.read_addresses().await
            {
                tracing::warn!("{error:#}");
            }
            if self.resync_at <= Instant::now()
                && let Err(error) = self.resync().await
            {
                tracing::warn!("cannot read the state of the network from the kernel: {error:#}");
            }
        }
    }

    fn take_in(&mut self, change: Change) {
        if !self.state.apply(change, Instant::now()) {
            tracing::info!("network changes arrived faster than they could be read: resynchronizing");
            self.resync_at = Instant::now();
            self.is_overrun = true;
        }
    }

    /// Reads links and neighbours again, and has every route looked up. Changes that arrive meanwhile are handled afterwards, in
    /// their order, so the kernel's latest state wins.
    async fn resync(&mut self) -> anyhow::Result<()> {
        self.resync_at = Instant::now() + RESYNC_RETRY;
        let links = self.kernel.links().await?;
        let neighbours = self.kernel.neighbours().await?;
        let now = Instant::now();
        self.state.resync(links, neighbours, now);
        self.read_addresses().await?;
        self.resync_at = now + REFRESH.mul_f64(rand::random_range(0.9..1.1));
        Ok(())
    }

    async fn read_addresses(&mut self) -> anyhow::Result<()> {
        self.state.set_addresses(self.kernel.host_addresses().await?);
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let mut wake_at = self.resync_at;
        if self.soliciting.len() < IN_FLIGHT {
            wake_at = self.state.next_due().map_or(wake_at, |due| due.min(wake_at));
        }
        self.route_at.map_or(wake_at, |at| at.min(wake_at))
    }

    /// Sends what is due, as far as there is room.
    fn send_requests(&mut self) {
        let now = Instant::now();
        while self.soliciting.len() < IN_FLIGHT
            && let Some(hop) = self.state.take_due(now)
        {
            self.solicit(hop);
        }
        if self.routing.is_empty() && self.route_queue.is_empty() {
            self.begin_batch(now);
        }
        while self.routing.len() < IN_FLIGHT
            && let Some(address) = self.route_queue.pop_front()
        {
            let kernel = self.kernel.clone();
            self.routing.push(async move { (address, kernel.route(address).await) }.boxed());
        }
    }

    /// Begins a batch of route lookups, or decides when. Batches take at most a quarter of the time, even if the network changes
    /// all the time.
    fn begin_batch(&mut self, now: Instant) {
        if !self.state.has_lookups() {
            self.route_at = None;
            return;
        }
        let (began, ended) = self.batch;
        let at = *self.route_at.get_or_insert((now + DEBOUNCE).max(ended + 3 * (ended - began)));
        if at <= now {
            self.route_at = None;
            self.batch = (now, now);
            self.route_queue.extend(self.state.take_lookups());
        }
    }

    fn solicit(&mut self, hop: HopId) {
        let kernel = self.kernel.clone();
        self.soliciting.push(async move { (hop, kernel.solicit(hop).await) }.boxed());
    }

    fn solicit_for_datapath(&mut self, hop: HopId) {
        let now = Instant::now();
        if now.duration_since(self.solicited_since) >= Duration::from_secs(1) {
            self.solicited_since = now;
            self.solicited.clear();
        }
        if !may_be_neighbour(hop.address)
            || self.solicited.len() >= SOLICITED_PER_SECOND
            || !self.solicited.insert(hop)
        {
            return;
        }
        self.solicit(hop);
    }
}

/// Whether an address can be a single host's on a link.
fn may_be_neighbour(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}
