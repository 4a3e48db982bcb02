//! What the daemon tells of itself: the snapshot that the owner task publishes, the documents of the API and the CLI that are
//! made of it, and the rates in them.

#![forbid(unsafe_code)]

pub mod documents;
pub mod flows;
mod options;
pub(crate) mod rates;
pub mod records;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod traffic;
pub(crate) mod unused;
mod views;
