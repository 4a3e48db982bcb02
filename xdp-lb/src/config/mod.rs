//! What the operator wants: the config file's schema, its validation, and what the CLI changed since.

mod schema;
mod text;
mod written_check;

pub use schema::*;
pub use text::parse_endpoint;
