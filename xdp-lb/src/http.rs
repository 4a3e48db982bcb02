//! Serving HTTP: one request a connection, and every connection bounded in time, so that slow or
//! silent clients cost neither memory nor a place for long.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

/// How many connections are served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take from its acceptance to the last byte of its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections that are open at the shutdown may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the connections of `listener` until `shutdown`, and lets running requests end. `prepare` makes of what was
/// accepted the stream that HTTP is spoken on and its router, or nothing where the connection ends there.
pub async fn serve<L, S, P>(mut listener: L, prepare: impl Fn(L::Io) -> P, shutdown: impl Future<Output = ()>)
where
    L: Listener,
    P: Future<Output = Option<(S, Router)>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, _) = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(connection(prepare(stream)));
            }
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        debug!(connections = connections.len(), "cut HTTP connections that did not end in time");
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(prepare: impl Future<Output = Option<(S, Router)>>) {
    let deadline = Deadline::new();
    let connection = async {
        let prepared = tokio::time::timeout(HEADER_TIMEOUT, prepare).await;
        let Ok(Some((stream, router))) = prepared else { return Ok(()) };
        let router = router.layer(Extension(deadline.clone()));
        http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
            .await
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                debug!(%error, "HTTP connection ended early");
            }
        }
        () = deadline.passed() => debug!("cut an HTTP connection that took too long"),
    }
}

/// When a connection is cut. An answer that has no end moves it on for as long as it is read.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + CONNECTION_TIMEOUT)))
    }

    /// Gives the connection its whole time again.
    pub fn extend(&self) {
        *self.at() = Instant::now() + CONNECTION_TIMEOUT;
    }

    fn at(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn passed(&self) {
        loop {
            let at = *self.at();
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}
