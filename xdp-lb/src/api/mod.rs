//! HTTP/JSON over a Unix socket, and over TLS: the server with its web page, and the client that the CLI uses. The routes and
//! documents are described in `docs/api.md`.

mod audit;
mod browser;
#[expect(unsafe_code, reason = "a socket's peer is told by a system call")]
pub mod caller;
mod certificate;
pub mod client;
pub mod endpoint;
mod error;
mod extract;
mod json;
mod openapi;
mod remote;
pub mod server;
#[expect(unsafe_code, reason = "an access control list is set by a system call")]
mod socket;
mod trace;
pub mod ui;
mod watch;

#[cfg(test)]
mod tests;
