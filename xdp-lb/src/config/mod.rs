//! What the operator wants: the config file's schema, its validation, and what the CLI changed since.

mod load;
mod place;
mod rules;
mod schema;
mod text;
mod written_check;

pub use load::{ConfigError, Errors, load, parse};
pub use rules::{validate_backend, validate_service};
pub use schema::*;
pub use text::parse_endpoint;
