//! Checks of a backend through its VIP, in the way that clients' packets reach it: sockets in the daemon's own network namespace,
//! whose packets the datapath sends to that backend, and whose replies it sends back.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use socket2::{Socket, Type};
use tokio::sync::{OnceCell, watch};
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::tables::{BackendIndex, Check, FlowKey};

use super::failure::{Failure, Time};
use super::target::TargetId;
use crate::net::namespace::Namespace;

/// How long a check's route stays after its end: the check ends with a reset, and the backend may still send packets.
const LINGER: Duration = Duration::from_secs(2);

/// Maximum number of ports that are skipped because a recent check of the same VIP used them: its backend may still send packets.
const MOST_PASSED_OVER: usize = 8;

/// The backend of a check's packets, as the datapath identifies it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VipTarget {
    /// The key of the service's record.
    pub service: Endpoint,
    /// The backend's index.
    pub backend: BackendIndex,
    /// This host's source address towards it.
    pub source: IpAddr,
}

/// Checks through VIPs.
#[derive(Debug)]
pub struct VipChecks {
    namespace: Arc<Namespace>,
    vip_targets: watch::Sender<HashMap<TargetId, VipTarget>>,
    table: Mutex<Table<Box<dyn CheckDatapath>>>,
    /// The interface to the namespace, with the program attached.
    veth_index: OnceCell<(u32, OwnedFd)>,
}

impl VipChecks {
    /// Checks from this namespace through this datapath.
    pub fn new(namespace: Arc<Namespace>, ways: Box<dyn CheckDatapath>) -> Self {
        let table = Mutex::new(Table::new(ways));
        Self { namespace, vip_targets: watch::Sender::default(), table, veth_index: OnceCell::new() }
    }

    /// Replaces the backends that are checked through their VIP.
    pub fn set_vip_targets(&self, vip_targets: HashMap<TargetId, VipTarget>) {
        self.vip_targets.send_replace(vip_targets);
    }

    /// The route to a backend, as soon as the datapath has the backend.
    pub(super) async fn vip_route(&self, id: &TargetId, time: Time) -> Result<VipRoute<'_>, Failure> {
        let mut vip_targets = self.vip_targets.subscribe();
        let known = vip_targets.wait_for(|vip_targets| vip_targets.contains_key(id));
        let target = tokio::time::timeout_at(time.end, known).await;
        let target = target.map_err(|_| Failure::here("the datapath has no path to it"))?;
        let target = target.ok().and_then(|vip_targets| vip_targets.get(id).copied());
        let target = target.ok_or_else(|| Failure::Here(io::ErrorKind::NotFound.into()))?;
        Ok(VipRoute { checks: self, target, opened: Mutex::default() })
    }

    async fn veth_index(&self) -> anyhow::Result<u32> {
        let opened = self.veth_index.get_or_try_init(async || {
            let ifindex = self.namespace.open().await?;
            anyhow::Ok((ifindex, lock(&self.table).ways.attach(ifindex)?))
        });
        Ok(opened.await?.0)
    }
}

/// The route of one check's packets. It is removed some time after this is dropped.
#[derive(Debug)]
pub(super) struct VipRoute<'a> {
    checks: &'a VipChecks,
    target: VipTarget,
    opened: Mutex<Vec<(FlowKey, u64)>>,
}

impl VipRoute<'_> {
    /// The VIP.
    pub(super) fn vip(&self) -> IpAddr {
        self.target.service.address.into()
    }

    /// The default source address of a check.
    pub(super) fn source(&self) -> Result<IpAddr, Failure> {
        let VipTarget { source, .. } = self.target;
        if source.is_ipv4() == self.vip().is_ipv4() && !source.is_unspecified() {
            return Ok(source);
        }
        Err(Failure::Backend(format!(
            "this host's address towards it ({source}) cannot be the source of a check of the VIP {}: write \
             health_check.source",
            self.vip()
        )))
    }

    /// A socket bound to this address, whose packets to this port of the VIP go to the backend.
    pub(super) async fn socket(&self, kind: Type, source: IpAddr, port: u16) -> Result<Socket, Failure> {
        let here = |error: anyhow::Error| Failure::Here(io::Error::other(format!("{error:#}")));
        let ifindex = self.checks.veth_index().await.map_err(here)?;
        let VipTarget { service, backend, .. } = self.target;
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let vip = Endpoint::from_socket(SocketAddr::new(self.vip(), port), protocol);
        // Held until a socket has another port.
        let mut passed_over = Vec::new();
        loop {
            let socket = self.checks.namespace.socket(kind, source).await.map_err(here)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            let bound = socket.local_addr()?.as_socket();
            let bound = bound.ok_or_else(|| Failure::Here(io::ErrorKind::AddrNotAvailable.into()))?;
            let key = FlowKey::new(Endpoint::from_socket(bound, protocol), vip);
            let mut table = lock(&self.checks.table);
            table.forget(Instant::now());
            if table.has(&key) && passed_over.len() < MOST_PASSED_OVER {
                passed_over.push(socket);
                continue;
            }
            let number = table.put(key, Check { service, backend, ifindex }).map_err(here)?;
            lock(&self.opened).push((key, number));
            return Ok(socket);
        }
    }
}

impl Drop for VipRoute<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.checks.table);
        lock(&self.opened).drain(..).for_each(|(key, number)| table.leave(key, number, Instant::now()));
    }
}

/// The datapath for checks: the program on the interface to the namespace, and the backend of each check.
pub trait CheckDatapath: fmt::Debug + Send {
    /// Attaches the program to an interface, until the returned value is dropped.
    ///
    /// # Errors
    /// If the interface does not exist.
    fn attach(&self, ifindex: u32) -> io::Result<OwnedFd>;

    /// Sends packets with these addresses and ports to a check's backend, and the replies back.
    ///
    /// # Errors
    /// If the table is full.
    fn put(&mut self, key: &FlowKey, check: Check) -> anyhow::Result<()>;

    /// Removes a check.
    fn remove(&mut self, key: &FlowKey);
}

impl CheckDatapath for Box<dyn CheckDatapath> {
    fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        (**self).attach(ifindex)
    }

    fn put(&mut self, key: &FlowKey, check: Check) -> anyhow::Result<()> {
        (**self).put(key, check)
    }

    fn remove(&mut self, key: &FlowKey) {
        (**self).remove(key);
    }
}

/// The entries of the datapath's table.
#[derive(Debug)]
struct Table<W> {
    ways: W,
    /// The check of each entry. The port may have been reused.
    entries: HashMap<FlowKey, u64>,
    /// Checks that have ended, with the time of their end.
    left: VecDeque<(Instant, FlowKey, u64)>,
    next: u64,
}

impl<W: CheckDatapath> Table<W> {
    fn new(ways: W) -> Self {
        Self { ways, entries: HashMap::new(), left: VecDeque::new(), next: 0 }
    }

    /// Whether a check has these addresses and ports, or had them recently.
    fn has(&self, key: &FlowKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Adds a check with these addresses and ports, and returns its number.
    fn put(&mut self, key: FlowKey, check: Check) -> anyhow::Result<u64> {
        self.next += 1;
        self.ways.put(&key, check)?;
        self.entries.insert(key, self.next);
        Ok(self.next)
    }

    /// Marks the check with this number as ended.
    fn leave(&mut self, key: FlowKey, number: u64, now: Instant) {
        self.left.push_back((now, key, number));
    }

    /// Removes the checks that ended long enough ago.
    fn forget(&mut self, now: Instant) {
        while let Some((at, key, number)) = self.left.front().copied()
            && now.duration_since(at) >= LINGER
        {
            self.left.pop_front();
            if self.entries.get(&key) == Some(&number) {
                self.entries.remove(&key);
                self.ways.remove(&key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl CheckDatapath for HashMap<FlowKey, Check> {
        fn attach(&self, _: u32) -> io::Result<OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn put(&mut self, key: &FlowKey, check: Check) -> anyhow::Result<()> {
            self.insert(*key, check);
            Ok(())
        }

        fn remove(&mut self, key: &FlowKey) {
            self.remove(key);
        }
    }

    fn key(port: u16) -> FlowKey {
        let endpoint = |address: &str, port| {
            Endpoint::from_socket(SocketAddr::new(address.parse().expect("an address"), port), Protocol::UDP)
        };
        FlowKey::new(endpoint("198.51.100.2", port), endpoint("192.0.2.10", 53))
    }

    fn to(backend: u32) -> Check {
        Check { backend: BackendIndex(backend), ..Check::default() }
    }

    #[test]
    fn a_check_keeps_its_route_and_its_port_for_a_while_after_its_end() {
        let mut table = Table::new(HashMap::new());
        let began = Instant::now();
        let number = table.put(key(40_000), to(1)).expect("it has room");
        table.forget(began + 100 * LINGER);
        assert!(table.has(&key(40_000)) && !table.has(&key(40_001)));
        table.leave(key(40_000), number, began);
        table.forget(began + LINGER - Duration::from_millis(1));
        assert!(table.has(&key(40_000)), "the backend may answer yet");
        assert_eq!(table.ways, HashMap::from([(key(40_000), to(1))]));
        table.forget(began + LINGER);
        assert!(!table.has(&key(40_000)) && table.ways.is_empty());
    }

    #[test]
    fn a_check_that_ends_does_not_affect_the_one_that_reuses_its_port() {
        let mut table = Table::new(HashMap::new());
        let began = Instant::now();
        let first = table.put(key(40_000), to(1)).expect("it has room");
        table.leave(key(40_000), first, began);
        let second = table.put(key(40_000), to(2)).expect("it has room");
        table.forget(began + LINGER);
        assert_eq!(table.ways, HashMap::from([(key(40_000), to(2))]));
        table.leave(key(40_000), second, began + LINGER);
        table.forget(began + 2 * LINGER);
        assert!(table.ways.is_empty());
    }
}
