//! The config file: TOML, read as a whole, with every problem's place.

mod errors;
mod load;
mod section;

pub use errors::{ConfigError, Errors};
pub use load::{load, parse};
