//! Descriptions of the server's own extractors and answers in the OpenAPI document.

use aide::generate::GenContext;
use aide::openapi::{
    Info, OpenApi, Operation, Parameter, ParameterData, ParameterSchemaOrContent, PathStyle, Response,
    SchemaObject,
};
use aide::operation::{OperationInput, OperationOutput, add_parameters};
use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;

use crate::api::error::Error;
use crate::api::extract::{BackendPath, Chosen, Document, ServiceName};
use crate::model::text::ENDPOINT;
use crate::report::documents::ErrorView;

/// A document without routes.
pub(super) fn blank() -> OpenApi {
    let description = "The daemon's control socket. Within /v1, routes and fields may be added, but are never \
                       renamed or removed. Requests with unknown fields are refused.";
    let info = Info {
        title: "xdp-lb".into(),
        version: crate::VERSION.into(),
        description: Some(description.into()),
        ..Info::default()
    };
    OpenApi { info, ..OpenApi::default() }
}

/// Describes a request that changes nothing.
pub(super) fn look(
    id: &'static str,
    summary: &'static str,
) -> impl FnOnce(TransformOperation) -> TransformOperation {
    move |operation| operation.id(id).summary(summary)
}

/// Describes a request that changes something.
pub(super) fn change(
    id: &'static str,
    summary: &'static str,
) -> impl FnOnce(TransformOperation) -> TransformOperation {
    move |operation| {
        look(id, summary)(operation).response::<400, Json<ErrorView>>().response::<409, Json<ErrorView>>()
    }
}

/// Describes a query that is only for administrators, and may name objects that do not exist.
pub(super) fn ask(
    id: &'static str,
    summary: &'static str,
) -> impl FnOnce(TransformOperation) -> TransformOperation {
    move |operation| {
        look(id, summary)(operation).response::<400, Json<ErrorView>>().response::<404, Json<ErrorView>>()
    }
}

/// Describes a question whose answer takes its time, and which one caller may ask at a time.
pub(super) fn follow(
    id: &'static str,
    summary: &'static str,
) -> impl FnOnce(TransformOperation) -> TransformOperation {
    move |operation| ask(id, summary)(operation).response::<409, Json<ErrorView>>()
}

/// The answer that something was created.
pub(super) struct Created<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: JsonSchema> OperationOutput for Created<T> {
    type Inner = T;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Json::<T>::operation_response(context, operation)
    }

    fn inferred_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        Self::operation_response(context, operation)
            .map(|response| (Some(201), response))
            .into_iter()
            .collect()
    }
}

/// The document of an error, with each of these statuses.
fn errors(
    statuses: &[u16],
    context: &mut GenContext,
    operation: &mut Operation,
) -> Vec<(Option<u16>, Response)> {
    let response = Json::<ErrorView>::operation_response(context, operation).unwrap_or_default();
    statuses.iter().map(|status| (Some(*status), response.clone())).collect()
}

impl OperationOutput for Error {
    type Inner = ErrorView;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Response> {
        Json::<ErrorView>::operation_response(context, operation)
    }

    fn inferred_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        errors(&[403, 500, 504], context, operation)
    }
}

impl<T: JsonSchema> OperationInput for Document<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Json::<T>::operation_input(context, operation);
    }

    fn inferred_early_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        errors(&[400, 413], context, operation)
    }
}

impl<T: JsonSchema> OperationInput for Chosen<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Query::<T>::operation_input(context, operation);
    }

    // 404 for the names in it.
    fn inferred_early_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        errors(&[400, 404], context, operation)
    }
}

impl OperationInput for ServiceName {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        add_parameters(context, operation, [service_name()]);
    }

    fn inferred_early_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        errors(&[400, 404], context, operation)
    }
}

impl OperationInput for BackendPath {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let address = in_path(
            "address",
            "the backend's ADDRESS:PORT, IPv6 in brackets",
            json_schema!({ "type": "string", "pattern": ENDPOINT, "examples": ["198.51.100.11:8080"] }),
        );
        add_parameters(context, operation, [service_name(), address]);
    }

    fn inferred_early_responses(
        context: &mut GenContext,
        operation: &mut Operation,
    ) -> Vec<(Option<u16>, Response)> {
        errors(&[400, 404], context, operation)
    }
}

fn service_name() -> Parameter {
    let schema = json_schema!({ "type": "string", "minLength": 1, "examples": ["web"] });
    in_path("name", "the service's name", schema)
}

fn in_path(name: &str, description: &str, json_schema: Schema) -> Parameter {
    let schema = SchemaObject { json_schema, example: None, external_docs: None };
    let parameter_data = ParameterData {
        name: name.into(),
        description: Some(description.into()),
        required: true,
        deprecated: None,
        format: ParameterSchemaOrContent::Schema(schema),
        example: None,
        examples: Default::default(),
        explode: None,
        extensions: Default::default(),
    };
    Parameter::Path { parameter_data, style: PathStyle::Simple }
}
