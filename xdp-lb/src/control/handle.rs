//! How everything else talks to the owner task.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::events::EventReader;
use super::flows::FlowPages;
use super::published::Published;
use crate::config::{self, Errors};
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{BackendPatch, FlowQuery, Outcome, ServicePatch};
use crate::model::state::AdminState;
use crate::model::{self, Config};
use crate::overlay::Leave;
use crate::report::documents::{
    BackendView, ConfigView, CountersView, FlowsView, ReloadView, ServiceDetailView, ServiceView, StatusView,
};

/// A request to the owner task, with the way back for its answer.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is described at the method of Handle that sends it")]
pub enum Request {
    AddService(Box<model::Service>, oneshot::Sender<Answer<Outcome>>),
    PatchService(String, ServicePatch, oneshot::Sender<Answer<Outcome>>),
    PatchNode(AdminState, oneshot::Sender<Answer<Outcome>>),
    RemoveService(String, Leave, oneshot::Sender<Answer<Outcome>>),
    CountFlows(oneshot::Sender<Answer<()>>),
    AddBackend(String, model::Backend, oneshot::Sender<Answer<Outcome>>),
    PatchBackend(String, SocketAddr, BackendPatch, oneshot::Sender<Answer<Outcome>>),
    RemoveBackend(String, SocketAddr, Leave, oneshot::Sender<Answer<Outcome>>),
    Flows(oneshot::Sender<Answer<Box<dyn FlowPages>>>),
    Config(oneshot::Sender<Answer<ConfigView>>),
    ConfigFile(oneshot::Sender<Answer<PathBuf>>),
    PlanReload(Box<Result<Config, Errors>>, Leave, oneshot::Sender<Answer<ReloadView>>),
    Reload(Box<Result<Config, Errors>>, Leave, oneshot::Sender<Answer<ReloadView>>),
    Watch(Option<String>, oneshot::Sender<Answer<EventReader>>),
    IsPending(oneshot::Sender<Answer<bool>>),
    Unload(oneshot::Sender<Answer<Outcome>>),
    Upgrade(oneshot::Sender<Answer<Outcome>>),
}

/// The face of the owner task: cheap to clone, one for each that asks.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    views: Published,
    reloading: Arc<Mutex<()>>,
    listing: Arc<Semaphore>,
}

impl Handle {
    /// A handle whose requests arrive at the receiver of `requests`, and that reads these views.
    pub fn new(requests: mpsc::Sender<Request>, views: Published) -> Self {
        Self { requests, views, reloading: Arc::default(), listing: Arc::new(Semaphore::new(1)) }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Answer<T>>) -> Request) -> Answer<T> {
        let stopping = || Refusal::Failed("the daemon is stopping".into());
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Makes a document of what the owner task has published, without it. That takes some milliseconds where there are
    /// thousands of backends.
    async fn view<T: Send + 'static>(
        &self,
        view: impl FnOnce(&Published) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let views = self.views.clone();
        let made = tokio::task::spawn_blocking(move || view(&views)).await;
        made.map_err(|error| Refusal::Failed(format!("the document could not be made: {error}")))?
    }

    /// Has the flows counted where somebody may wait for a backend to lose its last.
    async fn count_flows(&self) -> Answer<()> {
        if self.views.drains() { self.ask(Request::CountFlows).await } else { Ok(()) }
    }

    /// The daemon on one screen.
    pub async fn status(&self) -> Answer<StatusView> {
        self.view(|views| views.status()).await
    }

    /// Every service, by name.
    pub async fn services(&self) -> Answer<Vec<ServiceView>> {
        self.view(|views| views.services()).await
    }

    /// A service with its backends.
    pub async fn service(&self, name: String) -> Answer<ServiceDetailView> {
        self.count_flows().await?;
        self.view(move |views| views.service(&name)).await
    }

    /// Adds a service; kept across restarts.
    pub async fn add_service(&self, service: model::Service) -> Answer<Outcome> {
        self.ask(|answer| Request::AddService(Box::new(service), answer)).await
    }

    /// Changes options of a service, drains it, or lets it take new flows again; kept across restarts.
    pub async fn patch_service(&self, name: String, patch: ServicePatch) -> Answer<Outcome> {
        self.ask(|answer| Request::PatchService(name, patch, answer)).await
    }

    /// Drains the node, or takes it back into service; kept across restarts.
    pub async fn patch_node(&self, admin: AdminState) -> Answer<Outcome> {
        self.ask(|answer| Request::PatchNode(admin, answer)).await
    }

    /// Removes a service with its backends; kept across restarts.
    pub async fn remove_service(&self, name: String, leave: Leave) -> Answer<Outcome> {
        self.ask(|answer| Request::RemoveService(name, leave, answer)).await
    }

    /// The backends of one service, or of all.
    pub async fn backends(&self, service: Option<String>) -> Answer<Vec<BackendView>> {
        self.count_flows().await?;
        self.view(move |views| views.backends(service.as_deref())).await
    }

    /// Adds a backend to a service; kept across restarts.
    pub async fn add_backend(&self, service: String, backend: model::Backend) -> Answer<Outcome> {
        self.ask(|answer| Request::AddBackend(service, backend, answer)).await
    }

    /// Changes a backend's options or its administrative state; kept across restarts.
    pub async fn patch_backend(
        &self,
        service: String,
        address: SocketAddr,
        patch: BackendPatch,
    ) -> Answer<Outcome> {
        self.ask(|answer| Request::PatchBackend(service, address, patch, answer)).await
    }

    /// Removes a backend; kept across restarts.
    pub async fn remove_backend(
        &self,
        service: String,
        address: SocketAddr,
        leave: Leave,
    ) -> Answer<Outcome> {
        self.ask(|answer| Request::RemoveBackend(service, address, leave, answer)).await
    }

    /// Every counter of passes and drops, with its reason in words.
    pub async fn counters(&self) -> Answer<CountersView> {
        self.view(|views| views.counters()).await
    }

    /// The daemon on one screen, and every counter, at one moment.
    pub async fn scrape(&self) -> Answer<(StatusView, CountersView)> {
        self.view(|views| views.scrape()).await
    }

    /// The recorded flows that match.
    pub async fn flows(&self, query: FlowQuery) -> Answer<FlowsView> {
        let stopping = || Refusal::Failed("the daemon is stopping".into());
        // One at a time, and not in the owner task: the tables may hold millions.
        let turn = Arc::clone(&self.listing).acquire_owned().await.map_err(|_| stopping())?;
        let flows = self.ask(Request::Flows).await?;
        let listed = tokio::task::spawn_blocking(move || {
            let page = flows.page(&query);
            drop(turn);
            page
        });
        listed.await.map_err(|error| Refusal::Failed(format!("cannot list the flows: {error}")))?
    }

    /// What a reload would do now, and how many slots of each service would move.
    pub async fn plan_reload(&self, leave: Leave) -> Answer<ReloadView> {
        let config = self.read_config().await?;
        self.ask(|answer| Request::PlanReload(config, leave, answer)).await
    }

    /// Reads the config file again: all of it is applied, or nothing.
    pub async fn reload(&self, leave: Leave) -> Answer<ReloadView> {
        // Of two reloads, the one that reads later is applied later.
        let _one = self.reloading.lock().await;
        let config = self.read_config().await?;
        self.ask(|answer| Request::Reload(config, leave, answer)).await
    }

    /// The running configuration, and what of it was changed at runtime.
    pub async fn config(&self) -> Answer<ConfigView> {
        self.ask(Request::Config).await
    }

    /// What the config file says now. It is read here, so that the owner task never waits for a file.
    async fn read_config(&self) -> Answer<Box<Result<Config, Errors>>> {
        let file = self.ask(Request::ConfigFile).await?;
        let read = tokio::task::spawn_blocking(move || Box::new(config::load(&file))).await;
        read.map_err(|error| Refusal::Failed(format!("cannot read the config file: {error}")))
    }

    /// What happens after the event of this id; without one, from now on.
    pub async fn watch(&self, after: Option<String>) -> Answer<EventReader> {
        self.ask(|answer| Request::Watch(after, answer)).await
    }

    /// Whether a backend's first check or its next hop is pending.
    pub async fn is_pending(&self) -> Answer<bool> {
        self.ask(Request::IsPending).await
    }

    /// Has the binary at the daemon's path take over.
    pub async fn upgrade(&self) -> Answer<Outcome> {
        self.ask(Request::Upgrade).await
    }

    /// Detaches the program, removes the pins and ends the daemon.
    pub async fn unload(&self) -> Answer<Outcome> {
        self.ask(Request::Unload).await
    }
}
