//! The daemon of xdp-lb and its parts, as a library, so that tests can use them.

pub mod api;
pub mod cli;
#[cfg(test)]
mod committed;
pub mod config;
pub mod control;
pub mod daemon;
#[expect(unsafe_code, reason = "maps, links and programs are the kernel's")]
pub mod datapath;
#[expect(unsafe_code, reason = "descriptors come in ancillary data")]
mod descriptor;
pub mod discovery;
pub mod doctor;
mod file;
pub mod fleet;
pub mod health;
mod http;
pub mod import;
mod lock;
mod logging;
pub mod metrics;
pub mod model;
pub mod net;
pub mod overlay;
pub mod plan;
pub mod pool;
pub mod report;
pub mod ring;
pub mod store;
pub mod tables;
mod tls;
mod uptime;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this build was made from, where the build names it in `XDP_LB_COMMIT`.
pub const COMMIT: &str = match option_env!("XDP_LB_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
