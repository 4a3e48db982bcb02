//! Prometheus: every scrape encodes what the owner task has published. The metrics are described in `docs/metrics.md`.

#![forbid(unsafe_code)]

mod exposition;
mod families;
mod process;

use std::future::{Future, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use exposition::Exposition;
use families::Snapshot;
use futures_util::{StreamExt as _, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::control::handle::Handle;
use crate::http::{self, User};
use crate::model::refusal::Refusal;
use crate::report::documents::CountersView;

/// How long the owner task may take to answer: Prometheus' own patience is 10 s.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(9);

/// How often it is tried again to listen where the port is taken.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Listens at this address, and serves there until `shutdown`. Where it cannot listen, it tries again and says why not, to
/// the one who looks at `trouble`: forwarding does not need it.
pub async fn listen(
    address: SocketAddr,
    handle: Handle,
    trouble: watch::Sender<Option<String>>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let why = format!(
                    "cannot listen on {address}: {error}; retrying. Choose another metrics.listen, or \"off\""
                );
                trouble.send_replace(Some(why));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_AGAIN) => {}
            () = &mut shutdown => return,
        }
    };
    trouble.send_replace(None);
    serve(listener, handle, shutdown).await;
}

/// Serves `GET /metrics` on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, handle: Handle, shutdown: impl Future<Output = ()>) {
    let scraped = Scraped { handle, started: Arc::default() };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "xdp-lb: the metrics are at /metrics\n") })
        .with_state(scraped);
    let who = |stream: &TcpStream| {
        let address = stream.peer_addr().map_or(IpAddr::from([0; 4]), |address| address.ip());
        (User::at(address), false)
    };
    http::serve(listener, who, move |stream, _| ready(Some((stream, router.clone()))), shutdown).await;
}

#[derive(Clone)]
struct Scraped {
    handle: Handle,
    /// Found at the first scrape, and the same at each that follows.
    started: Arc<OnceLock<u64>>,
}

impl Scraped {
    async fn snapshot(&self) -> Result<Snapshot, Refusal> {
        let (status, counters) = self.handle.scrape().await?;
        let start_time = *self.started.get_or_init(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_secs().saturating_sub(status.uptime_seconds)
        });
        let CountersView { counters, losses, refusals, evictions } = counters;
        Ok(Snapshot { status, counters, losses, refusals, evictions, start_time })
    }
}

async fn metrics(State(scraped): State<Scraped>, headers: HeaderMap) -> Response {
    let snapshot = match tokio::time::timeout(SCRAPE_TIMEOUT, scraped.snapshot()).await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(refusal)) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response(),
        Err(_) => {
            let words = format!("the daemon did not answer within {} s\n", SCRAPE_TIMEOUT.as_secs());
            return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
        }
    };
    let exposition = Exposition::accepted_by(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let families = stream::iter(exposition.encode(snapshot)).then(|family| async {
        // A family of many backends takes some milliseconds: others have their turn before the next.
        tokio::task::yield_now().await;
        family
    });
    ([(CONTENT_TYPE, exposition.content_type())], Body::from_stream(families)).into_response()
}

#[cfg(test)]
mod tests;
