//! The scheduler: one task for each checked backend, and one for each agent.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::agent;
use super::failure::{Failure, words};
use super::probe::{Shared, probe};
use super::state::State;
use super::target::{AgentReport, Health, Report, Target, TargetId};
use super::vip_checks::VipChecks;
use crate::model::{Agent, HealthCheck, Probe};

/// File descriptors reserved for the rest of the process.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Maximum number of sockets that checks use at a time, if the process may have that many.
const MAX_SOCKETS: u64 = 16_384;

/// The first checks of many new targets are spread over this time per target.
const SPREAD: Duration = Duration::from_micros(100);

/// No check takes longer.
const LONGEST_CHECK: Duration = Duration::from_secs(3600);

/// A daemon that wakes up this much too late gets too little CPU time to judge a backend.
const STARVED: Duration = Duration::from_millis(100);

/// This host's own problems with checking are logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Checks backends and queries agents, and reports the results. Stops when dropped.
#[derive(Debug)]
pub struct Checker {
    /// Each target's current check, and the channel to its task.
    targets: Mutex<HashMap<TargetId, (HealthCheck, watch::Sender<Order>)>>,
    /// Each queried agent, and its task.
    agents: Mutex<HashMap<TargetId, (Agent, AgentTask)>>,
    news: mpsc::Sender<AgentReport>,
    context: Arc<Context>,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
struct AgentTask(AbortHandle);

impl Drop for AgentTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The current work of a target's task.
#[derive(Clone, Debug)]
struct Order {
    check: HealthCheck,
    /// The first check starts at random within this time.
    spread: Duration,
}

impl Order {
    fn first_check(&self) -> Instant {
        Instant::now() + self.spread.mul_f64(rand::random())
    }
}

#[derive(Debug)]
struct Context {
    reports: mpsc::Sender<Report>,
    sockets: Arc<Semaphore>,
    shared: Shared,
    warned: Mutex<Option<Instant>>,
    /// The backends that were recently unreachable from this host, with the reason, and until when.
    unreached: Mutex<HashMap<IpAddr, Unreached>>,
}

/// A backend that is or was unreachable from this host.
#[derive(Debug)]
struct Unreached {
    why: String,
    /// `None`: it still is.
    until: Option<Instant>,
}

impl Checker {
    /// A checker without targets. It uses at most as many sockets as the limit of open files (`RLIMIT_NOFILE`, soft) minus 256,
    /// and at most 16,384. Other checks wait. Checks also wait while `reports` or `news` (of agents) is full.
    ///
    /// Call this, like `set_targets`, within a tokio runtime.
    pub fn start(reports: mpsc::Sender<Report>, news: mpsc::Sender<AgentReport>) -> Self {
        Self::start_with(reports, news, None)
    }

    /// The same, with checks through VIPs.
    pub fn start_with(
        reports: mpsc::Sender<Report>,
        news: mpsc::Sender<AgentReport>,
        vips: Option<Arc<VipChecks>>,
    ) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let sockets = descriptors.saturating_sub(RESERVED_DESCRIPTORS).clamp(16, MAX_SOCKETS);
        let context = Context {
            reports,
            sockets: Arc::new(Semaphore::new(sockets as usize)),
            shared: Shared::new(vips),
            warned: Mutex::default(),
            unreached: Mutex::default(),
        };
        Self { targets: Mutex::default(), agents: Mutex::default(), news, context: Arc::new(context) }
    }

    /// Replaces the set of targets. An unchanged target keeps its schedule and counts. A target whose check changed restarts its
    /// schedule, but keeps its health. A new target starts with the given `Health`. A target without a check is reported up at
    /// once.
    pub fn set_targets(&self, targets: Vec<(Target, Health)>) {
        self.set_agents(&targets);
        let addresses: HashSet<IpAddr> = targets.iter().map(|(target, _)| target.id.backend.ip()).collect();
        lock(&self.context.unreached).retain(|address, _| addresses.contains(address));
        let mut running = lock(&self.targets);
        let wanted: HashSet<&TargetId> = targets.iter().map(|(target, _)| &target.id).collect();
        running.retain(|id, _| wanted.contains(id));
        let is_new =
            |target: &Target| running.get(&target.id).is_none_or(|(check, _)| *check != target.check);
        let new: Vec<_> = targets.into_iter().filter(|(target, _)| is_new(target)).collect();
        let spread = SPREAD.saturating_mul(new.len().try_into().unwrap_or(u32::MAX));
        for (Target { id, check, .. }, health) in new {
            let order = Order { spread: spread.min(check.interval), check: check.clone() };
            let task = match running.remove(&id) {
                None => self.spawn(&id, order, health),
                Some((_, task)) => match task.send(order) {
                    Ok(()) => task,
                    // Its task ended because it was not checked, so it was up.
                    Err(watch::error::SendError(order)) => self.spawn(&id, order, Health::Up),
                },
            };
            running.insert(id, (check, task));
        }
    }

    /// Sets whether an address is unreachable from this host, and why. While it is, a failed check does not count against the
    /// backend.
    pub fn set_reach(&self, address: IpAddr, no_way: Option<String>) {
        let now = Instant::now();
        let mut unreached = lock(&self.context.unreached);
        match no_way {
            Some(why) => drop(unreached.insert(address, Unreached { why, until: None })),
            None => {
                if let Some(it) = unreached.get_mut(&address) {
                    it.until.get_or_insert(now);
                }
            }
        }
        unreached.retain(|_, it| it.until.is_none_or(|until| now.duration_since(until) < LONGEST_CHECK));
    }

    fn set_agents(&self, targets: &[(Target, Health)]) {
        let mut running = lock(&self.agents);
        let mut before = std::mem::take(&mut *running);
        let wanted = || targets.iter().filter_map(|(target, _)| Some((&target.id, target.agent.as_ref()?)));
        let is_new =
            |(id, agent): &(&TargetId, &Agent)| before.get(id).is_none_or(|(same, _)| same != *agent);
        let new = wanted().filter(is_new).count();
        let spread = SPREAD.saturating_mul(new.try_into().unwrap_or(u32::MAX));
        for (id, agent) in wanted() {
            let task = match before.remove(id) {
                Some((same, task)) if same == *agent => task,
                _ => {
                    let (sockets, news) = (Arc::clone(&self.context.sockets), self.news.clone());
                    let spread = spread.min(agent.interval);
                    let asks = agent::follow(id.clone(), agent.clone(), spread, sockets, news);
                    AgentTask(tokio::spawn(asks).abort_handle())
                }
            };
            running.insert(id.clone(), (agent.clone(), task));
        }
    }

    fn spawn(&self, id: &TargetId, order: Order, health: Health) -> watch::Sender<Order> {
        let (sender, orders) = watch::channel(order);
        tokio::spawn(follow(id.clone(), orders, State::new(health), Arc::clone(&self.context)));
        sender
    }
}

/// Checks a target until the sender of its orders is dropped, or it is no longer checked.
async fn follow(id: TargetId, mut orders: watch::Receiver<Order>, mut state: State, context: Arc<Context>) {
    let mut order = orders.borrow_and_update().clone();
    let mut next = order.first_check();
    // The last reported reason why the backend is down.
    let mut told: Option<String> = None;
    loop {
        if order.check.probe == Probe::None {
            let transition = state.record(true, 1, 1).then(|| "it is not checked".to_owned());
            let report = Report { id, health: Health::Up, transition, latency: None, trouble: None };
            let _ = context.reports.send(report).await;
            return;
        }
        let outcome = tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                order = orders.borrow_and_update().clone();
                next = order.first_check();
                state.restart();
                continue;
            }
            outcome = check_once(&id, &order.check, next, &context) => outcome,
        };
        let began = outcome.began;
        let report = judge(&id, &order.check, outcome, &mut state, &mut told, &context);
        next = began + interval(&order.check, state);
        // Outside of the select, so that a new order never discards a report. Boxed, because most tasks are waiting.
        if Box::pin(context.reports.send(report)).await.is_err() {
            return;
        }
    }
}

/// The backend's state after a check. `told`: the last reported reason why it is down.
fn judge(
    id: &TargetId,
    check: &HealthCheck,
    outcome: Outcome,
    state: &mut State,
    told: &mut Option<String>,
    context: &Context,
) -> Report {
    let report = |state: &State, transition, latency, trouble| Report {
        id: id.clone(),
        health: state.health(),
        transition,
        latency,
        trouble,
    };
    let reason = match outcome.result {
        Ok(()) => None,
        Err(failure) => match context.blame(failure, id, outcome.began) {
            Ok(reason) => Some(reason),
            Err(words) => {
                context.warn(&format!(
                    "cannot run a health check, so the backend's health is unchanged: {words}"
                ));
                return report(state, None, None, Some(words));
            }
        },
    };
    let latency = reason.is_none().then_some(outcome.took);
    let before = state.health();
    let changed = state.record(reason.is_none(), check.rise, check.fall);
    let is_told = !changed && (reason.is_none() || state.health() != Health::Down || reason == *told);
    let transition = (!is_told).then(|| match (before, &reason) {
        (Health::Unknown, None) => "the first check succeeded".to_owned(),
        (_, None) => in_a_row("the check succeeded", check.rise),
        (Health::Up, Some(reason)) => in_a_row(reason, check.fall),
        (Health::Unknown | Health::Down, Some(reason)) => reason.clone(),
    });
    if transition.is_some() {
        *told = reason;
    }
    report(state, transition, latency, None)
}

/// The time from the start of a check to the start of the next one. Never longer than the interval, so that detection takes at most
/// `fall` intervals plus the timeout.
fn interval(check: &HealthCheck, state: State) -> Duration {
    let interval = check.fast_interval.filter(|_| state.is_changing()).unwrap_or(check.interval);
    interval.mul_f64(1.0 - f64::from(check.jitter) / 100.0 * rand::random::<f64>())
}

fn in_a_row(what: &str, times: u16) -> String {
    if times > 1 { format!("{what}, {times} times in a row") } else { what.to_owned() }
}

struct Outcome {
    began: Instant,
    took: Duration,
    result: Result<(), Failure>,
}

async fn check_once(id: &TargetId, check: &HealthCheck, at: Instant, context: &Context) -> Outcome {
    let due = at.max(Instant::now());
    sleep_until(at).await;
    let late = due.elapsed();
    let permit = context.sockets.acquire().await;
    let began = Instant::now();
    if began.duration_since(at) > check.interval {
        context.warn(
            "checks start later than their interval demands: the host is overloaded, or the limit of open \
                      files (LimitNOFILE=) is too low for this many backends",
        );
    }
    // Boxed: most tasks are waiting for their next check at any time.
    let result = Box::pin(probe(id, check, &context.shared)).await;
    drop(permit);
    let took = began.elapsed();
    let late = late.max(took.saturating_sub(check.timeout));
    let result = match result {
        Err(_) if late >= STARVED => Err(Failure::here("the daemon got too little CPU time")),
        result => result,
    };
    Outcome { began, took, result }
}

impl Context {
    /// Why the backend failed the check, or the problem of this host that prevents a verdict.
    fn blame(&self, failure: Failure, id: &TargetId, began: Instant) -> Result<String, String> {
        let words = match failure {
            Failure::Here(error) => return Err(error.to_string()),
            Failure::OutOfReach(errno) => words(errno),
            Failure::Backend(words) => words,
        };
        if let Some(unreached) = lock(&self.unreached).get(&id.backend.ip())
            && unreached.until.is_none_or(|until| until >= began)
        {
            return Err(unreached.why.clone());
        }
        Ok(words)
    }

    fn warn(&self, words: &str) {
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!("health checks: {words}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use tokio::time::{sleep, timeout, timeout_at};

    use super::*;
    use crate::model::Http;

    const INTERVAL: Duration = Duration::from_millis(100);

    /// How late a busy machine may be.
    const LATE: Duration = Duration::from_secs(3);

    /// For tests with a paused clock, which advances to the next timer as soon as nothing runs: the time that system calls then
    /// seem to take.
    const TIMEOUT: Duration = Duration::from_millis(50);

    /// The resolution of that clock.
    const EXACT: Duration = Duration::from_millis(20);

    /// A check with enough time for any server that answers.
    fn check(probe: Probe) -> HealthCheck {
        HealthCheck { interval: INTERVAL, timeout: Duration::from_secs(5), ..HealthCheck::new(probe) }
    }

    /// A check that times out after this time if the server is silent.
    fn silent_check() -> HealthCheck {
        HealthCheck { timeout: TIMEOUT, ..check(Probe::Http(Http::get("/"))) }
    }

    fn target(backend: SocketAddr, check: HealthCheck) -> Target {
        Target { id: TargetId::of_web(backend), check, agent: None }
    }

    async fn next(reports: &mut mpsc::Receiver<Report>) -> Report {
        timeout(Duration::from_secs(10), reports.recv()).await.expect("a report").expect("the checker lives")
    }

    async fn transition(reports: &mut mpsc::Receiver<Report>) -> (Health, String) {
        loop {
            let report = next(reports).await;
            if let Some(reason) = report.transition {
                return (report.health, reason);
            }
        }
    }

    /// A port on which nothing listens during the test.
    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    async fn again(address: SocketAddr) -> TcpListener {
        TcpListener::bind(address).await.expect("a listener")
    }

    #[test]
    fn a_task_that_waits_for_its_next_check_takes_a_kilobyte_at_most() {
        let backend = "192.0.2.1:80".parse().expect("an address");
        let checker = Checker::start(mpsc::channel(1).0, mpsc::channel(1).0);
        let (id, health) = (target(backend, check(Probe::Tcp)).id, State::new(Health::Up));
        let (_sender, orders) = watch::channel(Order { check: check(Probe::Tcp), spread: INTERVAL });
        // There is one per backend: memory that only a running check needs must not be part of it.
        let task = follow(id.clone(), orders, health, Arc::clone(&checker.context));
        assert!(size_of_val(&task) <= 1024, "{} bytes", size_of_val(&task));
        let (news, sockets) = (mpsc::channel(1).0, Arc::clone(&checker.context.sockets));
        let asks = agent::follow(id, Agent::at(1), INTERVAL, sockets, news);
        assert!(size_of_val(&asks) <= 1024, "{} bytes", size_of_val(&asks));
    }

    #[tokio::test]
    async fn a_backend_that_stops_goes_down_within_fall_intervals_and_comes_up_again_after_rise() {
        let (listening, backend) = listener().await;
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        checker.set_targets(vec![(target(backend, check(Probe::Tcp)), Health::Unknown)]);
        assert_eq!(transition(&mut reports).await, (Health::Up, "the first check succeeded".into()));
        let second = next(&mut reports).await;
        assert_eq!((second.health, second.transition), (Health::Up, None));
        assert!(second.latency.is_some());

        drop(listening);
        let stopped = Instant::now();
        let down = transition(&mut reports).await;
        assert_eq!(down, (Health::Down, "connection refused, 3 times in a row".into()));
        assert!(stopped.elapsed() >= INTERVAL, "it went down after fewer than three failures");
        assert!(stopped.elapsed() <= 3 * INTERVAL + LATE, "detection took {:?}", stopped.elapsed());

        let _listening = again(backend).await;
        let up = transition(&mut reports).await;
        assert_eq!(up, (Health::Up, "the check succeeded, 2 times in a row".into()));
    }

    #[tokio::test]
    async fn a_new_reason_of_a_backend_that_is_down_is_reported() {
        let (listening, backend) = listener().await;
        drop(listening);
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        let check = HealthCheck { timeout: Duration::from_millis(300), ..check(Probe::Http(Http::get("/"))) };
        checker.set_targets(vec![(target(backend, check), Health::Unknown)]);
        assert_eq!(transition(&mut reports).await, (Health::Down, "connection refused".into()));
        assert_eq!(next(&mut reports).await.transition, None, "it is told once");
        // A server that accepts connections and never answers.
        let _listening = again(backend).await;
        let (health, why) = transition(&mut reports).await;
        assert_eq!(health, Health::Down);
        assert!(why.contains("within 300ms"), "{why}");
        assert_eq!(next(&mut reports).await.transition, None, "it is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_falls_silent_goes_down_within_fall_intervals_and_the_timeout() {
        let (listening, backend) = listener().await;
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        checker.set_targets(vec![(target(backend, silent_check()), Health::Up)]);
        let began = Instant::now();
        let (health, why) = transition(&mut reports).await;
        assert_eq!(health, Health::Down);
        assert!(why.ends_with("within 50ms, 3 times in a row"), "{why}");
        let bound = 3 * INTERVAL + TIMEOUT + EXACT;
        assert!(began.elapsed() <= bound, "detection took {:?}", began.elapsed());
        drop(listening);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_start_an_interval_apart_and_never_later() {
        let (listening, backend) = listener().await;
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        checker.set_targets(vec![(target(backend, silent_check()), Health::Up)]);
        next(&mut reports).await;
        let began = Instant::now();
        for _ in 0..10 {
            next(&mut reports).await;
        }
        let took = began.elapsed();
        // This does not depend on how long a check takes; each is at random up to a tenth earlier.
        assert!(took >= INTERVAL * 9 - EXACT && took <= INTERVAL * 10 + EXACT, "ten checks took {took:?}");
        drop(listening);
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_that_is_changing_is_checked_at_the_fast_interval_until_it_has_changed() {
        let (listening, backend) = listener().await;
        drop(listening);
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        let interval = Duration::from_secs(2);
        let fast_interval = Some(INTERVAL);
        let check = HealthCheck { interval, fast_interval, jitter: 0, timeout: TIMEOUT, ..check(Probe::Tcp) };
        checker.set_targets(vec![(target(backend, check), Health::Up)]);
        assert_eq!(next(&mut reports).await.health, Health::Up);
        let first = Instant::now();
        let (health, why) = transition(&mut reports).await;
        assert_eq!(health, Health::Down);
        assert!(why.ends_with(", 3 times in a row"), "{why}");
        let is_about = |took: Duration, expected: Duration| took.abs_diff(expected) <= TIMEOUT + EXACT;
        assert!(is_about(first.elapsed(), 2 * INTERVAL), "two checks took {:?}", first.elapsed());
        let changed = Instant::now();
        next(&mut reports).await;
        assert!(is_about(changed.elapsed(), interval), "the next came after {:?}", changed.elapsed());
    }

    #[test]
    fn an_interval_is_shortened_by_the_jitter_at_most_and_spread_over_it() {
        let check = HealthCheck { jitter: 50, ..check(Probe::Tcp) };
        let drawn: Vec<_> = (0..1000).map(|_| interval(&check, State::new(Health::Up))).collect();
        let (shortest, longest) = (drawn.iter().min(), drawn.iter().max());
        assert!(
            shortest >= Some(&(INTERVAL / 2)) && shortest < Some(&INTERVAL.mul_f64(0.55)),
            "{shortest:?}"
        );
        assert!(longest <= Some(&INTERVAL) && longest > Some(&INTERVAL.mul_f64(0.95)), "{longest:?}");
        let exact = HealthCheck { jitter: 0, ..check };
        assert_eq!(interval(&exact, State::new(Health::Up)), INTERVAL);
    }

    #[tokio::test]
    async fn a_target_that_stays_keeps_its_counts_and_one_whose_check_changed_its_health() {
        let (listening, backend) = listener().await;
        drop(listening);
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        let tcp = check(Probe::Tcp);
        checker.set_targets(vec![(target(backend, tcp.clone()), Health::Up)]);
        assert_eq!(next(&mut reports).await.transition, None);
        assert_eq!(next(&mut reports).await.transition, None);
        // The same target and another one: two failures are counted, and the third takes it down.
        let other = "127.0.0.2:1".parse().expect("an address");
        checker.set_targets(vec![
            (target(backend, tcp.clone()), Health::Up),
            (target(other, check(Probe::None)), Health::Unknown),
        ]);
        let reports_of_both = [next(&mut reports).await, next(&mut reports).await];
        let of = |address| reports_of_both.iter().find(|report| report.id.backend == address);
        assert_eq!(of(backend).map(|report| report.health), Some(Health::Down), "{reports_of_both:?}");
        let unchecked = of(other).expect("a report");
        assert_eq!(
            (unchecked.health, unchecked.transition.as_deref()),
            (Health::Up, Some("it is not checked"))
        );

        // Another check: it stays down until two successes.
        let _listening = again(backend).await;
        checker.set_targets(vec![(target(backend, HealthCheck { fall: 9, ..tcp }), Health::Up)]);
        assert_eq!(next(&mut reports).await.health, Health::Down);
        // One more of the previous checks may have ended meanwhile.
        let mut health = Health::Down;
        for _ in 0..2 {
            if health == Health::Down {
                health = next(&mut reports).await.health;
            }
        }
        assert_eq!(health, Health::Up);
    }

    #[tokio::test]
    async fn a_target_that_is_no_longer_checked_is_up_and_starts_from_there_when_checked_again() {
        let (listening, backend) = listener().await;
        drop(listening);
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        let tcp = check(Probe::Tcp);
        checker.set_targets(vec![(target(backend, tcp.clone()), Health::Unknown)]);
        assert_eq!(transition(&mut reports).await, (Health::Down, "connection refused".into()));
        checker.set_targets(vec![(target(backend, check(Probe::None)), Health::Unknown)]);
        assert_eq!(transition(&mut reports).await, (Health::Up, "it is not checked".into()));
        sleep(2 * INTERVAL).await;
        assert!(reports.try_recv().is_err(), "it is still checked");
        checker.set_targets(vec![(target(backend, tcp), Health::Unknown)]);
        assert_eq!(next(&mut reports).await.health, Health::Up);
    }

    #[tokio::test]
    async fn a_removed_target_is_no_longer_checked() {
        let (listening, backend) = listener().await;
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        checker.set_targets(vec![(target(backend, check(Probe::Tcp)), Health::Unknown)]);
        next(&mut reports).await;
        checker.set_targets(vec![]);
        sleep(INTERVAL / 4).await;
        while reports.try_recv().is_ok() {}
        sleep(2 * INTERVAL).await;
        assert!(reports.try_recv().is_err());
        drop(listening);
    }

    #[tokio::test]
    async fn the_first_checks_of_many_targets_are_spread_out_and_none_waits_for_another() {
        // A listener that never accepts: the kernel completes connections, but HTTP never answers.
        let (silent, silent_address) = listener().await;
        let (sender, mut reports) = mpsc::channel(16);
        let checker = Checker::start(sender, mpsc::channel(1).0);
        let slow = HealthCheck {
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            ..check(Probe::Http(Http::get("/")))
        };
        let once = HealthCheck { interval: Duration::from_secs(60), ..check(Probe::Tcp) };
        // Nothing listens on 127.0.1.0/24: each is refused at once.
        let many = (0..2000u16).map(|port| SocketAddr::from(([127, 0, 1, 1], 1 + port)));
        let mut targets: Vec<_> =
            many.map(|backend| (target(backend, once.clone()), Health::Unknown)).collect();
        targets.insert(0, (target(silent_address, slow), Health::Unknown));
        checker.set_targets(targets);
        let began = Instant::now();
        let mut half = None;
        for count in 0..2000 {
            let report = timeout_at(began + Duration::from_secs(60), reports.recv()).await;
            let report = report.expect("in time").expect("a report");
            // Unless the host is too busy.
            assert!(report.health == Health::Down || report.trouble.is_some(), "{:?}", report.health);
            half = half.or((count == 1000).then(|| began.elapsed()));
        }
        let half = half.expect("half were reported");
        assert!(half >= Duration::from_millis(70), "a thousand checks at once, within {half:?}");
        drop(silent);
    }

    #[tokio::test]
    async fn problems_of_this_host_are_not_held_against_the_backend() {
        let failure = |code| Failure::from(std::io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::ENETDOWN, libc::EPERM] {
            assert!(matches!(failure(code), Failure::Here(_)), "{code}");
        }
        for code in [libc::EHOSTUNREACH, libc::ENETUNREACH] {
            assert!(matches!(failure(code), Failure::OutOfReach(_)), "{code}: whose, has to be looked at");
        }
        assert!(matches!(failure(libc::ECONNREFUSED), Failure::Backend(_)));
    }
}
