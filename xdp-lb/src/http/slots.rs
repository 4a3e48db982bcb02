//! Who may have how many connections at a time. A client that says nothing gives way to one that comes, so that silent
//! clients, however many there are and however fast they come back, keep nobody out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Connections of all users but administrators; and at most this part of the files that this process may have open.
const OTHERS: u64 = 1024;
const PART_OF_FILES: u64 = 8;
/// Requests of one user that are served at a time; more wait.
const SERVED_OF_USER: usize = 16;
/// Requests of all users but administrators that are served at a time.
const SERVED_OF_OTHERS: usize = 64;
/// Requests of administrators that are served at a time.
const SERVED_OF_ADMINISTRATORS: usize = 32;

/// Whose connections count together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum User {
    /// A user of this host.
    Uid(u32),
    /// A host elsewhere; of IPv6, its /64, of which a single host may use any address.
    Host(IpAddr),
}

impl User {
    /// Who has this address.
    pub fn at(address: IpAddr) -> Self {
        Self::Host(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// Nothing has come yet.
    Silent,
    /// Its requests have been answered.
    Idle,
    /// Something has come, and not a whole request.
    Begun,
    /// A request has come.
    Asked,
}

/// The connections of one listener.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Mutex<Table>>);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Of one user.
    user: usize,
    /// Of all users but administrators.
    others: usize,
    /// Of administrators.
    administrators: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let others = (files / PART_OF_FILES).clamp(32, OTHERS) as usize;
        Self { user: others / 2, others, administrators: others / 2 }
    }
}

#[derive(Debug)]
struct Table {
    limits: Limits,
    /// By their age.
    connections: BTreeMap<u64, Connection>,
    next: u64,
    users: HashMap<User, Arc<Semaphore>>,
    others: Arc<Semaphore>,
    administrators: Arc<Semaphore>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            connections: BTreeMap::new(),
            next: 0,
            users: HashMap::new(),
            others: Arc::new(Semaphore::new(SERVED_OF_OTHERS)),
            administrators: Arc::new(Semaphore::new(SERVED_OF_ADMINISTRATORS)),
        }
    }
}

#[derive(Debug)]
struct Connection {
    user: User,
    is_administrators: bool,
    stage: Stage,
    /// Cuts it.
    task: Option<AbortHandle>,
}

impl Slots {
    /// A slot for a connection that has come; where there is none, one that has asked for nothing yet is cut for it. `None`
    /// where all have.
    pub fn take(&self, user: User, is_administrators: bool) -> Option<Slot> {
        let mut table = self.table();
        let of_pool = |it: &Connection| it.is_administrators == is_administrators;
        let Limits { user: most_of_user, others, administrators } = table.limits;
        let most = if is_administrators { administrators } else { others };
        let count = |which: &dyn Fn(&Connection) -> bool| {
            table.connections.values().filter(|it| of_pool(it) && which(it)).count()
        };
        let (own, all) = (count(&|it| it.user == user), count(&|_| true));
        if own >= most_of_user {
            table.cut(|it| of_pool(it) && it.user == user)?;
        } else if all >= most {
            table.cut(of_pool)?;
        }
        let id = table.next;
        table.next += 1;
        let connection = Connection { user, is_administrators, stage: Stage::Silent, task: None };
        table.connections.insert(id, connection);
        Some(Slot { slots: self.clone(), id })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Cuts one of these that waits for nothing: the oldest of those that are silent, else idle, else slow.
    fn cut(&mut self, which: impl Fn(&Connection) -> bool) -> Option<()> {
        let idle = self.connections.iter().filter(|(_, it)| which(it) && it.stage < Stage::Asked);
        let id = *idle.min_by_key(|(id, it)| (it.stage, **id))?.0;
        let cut = self.connections.remove(&id)?;
        if let Some(task) = cut.task {
            task.abort();
        }
        Some(())
    }
}

/// A connection's slot, which is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    id: u64,
}

impl Slot {
    /// Says by which task the connection is served.
    pub fn serve_by(slots: &Slots, id: u64, task: AbortHandle) {
        match slots.table().connections.get_mut(&id) {
            Some(connection) => connection.task = Some(task),
            // It was cut before.
            None => task.abort(),
        }
    }

    /// What [`Slot::serve_by`] knows it by.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Something has come.
    pub fn begun(&self) {
        self.reach(Stage::Begun);
    }

    /// The other end has shown that it is an administrator's.
    pub fn is_administrators(&self) {
        if let Some(connection) = self.slots.table().connections.get_mut(&self.id) {
            connection.is_administrators = true;
        }
    }

    /// A request has come, which is served once this returns, for as long as it is kept.
    pub async fn asked(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        self.reach(Stage::Asked);
        let (own, all) = {
            let mut table = self.slots.table();
            let connection = table.connections.get(&self.id)?;
            let (user, is_administrators) = (connection.user, connection.is_administrators);
            // Those whose requests have all been answered.
            table.users.retain(|_, served| Arc::strong_count(served) > 1);
            let own = table.users.entry(user).or_insert_with(|| Arc::new(Semaphore::new(SERVED_OF_USER)));
            let own = Arc::clone(own);
            let all = if is_administrators { &table.administrators } else { &table.others };
            (own, Arc::clone(all))
        };
        Some((own.acquire_owned().await.ok()?, all.acquire_owned().await.ok()?))
    }

    /// Its requests have been answered.
    pub fn idle(&self) {
        if let Some(connection) = self.slots.table().connections.get_mut(&self.id) {
            connection.stage = Stage::Idle;
        }
    }

    fn reach(&self, stage: Stage) {
        if let Some(connection) = self.slots.table().connections.get_mut(&self.id) {
            connection.stage = connection.stage.max(stage);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.table().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: User = User::Uid(1000);
    const BOB: User = User::Uid(1001);

    fn slots() -> Slots {
        let slots = Slots::default();
        slots.table().limits = Limits { user: 64, others: 256, administrators: 128 };
        slots
    }

    fn is_there(slots: &Slots, slot: &Slot) -> bool {
        slots.table().connections.contains_key(&slot.id)
    }

    #[test]
    fn who_says_nothing_gives_way_to_the_next_of_the_same_user_and_who_asks_stays() {
        let slots = slots();
        let of_bob = slots.take(BOB, false).expect("a slot");
        let mut silent: Vec<Slot> = (0..64).map(|_| slots.take(ALICE, false).expect("a slot")).collect();
        silent[0].begun();
        silent[1].reach(Stage::Asked);
        let next = slots.take(ALICE, false).expect("a slot");
        let there: Vec<bool> = silent.iter().take(4).map(|slot| is_there(&slots, slot)).collect();
        assert_eq!(there, [true, true, false, true], "the oldest that is silent is cut");
        assert!(is_there(&slots, &of_bob) && is_there(&slots, &next));
        silent[1].idle();
        let another = slots.take(ALICE, false).expect("a slot");
        assert!(
            is_there(&slots, &silent[1]),
            "one that waits for its next request goes after the silent ones"
        );
        another.reach(Stage::Asked);
        silent.iter().for_each(|slot| slot.reach(Stage::Asked));
        next.reach(Stage::Asked);
        assert!(slots.take(ALICE, false).is_none(), "all are served");
        assert!(slots.take(BOB, false).is_some());
        silent.truncate(10);
        assert!(slots.take(ALICE, false).is_some());
    }

    #[test]
    fn many_users_together_keep_no_administrator_out() {
        let slots = slots();
        let taken: Vec<Slot> = (0..256u32)
            .map(|number| slots.take(User::Uid(2000 + number / 10), false).expect("a slot"))
            .collect();
        taken.iter().for_each(|slot| slot.reach(Stage::Asked));
        assert!(slots.take(BOB, false).is_none());
        let root = slots.take(User::Uid(0), true).expect("administrators have slots of their own");
        assert!(is_there(&slots, &root));
        taken[7].is_administrators();
        assert!(slots.take(BOB, false).is_some(), "it counts among the administrators now");
    }

    #[tokio::test]
    async fn requests_of_one_user_wait_for_each_other_and_for_nobody_elses() {
        let slots = slots();
        let held: Vec<Slot> =
            (0..=SERVED_OF_USER).map(|_| slots.take(ALICE, false).expect("a slot")).collect();
        let mut served = Vec::new();
        for slot in &held[..SERVED_OF_USER] {
            served.push(slot.asked().await.expect("served"));
        }
        let short = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(short, held[SERVED_OF_USER].asked()).await.is_err());
        let of_bob = slots.take(BOB, false).expect("a slot");
        assert!(of_bob.asked().await.is_some());
        served.pop();
        assert!(held[SERVED_OF_USER].asked().await.is_some());
    }

    #[test]
    fn a_network_of_64_bits_is_one_user() {
        let at = |address: &str| User::at(address.parse().expect("an address"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
