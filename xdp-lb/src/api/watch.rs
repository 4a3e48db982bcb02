//! `GET /v1/watch`: events as server-sent events (the HTML standard, section 9.2); and `GET /v1/events`, the last ones.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, Response as Described, SchemaObject};
use aide::operation::{OperationInput, OperationOutput};
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use schemars::JsonSchema;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::api::caller::{Caller, Role, Who};
use crate::api::error::Error;
use crate::api::extract::Chosen;
use crate::control::events::EventReader;
use crate::control::handle::Handle;
use crate::http::{Deadline, Stopping, Unread};
use crate::model::event::{EventQuery, EventView, EventsView, WatchQuery};

/// The maximum number of watchers that are not administrators, and of those that are. Only many users can reach it.
const MAX_WATCHERS: usize = 64;
/// The maximum number per user.
const MAX_OF_USER: usize = 8;
/// After this time without an event, a comment is sent, so that both sides see that the other is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often to check whether a watcher reads its events.
const LOOK: Duration = Duration::from_secs(5);
/// The number of checks in a row that may find the same amount unread, or more. Then the watcher is dropped.
const UNREAD_LOOKS: u32 = 4;
/// The same for a watcher whose connection is blocked.
const STUCK: Duration = Duration::from_secs(20);

/// The slots of watchers.
#[derive(Clone)]
pub(super) struct Places {
    administrators: Arc<Semaphore>,
    others: Arc<Semaphore>,
    users: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Default for Places {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(MAX_WATCHERS));
        Self { administrators: places(), others: places(), users: Arc::default() }
    }
}

/// A slot of all, and one of the user's own.
type Place = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Places {
    /// A slot for this caller, or why there is none.
    fn take(&self, caller: &Caller) -> Result<Place, String> {
        let full = |most: usize| {
            format!(
                "{most} clients are watching already, which is the maximum: stop one of \
            them first"
            )
        };
        let among =
            |places: &Arc<Semaphore>, most| Arc::clone(places).try_acquire_owned().map_err(|_| full(most));
        if caller.role == Role::Admin {
            return Ok((None, among(&self.administrators, MAX_WATCHERS)?));
        }
        let user = match &caller.who {
            Who::Process { uid, .. } => uid.to_string(),
            Who::Certificate { name, .. } => format!("certificate {name}"),
            Who::Unknown => String::new(),
        };
        let own = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            // Removes users without watchers.
            users.retain(|_, places| {
                Arc::strong_count(places) > 1 || places.available_permits() < MAX_OF_USER
            });
            let places = users.entry(user).or_insert_with(|| Arc::new(Semaphore::new(MAX_OF_USER)));
            Arc::clone(places)
        };
        Ok((Some(among(&own, MAX_OF_USER)?), among(&self.others, MAX_WATCHERS)?))
    }
}

pub(super) async fn watch(
    State(handle): State<Handle>,
    Extension(places): Extension<Places>,
    Extension(caller): Extension<Caller>,
    Extension(deadline): Extension<Deadline>,
    Extension(stopping): Extension<Stopping>,
    Extension(unread): Extension<Unread>,
    Wanted { last, query }: Wanted,
) -> Result<Events, Error> {
    let place = places.take(&caller).map_err(|words| Error::new(StatusCode::SERVICE_UNAVAILABLE, words))?;
    let reader = handle.watch(last.as_deref(), query)?;
    Ok(Events { reader, deadline, stopping, unread, place })
}

pub(super) async fn events(
    State(handle): State<Handle>,
    Chosen(query): Chosen<EventQuery>,
) -> Result<Json<EventsView>, Error> {
    Ok(Json(EventsView { events: handle.events(query.limit as usize)? }))
}

/// The answer, which continues until the daemon ends, or the reader is gone or does not read.
pub(super) struct Events {
    reader: EventReader,
    deadline: Deadline,
    stopping: Stopping,
    unread: Unread,
    place: Place,
}

/// Whether a watcher reads.
#[derive(Debug)]
struct Reading {
    /// The time of the next check.
    due: Instant,
    /// The amount that was unread at the last check.
    unread: usize,
    /// The number of checks in a row that found that much or more.
    looks: u32,
}

impl Reading {
    fn new() -> Self {
        Self { due: Instant::now() + LOOK, unread: 0, looks: 0 }
    }

    /// Updates the unread amount. Returns whether the watcher has stopped reading.
    fn has_stopped(&mut self, unread: usize) -> bool {
        self.looks = if unread > 0 && unread >= self.unread { self.looks + 1 } else { 0 };
        self.unread = unread;
        self.looks > UNREAD_LOOKS
    }
}

impl Events {
    /// The next frame. `None` at the end.
    async fn next(&mut self, reading: &mut Reading) -> Option<String> {
        let beat = Instant::now() + HEARTBEAT;
        loop {
            // A reader that takes frames keeps the connection. One that does not is disconnected.
            self.deadline.extend(STUCK);
            tokio::select! {
                // Pending events are sent before the end.
                biased;
                event = self.reader.next() => return Some(frame(event?.as_ref())),
                () = self.stopping.begun() => return None,
                () = sleep_until(reading.due) => {
                    reading.due = Instant::now() + LOOK;
                    if reading.has_stopped(self.unread.bytes()) {
                        debug!("dropped a watcher that does not read");
                        return None;
                    }
                }
                () = sleep_until(beat) => return Some(": still here\n\n".into()),
            }
        }
    }
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        // A frame without data: there is no event yet, but this is the reader's position.
        let first = format!("retry: 1000\nid: {}\n\n", self.reader.position());
        let state = (self, Reading::new(), Some(first));
        let frames = stream::unfold(state, |(mut events, mut reading, first)| async move {
            let frame = match first {
                Some(first) => first,
                None => events.next(&mut reading).await?,
            };
            let _keeps_its_place = &events.place;
            Some((Ok::<_, Infallible>(frame), (events, reading, None)))
        });
        let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(frames)).into_response()
    }
}

fn frame(event: &EventView) -> String {
    // JSON has no line breaks.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.event.name())
}

impl OperationOutput for Events {
    type Inner = EventView;

    fn operation_response(context: &mut GenContext, _: &mut Operation) -> Option<Described> {
        let words = "an endless stream of server-sent events; the data of each is this document";
        Some(describe::<EventView>(context, words))
    }

    fn inferred_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Described)> {
        let full = Error::operation_response(context, operation).map(|response| (Some(503), response));
        Self::operation_response(context, operation)
            .map(|response| (Some(200), response))
            .into_iter()
            .chain(full)
            .collect()
    }
}

/// A stream of events, each with such a document.
pub(super) fn describe<T: JsonSchema>(context: &mut GenContext, words: &str) -> Described {
    let schema =
        SchemaObject { json_schema: context.schema.subschema_for::<T>(), example: None, external_docs: None };
    let media = MediaType { schema: Some(schema), ..MediaType::default() };
    Described {
        description: words.into(),
        content: [("text/event-stream".to_owned(), media)].into_iter().collect(),
        ..Described::default()
    }
}

/// What a reader wants: what follows the last event that it has seen before it came back, and what else.
pub(super) struct Wanted {
    last: Option<String>,
    query: WatchQuery,
}

impl OperationInput for Wanted {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Chosen::<WatchQuery>::operation_input(context, operation);
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Chosen(query) = Chosen::from_request_parts(parts, state).await?;
        let last = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        Ok(Self { last: last.map(str::to_owned), query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_whose_unread_bytes_only_grow_has_stopped_to_read() {
        let mut reading = Reading::new();
        assert!(
            [0, 0, 0, 0, 0, 0, 0].into_iter().all(|unread| !reading.has_stopped(unread)),
            "nothing happens"
        );
        assert!(
            [9, 9, 9, 3, 3, 3, 0, 9].into_iter().all(|unread| !reading.has_stopped(unread)),
            "it is slow"
        );
        let stops = [20, 20, 50, 50, 80].map(|unread| reading.has_stopped(unread));
        assert_eq!(stops, [false, false, false, true, true]);
    }
}
