//! HTTP/JSON over a Unix socket: the server, and the client that the CLI uses.

pub mod types;
