//! `POST /v1/trace`: packets that a caller follows, as server-sent events (the HTML standard, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Described};
use aide::operation::OperationOutput;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::api::error::Error;
use crate::api::extract::Document;
use crate::api::watch::describe;
use crate::control::handle::Handle;
use crate::control::trace::TraceStream;
use crate::http::{Deadline, Stopping};
use crate::model::request::TraceRequest;
use crate::report::trace::TraceView;

/// After how long without a packet a comment is sent: a caller that has gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// For how long a caller's connection may take no more.
const STUCK: Duration = Duration::from_secs(20);

pub(super) async fn trace(
    State(handle): State<Handle>,
    Extension(deadline): Extension<Deadline>,
    Extension(stopping): Extension<Stopping>,
    Document(request): Document<TraceRequest>,
) -> Result<Packets, Error> {
    Ok(Packets { stream: handle.trace(request).await?, deadline, stopping })
}

/// The answer that goes on until there were enough packets, the time is over, or the reader has gone.
pub(super) struct Packets {
    stream: TraceStream,
    deadline: Deadline,
    stopping: Stopping,
}

impl IntoResponse for Packets {
    fn into_response(self) -> Response {
        let begun = Some(": following\n\n".to_owned());
        let frames = stream::unfold((self, begun), |(mut packets, begun)| async move {
            // Whoever takes frames keeps the connection; one that does not is cut.
            packets.deadline.extend(STUCK);
            let frame = match begun {
                Some(begun) => begun,
                None => tokio::select! {
                    biased;
                    packet = packets.stream.next() => frame(&packet?),
                    () = packets.stopping.begun() => return None,
                    () = tokio::time::sleep(HEARTBEAT) => ": still here\n\n".into(),
                },
            };
            Some((Ok::<_, Infallible>(frame), (packets, None)))
        });
        let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(frames)).into_response()
    }
}

fn frame(packet: &TraceView) -> String {
    // JSON has no line breaks.
    format!("event: packet\ndata: {}\n\n", serde_json::to_string(packet).unwrap_or_default())
}

impl OperationOutput for Packets {
    type Inner = TraceView;

    fn operation_response(context: &mut GenContext, _: &mut Operation) -> Option<Described> {
        let words =
            "a stream of server-sent events, which ends with the trace; the data of each is this document";
        Some(describe::<TraceView>(context, words))
    }

    fn inferred_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Described)> {
        Self::operation_response(context, operation)
            .map(|response| (Some(200), response))
            .into_iter()
            .collect()
    }
}
