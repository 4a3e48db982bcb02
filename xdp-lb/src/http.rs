//! Serving HTTP: every request bounded in time, and every connection that waits for one, so that slow or silent clients cost
//! neither memory nor a slot for long.

mod slots;
#[expect(unsafe_code, reason = "how much a socket holds is told by a system call")]
mod unread;

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use slots::Slots;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

pub use slots::{Slot, User};
pub use unread::Unread;

/// How long a request may take from its head to the last byte of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to send its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client may take to send a request's head, also after an answer: then the connection is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests that are under way at the shutdown may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the connections of `listener` until `shutdown`, and lets running requests end. Connections without a request end at
/// once, and answers without an end learn of it by [`Stopping`]. `who` tells whose a connection is,
/// and whether that is an administrator. `prepare` makes of what was accepted the stream that HTTP is spoken on and its
/// router, or nothing where the connection ends there.
pub async fn serve<L, S, P>(
    mut listener: L,
    who: impl Fn(&L::Io) -> (User, bool),
    prepare: impl Fn(L::Io, Arc<Slot>) -> P + Clone + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) where
    L: Listener<Io: Incoming>,
    P: Future<Output = Option<(S, Router)>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slots = Slots::default();
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    let (running, stopping) = watch::channel(());
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, _) = listener.accept() => {
                let (user, is_administrators) = who(&stream);
                let Some(slot) = slots.take(user, is_administrators).map(Arc::new) else {
                    debug!(?user, "refused an HTTP connection: its user has too many");
                    continue;
                };
                let id = slot.id();
                let prepare = prepare.clone();
                let task = connections.spawn(connection(stream, slot, prepare, Stopping(stopping.clone())));
                Slot::serve_by(&slots, id, task);
            }
        }
    }
    drop((listener, running));
    let ended = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        debug!(connections = connections.len(), "closed HTTP connections that took too long");
    }
}

/// What a listener accepts.
pub trait Incoming: AsRawFd + Send + 'static {
    /// Returns once something has come.
    fn first_byte(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Incoming for TcpStream {
    async fn first_byte(&self) -> io::Result<()> {
        self.readable().await
    }
}

impl Incoming for UnixStream {
    async fn first_byte(&self) -> io::Result<()> {
        self.readable().await
    }
}

async fn connection<I, S, P>(
    incoming: I,
    slot: Arc<Slot>,
    prepare: impl Fn(I, Arc<Slot>) -> P,
    mut stopping: Stopping,
) where
    I: Incoming,
    S: AsyncRead + AsyncWrite + Unpin,
    P: Future<Output = Option<(S, Router)>>,
{
    let deadline = Deadline::new();
    let unread = Unread::of(&incoming);
    let connection = async {
        let prepared = async {
            let first = tokio::time::timeout(FIRST_BYTE_TIMEOUT, incoming.first_byte()).await;
            if !matches!(first, Ok(Ok(()))) {
                debug!("closed an HTTP connection whose client was silent");
                return None;
            }
            slot.begun();
            tokio::time::timeout(HEADER_TIMEOUT, prepare(incoming, Arc::clone(&slot))).await.ok()?
        };
        // What has come already is read first.
        let prepared = tokio::select! {
            biased;
            prepared = prepared => prepared,
            () = stopping.begun() => None,
        };
        let Some((stream, router)) = prepared else { return Ok(()) };
        let begins = deadline.clone();
        let in_turn = move |request: Request, next: Next| {
            // Each request of a connection has its whole time.
            begins.extend(REQUEST_TIMEOUT);
            in_turn(Arc::clone(&slot), request, next)
        };
        let router = router
            .layer(axum::middleware::from_fn(in_turn))
            .layer(Extension(stopping.clone()))
            .layer(Extension(deadline.clone()))
            .layer(Extension(unread));
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut serving = pin!(serving);
        tokio::select! {
            biased;
            served = serving.as_mut() => return served,
            // Ends it where nothing has come.
            () = stopping.begun() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                debug!(%error, "HTTP connection ended early");
            }
        }
        () = deadline.passed() => debug!("closed an HTTP connection that took too long"),
    }
}

/// Has a request wait for those of the same user.
async fn in_turn(slot: Arc<Slot>, request: Request, next: Next) -> Response {
    // Until the answer's head: a body that is read slowly, or has no end, keeps nobody waiting.
    let Some(served) = slot.asked().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let answer = next.run(request).await;
    drop(served);
    // Once the answer has been sent, the connection waits for the next request, and gives way to others.
    answer.map(|body| Body::new(UntilSent { body, _idle: IdleOnDrop(slot) }))
}

/// An answer's body that is dropped once it has been sent.
struct UntilSent {
    body: Body,
    _idle: IdleOnDrop,
}

impl HttpBody for UntilSent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Notes that a connection waits for a request.
struct IdleOnDrop(Arc<Slot>);

impl Drop for IdleOnDrop {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// Tells an answer that has no end that the daemon stops.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<()>);

impl Stopping {
    /// Returns once it does.
    pub async fn begun(&mut self) {
        // The sender's end is the message.
        while self.0.changed().await.is_ok() {}
    }
}

/// When a connection is cut. An answer that has no end moves it on for as long as it is read.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + REQUEST_TIMEOUT)))
    }

    /// Gives the connection this much time from now on.
    pub fn extend(&self, time: Duration) {
        *self.at() = Instant::now() + time;
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
