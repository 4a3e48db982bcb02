//! The daemon: puts the parts together, says when it is ready, and ends as it is told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::handle::Handle;
use super::owner::{Ears, Ended, Owner, Parts, SetCourse, refuse_vip_checks};
use super::privilege;
use super::upgrade::{self, Predecessor, Successor, Upgrades};
use crate::api::server::Server;
use crate::api::types::UpgradeState;
use crate::config::{self, Config};
use crate::datapath::{self, Datapath, Events, Policy};
use crate::discovery::Discoverer;
use crate::health::{Checker, VipChecks};
use crate::lock::Lock;
use crate::metrics;
use crate::net::Resolver;
use crate::net::namespace::Namespace;
use crate::net::vips::{Vips, record_file};

/// Messages that may wait for the owner task: its senders wait when there are more.
const QUEUE: usize = 1024;

/// How long the first checks may take before the daemon says that it is ready all the same.
const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// How long the last answers may take once the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// What mends it where checks cannot go to VIPs.
const NAMESPACE_HINT: &str = "it takes a network namespace of the daemon's own, for which it needs CAP_SYS_ADMIN when it \
                              starts, and RestrictNamespaces=net where systemd confines it; one that takes over by \
                              `xdp-lb upgrade` has that of the daemon before";

/// How the daemon is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The config file.
    pub config_file: PathBuf,
    /// Whether a daemon is taken over from, which waits at the other end of stdin.
    pub takes_over: bool,
}

/// What one life of the daemon ended with.
enum End {
    /// It was told to end, or was unloaded.
    Over,
    /// It has let go of everything, for a successor.
    HandedOver(Successor),
}

/// Runs the daemon until SIGTERM, SIGINT, `xdp-lb unload`, or until another has taken over.
///
/// # Errors
/// Where it may not or cannot start; a first start that fails leaves no pins behind. And where it has to end
/// because a part that it cannot do without has failed.
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
    // Its threads have no programs to run for checks.
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
    let handed = match predecessor {
        Some(predecessor) => {
            datapath::check_layout(&config.pin_path)?;
            predecessor.hand_over()?
        }
        None => None,
    };
    // Before anything is read from the state file, and until the process ends.
    let mut lock = match handed {
        Some(descriptor) => config::state::inherit_lock(descriptor, &config.state_file)?,
        None => config::state::lock(&config.state_file)?,
    };
    raise_descriptor_limit();
    privilege::drop_rest(config.allow_exec_checks, config.api.has_groups())?;
    let (upgrades, mut asked) = Upgrades::new();
    if predecessor.is_some() {
        upgrades.note(UpgradeState::UnderWay, "this daemon takes over".into());
    }
    loop {
        // All that one life has started ends with its runtime.
        let runtime = runtime()?;
        let life = Life { options, binary: &binary, upgrades: &upgrades, namespace: &namespace };
        let end = runtime.block_on(life.serve(config, &mut asked, predecessor));
        runtime.shutdown_timeout(Duration::from_secs(1));
        let End::HandedOver(successor) = end? else { return Ok(()) };
        if self::runtime()?.block_on(see_it_take_over(successor, &lock, &upgrades))? {
            return Ok(());
        }
        // The other one may have written its own process id.
        lock.sign().context("cannot write the state file's lock")?;
        // As a restart does.
        config = config::load(&options.config_file)?;
    }
}

/// Has all threads share one heap. glibc gives each its own, and what a thread has freed stays with that: the largest
/// answer that each has made, several megabytes where there are thousands of backends.
fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's, and no other thread has been started.
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

/// Waits until the successor is ready; where it does not become so, ends it and says so. Returns whether this daemon
/// is not needed any more.
async fn see_it_take_over(mut successor: Successor, lock: &Lock, upgrades: &Upgrades) -> Result<bool> {
    let pid = successor.id();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let taken = tokio::select! {
        taken = successor.take_over(lock) => taken,
        _ = terminate.recv() => {
            info!("SIGTERM: the daemon and the one that was to take over end, forwarding goes on");
            successor.end();
            return Ok(true);
        }
    };
    match taken {
        Ok(()) => {
            // What systemd watches from now on.
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]) {
                warn!("cannot tell the service manager of the new daemon: {error}");
            }
            info!("the process {pid} has taken over: this one ends");
            Ok(true)
        }
        Err(why) => {
            successor.end();
            let message =
                format!("the new daemon did not become ready, so this one took everything back: {why:#}");
            error!("upgrade: {message}");
            upgrades.note(UpgradeState::Failed, message);
            Ok(false)
        }
    }
}

/// What one life of the daemon works with.
struct Life<'a> {
    options: &'a Options,
    binary: &'a Path,
    upgrades: &'a Upgrades,
    /// Where checks at VIPs come from; or why there is none.
    namespace: &'a Result<Arc<Namespace>, String>,
}

impl Life<'_> {
    async fn serve(
        &self,
        config: Config,
        asked: &mut mpsc::Receiver<()>,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<End> {
        // What can fail without touching the kernel comes first.
        let server = Server::bind(&config.api)?;
        let metrics = config.metrics.listen;
        let (metrics_trouble, of_metrics) = watch::channel(None);
        let (network, heard) = mpsc::channel(QUEUE);
        let (resolver, own_macs) = Resolver::start(network).await?;
        let resolver = Arc::new(resolver);
        let vips = Vips::start(record_file(&config.state_file))?;
        let (pins, sockets) = (config.pin_path.clone(), config.api.socket.clone());
        let mut datapath = Datapath::load(&datapath::Options {
            pin_path: Some(pins.clone()),
            limits: config.limits,
            policy: Policy::of(&config),
        })?;
        let is_first = !datapath.is_adopted();
        let events = datapath.take_events()?;
        datapath.start_log()?;

        let (handle, requests) = mpsc::channel(QUEUE);
        let handle = Handle::new(handle);
        let (reports, reported) = mpsc::channel(QUEUE);
        let (news, agents) = mpsc::channel(QUEUE);
        let vip_checks = match self.namespace {
            Ok(namespace) => Ok(Arc::new(VipChecks::new(Arc::clone(namespace), datapath.take_checks()?))),
            Err(why) => Err(why.clone()),
        };
        let checker = Arc::new(Checker::start_with(reports, news, vip_checks.as_ref().ok().cloned()));
        let watched = Arc::clone(&resolver);
        let (updates, found) = mpsc::channel(QUEUE);
        let discoverer = Discoverer::start(updates);
        let parts = Parts {
            config_file: self.options.config_file.clone(),
            config,
            kernel: datapath,
            metrics: of_metrics,
            set_targets: {
                let checker = Arc::clone(&checker);
                Box::new(move |targets| checker.set_targets(targets))
            },
            set_reach: Box::new(move |address, no_way| checker.set_reach(address, no_way)),
            watch: Box::new(move |addresses| watched.watch(addresses)),
            vips: Box::new(vips),
            upgrades: self.upgrades.clone(),
            set_discoveries: Box::new(move |services| discoverer.set_services(services)),
            own_macs,
            set_courses: vip_checks
                .map(|checks| -> SetCourse { Box::new(move |courses| checks.set_courses(courses)) }),
        };
        let owner = Owner::start(parts).inspect_err(|_| {
            if is_first && let Err(error) = datapath::unload(&pins) {
                warn!("{error:#}");
            }
        })?;
        tokio::spawn(solicit(events, resolver));

        let (stop, stopped) = watch::channel(());
        let stopping = |mut stopped: watch::Receiver<()>| async move {
            // The sender's end says the same as a message.
            let _ = stopped.changed().await;
        };
        let api = tokio::spawn(server.serve(handle.clone(), stopping(stopped.clone())));
        let metrics = metrics.map(|address| {
            tokio::spawn(metrics::listen(address, handle.clone(), metrics_trouble, stopping(stopped.clone())))
        });
        let ready =
            tokio::spawn(say_ready(handle.clone(), sockets, predecessor.take(), self.upgrades.clone()));

        let mut successor = None;
        let ended = tokio::select! {
            ended = owner.run(Ears { requests, reports: reported, agents, events: heard, found }) => Some(ended),
            signal = wait_for_signal(&handle) => {
                info!("{}: the daemon ends, forwarding goes on", signal?);
                None
            }
            checked = self.next_successor(asked) => {
                info!("the process {} is to take over", checked.id());
                successor = Some(checked);
                None
            }
        };
        ready.abort();
        if successor.is_none() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        drop(stop);
        let last_answers = async {
            let _ = api.await;
            if let Some(metrics) = metrics {
                let _ = metrics.await;
            }
        };
        if tokio::time::timeout(GRACE, last_answers).await.is_err() {
            warn!("the last answers took longer than {GRACE:?} and were cut short");
        }
        match (ended, successor) {
            (Some(Ended::NetworkLost), _) => {
                bail!("the kernel's news of routes and neighbours ended (see above): start the daemon again")
            }
            (_, Some(successor)) => Ok(End::HandedOver(successor)),
            _ => Ok(End::Over),
        }
    }

    /// Waits until an upgrade is asked for, and the other binary has checked what it can. One that finds something is
    /// refused, and nothing has changed.
    async fn next_successor(&self, asked: &mut mpsc::Receiver<()>) -> Successor {
        loop {
            if asked.recv().await.is_none() {
                return std::future::pending().await;
            }
            let why = match Successor::start(self.binary, &self.options.config_file) {
                Ok(successor) => match successor.checked(self.binary, self.namespace).await {
                    Ok(()) => return successor,
                    Err(why) => {
                        successor.end();
                        why
                    }
                },
                Err(why) => why,
            };
            let message = format!("refused, and nothing was changed: {}: {why:#}", self.binary.display());
            error!("upgrade: {message}");
            self.upgrades.note(UpgradeState::Failed, message);
        }
    }
}

/// Every backend is checked with a socket of its own: as many as the system lets us have.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!("cannot raise the limit of open files to {hard}: {error}");
    }
}

/// Has the neighbours resolved that the datapath meets and does not know.
async fn solicit(mut events: Events, resolver: Arc<Resolver>) {
    loop {
        match events.next().await {
            Ok(wanted) => resolver.solicit(wanted.ifindex, IpAddr::from(wanted.address)),
            Err(error) => {
                error!("{error:#}: clients' neighbours that are not known stay so");
                return;
            }
        }
    }
}

/// Tells the service manager (sd_notify(3)) once the first checks have ended, so that what is ordered
/// behind the daemon finds its services served.
async fn say_ready(handle: Handle, socket: PathBuf, predecessor: Option<Predecessor>, upgrades: Upgrades) {
    let deadline = tokio::time::Instant::now() + FIRST_CHECKS;
    while tokio::time::Instant::now() < deadline && handle.is_pending().await == Ok(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    info!("ready; the control socket is {}", socket.display());
    if let Some(predecessor) = predecessor {
        predecessor.ready();
        let version = format!("{} (commit {})", crate::VERSION, crate::COMMIT);
        upgrades.note(UpgradeState::Done, format!("xdp-lb {version} has taken over from the daemon before"));
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!("cannot tell the service manager that the daemon is ready: {error}");
    }
}

/// The name of the signal that ends the daemon. SIGHUP reloads meanwhile.
async fn wait_for_signal(handle: &Handle) -> Result<&'static str> {
    let listen = |kind| signal(kind).context("cannot listen to signals");
    let (mut terminate, mut interrupt, mut hang_up) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok("SIGTERM"),
            _ = interrupt.recv() => return Ok("SIGINT"),
            _ = hang_up.recv() => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    match handle.reload(config::Leave::Drain).await {
                        Ok(reload) if reload.changes.is_empty() => info!("SIGHUP: reloaded, nothing changed"),
                        Ok(reload) => info!("SIGHUP: reloaded, with the changes above: {}", reload.changes.len()),
                        Err(refusal) => error!("SIGHUP: {refusal}"),
                    }
                });
            }
        }
    }
}
