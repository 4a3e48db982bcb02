//! `GET /v1/watch`: what happens, as server-sent events (the HTML standard, section 9.2).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, Response as Described, SchemaObject};
use aide::operation::{OperationInput, OperationOutput};
use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::caller::{Caller, Role, Who};
use crate::api::error::Error;
use crate::control::events::EventReader;
use crate::control::handle::Handle;
use crate::http::{Deadline, Stopping};
use crate::model::event::EventView;

/// How many may watch at once, of all but administrators, and of administrators.
const MAX_WATCHERS: usize = 16;
/// How many of one user.
const MAX_OF_USER: usize = 8;
/// After how long without an event a comment is sent, so that both sides see that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The places of those who watch.
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

/// A place among all, and one among the user's own.
type Place = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

impl Places {
    /// A place for this caller; else why there is none.
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
            // Those of whom nobody watches any more.
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
    LastEventId(last): LastEventId,
) -> Result<Events, Error> {
    let place = places.take(&caller).map_err(|words| Error::new(StatusCode::SERVICE_UNAVAILABLE, words))?;
    let reader = handle.watch(last.as_deref())?;
    Ok(Events { reader, deadline, stopping, place })
}

/// The answer that goes on until the daemon ends, or the reader has gone.
pub(super) struct Events {
    reader: EventReader,
    deadline: Deadline,
    stopping: Stopping,
    place: Place,
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        // A frame without data: nothing has happened, but this is where the reader is.
        let first = format!("retry: 1000\nid: {}\n\n", self.reader.position());
        let frames = stream::unfold((self, Some(first)), |(mut events, first)| async move {
            // Whoever takes frames keeps the connection; one that does not is cut.
            events.deadline.extend();
            let frame = match first {
                Some(first) => first,
                None => tokio::select! {
                    // What has happened is told before the end.
                    biased;
                    event = events.reader.next() => frame(event?.as_ref()),
                    () = events.stopping.begun() => return None,
                    () = tokio::time::sleep(HEARTBEAT) => ": still here\n\n".into(),
                },
            };
            let _keeps_its_place = &events.place;
            Some((Ok::<_, Infallible>(frame), (events, None)))
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
        let schema = SchemaObject {
            json_schema: context.schema.subschema_for::<EventView>(),
            example: None,
            external_docs: None,
        };
        let media = MediaType { schema: Some(schema), ..MediaType::default() };
        Some(Described {
            description: "an endless stream of server-sent events; the data of each is this document".into(),
            content: [("text/event-stream".to_owned(), media)].into_iter().collect(),
            ..Described::default()
        })
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

/// The last event that a reader that comes back has seen.
pub(super) struct LastEventId(Option<String>);

impl OperationInput for LastEventId {}

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let id = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        Ok(Self(id.map(str::to_owned)))
    }
}
