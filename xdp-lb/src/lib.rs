//! The daemon of xdp-lb and its parts, as a library, so that tests can use them.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod health;
mod http;
pub mod metrics;
pub mod net;
pub mod ring;
