//! VIPs as addresses of this host: added, announced, and removed.
//!
//! Only addresses that were added here are removed. Each is recorded in a file before it is added, so that a daemon that was
//! killed finds it again. Stopping or starting the daemon does not change an address that is as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rtnetlink::MulticastGroup;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::announce::Announcer;
use super::kernel::{Change, Changes, Kernel, Link, connect};
use crate::store::{self, Kept, StateError};

/// The multicast groups to which this subscribes.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// More changes may follow the first: all are handled together after this time.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// The time after which a failed step is repeated.
const RETRY: Duration = Duration::from_secs(2);

/// The addresses are read at least this often, since a change may have been missed.
const REFRESH: Duration = Duration::from_secs(30);

/// When an address is announced, after it was added: frames get lost, and a neighbour ignores an update within a second of the
/// last one (`locktime`, arp(7)).
const ANNOUNCED_AFTER: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(1_200),
    Duration::from_secs(3),
    Duration::from_secs(8),
];

/// The wanted state of the VIPs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The interface to which they are added. `None`: the daemon does not manage VIPs, and removes those that it added.
    pub interface: Option<String>,
    /// Each VIP.
    pub addresses: BTreeMap<IpAddr, VipIntent>,
    /// The interfaces that they are announced on, with the VLAN devices on them.
    pub announced_on: BTreeSet<String>,
}

/// The wanted state of one VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VipIntent {
    /// It should be an address of this host.
    Present,
    /// It should not be one.
    Absent,
    /// Not decided yet: it stays as it is.
    Undecided,
}

/// The state of a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VipStatus {
    /// The interface that has it, if any.
    pub interface: Option<String>,
    /// Whether the daemon has added it, and so may remove it.
    pub is_own: bool,
    /// Why it is not as it should be, in words.
    pub trouble: Option<String>,
    /// What was wanted when this was read. A newer intent may not have been acted on yet.
    pub intent: Option<VipIntent>,
}

/// The state of each VIP.
pub type Standings = BTreeMap<IpAddr, VipStatus>;

/// The addresses that the daemon has added to this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The kernel's boot id when they were added: a reboot removes them.
    boot: String,
    /// By interface.
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Kept for Record {
    const NAME: &str = "record of added addresses";
    const LOSS: &str =
        "VIPs that the daemon added earlier stay until you remove them; to list them: ip address";
}

impl Record {
    fn contains(&self, interface: &str, address: IpAddr) -> bool {
        self.addresses.get(interface).is_some_and(|addresses| addresses.contains(&address))
    }

    fn insert(&mut self, interface: &str, address: IpAddr) {
        self.addresses.entry(interface.into()).or_default().insert(address);
    }

    fn remove(&mut self, interface: &str, address: IpAddr) {
        if let Some(addresses) = self.addresses.get_mut(interface) {
            addresses.remove(&address);
        }
        self.addresses.retain(|_, addresses| !addresses.is_empty());
    }

    fn all(&self) -> Vec<(String, IpAddr)> {
        let of = |(interface, addresses): (&String, &BTreeSet<IpAddr>)| {
            addresses.iter().map(|address| (interface.clone(), *address)).collect::<Vec<_>>()
        };
        self.addresses.iter().flat_map(of).collect()
    }
}

/// The file that lists the addresses added by a daemon with this state file.
pub fn record_file(state_file: &Path) -> PathBuf {
    let mut name = state_file.as_os_str().to_owned();
    name.push(".addresses");
    name.into()
}

/// The handle to the task that manages the VIPs. When it is dropped, the task ends and leaves them as they are.
#[derive(Debug)]
pub struct Vips {
    orders: mpsc::UnboundedSender<Order>,
    statuses: watch::Receiver<Standings>,
}

#[derive(Debug)]
enum Order {
    Want(Wanted),
    Release(oneshot::Sender<Result<Vec<String>>>),
}

impl Vips {
    /// Starts to manage the VIPs in the calling thread's network namespace. `record_file` lists those that were added before.
    ///
    /// # Errors
    /// If the netlink sockets cannot be opened, or the record cannot be read.
    pub fn start(record_file: PathBuf) -> Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let (told, statuses) = watch::channel(Standings::new());
        let keeper = Keeper::new(record_file, told)?;
        tokio::spawn(keeper.run(received));
        Ok(Self { orders, statuses })
    }

    /// Replaces the wanted state.
    pub fn set(&self, wanted: Wanted) {
        // The task ends only with this handle.
        let _ = self.orders.send(Order::Want(wanted));
    }

    /// The state of each VIP that the daemon manages.
    pub fn statuses(&self) -> watch::Receiver<Standings> {
        self.statuses.clone()
    }

    /// Removes all that was added, and returns a list.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn release(&self) -> Result<Vec<String>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Release(answer));
        answered.await.context("the task that manages VIPs has ended")?
    }
}

/// Removes what a daemon that has stopped had added, and returns a list.
///
/// # Errors
/// If the record cannot be read, or the kernel refuses.
pub async fn release(record_file: &Path) -> Result<Vec<String>> {
    if !record_file.exists() {
        return Ok(Vec::new());
    }
    let (told, _) = watch::channel(Standings::new());
    Keeper::new(record_file.to_owned(), told)?.release().await
}

struct Keeper {
    kernel: Kernel,
    changes: Changes,
    announcer: Option<Announcer>,
    record_file: PathBuf,
    record: Record,
    wanted: Wanted,
    told: watch::Sender<Standings>,
    /// The announcements to send, by time: the address, and the interface's index (all interfaces if there is none).
    announcements: BTreeMap<(Instant, u64), (IpAddr, Option<u32>)>,
    announced: u64,
    /// The links that were up when last read, by index.
    up: BTreeSet<u32>,
    look_at: Instant,
    /// Ends the connection for requests with the task.
    _connection: JoinSet<()>,
}

impl Keeper {
    fn new(record_file: PathBuf, told: watch::Sender<Standings>) -> Result<Self> {
        let changes = Changes::of(&GROUPS)?;
        let (kernel, connection) = connect()?;
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut record = match store::read::<Record>(&record_file) {
            Ok(record) => record,
            Err(error @ StateError::SetAside { .. }) => {
                tracing::error!("{error}");
                Record::default()
            }
            Err(error) => return Err(error.into()),
        };
        if record.boot != boot {
            record = Record { boot, ..Record::default() };
        }
        let announcer = Announcer::open();
        if let Err(error) = &announcer {
            tracing::warn!("cannot announce VIPs: no packet socket: {error}; the daemon needs CAP_NET_RAW");
        }
        Ok(Self {
            kernel,
            changes,
            announcer: announcer.ok(),
            record_file,
            record,
            wanted: Wanted::default(),
            told,
            announcements: BTreeMap::new(),
            announced: 0,
            up: BTreeSet::new(),
            look_at: Instant::now() + REFRESH,
            _connection: connection,
        })
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        // Change nothing before the wanted state is known.
        let mut is_told = false;
        loop {
            let next = self.announcements.keys().next().map(|(at, _)| *at);
            let announce = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Want(wanted)) => {
                        if !is_told || wanted != self.wanted {
                            self.wanted = wanted;
                            self.look_at = Instant::now();
                        }
                        is_told = true;
                    }
                    Some(Order::Release(answer)) => {
                        let released = self.release().await;
                        let _ = answer.send(released);
                    }
                },
                change = self.changes.next() => match change {
                    Some(Change::Overrun) => {
                        match Changes::of(&GROUPS) {
                            Ok(anew) => self.changes = anew,
                            Err(error) => tracing::warn!("{error:#}"),
                        }
                        self.look_at = Instant::now();
                    }
                    Some(Change::Addresses(_) | Change::Link(_) | Change::LinkGone(_)) => {
                        self.look_at = self.look_at.min(Instant::now() + DEBOUNCE);
                    }
                    Some(_) => {}
                    None => {
                        tracing::error!("the netlink connection failed: VIPs are no longer maintained");
                        return;
                    }
                },
                () = announce => self.announce_due().await,
                () = sleep_until(self.look_at), if is_told => {
                    self.look_at = Instant::now() + REFRESH;
                    if let Err(error) = self.look().await {
                        tracing::warn!("cannot read the VIPs' addresses: {error:#}");
                        self.look_at = Instant::now() + RETRY;
                    }
                }
            }
        }
    }

    /// Adds and removes addresses until those that the daemon manages are as wanted.
    async fn look(&mut self) -> Result<()> {
        let links = self.kernel.links().await?;
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let mut holders: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for (index, address) in self.kernel.addresses().await? {
            let name = names.get(&index).map_or_else(|| index.to_string(), |name| (*name).to_owned());
            holders.entry(address).or_default().push(name);
        }
        let mut statuses = Standings::new();
        for (address, intent) in self.wanted.addresses.clone() {
            let held_by = holders.get(&address).map_or(&[][..], Vec::as_slice);
            let standing = self.keep(address, intent, held_by, &links).await;
            statuses.insert(address, VipStatus { intent: Some(intent), ..standing });
        }
        self.remove_leftovers(&holders, &links, &mut statuses).await;
        if statuses.values().any(|standing| standing.trouble.is_some()) {
            self.look_at = Instant::now() + RETRY;
        }
        self.say_troubles(&statuses);
        self.told.send_replace(statuses);
        self.announce_on_links_that_came(&links);
        Ok(())
    }

    /// Adds one VIP if it is wanted, and returns its state.
    async fn keep(
        &mut self,
        address: IpAddr,
        intent: VipIntent,
        held_by: &[String],
        links: &[Link],
    ) -> VipStatus {
        let own = held_by.iter().find(|holder| self.record.contains(holder, address)).cloned();
        let Some(wanted_on) = self.wanted.interface.clone() else {
            return VipStatus { interface: held_by.first().cloned(), ..VipStatus::default() };
        };
        let stands = |interface: Option<&String>, is_own| VipStatus {
            interface: interface.cloned(),
            is_own,
            ..VipStatus::default()
        };
        let is_foreign = held_by.iter().any(|holder| Some(holder) != own.as_ref());
        match intent {
            VipIntent::Undecided => stands(own.as_ref().or(held_by.first()), own.is_some()),
            // An address that the daemon added is removed with the leftovers.
            VipIntent::Absent => match held_by.iter().find(|holder| Some(*holder) != own.as_ref()) {
                Some(holder) => VipStatus {
                    trouble: Some(format!(
                        "the daemon did not add it to {holder}, so it stays there: remove it with `ip address del \
                         {address}/{} dev {holder}`, and the daemon will manage it from then on",
                        prefix(address)
                    )),
                    ..stands(Some(holder), false)
                },
                None => VipStatus::default(),
            },
            VipIntent::Present if is_foreign || own.as_ref() == Some(&wanted_on) => {
                stands(held_by.first(), own.is_some())
            }
            VipIntent::Present => match self.add(address, &wanted_on, links).await {
                Ok(()) => stands(Some(&wanted_on), true),
                Err(why) => {
                    VipStatus { trouble: Some(format!("{why:#}")), ..stands(own.as_ref(), own.is_some()) }
                }
            },
        }
    }

    async fn add(&mut self, address: IpAddr, interface: &str, links: &[Link]) -> Result<()> {
        let link = links
            .iter()
            .find(|link| link.name == interface)
            .with_context(|| format!("vips.interface names {interface}, which does not exist"))?;
        let was_there = self.record.contains(interface, address);
        if !was_there {
            self.record.insert(interface, address);
            if let Err(error) = self.save() {
                self.record.remove(interface, address);
                return Err(error.context(
                    "it was not added, because the record of added addresses could not be \
                    written",
                ));
            }
        }
        match self.kernel.add_address(link.index, address).await {
            Ok(()) => {
                let again = if was_there { " again, after something else removed it" } else { "" };
                tracing::info!("VIP {address}: added to {interface}{again}");
                self.schedule(address, None);
                Ok(())
            }
            Err(error) => {
                self.record.remove(interface, address);
                if let Err(error) = self.save() {
                    tracing::warn!("{error:#}");
                }
                Err(error.context(format!("cannot add it to {interface}")))
            }
        }
    }

    /// Removes the addresses that the daemon added and that are not wanted.
    async fn remove_leftovers(
        &mut self,
        holders: &BTreeMap<IpAddr, Vec<String>>,
        links: &[Link],
        statuses: &mut Standings,
    ) {
        for (interface, address) in self.record.all() {
            let stays = match self.wanted.addresses.get(&address) {
                Some(VipIntent::Undecided) => self.wanted.interface.is_some(),
                Some(VipIntent::Present) if self.wanted.interface.as_ref() == Some(&interface) => true,
                // If it cannot be added to the new interface, it stays on the old one.
                Some(VipIntent::Present) if self.wanted.interface.is_some() => {
                    statuses.get(&address).is_some_and(|standing| standing.trouble.is_some())
                }
                _ => false,
            };
            if stays {
                continue;
            }
            let is_there = holders.get(&address).is_some_and(|holders| holders.contains(&interface));
            let link = links.iter().find(|link| link.name == interface).filter(|_| is_there);
            let removed = match link {
                Some(link) => self.kernel.remove_address(link.index, address).await,
                None => Ok(()),
            };
            match removed {
                Ok(()) => {
                    tracing::info!("VIP {address}: removed from {interface}");
                    self.record.remove(&interface, address);
                    self.announcements.retain(|_, (announced, _)| *announced != address);
                    if let Err(error) = self.save() {
                        tracing::warn!("{error:#}");
                    }
                }
                Err(error) => {
                    let standing = statuses.entry(address).or_default();
                    standing.interface = Some(interface.clone());
                    standing.is_own = true;
                    standing.trouble = Some(format!("cannot remove it from {interface}: {error:#}"));
                }
            }
        }
    }

    fn save(&self) -> Result<()> {
        match store::write(&self.record_file, &self.record)? {
            store::Saved::OnDisk => {}
            store::Saved::Unsynced(why) => tracing::warn!("{why}"),
        }
        Ok(())
    }

    /// Logs what is wrong with each VIP, once.
    fn say_troubles(&self, statuses: &Standings) {
        let before = self.told.borrow();
        for (address, standing) in statuses {
            if let Some(trouble) = &standing.trouble
                && before.get(address).and_then(|before| before.trouble.as_ref()) != Some(trouble)
            {
                tracing::warn!("VIP {address}: {trouble}");
            }
        }
    }

    async fn release(&mut self) -> Result<Vec<String>> {
        self.wanted = Wanted::default();
        let before = self.record.all();
        self.look().await?;
        let left = self.record.all();
        if let Some((interface, address)) = left.first() {
            let why = self.told.borrow().get(address).and_then(|standing| standing.trouble.clone());
            anyhow::bail!("VIP {address}: {}", why.unwrap_or_else(|| format!("is still on {interface}")));
        }
        Ok(before.iter().map(|(interface, address)| format!("removed {address} from {interface}")).collect())
    }

    /// Announces an address now and several times later, on all links or on one.
    fn schedule(&mut self, address: IpAddr, index: Option<u32>) {
        let now = Instant::now();
        for after in ANNOUNCED_AFTER {
            self.announced += 1;
            self.announcements.insert((now + after, self.announced), (address, index));
        }
    }

    /// Neighbours on a link that comes up may have learned the address elsewhere.
    fn announce_on_links_that_came(&mut self, links: &[Link]) {
        let up: BTreeSet<u32> =
            links.iter().filter(|link| link.up && link.carrier).map(|link| link.index).collect();
        let came: Vec<u32> = up.difference(&self.up).copied().collect();
        self.up = up;
        let own: Vec<IpAddr> = self.record.all().into_iter().map(|(_, address)| address).collect();
        for link in links.iter().filter(|link| came.contains(&link.index)) {
            if self.is_announced_on(link, links) {
                own.iter().for_each(|address| self.schedule(*address, Some(link.index)));
            }
        }
    }

    fn is_announced_on(&self, link: &Link, links: &[Link]) -> bool {
        let parent = link.lower.filter(|_| link.vlan.is_some());
        let parent = links.iter().find(|link| Some(link.index) == parent);
        let is_named = |link: &Link| self.wanted.announced_on.contains(&link.name);
        link.mac.is_some() && (is_named(link) || parent.is_some_and(is_named))
    }

    async fn announce_due(&mut self) {
        let now = Instant::now();
        let later = self.announcements.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.announcements, later);
        let Some(announcer) = &self.announcer else { return };
        let links = match self.kernel.links().await {
            Ok(links) => links,
            Err(error) => return tracing::warn!("cannot announce VIPs: {error:#}"),
        };
        for (address, index) in due.into_values() {
            for link in &links {
                let is_meant = index.is_none_or(|index| index == link.index);
                if is_meant && link.up && link.carrier && self.is_announced_on(link, &links) {
                    match announcer.announce(address, link) {
                        Ok(()) => tracing::debug!("VIP {address}: announced on {}", link.name),
                        Err(error) => {
                            tracing::warn!("VIP {address}: cannot announce it on {}: {error}", link.name);
                        }
                    }
                }
            }
        }
    }
}

/// The length of a host prefix.
fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
