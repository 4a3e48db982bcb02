//! Serving HTTP: one request a connection, and every connection bounded in time, so that slow or
//! silent clients cost neither memory nor a place for long.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tracing::debug;

/// How many connections are served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take from its acceptance to the last byte of its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections that are open at the shutdown may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves `router` on `listener` until `shutdown`, and lets running requests end.
pub async fn serve<L: Listener>(mut listener: L, router: Router, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, _) = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(connection(stream, router.clone()));
            }
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        debug!(connections = connections.len(), "cut HTTP connections that did not end in time");
    }
}

async fn connection(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection ended early"),
        Err(_) => debug!("cut an HTTP connection that took too long"),
    }
}
