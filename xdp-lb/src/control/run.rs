//! The daemon: puts the parts together, says when it is ready, and ends as it is told.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::handle::Handle;
use super::owner::{Ended, Owner, Parts};
use super::privilege;
use crate::api::server::Server;
use crate::config::{self, Config};
use crate::datapath::{self, Datapath, Events, Options, Policy};
use crate::health::Checker;
use crate::metrics;
use crate::net::Resolver;
use crate::net::vips::{Vips, record_file};

/// Messages that may wait for the owner task: its senders wait when there are more.
const QUEUE: usize = 1024;

/// How long the first checks may take before the daemon says that it is ready all the same.
const FIRST_CHECKS: Duration = Duration::from_secs(5);

/// How long the last answers may take once the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the daemon until SIGTERM, SIGINT or `xdp-lb unload`.
///
/// # Errors
/// Where it may not or cannot start; a first start that fails leaves no pins behind. And where it has to end
/// because a part that it cannot do without has failed.
pub fn run(config_file: &Path) -> Result<()> {
    privilege::check()?;
    let config = config::load(config_file)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")?;
    let result = runtime.block_on(serve(config_file, config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config_file: &Path, config: Config) -> Result<()> {
    // What can fail without touching the kernel comes first.
    let server = Server::bind(&config.api.socket)?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics: choose another metrics.listen, or \"off\"")
        })?),
        None => None,
    };
    let (network, heard) = mpsc::channel(QUEUE);
    let resolver = Arc::new(Resolver::start(network).await?);
    let vips = Vips::start(record_file(&config.state_file))?;
    let (pins, sockets) = (config.pin_path.clone(), config.api.socket.clone());
    let mut datapath = Datapath::load(&Options {
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
    let checker = Checker::start(reports);
    let watched = Arc::clone(&resolver);
    let parts = Parts {
        config_file: config_file.to_owned(),
        config,
        kernel: datapath,
        set_targets: Box::new(move |targets| checker.set_targets(targets)),
        watch: Box::new(move |addresses| watched.watch(addresses)),
        vips: Box::new(vips),
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
    let metrics = metrics
        .map(|listener| tokio::spawn(metrics::serve(listener, handle.clone(), stopping(stopped.clone()))));
    let ready = tokio::spawn(say_ready(handle.clone(), sockets));

    let ended = tokio::select! {
        ended = owner.run(requests, reported, heard) => Some(ended),
        signal = wait_for_signal(&handle) => {
            info!("{}: the daemon ends, forwarding goes on", signal?);
            None
        }
    };
    ready.abort();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
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
    match ended {
        Some(Ended::NetworkLost) => {
            bail!("the kernel's news of routes and neighbours ended (see above): start the daemon again")
        }
        _ => Ok(()),
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
async fn say_ready(handle: Handle, socket: std::path::PathBuf) {
    let deadline = tokio::time::Instant::now() + FIRST_CHECKS;
    while tokio::time::Instant::now() < deadline && handle.is_pending().await == Ok(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    info!("ready; the control socket is {}", socket.display());
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
                    match handle.reload().await {
                        Ok(reload) if reload.changes.is_empty() => info!("SIGHUP: reloaded, nothing changed"),
                        Ok(reload) => info!("SIGHUP: reloaded, with the changes above: {}", reload.changes.len()),
                        Err(refusal) => error!("SIGHUP: {refusal}"),
                    }
                });
            }
        }
    }
}
