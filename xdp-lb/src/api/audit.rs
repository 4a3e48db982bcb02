//! Authorization, and the audit log: each change is logged with its caller and its result.

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tracing::{info, warn};

use crate::api::caller::{Caller, Role, Who};
use crate::api::error::Error;

/// The longest answer whose text is logged, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Passes a request on if its caller is authorized, and logs it if it is a change.
pub(super) async fn guard(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    let is_change = !request.method().is_safe();
    let needed = if is_change { Role::Admin } else { Role::Read };
    if !is_change && caller.role >= needed {
        return next.run(request).await;
    }
    let what = format!("{} {}", request.method(), request.uri());
    // In a separate task, so that a change is logged even if the caller disconnects.
    let answered = tokio::spawn(async move {
        let those = Those::like(&caller.who);
        let who = caller.who.words().await;
        let response = if caller.role >= needed {
            next.run(request).await
        } else {
            Error::new(StatusCode::FORBIDDEN, refusal(&who, caller.role, &those)).into_response()
        };
        let (status, said, response) = read(response).await;
        let code = status.as_u16();
        if status.is_success() {
            info!(caller = who, request = what, status = code, "audit: {who}: {what}: {code}: {said}");
        } else {
            warn!(caller = who, request = what, status = code, "audit: {who}: {what}: {code}: {said}");
        }
        response
    });
    answered.await.unwrap_or_else(|error| {
        Error::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the request failed: {error}; see the daemon's log"),
        )
        .into_response()
    })
}

/// The names to which the config gives roles.
struct Those {
    admins: &'static str,
    readers: &'static str,
}

impl Those {
    /// Those for callers that connect in the same way.
    fn like(who: &Who) -> Self {
        match who {
            Who::Certificate { .. } => Self {
                admins: "for the certificates in `admin_certificates`",
                readers: "for the certificates in `admin_certificates` and `read_certificates`",
            },
            Who::Process { .. } | Who::Unknown => Self {
                admins: "for root, and for the members of `admin_groups`",
                readers: "for root, and for the members of `admin_groups` and `read_groups`",
            },
        }
    }
}

fn refusal(who: &str, role: Role, Those { admins, readers }: &Those) -> String {
    const CONFIG: &str = "in the [api] of the daemon's config";
    match role {
        Role::Read => format!("{who} has read access only; changes are {admins} {CONFIG}"),
        _ => format!("{who} has no access to this daemon; access is {readers} {CONFIG}"),
    }
}

/// An answer's text, in one line.
async fn read(response: Response) -> (StatusCode, String, Response) {
    let (parts, body) = response.into_parts();
    // It goes on for a while.
    if parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream") {
        return (parts.status, "begun".into(), Response::from_parts(parts, body));
    }
    let Ok(body) = to_bytes(body, MAX_ANSWER).await else {
        let failed = Error::new(StatusCode::INTERNAL_SERVER_ERROR, "the response could not be built".into());
        return (StatusCode::INTERNAL_SERVER_ERROR, "no answer".into(), failed.into_response());
    };
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = match (&document["message"], &document["error"], &document["changes"]) {
        (Value::String(said), _, _) | (_, Value::String(said), _) => said.clone(),
        (_, _, Value::Array(changes)) if changes.is_empty() => "nothing changed".into(),
        (_, _, Value::Array(changes)) => {
            changes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
        }
        _ => String::new(),
    };
    // So that text from a request cannot start a line of the log.
    let said = said.replace('\n', "; ").replace(char::is_control, " ");
    (parts.status, said, Response::from_parts(parts, Body::from(body)))
}
