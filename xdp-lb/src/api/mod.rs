//! HTTP/JSON over a Unix socket: the server, and the client that the CLI uses. The routes and
//! documents are described in `docs/api.md`.

mod audit;
pub mod caller;
pub mod client;
pub mod events;
mod openapi;
pub mod plan;
pub mod server;
mod socket;
pub mod types;
mod watch;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
