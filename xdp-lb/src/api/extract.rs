//! The parts of a request: its document, its query and the names in its path.

use std::net::SocketAddr;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::api::error::Error;
use crate::api::json;
use crate::model::refusal::Refusal;
use crate::model::text;

/// The maximum size of a request body, in bytes: many times that of a service with ten thousand backends.
pub(super) const MAX_BODY: usize = 4 << 20;

/// A request's body, as the document of the route.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        // Refuses an announced length that is too large, without waiting for the body.
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Err(too_large());
        }
        let body = Bytes::from_request(request, state).await.map_err(unreadable)?;
        // Serde takes a list of its fields for an object, too.
        let is_list = body.trim_ascii_start().starts_with(b"[");
        let document = if is_list { Err("it is a list, not an object".into()) } else { json::read(&body) };
        let refusal = |error| {
            let words = format!("the request body is not the JSON document of this route: {error}");
            Error::new(StatusCode::BAD_REQUEST, words)
        };
        Ok(Self(document.map_err(refusal)?))
    }
}

/// The parameters in a request's query.
pub(super) struct Chosen<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Chosen<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|rejection: QueryRejection| {
            let why = rejection.body_text();
            let why = why.strip_prefix("Failed to deserialize query string: ").unwrap_or(&why);
            let why = why.replace("invalid digit found in string", "is not a whole number");
            Refusal::Invalid(format!("the query cannot be read: {why}"))
        })?;
        Ok(Self(query))
    }
}

/// A service's name in the path.
pub(super) struct ServiceName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ServiceName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        Ok(Self(segments(parts, state).await?))
    }
}

/// A service's name and a backend's address in the path.
pub(super) struct BackendPath(pub(super) String, pub(super) SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for BackendPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let (name, address): (String, String) = segments(parts, state).await?;
        let address = text::parse_endpoint(&address).map_err(Refusal::Invalid)?;
        Ok(Self(name, address))
    }
}

async fn segments<T: DeserializeOwned + Send, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<T, Error> {
    let segments = axum::extract::Path::from_request_parts(parts, state).await;
    segments.map(|axum::extract::Path(segments)| segments).map_err(|rejection| {
        Error::new(rejection.status(), format!("the path cannot be read: {}", rejection.body_text()))
    })
}

fn unreadable(rejection: BytesRejection) -> Error {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        status => Error::new(status, format!("cannot read the request body: {}", rejection.body_text())),
    }
}

fn too_large() -> Error {
    Error::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request body is larger than {MAX_BODY} bytes"))
}
