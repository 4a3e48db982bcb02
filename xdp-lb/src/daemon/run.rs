//! The daemon: starts the parts, reports when it is ready, and ends when it is told to.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};
use xdp_lb_common::tables::{Check, FlowKey};

use super::privilege;
use super::standby::{self, FIRST_CHECKS, Standby};
use super::upgrade::{self, Predecessor, Successor};
use crate::api::server::Server;
use crate::control::drops;
use crate::control::handle::Handle;
use crate::control::owner::{Owner, Request};
use crate::control::parts::{Ended, Inputs, Listeners, Parts, SetVipTarget, refuse_vip_checks};
use crate::control::upgrades::Upgrades;
use crate::datapath::{self, Checks, Datapath, Events, Policy, Prepared};
use crate::discovery::Discoverer;
use crate::health::{AgentReport, CheckDatapath, Checker, Report, VipChecks};
use crate::lock::Lock;
use crate::model::Config;
use crate::model::state::UpgradeState;
use crate::net::namespace::Namespace;
use crate::net::vips::{Vips, record_file};
use crate::net::{Event, OwnMacs, Resolver};
use crate::report::documents::StatusQuery;
use crate::{config, metrics, overlay, store};

/// The capacity of the owner task's queue. When it is full, senders wait.
const QUEUE: usize = 1024;

/// How long the last replies may take when the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// How long they may take before another daemon takes over: it waits for them.
const GRACE_BEFORE_HAND_OVER: Duration = Duration::from_secs(1);

/// How long, and how often, this daemon tries to take over again from a successor that failed.
const TO_TAKE_BACK: Duration = Duration::from_secs(60);
const TAKE_BACK_AGAIN: Duration = Duration::from_millis(200);

/// The fix if checks cannot go through VIPs.
const NAMESPACE_HINT: &str = "it requires a network namespace of the daemon's own: at its start the daemon needs \
                              CAP_SYS_ADMIN, and RestrictNamespaces=net under systemd. After `xdp-lb upgrade` it keeps the namespace of the previous daemon";

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The config file.
    pub config_file: PathBuf,
    /// Whether to take over from a running daemon, at the other end of stdin.
    pub takes_over: bool,
}

/// How one life of the daemon ended.
enum End {
    /// It was told to end, or it was unloaded.
    Over,
    /// It has released everything for a successor.
    HandedOver(Successor),
}

/// Runs the daemon until SIGTERM, SIGINT or `xdp-lb unload`, or until another daemon has taken over.
///
/// # Errors
/// If it is not allowed to start, or cannot; a first start that fails leaves no pins behind. Also if it must end because an
/// essential part has failed.
pub fn run(options: &Options) -> Result<()> {
    share_heap();
    let mut predecessor = if options.takes_over { Some(Predecessor::on_stdin()?) } else { None };
    let result = lives(options, &mut predecessor);
    if let (Err(error), Some(predecessor)) = (&result, &mut predecessor) {
        predecessor.failed(error);
    }
    result
}

fn lives(options: &Options, predecessor: &mut Option<Predecessor>) -> Result<()> {
    let binary = upgrade::own_binary()?;
    privilege::check()?;
    let mut config = config::load(&options.config_file)?;
    say_what_starts(&options.config_file, &config);
    config.obsolete.iter().for_each(|line| warn!("{line}"));
    // Its threads run no programs for checks.
    let confine = || privilege::drop_rest(false, false);
    let namespace = match predecessor {
        Some(predecessor) => predecessor.namespace().and_then(|socket| Namespace::inherit(socket, confine)),
        None => Namespace::start(confine),
    };
    let namespace = namespace.map(Arc::new).map_err(|error| format!("{error:#}: {NAMESPACE_HINT}"));
    if let Err(why) = &namespace
        && let Some(refusal) = refuse_vip_checks(why, config.services.iter())
    {
        bail!(refusal);
    }
    if let Some(predecessor) = predecessor {
        datapath::check_layout(&config.pin_path)?;
        predecessor.checked()?;
    }
    // Before anything is read from the state file, and until the process ends. In an upgrade, the former daemon passes it on when
    // it has released everything.
    let mut lock = match predecessor {
        Some(_) => None,
        None => Some(store::lock(&config.state_file)?),
    };
    raise_descriptor_limit();
    privilege::drop_rest(config.allow_exec_checks, config.api.has_groups())?;
    let (upgrades, mut asked) = Upgrades::new();
    if predecessor.is_some() {
        upgrades.note(UpgradeState::UnderWay, "this daemon takes over".into());
    }
    // Until when this daemon tries to take over again.
    let mut insists_until = None;
    loop {
        // All tasks of one life end with its runtime.
        let runtime = runtime()?;
        let life = Life { options, binary: &binary, upgrades: &upgrades, namespace: &namespace };
        let end = runtime.block_on(life.serve(config.clone(), &mut asked, predecessor, &mut lock));
        runtime.shutdown_timeout(Duration::from_secs(1));
        let successor = match (end, insists_until) {
            (Ok(End::Over), _) => return Ok(()),
            (Ok(End::HandedOver(successor)), _) => successor,
            // A successor that was killed may hold its resources for a moment.
            (Err(error), Some(until)) if Instant::now() < until => {
                warn!("cannot take everything back yet, retrying: {error:#}");
                thread::sleep(TAKE_BACK_AGAIN);
                continue;
            }
            (Err(error), _) => return Err(error),
        };
        let held = lock.as_mut().context("the state file is not locked")?;
        if self::runtime()?.block_on(see_it_take_over(successor, held, &upgrades))? {
            return Ok(());
        }
        // The other one may have reported its own process id.
        if let Err(error) = held.sign() {
            warn!("cannot write the state file's lock: {error:#}");
        }
        insists_until = Some(Instant::now() + TO_TAKE_BACK);
        // Like a restart, but this daemon must go on whatever the config file says.
        match config::load(&options.config_file) {
            Ok(present) => config = present,
            Err(errors) => error!("the daemon keeps the config that it was started with: {errors}"),
        }
    }
}

/// The first line of the log: the versions of daemon and kernel, and the config file.
fn say_what_starts(file: &Path, config: &Config) {
    let kernel = nix::sys::utsname::uname();
    let kernel = kernel.as_ref().map_or("unknown".into(), |it| it.release().to_string_lossy());
    let (services, interfaces) = (config.services.len(), config.interfaces.join(", "));
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    info!(
        "xdp-lb {} (commit {}) on Linux {kernel}; config {}: services {services}, backends {backends}, interfaces \
         {interfaces}",
        crate::VERSION,
        crate::COMMIT,
        file.display()
    );
}

/// Makes all threads share one heap. By default glibc gives each its own, and memory that a thread has freed stays in its heap: the
/// size of the largest reply that it has made, several megabytes with thousands of backends.
fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a parameter of the allocator, before another thread is started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")
}

/// Waits until the successor has taken over and has shown that it stays. If it does not, logs that and ends it. Returns whether
/// this daemon is no longer needed.
async fn see_it_take_over(mut successor: Successor, lock: &Lock, upgrades: &Upgrades) -> Result<bool> {
    let pid = successor.id();
    let mut terminate = signal(SignalKind::terminate()).context("cannot install signal handlers")?;
    let taken = tokio::select! {
        taken = successor.take_over(lock) => taken,
        _ = terminate.recv() => {
            info!("SIGTERM: this daemon and the one about to take over exit; forwarding continues");
            successor.end();
            return Ok(true);
        }
    };
    let stays = match taken {
        Ok(()) => {
            info!("process {pid} has taken over; this one exits once the new one has proven stable");
            tokio::select! {
                stays = successor.stay() => stays.map_err(|why| format!("took over but did not stay up: {why:#}")),
                _ = terminate.recv() => {
                    info!("SIGTERM: this daemon and the one that has taken over exit; forwarding continues");
                    successor.terminate();
                    return Ok(true);
                }
            }
        }
        Err(why) => Err(format!("did not take over: {why:#}")),
    };
    match stays {
        Ok(()) => {
            // systemd supervises that process from now on.
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]) {
                warn!("cannot notify the service manager of the new daemon: {error}");
            }
            info!("process {pid} continues; this one exits");
            Ok(true)
        }
        Err(why) => {
            successor.end();
            let message = format!("the new daemon {why}; this one took everything back");
            error!("upgrade: {message}");
            upgrades.note(UpgradeState::Failed, message);
            Ok(false)
        }
    }
}

/// The parts of one life of the daemon.
struct Life<'a> {
    options: &'a Options,
    binary: &'a Path,
    upgrades: &'a Upgrades,
    /// The namespace of checks through VIPs, or why there is none.
    namespace: &'a Result<Arc<Namespace>, String>,
}

/// The sources of events about backends and the network.
struct Senses {
    resolver: Arc<Resolver>,
    own_macs: OwnMacs,
    events: mpsc::Receiver<Event>,
    checker: Arc<Checker>,
    vip_checks: Result<Arc<VipChecks>, String>,
    reports: mpsc::Receiver<Report>,
    agents: mpsc::Receiver<AgentReport>,
}

/// A life that owns the tables.
struct Beginning {
    api: Server,
    vips: Vips,
    datapath: Datapath,
    senses: Senses,
    standby: Option<Standby>,
}

/// A life that serves.
struct Running {
    owner: Owner,
    requests: mpsc::Receiver<Request>,
    inputs: Inputs,
    handle: Handle,
    servers: Servers,
}

/// The servers in front of the owner.
struct Servers {
    api: JoinHandle<()>,
    metrics: Option<JoinHandle<()>>,
    /// Dropping it stops both.
    stop: watch::Sender<()>,
    ready: JoinHandle<()>,
    /// Tells the daemon that watches this one that it ends on purpose.
    over: oneshot::Sender<()>,
}

impl Servers {
    fn start(
        api: Server,
        metrics: Option<(SocketAddr, watch::Sender<Option<String>>)>,
        (ready, over): (JoinHandle<()>, oneshot::Sender<()>),
        handle: &Handle,
    ) -> Self {
        let (stop, stopped) = watch::channel(());
        let stopping = |mut stopped: watch::Receiver<()>| async move {
            // Dropping the sender means the same as a message.
            let _ = stopped.changed().await;
        };
        let api = tokio::spawn(api.serve(handle.clone(), stopping(stopped.clone())));
        let metrics = metrics.map(|(address, trouble)| {
            tokio::spawn(metrics::listen(address, handle.clone(), trouble, stopping(stopped)))
        });
        Self { api, metrics, stop, ready, over }
    }

    /// Stops accepting requests, and returns what waits for the last replies. `is_over`: the daemon ends for good.
    async fn stop(self, is_over: bool) -> impl Future<Output = ()> {
        let Self { api, metrics, stop, ready, over } = self;
        if is_over {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        // If another daemon watches this one.
        if is_over && over.send(()).is_ok() {
            let _ = ready.await;
        } else {
            ready.abort();
        }
        drop(stop);
        async move {
            let _ = api.await;
            if let Some(metrics) = metrics {
                let _ = metrics.await;
            }
        }
    }
}

/// The parts that act on the owner's decisions.
fn listeners(
    checker: Arc<Checker>,
    vip_checks: Result<Arc<VipChecks>, String>,
    resolver: Arc<Resolver>,
    discoverer: Discoverer,
) -> Listeners {
    Listeners {
        set_targets: {
            let checker = Arc::clone(&checker);
            Box::new(move |targets| checker.set_targets(targets))
        },
        set_reach: Box::new(move |address, no_way| checker.set_reach(address, no_way)),
        watch: Box::new(move |addresses| resolver.watch(addresses)),
        set_discoveries: Box::new(move |services| discoverer.set_services(services)),
        set_vip_targets: vip_checks.map(|checks| -> SetVipTarget {
            Box::new(move |vip_targets| checks.set_vip_targets(vip_targets))
        }),
    }
}

impl CheckDatapath for Checks {
    fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        Self::attach(self, ifindex)
    }

    fn put(&mut self, key: &FlowKey, check: Check) -> Result<()> {
        Self::put(self, key, check)
    }

    fn remove(&mut self, key: &FlowKey) {
        Self::remove(self, key);
    }
}

impl Life<'_> {
    fn datapath_options(&self, config: &Config) -> datapath::Options {
        datapath::Options {
            pin_path: Some(config.pin_path.clone()),
            limits: config.limits,
            policy: Policy::of(config),
        }
    }

    fn start_checks(
        &self,
        (resolver, own_macs, events): (Arc<Resolver>, OwnMacs, mpsc::Receiver<Event>),
        take_checks: impl FnOnce() -> Result<Checks>,
    ) -> Result<Senses> {
        let (send_reports, reports) = mpsc::channel(QUEUE);
        let (send_news, agents) = mpsc::channel(QUEUE);
        let vip_checks = match self.namespace {
            Ok(namespace) => Ok(Arc::new(VipChecks::new(Arc::clone(namespace), Box::new(take_checks()?)))),
            Err(why) => Err(why.clone()),
        };
        let checker =
            Arc::new(Checker::start_with(send_reports, send_news, vip_checks.as_ref().ok().cloned()));
        Ok(Senses { resolver, own_macs, events, checker, vip_checks, reports, agents })
    }

    /// Starts without another daemon.
    async fn begin(&self, config: &Config) -> Result<Beginning> {
        // First what can fail without changing anything in the kernel.
        let api = Server::bind(&config.api)?;
        let network = start_resolver().await?;
        let vips = Vips::start(record_file(&config.state_file))?;
        let mut datapath = Datapath::load(&self.datapath_options(config))?;
        let senses = self.start_checks(network, || datapath.take_checks())?;
        Ok(Beginning { api, vips, datapath, senses, standby: None })
    }

    /// Starts beside the former daemon, which goes on until this one is ready, and then releases everything.
    async fn stand_by(
        &self,
        config: &Config,
        predecessor: &mut Predecessor,
        lock: &mut Option<Lock>,
    ) -> Result<Beginning> {
        let options = self.datapath_options(config);
        let mut prepared = Prepared::load(&options)?;
        let mut senses = self.start_checks(start_resolver().await?, || prepared.take_checks())?;
        let mut standby = Standby::new(config, prepared.tables())?;
        let Senses { resolver, events, checker, reports, agents, .. } = &mut senses;
        let inputs = standby::Inputs { reports, agents, events };
        let handed = standby.learn(checker, resolver, inputs, predecessor).await?;
        *lock = Some(match handed {
            Some(handed) => store::inherit_lock(handed, &config.state_file)?,
            None => lock_once_free(&config.state_file).await?,
        });
        if config::load(&self.options.config_file)? != *config {
            bail!("the config file changed while this daemon was starting: run `xdp-lb upgrade` again");
        }
        let datapath = Datapath::take_over(&options, prepared)?;
        let api = Server::bind(&config.api)?;
        let vips = Vips::start(record_file(&config.state_file))?;
        Ok(Beginning { api, vips, datapath, senses, standby: Some(standby) })
    }

    async fn serve(
        &self,
        config: Config,
        asked: &mut mpsc::Receiver<()>,
        predecessor: &mut Option<Predecessor>,
        lock: &mut Option<Lock>,
    ) -> Result<End> {
        let beginning = match predecessor {
            Some(predecessor) => self.stand_by(&config, predecessor, lock).await?,
            None => self.begin(&config).await?,
        };
        let Running { owner, requests, inputs, handle, servers } =
            self.start(config, beginning, predecessor)?;
        let mut successor = None;
        let mut owner = pin!(owner.run(requests, inputs));
        let ended = tokio::select! {
            ended = &mut owner => Some(ended),
            signal = wait_for_signal(&handle) => {
                info!("{}: the daemon exits; forwarding continues", signal?);
                None
            }
            checked = self.next_successor(asked) => {
                info!("process {} is taking over", checked.id());
                successor = Some(checked);
                None
            }
        };
        let is_over = matches!((&successor, ended), (None, None | Some(Ended::Unloaded | Ended::Closed)));
        let last_answers = servers.stop(is_over).await;
        let grace = if successor.is_some() { GRACE_BEFORE_HAND_OVER } else { GRACE };
        let answered = tokio::time::timeout(grace, last_answers);
        let in_time = if ended.is_some() {
            answered.await.is_ok()
        } else {
            // Pending requests are answered, too.
            tokio::select! {
                answered = answered => answered.is_ok(),
                _ = &mut owner => true,
            }
        };
        if !in_time {
            warn!("the last API responses took longer than {grace:?} and were cut short");
        }
        match (ended, successor) {
            (Some(Ended::NetworkLost), _) => {
                bail!(
                    "the kernel's notifications of routes and neighbours ended (see above): restart the daemon"
                )
            }
            (_, Some(successor)) => Ok(End::HandedOver(successor)),
            _ => Ok(End::Over),
        }
    }

    /// Starts the owner task, which owns the tables from here on, and its servers.
    fn start(
        &self,
        config: Config,
        beginning: Beginning,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<Running> {
        let Beginning { api, vips, mut datapath, senses, standby } = beginning;
        let Senses { resolver, own_macs, events, checker, vip_checks, reports, agents } = senses;
        let (pins, socket) = (config.pin_path.clone(), config.api.socket.clone());
        let metrics_address = config.metrics.listen;
        let (metrics_trouble, metrics) = watch::channel(None);
        let is_first = !datapath.is_adopted();
        let wanted_neighbours = datapath.take_events()?;
        let dropped = datapath.take_drops()?;
        datapath.start_log()?;

        let (sender, requests) = mpsc::channel(QUEUE);
        let (updates, found) = mpsc::channel(QUEUE);
        let parts = Parts {
            config_file: self.options.config_file.clone(),
            config,
            kernel: Box::new(datapath),
            metrics,
            listeners: listeners(checker, vip_checks, Arc::clone(&resolver), Discoverer::start(updates)),
            vips: Box::new(vips),
            upgrades: self.upgrades.clone(),
            own_macs,
            learned: standby.map(Standby::into_learnt),
        };
        let mut owner = Owner::start(parts).inspect_err(|_| {
            if is_first && let Err(error) = datapath::unload(&pins) {
                warn!("{error:#}");
            }
        })?;
        if predecessor.is_none() {
            owner.keep_tables();
        }
        let handle = Handle::new(sender, owner.published());
        tokio::spawn(solicit(wanted_neighbours, resolver));
        tokio::spawn(drops::show(dropped, owner.published()));
        let ready = self.say_ready(predecessor.take(), &handle, socket);
        let metrics = metrics_address.map(|address| (address, metrics_trouble));
        let servers = Servers::start(api, metrics, ready, &handle);
        let inputs = Inputs { reports, agents, events, found };
        Ok(Running { owner, requests, inputs, handle, servers })
    }

    /// Reports that the daemon is ready: to the service manager, or to the former daemon, which watches this one. Returns the sender
    /// for the end.
    fn say_ready(
        &self,
        predecessor: Option<Predecessor>,
        handle: &Handle,
        socket: PathBuf,
    ) -> (JoinHandle<()>, oneshot::Sender<()>) {
        let (over, is_over) = oneshot::channel();
        let handle = handle.clone();
        let ready = match predecessor {
            Some(predecessor) => {
                info!("took over; the control socket is {}", socket.display());
                tokio::spawn(be_watched(handle, predecessor, self.upgrades.clone(), is_over))
            }
            None => tokio::spawn(say_ready(handle, socket)),
        };
        (ready, over)
    }

    /// Waits until an upgrade is requested and the other binary is ready to take over. If it does not become ready, the upgrade is
    /// refused, and nothing has changed.
    async fn next_successor(&self, asked: &mut mpsc::Receiver<()>) -> Successor {
        loop {
            if asked.recv().await.is_none() {
                return std::future::pending().await;
            }
            let why = match Successor::start(self.binary, &self.options.config_file) {
                Ok(mut successor) => match successor.ready(self.binary, self.namespace).await {
                    Ok(()) => return successor,
                    Err(why) => {
                        successor.end();
                        why
                    }
                },
                Err(why) => why,
            };
            let message = format!("refused, nothing was changed: {}: {why:#}", self.binary.display());
            error!("upgrade: {message}");
            self.upgrades.note(UpgradeState::Failed, message);
        }
    }
}

/// Raises the limit of open files to the maximum allowed: each check has a socket of its own.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!("cannot raise the limit of open files to {hard}: {error}");
    }
}

/// Has the neighbours resolved that the datapath does not know.
async fn solicit(mut events: Events, resolver: Arc<Resolver>) {
    loop {
        match events.next().await {
            Ok(wanted) => resolver.solicit(wanted.ifindex, IpAddr::from(wanted.address)),
            Err(error) => {
                error!("{error:#}: next hops towards clients are no longer resolved");
                return;
            }
        }
    }
}

/// Takes the lock on the state file from a daemon that is about to end.
async fn lock_once_free(state_file: &Path) -> Result<Lock> {
    let deadline = Instant::now() + GRACE;
    loop {
        match store::lock(state_file) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(TAKE_BACK_AGAIN).await,
            locked => return locked,
        }
    }
}

async fn start_resolver() -> Result<(Arc<Resolver>, OwnMacs, mpsc::Receiver<Event>)> {
    let (events, heard) = mpsc::channel(QUEUE);
    let (resolver, own_macs) = Resolver::start(events).await?;
    Ok((Arc::new(resolver), own_macs, heard))
}

/// Tells the service manager (sd_notify(3)) once the first checks have ended, so that units ordered after the daemon find its
/// services working.
async fn say_ready(handle: Handle, socket: PathBuf) {
    let deadline = tokio::time::Instant::now() + FIRST_CHECKS;
    while tokio::time::Instant::now() < deadline && handle.is_pending().await == Ok(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = handle.status_of(StatusQuery { brief: true }).await;
    let tables = match status.is_ok_and(|status| status.adopted) {
        true => "took over the tables and flows of the previous daemon",
        false => "made new tables",
    };
    info!("ready; {tables}; the control socket is {}", socket.display());
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!("cannot notify the service manager that the daemon is ready: {error}");
    }
}

/// Shows the former daemon that this one has taken over and keeps running, until the former one ends.
async fn be_watched(
    handle: Handle,
    mut predecessor: Predecessor,
    upgrades: Upgrades,
    is_over: oneshot::Receiver<()>,
) {
    let version = format!("xdp-lb {} (commit {})", crate::VERSION, crate::COMMIT);
    upgrades.note(
        UpgradeState::UnderWay,
        format!("{version} has taken over; the previous daemon watches whether it stays up"),
    );
    tokio::select! {
        () = predecessor.watch(&handle) => {
            // If it has ended meanwhile, the next one gets them.
            let _ = handle.keep_tables().await;
            upgrades.note(UpgradeState::Done, format!("{version} has taken over from the previous daemon"));
        }
        Ok(()) = is_over => predecessor.over(),
    }
}

/// The name of the signal that ends the daemon. SIGHUP reloads meanwhile.
async fn wait_for_signal(handle: &Handle) -> Result<&'static str> {
    let listen = |kind| signal(kind).context("cannot install signal handlers");
    let (mut terminate, mut interrupt, mut hang_up) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok("SIGTERM"),
            _ = interrupt.recv() => return Ok("SIGINT"),
            _ = hang_up.recv() => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    match handle.reload(overlay::Leave::Drain).await {
                        Ok(reload) if reload.changes.is_empty() => info!("SIGHUP: reloaded, nothing changed"),
                        Ok(reload) => info!("SIGHUP: reloaded, with the changes above: {}", reload.changes.len()),
                        Err(refusal) => error!("SIGHUP: {refusal}"),
                    }
                });
            }
        }
    }
}
