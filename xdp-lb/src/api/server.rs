//! The server: each route calls the owner task through its handle.

use std::future::{Future, ready};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, patch_with, post_with};
use aide::openapi::OpenApi;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use futures_util::FutureExt;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

use crate::api::caller::{Caller, Groups, Role, Who};
use crate::api::error::Error;
use crate::api::extract::{BackendPath, Chosen, Document, MAX_BODY, ServiceName};
use crate::api::openapi::{self, change, look};
use crate::api::remote::{self, Door};
use crate::api::{audit, browser, socket, trace, ui, watch};
use crate::control::handle::Handle;
use crate::http::{self, Slot, User};
use crate::model::refusal::Refusal;
use crate::model::request::{AdminPatch, BackendPatch, ExplainRequest, FlowQuery, Outcome, ServicePatch};
use crate::model::state::{AdminState, VipState};
use crate::model::{self, unknown};
use crate::report::documents::{
    BackendView, CallerView, ConfigQuery, ConfigView, CountersView, FlowsView, HistoryQuery, HistoryView,
    ReloadView, RemovalQuery, ServiceDetailView, ServiceView, StatusQuery, StatusView,
};
use crate::report::explain::ExplainView;

/// How long the owner task may take to answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long VIPs may take to be withdrawn once the node drains.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// The API's server, which listens but serves no requests yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    guard: socket::Guard,
    groups: Groups,
    remote: Option<(TcpListener, Arc<Door>)>,
}

impl Server {
    /// Listens on the Unix socket of the config, replacing a dead daemon's socket. It is accessible only to root, or also to the
    /// groups of the config. Also listens for other hosts if configured.
    ///
    /// # Errors
    ///
    /// If another daemon answers there, this host has no such group or address, a certificate file is unusable, or the file
    /// system returns an error.
    pub fn bind(config: &model::Api) -> anyhow::Result<Self> {
        let groups = Groups::resolve(config)?;
        let (listener, guard) = socket::listen(&config.socket, &groups)?;
        let remote = config.remote.as_ref().map(remote::listen).transpose()?;
        Ok(Self { listener, guard, groups, remote })
    }

    /// Serves until `shutdown`, lets running requests end, and removes the socket. Neither listener's clients can take the
    /// other's connections.
    pub async fn serve(self, handle: Handle, shutdown: impl Future<Output = ()>) {
        let Self { listener, guard, groups, remote } = self;
        let shutdown = shutdown.shared();
        let local = {
            let router = router(handle.clone());
            let (of_whom, groups) = (groups.clone(), groups);
            let who = move |stream: &UnixStream| {
                let caller = of_whom.caller(stream);
                let uid = match caller.who {
                    Who::Process { uid, .. } => uid.as_raw(),
                    _ => u32::MAX,
                };
                (User::Uid(uid), caller.role == Role::Admin)
            };
            let prepare = move |stream: UnixStream, _| {
                let router = router.clone().layer(Extension(groups.caller(&stream)));
                ready(Some((stream, router)))
            };
            http::serve(listener, who, prepare, shutdown.clone())
        };
        let remote = async {
            let Some((listener, door)) = remote else { return };
            let router = router(handle);
            let who = |stream: &TcpStream| {
                let address = stream.peer_addr().map_or(IpAddr::from([0; 4]), |address| address.ip());
                // Its certificate shows whether it is an administrator.
                (User::at(address), false)
            };
            let prepare = move |stream: TcpStream, slot: Arc<Slot>| {
                let (door, router) = (Arc::clone(&door), router.clone());
                async move {
                    let (stream, caller, shown) = door.admit(stream).await?;
                    if caller.role == Role::Admin {
                        slot.is_administrators();
                    }
                    Some((stream, router.layer(Extension(caller)).layer(Extension(shown))))
                }
            };
            http::serve(listener, who, prepare, shutdown.clone()).await;
        };
        tokio::join!(local, remote);
        drop(guard);
    }
}

fn router(handle: Handle) -> Router {
    let (router, document) = routes();
    let known = describe(&document);
    ui::add_to(router)
        .fallback(move |uri: Uri| ready(no_route(&uri, &known)))
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(audit::guard))
        .layer(axum::middleware::from_fn(browser::guard))
        .layer(Extension(watch::Places::default()))
        .layer(axum::middleware::from_fn(in_time))
        .with_state(handle)
}

/// Every route, and the OpenAPI document that describes them, derived from the handlers' types.
fn routes() -> (Router<Handle>, OpenApi) {
    let mut document = openapi::blank();
    let state = get_with(status, look("status", "The daemon's state on one screen"));
    let router = definitions(ApiRouter::new().api_route("/v1/status", state))
        .api_route(
            "/v1/node",
            patch_with(patch_node, change("changeNode", "Drains or enables the whole node")),
        )
        .api_route(
            "/v1/counters",
            get_with(counters, look("counters", "Packets that were not forwarded, by verdict and reason")),
        )
        .api_route(
            "/v1/history",
            get_with(
                history,
                look("history", "Rates of the last 10 minutes by second, or of 24 hours by 15 s"),
            ),
        )
        .api_route(
            "/v1/whoami",
            get_with(whoami, look("whoami", "Who the caller is, and whether it may change things")),
        )
        .api_route("/v1/flows", get_with(flows, look("flows", "The tracked flows that match")))
        .api_route(
            "/v1/explain",
            post_with(
                explain,
                openapi::ask("explain", "What would become of a packet, and why; changes nothing"),
            ),
        )
        .api_route(
            "/v1/trace",
            post_with(
                trace::trace,
                openapi::follow("trace", "Follows packets, and tells what becomes of each"),
            ),
        )
        .api_route(
            "/v1/reload",
            get_with(plan_reload, look("planReload", "What a reload would do now")).post_with(
                reload,
                change("reload", "Rereads the config file: all of it is applied, or nothing"),
            ),
        )
        .api_route(
            "/v1/config",
            get_with(config, look("config", "The running configuration, and what was changed at runtime")),
        )
        .api_route(
            "/v1/upgrade",
            post_with(upgrade, change("upgrade", "Upgrades to the binary at the daemon's path")),
        )
        .api_route(
            "/v1/unload",
            post_with(
                unload,
                change("unload", "Detaches the program, removes its pins, and ends the daemon"),
            ),
        )
        .api_route("/v1/events", get_with(watch::events, look("events", "The last events, the latest last")))
        .api_route(
            "/v1/watch",
            get_with(watch::watch, look("watch", "Events as they happen, as server-sent events")),
        )
        .api_route("/v1/openapi.json", get_with(openapi_document, look("openapi", "This document")))
        .finish_api(&mut document);
    (router, document)
}

/// The routes of services and backends.
fn definitions(router: ApiRouter<Handle>) -> ApiRouter<Handle> {
    router
        .api_route(
            "/v1/services",
            get_with(services, look("listServices", "Every service, by name"))
                .post_with(add_service, change("addService", "Adds a service")),
        )
        .api_route(
            "/v1/services/{name}",
            get_with(service, look("showService", "A service with its backends"))
                .patch_with(
                    patch_service,
                    change("changeService", "Changes options of a service, drains or enables it"),
                )
                .delete_with(
                    remove_service,
                    change("removeService", "Removes a service with its backends, which drain"),
                ),
        )
        .api_route(
            "/v1/services/{name}/backends",
            get_with(service_backends, look("listServiceBackends", "The backends of a service, by address"))
                .post_with(add_backend, change("addBackend", "Adds a backend")),
        )
        .api_route(
            "/v1/services/{name}/backends/{address}",
            get_with(backend, look("showBackend", "A backend"))
                .patch_with(
                    patch_backend,
                    change("changeBackend", "Changes a backend's options or administrative state"),
                )
                .delete_with(remove_backend, change("removeBackend", "Removes a backend, which drains")),
        )
        .api_route(
            "/v1/backends",
            get_with(backends, look("listBackends", "Every backend, by service and address")),
        )
}

/// The OpenAPI document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::to_value(routes().1).expect("a document of JSON schemas is JSON"));
    &DOCUMENT
}

async fn openapi_document() -> Reply<Value> {
    Ok(Json(document().clone()))
}

type Reply<T> = Result<Json<T>, Error>;
type Created<T> = Result<openapi::Created<T>, Error>;

async fn status(State(handle): State<Handle>, Chosen(query): Chosen<StatusQuery>) -> Reply<StatusView> {
    reply(handle.status_of(query).await)
}

async fn history(State(handle): State<Handle>, Chosen(query): Chosen<HistoryQuery>) -> Reply<HistoryView> {
    reply(handle.history(query).await)
}

async fn whoami(Extension(caller): Extension<Caller>) -> Reply<CallerView> {
    let admin = caller.role == Role::Admin;
    Ok(Json(CallerView { name: caller.who.words().await, admin }))
}

async fn services(State(handle): State<Handle>) -> Reply<Vec<ServiceView>> {
    reply(handle.services().await)
}

async fn add_service(
    State(handle): State<Handle>,
    Document(service): Document<model::Service>,
) -> Created<Outcome> {
    created(handle.add_service(service).await)
}

async fn service(State(handle): State<Handle>, ServiceName(name): ServiceName) -> Reply<ServiceDetailView> {
    reply(handle.service(name).await)
}

async fn patch_service(
    State(handle): State<Handle>,
    ServiceName(name): ServiceName,
    Document(patch): Document<ServicePatch>,
) -> Reply<Outcome> {
    if patch.is_empty() {
        return Err(nothing_to_change().into());
    }
    reply(handle.patch_service(name, patch).await)
}

async fn patch_node(State(handle): State<Handle>, Document(patch): Document<AdminPatch>) -> Reply<Outcome> {
    let outcome = handle.patch_node(patch.admin).await?;
    if patch.admin == AdminState::Draining {
        withdrawn(&handle).await?;
    }
    Ok(Json(outcome))
}

/// Waits until no VIP that the daemon manages is an address of this host.
///
/// # Errors
/// If one stays for [`WITHDRAWAL`]: clients still reach it.
async fn withdrawn(handle: &Handle) -> Result<(), Refusal> {
    let deadline = Instant::now() + WITHDRAWAL;
    loop {
        let vips = handle.status_of(StatusQuery { brief: true }).await?.vips;
        let stay = vips.iter().filter(|vip| vip.state != VipState::Withdrawn).map(|vip| {
            let why = match (&vip.note, vip.added_by_daemon) {
                (Some(note), _) => format!(" ({note})"),
                (None, false) => " (the daemon did not add it, and leaves it alone)".into(),
                (None, true) => String::new(),
            };
            let bits = if vip.address.is_ipv4() { 32 } else { 128 };
            match &vip.interface {
                Some(interface) => format!(
                    "{address} on {interface}{why}: ip address del {address}/{bits} dev {interface}",
                    address = vip.address
                ),
                None => format!("{}{why}", vip.address),
            }
        });
        let stay: Vec<String> = stay.collect();
        if stay.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Refusal::Conflict(format!(
                "this node is draining, but clients still arrive, because these VIPs stay on this host:\n{}",
                stay.join("\n")
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn remove_service(
    State(handle): State<Handle>,
    ServiceName(name): ServiceName,
    Chosen(removal): Chosen<RemovalQuery>,
) -> Reply<Outcome> {
    reply(handle.remove_service(name, removal.leave()).await)
}

async fn backends(State(handle): State<Handle>) -> Reply<Vec<BackendView>> {
    reply(handle.backends(None).await)
}

async fn service_backends(
    State(handle): State<Handle>,
    ServiceName(name): ServiceName,
) -> Reply<Vec<BackendView>> {
    reply(handle.backends(Some(name)).await)
}

async fn add_backend(
    State(handle): State<Handle>,
    ServiceName(name): ServiceName,
    Document(backend): Document<model::Backend>,
) -> Created<Outcome> {
    created(handle.add_backend(name, backend).await)
}

async fn backend(
    State(handle): State<Handle>,
    BackendPath(name, address): BackendPath,
) -> Reply<BackendView> {
    let backends = handle.backends(Some(name.clone())).await?;
    let known = backends.iter().map(|backend| backend.address.to_string()).collect();
    let backend = backends.into_iter().find(|backend| backend.address == address);
    Ok(Json(backend.ok_or_else(|| unknown::unknown_backend(&name, address, known))?))
}

async fn patch_backend(
    State(handle): State<Handle>,
    BackendPath(name, address): BackendPath,
    Document(patch): Document<BackendPatch>,
) -> Reply<Outcome> {
    if patch.is_empty() {
        return Err(nothing_to_change().into());
    }
    reply(handle.patch_backend(name, address, patch).await)
}

fn nothing_to_change() -> Refusal {
    Refusal::Invalid("nothing to change: send options, `admin` or both".into())
}

async fn remove_backend(
    State(handle): State<Handle>,
    BackendPath(name, address): BackendPath,
    Chosen(removal): Chosen<RemovalQuery>,
) -> Reply<Outcome> {
    reply(handle.remove_backend(name, address, removal.leave()).await)
}

async fn counters(State(handle): State<Handle>) -> Reply<CountersView> {
    reply(handle.counters().await)
}

async fn flows(State(handle): State<Handle>, Chosen(query): Chosen<FlowQuery>) -> Reply<FlowsView> {
    reply(handle.flows(query).await)
}

async fn explain(
    State(handle): State<Handle>,
    Document(request): Document<ExplainRequest>,
) -> Reply<ExplainView> {
    reply(handle.explain(request).await)
}

async fn config(State(handle): State<Handle>, Chosen(query): Chosen<ConfigQuery>) -> Reply<ConfigView> {
    reply(handle.config(query).await)
}

async fn plan_reload(
    State(handle): State<Handle>,
    Chosen(removal): Chosen<RemovalQuery>,
) -> Reply<ReloadView> {
    reply(handle.plan_reload(removal.leave()).await)
}

async fn reload(State(handle): State<Handle>, Chosen(removal): Chosen<RemovalQuery>) -> Reply<ReloadView> {
    reply(handle.reload(removal.leave()).await)
}

async fn upgrade(State(handle): State<Handle>) -> Reply<Outcome> {
    reply(handle.upgrade().await)
}

async fn unload(State(handle): State<Handle>) -> Reply<Outcome> {
    reply(handle.unload().await)
}

/// The routes in words, as listed in an error.
fn describe(document: &OpenApi) -> String {
    let mut known = Vec::new();
    for (path, item) in document.paths.iter().flat_map(|paths| &paths.paths) {
        let Some(item) = item.as_item() else { continue };
        known.extend(item.iter().map(|(method, _)| format!("{} {path}", method.to_uppercase())));
    }
    known.join(", ")
}

fn no_route(uri: &Uri, known: &str) -> Error {
    Error::new(StatusCode::NOT_FOUND, format!("no route {}; the routes are {known}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Error {
    Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not supported on {}", uri.path()))
}

/// Answers for the owner task if that takes too long.
async fn in_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let words = format!(
            "the daemon did not answer within {seconds} s; a requested change may still take effect: see its log"
        );
        Error::new(StatusCode::GATEWAY_TIMEOUT, words).into_response()
    })
}

fn reply<T>(answer: Result<T, Refusal>) -> Reply<T> {
    Ok(Json(answer?))
}

fn created<T>(answer: Result<T, Refusal>) -> Created<T> {
    Ok(openapi::Created(answer?))
}
