//! Checks that go to the VIP, through one backend, as clients' packets go to it: sockets in a network namespace of the
//! daemon's own, whose packets the datapath sends to that backend, and the answers back.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Socket, Type};
use tokio::sync::{OnceCell, watch};
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::tables::{BackendIndex, Check, FlowKey};

use super::TargetId;
use super::probe::{Failure, Time};
use crate::datapath::Checks;
use crate::net::namespace::Namespace;

/// How long a check's packets have a way after its end: it ends with a reset, and the backend may say something yet.
const LINGER: Duration = Duration::from_secs(2);

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
    table: Mutex<Table>,
    /// The interface into the namespace, with the program on it.
    door: OnceCell<(u32, OwnedFd)>,
}

impl VipChecks {
    /// From this namespace, through this datapath.
    pub fn new(namespace: Arc<Namespace>, checks: Checks) -> Self {
        let table = Table { checks, entries: HashMap::new(), left: VecDeque::new(), next: 0 };
        Self { namespace, courses: watch::Sender::default(), table: Mutex::new(table), door: OnceCell::new() }
    }

    /// Replaces the backends that are checked so, and where the datapath has them.
    pub fn set_courses(&self, courses: HashMap<TargetId, Course>) {
        self.courses.send_replace(courses);
    }

    /// The way to a backend, once the datapath has one.
    pub(super) async fn passage(&self, id: &TargetId, time: Time) -> Result<Passage<'_>, Failure> {
        let mut courses = self.courses.subscribe();
        let known = courses.wait_for(|courses| courses.contains_key(id));
        let course = time.limit("no way to it was known", known).await?;
        let course = course.ok().and_then(|courses| courses.get(id).copied());
        let course = course.ok_or_else(|| Failure::Here(io::ErrorKind::NotFound.into()))?;
        Ok(Passage { checks: self, course, opened: Mutex::default() })
    }

    async fn door(&self) -> anyhow::Result<u32> {
        let opened = self.door.get_or_try_init(async || {
            let ifindex = self.namespace.door().await?;
            anyhow::Ok((ifindex, lock(&self.table).checks.attach(ifindex)?))
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
            "this host's address towards it ({source}) is none that a check of the VIP {} can come from: write \
             health_check.source",
            self.vip()
        )))
    }

    /// A socket bound to this address, whose packets to this port of the VIP go to the backend.
    pub(super) async fn socket(&self, kind: Type, source: IpAddr, port: u16) -> Result<Socket, Failure> {
        let here = |error: anyhow::Error| Failure::Here(io::Error::other(format!("{error:#}")));
        let ifindex = self.checks.door().await.map_err(here)?;
        let socket = self.checks.namespace.socket(kind, source).await.map_err(here)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        let bound = socket.local_addr()?.as_socket();
        let bound = bound.ok_or_else(|| Failure::Here(io::ErrorKind::AddrNotAvailable.into()))?;
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let vip = SocketAddr::new(self.vip(), port);
        let key = FlowKey::new(Endpoint::from_socket(bound, protocol), Endpoint::from_socket(vip, protocol));
        let Course { service, backend, .. } = self.course;
        let number = lock(&self.checks.table).put(key, Check { service, backend, ifindex }).map_err(here)?;
        lock(&self.opened).push((key, number));
        Ok(socket)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        lock(&self.checks.table)
            .left
            .extend(lock(&self.opened).drain(..).map(|(key, number)| (now, key, number)));
    }
}

/// What stands in the datapath's table.
#[derive(Debug)]
struct Table {
    checks: Checks,
    /// Which check an entry is of: a port may have gone to another one.
    entries: HashMap<FlowKey, u64>,
    /// Checks that have ended, and when.
    left: VecDeque<(Instant, FlowKey, u64)>,
    next: u64,
}

impl Table {
    fn put(&mut self, key: FlowKey, check: Check) -> anyhow::Result<u64> {
        while let Some((at, left, number)) = self.left.front().copied()
            && at.elapsed() >= LINGER
        {
            self.left.pop_front();
            if self.entries.get(&left) == Some(&number) {
                self.entries.remove(&left);
                self.checks.remove(&left);
            }
        }
        self.next += 1;
        self.checks.put(&key, check)?;
        self.entries.insert(key, self.next);
        Ok(self.next)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
