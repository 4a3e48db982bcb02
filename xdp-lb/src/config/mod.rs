//! What the operator wants: the config file's schema, its validation, and what the CLI changed since.

mod schema;

pub use schema::*;
