//! `GET /v1/watch`: what happens, as server-sent events (the HTML standard, section 9.2).

use std::convert::Infallible;
use std::sync::Arc;
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

use crate::api::events::EventView;
use crate::api::server::Error;
use crate::control::events::EventReader;
use crate::control::handle::Handle;
use crate::http::Deadline;

/// How many may watch at once.
const MAX_WATCHERS: usize = 16;
/// After how long without an event a comment is sent, so that both sides see that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The places of those who watch.
#[derive(Clone)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WATCHERS)))
    }
}

pub(super) async fn watch(
    State(handle): State<Handle>,
    Extension(places): Extension<Places>,
    Extension(deadline): Extension<Deadline>,
    LastEventId(last): LastEventId,
) -> Result<Events, Error> {
    let place = places.0.try_acquire_owned().map_err(|_| {
        let words = format!("{MAX_WATCHERS} watch already, and no more may: end one of them first");
        Error::new(StatusCode::SERVICE_UNAVAILABLE, words)
    })?;
    let reader = handle.watch(last).await?;
    Ok(Events { reader, deadline, place })
}

/// The answer that goes on until the daemon ends, or the reader has gone.
pub(super) struct Events {
    reader: EventReader,
    deadline: Deadline,
    place: OwnedSemaphorePermit,
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
                None => match tokio::time::timeout(HEARTBEAT, events.reader.next()).await {
                    Ok(Some(event)) => frame(&event),
                    Ok(None) => return None,
                    Err(_) => ": still here\n\n".into(),
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
            description: "server-sent events, without an end; the data of each is this document".into(),
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
