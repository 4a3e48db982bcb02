//! Checks that go to the VIP, through one backend, as clients' packets go to it: sockets in a network namespace of the
//! daemon's own, whose packets the datapath sends to that backend, and the answers back.

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

/// How long a check's packets have a way after its end: it ends with a reset, and the backend may say something yet.
const LINGER: Duration = Duration::from_secs(2);

/// A port that another check of the same VIP had until just now is passed over, since that one's backend may answer yet;
/// this many at the most.
const MOST_PASSED_OVER: usize = 8;

/// Which backend a check's packets go to, as the datapath knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Course {
    /// The key of the service's record.
    pub service: Endpoint,
    /// The backend's place.
    pub backend: BackendIndex,
    /// This host's address towards it.
    pub source: IpAddr,
}

/// How checks reach VIPs.
#[derive(Debug)]
pub struct VipChecks {
    namespace: Arc<Namespace>,
    courses: watch::Sender<HashMap<TargetId, Course>>,
    table: Mutex<Table<Box<dyn Ways>>>,
    /// The interface into the namespace, with the program on it.
    door: OnceCell<(u32, OwnedFd)>,
}

impl VipChecks {
    /// From this namespace, through this datapath.
    pub fn new(namespace: Arc<Namespace>, ways: Box<dyn Ways>) -> Self {
        let table = Mutex::new(Table::new(ways));
        Self { namespace, courses: watch::Sender::default(), table, door: OnceCell::new() }
    }

    /// Replaces the backends that are checked so, and where the datapath has them.
    pub fn set_courses(&self, courses: HashMap<TargetId, Course>) {
        self.courses.send_replace(courses);
    }

    /// The way to a backend, once the datapath has one.
    pub(super) async fn passage(&self, id: &TargetId, time: Time) -> Result<Passage<'_>, Failure> {
        let mut courses = self.courses.subscribe();
        let known = courses.wait_for(|courses| courses.contains_key(id));
        let course = tokio::time::timeout_at(time.end, known).await;
        let course = course.map_err(|_| Failure::here("the datapath has no path to it"))?;
        let course = course.ok().and_then(|courses| courses.get(id).copied());
        let course = course.ok_or_else(|| Failure::Here(io::ErrorKind::NotFound.into()))?;
        Ok(Passage { checks: self, course, opened: Mutex::default() })
    }

    async fn door(&self) -> anyhow::Result<u32> {
        let opened = self.door.get_or_try_init(async || {
            let ifindex = self.namespace.open().await?;
            anyhow::Ok((ifindex, lock(&self.table).ways.attach(ifindex)?))
        });
        Ok(opened.await?.0)
    }
}

/// The way of one check. When this is dropped, so is the way, some time later.
#[derive(Debug)]
pub(super) struct Passage<'a> {
    checks: &'a VipChecks,
    course: Course,
    opened: Mutex<Vec<(FlowKey, u64)>>,
}

impl Passage<'_> {
    /// The VIP.
    pub(super) fn vip(&self) -> IpAddr {
        self.course.service.address.into()
    }

    /// The address that the check comes from where it names none.
    pub(super) fn source(&self) -> Result<IpAddr, Failure> {
        let Course { source, .. } = self.course;
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
        let ifindex = self.checks.door().await.map_err(here)?;
        let Course { service, backend, .. } = self.course;
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let vip = Endpoint::from_socket(SocketAddr::new(self.vip(), port), protocol);
        // Held until one has another port.
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

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.checks.table);
        lock(&self.opened).drain(..).for_each(|(key, number)| table.leave(key, number, Instant::now()));
    }
}

/// The datapath's part: the program on the interface into the namespace, and which backend a check's packets go to.
pub trait Ways: fmt::Debug + Send {
    /// Attaches the program to an interface, for as long as what this returns is held.
    ///
    /// # Errors
    /// Where the interface does not exist.
    fn attach(&self, ifindex: u32) -> io::Result<OwnedFd>;

    /// Sends packets with these addresses and ports to a check's backend, and what answers them back.
    ///
    /// # Errors
    /// Where there is no room.
    fn put(&mut self, key: &FlowKey, check: Check) -> anyhow::Result<()>;

    /// Forgets a check.
    fn remove(&mut self, key: &FlowKey);
}

impl Ways for Box<dyn Ways> {
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

/// What stands in the datapath's table.
#[derive(Debug)]
struct Table<W> {
    ways: W,
    /// Which check an entry is of: a port may have gone to another one.
    entries: HashMap<FlowKey, u64>,
    /// Checks that have ended, and when.
    left: VecDeque<(Instant, FlowKey, u64)>,
    next: u64,
}

impl<W: Ways> Table<W> {
    fn new(ways: W) -> Self {
        Self { ways, entries: HashMap::new(), left: VecDeque::new(), next: 0 }
    }

    /// Whether a check has these ends, or had them until just now.
    fn has(&self, key: &FlowKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Notes a check with these ends, and returns its number.
    fn put(&mut self, key: FlowKey, check: Check) -> anyhow::Result<u64> {
        self.next += 1;
        self.ways.put(&key, check)?;
        self.entries.insert(key, self.next);
        Ok(self.next)
    }

    /// The check of this number has ended.
    fn leave(&mut self, key: FlowKey, number: u64, now: Instant) {
        self.left.push_back((now, key, number));
    }

    /// Forgets the checks that ended long enough ago.
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

    impl Ways for HashMap<FlowKey, Check> {
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
    fn a_check_has_its_way_until_a_while_after_its_end_and_its_port_is_taken_as_long() {
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
    fn a_check_that_ends_takes_nothing_from_the_one_that_has_its_port_since() {
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
