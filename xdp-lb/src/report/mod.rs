//! Reports of the daemon: the snapshot that the owner task publishes, the API and CLI documents made from it, and rates.

#![forbid(unsafe_code)]

pub mod documents;
pub mod explain;
mod fleet;
pub mod flows;
pub mod history;
pub mod losses;
mod options;
pub(crate) mod rates;
pub mod records;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace;
pub mod traffic;
pub(crate) mod unused;
mod views;
