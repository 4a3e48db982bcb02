//! The client that the CLI uses, with one connection per request.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use crate::api::endpoint::{self, Endpoint};
use crate::api::server::REQUEST_TIMEOUT;
use crate::model;
use crate::model::event::{EventView, EventsView};
use crate::model::request::{
    AdminPatch, BackendPatch, ExplainRequest, FlowQuery, Outcome, ServicePatch, TraceRequest,
};
use crate::report::documents::{
    BackendView, CallerView, ConfigQuery, ConfigView, CountersView, ErrorView, FlowsView, ReloadView,
    RemovalQuery, ServiceDetailView, ServiceView, StatusView,
};
use crate::report::explain::ExplainView;
use crate::report::trace::TraceView;

/// The largest answer that is read, in bytes: enough for views of a hundred thousand backends.
const MAX_ANSWER: usize = 256 << 20;
/// The largest request that is forwarded, in bytes.
const MAX_REQUEST: usize = 4 << 20;
/// The header with the last event that a watcher has seen.
const LAST_EVENT_ID: &str = "last-event-id";
/// How long a request may take: longer than the server's own timeout, whose error is more specific.
const TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(10));
/// How long a watched daemon may be silent: several of its heartbeats.
const SILENCE: Duration = Duration::from_secs(60);
/// The characters that are not escaped in a path segment (RFC 3986 section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a request failed, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("{}", no_daemon(.0))]
    NoDaemon(Endpoint),
    /// Only root and its groups have access to the socket.
    #[error(
        "no permission to use {0}: run this as root (sudo xdp-lb ...), or as a member of a group in [api] of the \
         daemon's config"
    )]
    PermissionDenied(Endpoint),
    /// The daemon refused the request.
    #[error("{message}")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// The answer's [`ErrorView`].
        message: String,
    },
    /// The connection broke, or the peer is not an xdp-lb daemon of this version.
    #[error("the daemon on {endpoint}: {problem}")]
    Broken {
        /// The endpoint.
        endpoint: Endpoint,
        /// What happened.
        problem: String,
    },
}

fn no_daemon(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Socket(_) => format!(
            "no daemon answers on {endpoint}: start it with \"xdp-lb run --config FILE\", or name its socket with \
             --socket"
        ),
        Endpoint::Remote(_) => {
            format!("no daemon answers on {endpoint}: is it running there, with this address as api.listen?")
        }
    }
}

impl Error {
    /// Whether the user has no permission to use the daemon.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::PermissionDenied(_) | Self::Refused { status: StatusCode::FORBIDDEN, .. })
    }

    /// Whether the daemon answered that the object of the request does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }
}

/// An answer of the daemon.
pub type Result<T> = std::result::Result<T, Error>;

/// A client of the daemon at an endpoint.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    /// A client of the daemon on this socket. Sends nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::of(Endpoint::Socket(socket.into()))
    }

    /// A client of the daemon at this endpoint. Sends nothing yet.
    pub fn of(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// An overview of the daemon, for one screen.
    pub async fn status(&self) -> Result<StatusView> {
        self.ask(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Every service, by name.
    pub async fn services(&self) -> Result<Vec<ServiceView>> {
        self.ask(Method::GET, "/v1/services", None::<&()>).await
    }

    /// One service with its backends.
    pub async fn service(&self, name: &str) -> Result<ServiceDetailView> {
        self.ask(Method::GET, &service_path(name), None::<&()>).await
    }

    /// Adds a service.
    pub async fn add_service(&self, service: &model::Service) -> Result<Outcome> {
        self.ask(Method::POST, "/v1/services", Some(service)).await
    }

    /// Changes options of a service, drains it, or puts it back into service.
    pub async fn patch_service(&self, name: &str, patch: &ServicePatch) -> Result<Outcome> {
        self.ask(Method::PATCH, &service_path(name), Some(patch)).await
    }

    /// Drains the node, or puts it back into service.
    pub async fn patch_node(&self, patch: &AdminPatch) -> Result<Outcome> {
        self.ask(Method::PATCH, "/v1/node", Some(patch)).await
    }

    /// Removes a service with its backends.
    pub async fn remove_service(&self, name: &str, removal: RemovalQuery) -> Result<Outcome> {
        self.ask(Method::DELETE, &removing(&service_path(name), removal), None::<&()>).await
    }

    /// The backends of one service, or of all.
    pub async fn backends(&self, service: Option<&str>) -> Result<Vec<BackendView>> {
        let path = service.map_or_else(|| "/v1/backends".into(), backends_path);
        self.ask(Method::GET, &path, None::<&()>).await
    }

    /// One backend.
    pub async fn backend(&self, service: &str, address: SocketAddr) -> Result<BackendView> {
        self.ask(Method::GET, &backend_path(service, address), None::<&()>).await
    }

    /// Adds a backend to a service.
    pub async fn add_backend(&self, service: &str, backend: &model::Backend) -> Result<Outcome> {
        self.ask(Method::POST, &backends_path(service), Some(backend)).await
    }

    /// Changes a backend's options or its administrative state.
    pub async fn patch_backend(
        &self,
        service: &str,
        address: SocketAddr,
        patch: &BackendPatch,
    ) -> Result<Outcome> {
        self.ask(Method::PATCH, &backend_path(service, address), Some(patch)).await
    }

    /// Removes a backend.
    pub async fn remove_backend(
        &self,
        service: &str,
        address: SocketAddr,
        removal: RemovalQuery,
    ) -> Result<Outcome> {
        self.ask(Method::DELETE, &removing(&backend_path(service, address), removal), None::<&()>).await
    }

    /// Every counter of passed and dropped packets.
    pub async fn counters(&self) -> Result<CountersView> {
        self.ask(Method::GET, "/v1/counters", None::<&()>).await
    }

    /// This client's identity and role, as the daemon sees them.
    pub async fn whoami(&self) -> Result<CallerView> {
        self.ask(Method::GET, "/v1/whoami", None::<&()>).await
    }

    /// The last events, at most `limit`.
    pub async fn events(&self, limit: u32) -> Result<EventsView> {
        self.ask(Method::GET, &format!("/v1/events?limit={limit}"), None::<&()>).await
    }

    /// The recorded flows that match.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowsView> {
        let mut path = format!("/v1/flows?limit={}", query.limit);
        let keys = [
            ("service", query.service.clone()),
            ("backend", query.backend.map(|backend| backend.to_string())),
            ("client", query.client.map(|client| client.to_string())),
            ("cursor", query.cursor.clone()),
        ];
        for (key, value) in keys {
            if let Some(value) = value {
                path += &format!("&{key}={}", utf8_percent_encode(&value, SEGMENT));
            }
        }
        self.ask(Method::GET, &path, None::<&()>).await
    }

    /// What would happen to a packet.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainView> {
        self.ask(Method::POST, "/v1/explain", Some(request)).await
    }

    /// The running configuration, and its runtime changes.
    pub async fn config(&self, query: ConfigQuery) -> Result<ConfigView> {
        let path = if query.all { "/v1/config?all=true" } else { "/v1/config" };
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// What a reload would do now, and how many slots of each service would move.
    pub async fn plan_reload(&self, removal: RemovalQuery) -> Result<ReloadView> {
        self.ask(Method::GET, &removing("/v1/reload", removal), None::<&()>).await
    }

    /// Makes the daemon read its config file again.
    pub async fn reload(&self, removal: RemovalQuery) -> Result<ReloadView> {
        self.ask(Method::POST, &removing("/v1/reload", removal), None::<&()>).await
    }

    /// Makes the daemon start the binary at its path, which takes over.
    pub async fn upgrade(&self) -> Result<Outcome> {
        self.ask(Method::POST, "/v1/upgrade", None::<&()>).await
    }

    /// Makes the daemon detach its program, remove its pins and end.
    pub async fn unload(&self) -> Result<Outcome> {
        self.ask(Method::POST, "/v1/unload", None::<&()>).await
    }

    /// The events after the one with this id. Without an id, those from now on.
    pub async fn watch(&self, after: Option<&str>) -> Result<Watch> {
        self.stream(self.open(Method::GET, "/v1/watch", after, None::<&()>)).await
    }

    /// The same, and a sample of dropped packets.
    pub async fn watch_drops(&self, after: Option<&str>) -> Result<Watch> {
        self.stream(self.open(Method::GET, "/v1/watch?drops=true", after, None::<&()>)).await
    }

    /// What becomes of packets, until there were enough, or the time is over.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Events<TraceView>> {
        self.stream(self.open(Method::POST, "/v1/trace", None, Some(request))).await
    }

    async fn stream<T>(
        &self,
        opening: impl Future<Output = Result<(Response<Incoming>, AbortOnDrop)>>,
    ) -> Result<Events<T>> {
        let (answer, connection) = self.in_time(opening).await?;
        match answer.status() {
            StatusCode::OK => Ok(Events {
                client: self.clone(),
                body: answer.into_body(),
                read: Vec::new(),
                _connection: connection,
                of: PhantomData,
            }),
            status => {
                let body = self.in_time(self.body(answer)).await?;
                Err(refused(status, &body))
            }
        }
    }

    /// Forwards another client's request, and streams the answer back. Of its headers, only the position in the events is
    /// forwarded: the daemon sees this client's permissions, and no browser.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let last_event_id = head.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        let body = to_bytes(body, MAX_REQUEST).await.map_err(|error| Error::Refused {
            status: StatusCode::BAD_REQUEST,
            message: format!("cannot read the request: {error}"),
        })?;
        let sent = self.send(head.method, path, last_event_id, body);
        let (mut answer, connection) = self.in_time(sent).await?;
        // They are about the connection, which is another one on the other side.
        answer.headers_mut().remove(CONNECTION);
        answer.headers_mut().remove(TRANSFER_ENCODING);
        Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _for_as_long_as_it_comes = &connection;
                frame
            }))
        }))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        document: Option<&impl Serialize>,
    ) -> Result<T> {
        let exchange = async {
            let (answer, _connection) = self.open(method, path, None, document).await?;
            let status = answer.status();
            Ok((status, self.body(answer).await?))
        };
        let (status, body) = self.in_time(exchange).await?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| self.broken(format!("invalid response: {error}")));
        }
        Err(refused(status, &body))
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| self.broken(format!("no response within {} s", TIMEOUT.as_secs()));
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(late)?
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(Collected::to_bytes)
            .map_err(|error| self.broken(endpoint::told(&*error).unwrap_or_else(|| error.to_string())))
    }

    /// Sends a request. The answer's body can be read as long as the connection is held.
    async fn open(
        &self,
        method: Method,
        path: &str,
        last_event_id: Option<&str>,
        document: Option<&impl Serialize>,
    ) -> Result<(Response<Incoming>, AbortOnDrop)> {
        let body = match document {
            Some(document) => serde_json::to_vec(document).map_err(|error| self.failed(&error))?,
            None => Vec::new(),
        };
        self.send(method, path, last_event_id, body.into()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        last_event_id: Option<&str>,
        body: Bytes,
    ) -> Result<(Response<Incoming>, AbortOnDrop)> {
        let stream = self.endpoint.connect().await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(&error))?;
        let connection = AbortOnDrop(tokio::spawn(connection).abort_handle());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.host())
            .header(CONTENT_TYPE, "application/json");
        let request = match last_event_id {
            Some(id) => request.header(LAST_EVENT_ID, id),
            None => request,
        };
        let request = request.body(Full::new(body)).map_err(|error| self.failed(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.failed(&error))?;
        Ok((answer, connection))
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NoDaemon(self.endpoint.clone())
            }
            io::ErrorKind::PermissionDenied => Error::PermissionDenied(self.endpoint.clone()),
            _ => self.failed(error),
        }
    }

    fn failed(&self, error: &(impl std::error::Error + 'static)) -> Error {
        self.broken(endpoint::told(error).unwrap_or_else(|| error.to_string()))
    }

    fn broken(&self, problem: String) -> Error {
        Error::Broken { endpoint: self.endpoint.clone(), problem }
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
    let message = match serde_json::from_slice::<ErrorView>(body) {
        Ok(view) => view.error,
        Err(_) => format!("{status} without a reason"),
    };
    Error::Refused { status, message }
}

/// Aborts a task when its waiter is dropped.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The daemon's events.
pub type Watch = Events<EventView>;

/// A stream of events.
#[derive(Debug)]
pub struct Events<T> {
    client: Client,
    body: Incoming,
    read: Vec<u8>,
    _connection: AbortOnDrop,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Events<T> {
    /// The next event; `None` when the daemon has ended the stream.
    ///
    /// # Errors
    /// If the connection breaks, or the daemon is silent for too long.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            while let Some(frame) = self.frame() {
                // Comments and bare positions have no data.
                if let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) {
                    let event = serde_json::from_str(data);
                    let unknown = |error| self.client.broken(format!("invalid event: {error}"));
                    return event.map(Some).map_err(unknown);
                }
            }
            let silent = |_| self.client.broken(format!("silent for {} s", SILENCE.as_secs()));
            match tokio::time::timeout(SILENCE, self.body.frame()).await.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.failed(&error)),
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap_or_default()),
            }
            if self.read.len() > MAX_ANSWER {
                return Err(self.client.broken("truncated event".into()));
            }
        }
    }

    fn frame(&mut self) -> Option<String> {
        let end = self.read.windows(2).position(|end| end == b"\n\n")? + 2;
        let frame: Vec<u8> = self.read.drain(..end).collect();
        Some(String::from_utf8_lossy(&frame).into_owned())
    }
}

fn removing(path: &str, removal: RemovalQuery) -> String {
    if removal.now { format!("{path}?now=true") } else { path.to_owned() }
}

fn service_path(name: &str) -> String {
    format!("/v1/services/{}", utf8_percent_encode(name, SEGMENT))
}

fn backends_path(service: &str) -> String {
    format!("{}/backends", service_path(service))
}

fn backend_path(service: &str, address: SocketAddr) -> String {
    let address = address.to_string();
    format!("{}/{}", backends_path(service), utf8_percent_encode(&address, SEGMENT))
}
