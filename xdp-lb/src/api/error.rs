//! Answers to refused requests.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::model::refusal::Refusal;
use crate::report::documents::ErrorView;

/// A refused request: its status and document.
pub(super) struct Error {
    status: StatusCode,
    view: ErrorView,
}

impl Error {
    pub(super) fn new(status: StatusCode, error: String) -> Self {
        Self { status, view: ErrorView { error } }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(self.view)).into_response()
    }
}
