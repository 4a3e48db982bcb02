//! The config file: TOML, read as a whole, with the line of every problem.

#![forbid(unsafe_code)]

mod errors;
mod load;

pub use errors::{ConfigError, Errors};
pub use load::{load, parse};
