//! What the daemon tells of itself: the documents of the API and the CLI, and the rates in them.

pub mod documents;
pub(crate) mod rates;
pub(crate) mod unused;
