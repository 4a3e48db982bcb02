//! The interface to the owner task. Each request is a call of the [`Owner`], or reads what it has published.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::events::EventReader;
use super::owner::{Owner, Request};
use super::parts::Ended;
use super::published::Published;
use super::trace::TraceStream;
use crate::config::{self, Errors};
use crate::datapath::monotonic_seconds;
use crate::model::event::{EventView, WatchQuery};
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{BackendPatch, ExplainRequest, FlowQuery, Outcome, ServicePatch, TraceRequest};
use crate::model::state::AdminState;
use crate::model::{self, Config};
use crate::overlay::Leave;
use crate::report::documents::{
    BackendView, ConfigQuery, ConfigView, CountersView, FlowsView, HistoryQuery, HistoryView, ReloadView,
    ServiceDetailView, ServiceView, StatusQuery, StatusView,
};
use crate::report::explain::ExplainView;
use crate::report::snapshot::{Clock, Snapshot};

/// How long an answer waits for a count of the flows.
const LONGEST_COUNT: Duration = Duration::from_millis(50);

/// The interface to the owner task, cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    published: Published,
    reloading: Arc<Mutex<()>>,
    listing: Arc<Semaphore>,
}

impl Handle {
    /// A handle that sends to `requests`, and reads what the same owner task publishes.
    pub fn new(requests: mpsc::Sender<Request>, published: Published) -> Self {
        Self { requests, published, reloading: Arc::default(), listing: Arc::new(Semaphore::new(1)) }
    }

    /// Runs a function on the owner task. The result is published before the answer, so that the caller can see it.
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Owner) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        let request: Request = Box::new(move |owner| {
            let done = what(owner);
            owner.publish();
            // The caller may be gone.
            let _ = answer.send(done);
            ready(None).boxed()
        });
        self.send(request, answered).await
    }

    async fn send<T>(&self, request: Request, answered: oneshot::Receiver<Answer<T>>) -> Answer<T> {
        self.requests.send(request).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Reads what the owner task has published. A document of thousands of backends takes milliseconds, a list of flows
    /// seconds.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Published) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let published = self.published.clone();
        let made = tokio::task::spawn_blocking(move || read(&published)).await;
        made.map_err(|error| Refusal::Failed(format!("the document could not be made: {error}")))?
    }

    async fn view<T: Send + 'static>(
        &self,
        view: impl Fn(&Snapshot, &Clock) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        self.read(move |published| published.view(view)).await
    }

    /// Counts the flows if a caller may be waiting for a backend to drain.
    async fn count_flows(&self) -> Answer<()> {
        if !self.published.drains() {
            return Ok(());
        }
        if let Some(counted) = self.ask(|owner| Ok(owner.refresh_census())).await? {
            // A count that takes longer is for the next caller. Until then, the answer is that it is not known.
            let _ = timeout(LONGEST_COUNT, counted).await;
        }
        Ok(())
    }

    /// Makes the tables the only ones, since this daemon stays.
    ///
    /// # Errors
    /// If the owner task has ended.
    pub async fn keep_tables(&self) -> Answer<()> {
        self.ask(|owner| {
            owner.keep_tables();
            Ok(())
        })
        .await
    }

    /// An overview of the daemon, for one screen.
    pub async fn status(&self) -> Answer<StatusView> {
        self.view(Snapshot::status).await
    }

    /// The same, or a part of it.
    pub async fn status_of(&self, query: StatusQuery) -> Answer<StatusView> {
        self.view(move |snapshot, clock| snapshot.status_of(query, clock)).await
    }

    /// The rates of the recent past.
    pub async fn history(&self, query: HistoryQuery) -> Answer<HistoryView> {
        self.view(move |snapshot, clock| snapshot.history(&query, clock)).await
    }

    /// Every service, by name.
    pub async fn services(&self) -> Answer<Vec<ServiceView>> {
        self.view(Snapshot::services).await
    }

    /// A service with its backends.
    pub async fn service(&self, name: String) -> Answer<ServiceDetailView> {
        self.count_flows().await?;
        self.view(move |snapshot, clock| snapshot.service(&name, clock)).await
    }

    /// The backends of one service, or of all.
    pub async fn backends(&self, service: Option<String>) -> Answer<Vec<BackendView>> {
        self.count_flows().await?;
        self.view(move |snapshot, clock| snapshot.backends(service.as_deref(), clock)).await
    }

    /// Every counter of passed and dropped packets, with its reason in words.
    pub async fn counters(&self) -> Answer<CountersView> {
        self.view(|snapshot, _| snapshot.counters()).await
    }

    /// The overview of the daemon, and every counter, at the same moment.
    pub async fn scrape(&self) -> Answer<(StatusView, CountersView)> {
        self.view(|snapshot, clock| Ok((snapshot.status(clock)?, snapshot.counters()?))).await
    }

    /// The recorded flows that match.
    pub async fn flows(&self, query: FlowQuery) -> Answer<FlowsView> {
        // One at a time: the tables may hold millions.
        let turn = Arc::clone(&self.listing).acquire_owned().await.map_err(|_| stopping())?;
        let list = move |published: &Published| {
            let _until_listed = turn;
            let now = monotonic_seconds().map_err(|error| Refusal::Failed(format!("{error:#}")))?;
            published.latest()?.flows(&query, now)
        };
        self.read(list).await
    }

    /// What would happen to a packet, or to packets of many clients.
    pub async fn explain(&self, request: ExplainRequest) -> Answer<ExplainView> {
        // One at a time: it may be a hundred thousand packets.
        let turn = Arc::clone(&self.listing).acquire_owned().await.map_err(|_| stopping())?;
        let explain = move |published: &Published| {
            let _until_done = turn;
            published.latest()?.explain(&request)
        };
        self.read(explain).await
    }

    /// Follows packets.
    pub async fn trace(&self, request: TraceRequest) -> Answer<TraceStream> {
        let trace = self.read(move |published| published.latest()?.trace(&request)).await?;
        let begun = self.ask(move |owner| owner.start_trace(&trace)).await?;
        Ok(TraceStream::new(begun, &trace, self.published.clone(), self.requests.clone()))
    }

    /// The running configuration, and its runtime changes.
    pub async fn config(&self, query: ConfigQuery) -> Answer<ConfigView> {
        self.read(move |published| published.latest()?.running(query)).await
    }

    /// The last events, at most `most`.
    ///
    /// # Errors
    /// If the owner task has ended.
    pub fn events(&self, most: usize) -> Answer<Vec<EventView>> {
        self.published.events(most)
    }

    /// The events after the one with this id. Without an id, those from now on.
    ///
    /// # Errors
    /// If the owner task has ended.
    pub fn watch(&self, after: Option<&str>, query: WatchQuery) -> Answer<EventReader> {
        self.published.watch(after, query)
    }

    /// Adds a service. Kept across restarts.
    pub async fn add_service(&self, service: model::Service) -> Answer<Outcome> {
        self.ask(|owner| owner.change(|overlay, config| overlay.add_service(config, service))).await
    }

    /// Changes options of a service, drains it, or puts it back into service. Kept across restarts.
    pub async fn patch_service(&self, name: String, patch: ServicePatch) -> Answer<Outcome> {
        self.ask(move |owner| owner.patch_service(&name, &patch)).await
    }

    /// Drains the node, or puts it back into service. Kept across restarts.
    pub async fn patch_node(&self, admin: AdminState) -> Answer<Outcome> {
        self.ask(move |owner| owner.change(|overlay, config| overlay.patch_node(config, admin))).await
    }

    /// Removes a service with its backends. Kept across restarts.
    pub async fn remove_service(&self, name: String, leave: Leave) -> Answer<Outcome> {
        self.ask(move |owner| owner.remove_service(&name, leave)).await
    }

    /// Adds a backend to a service. Kept across restarts.
    pub async fn add_backend(&self, service: String, backend: model::Backend) -> Answer<Outcome> {
        self.ask(move |owner| owner.change(|overlay, config| overlay.add_backend(config, &service, backend)))
            .await
    }

    /// Changes a backend's options or its administrative state. Kept across restarts.
    pub async fn patch_backend(
        &self,
        service: String,
        address: SocketAddr,
        patch: BackendPatch,
    ) -> Answer<Outcome> {
        let change = move |owner: &mut Owner| {
            owner.change(|overlay, config| overlay.patch_backend(config, &service, address, &patch))
        };
        self.ask(change).await
    }

    /// Removes a backend. Kept across restarts.
    pub async fn remove_backend(
        &self,
        service: String,
        address: SocketAddr,
        leave: Leave,
    ) -> Answer<Outcome> {
        self.ask(move |owner| owner.remove_backend(&service, address, leave)).await
    }

    /// What a reload would do now, and how many slots of each service would move.
    pub async fn plan_reload(&self, leave: Leave) -> Answer<ReloadView> {
        let config = self.read_config().await?;
        self.ask(move |owner| owner.plan_reload(config, leave)).await
    }

    /// Reads the config file again: all of it is applied, or nothing.
    pub async fn reload(&self, leave: Leave) -> Answer<ReloadView> {
        // Of two reloads, the one that reads later is applied later.
        let _one = self.reloading.lock().await;
        let config = self.read_config().await?;
        self.ask(move |owner| owner.reload(config, leave)).await
    }

    /// Reads the config file here, so that the owner task never waits for a file.
    async fn read_config(&self) -> Answer<Result<Config, Errors>> {
        self.read(|published| Ok(config::load(&published.latest()?.config_file))).await
    }

    /// Whether a backend's first check or next hop is pending. Any answer shows that the owner task is running.
    pub async fn is_pending(&self) -> Answer<bool> {
        self.ask(|owner| Ok(owner.is_pending())).await
    }

    /// Upgrades to the binary at the daemon's path.
    pub async fn upgrade(&self) -> Answer<Outcome> {
        self.ask(Owner::begin_upgrade).await
    }

    /// Detaches the program, removes the pins and ends the daemon.
    pub async fn unload(&self) -> Answer<Outcome> {
        let (answer, answered) = oneshot::channel();
        let request: Request = Box::new(move |owner| {
            let unload = async move {
                let unloaded = owner.unload().await;
                let ended = unloaded.is_ok().then_some(Ended::Unloaded);
                let _ = answer.send(unloaded);
                ended
            };
            unload.boxed()
        });
        self.send(request, answered).await
    }
}

fn stopping() -> Refusal {
    Refusal::Failed("the daemon is stopping".into())
}
