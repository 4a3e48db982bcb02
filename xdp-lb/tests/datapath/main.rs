//! The datapath, packet in and packet out: each fixture runs on the host, and in the kernel (`BPF_PROG_TEST_RUN`) by XDP and at TC
//! ingress, and all must do the same.
//!
//! Needs root. `cargo xtask test` runs it in a sandbox.

mod affinity;
mod answers;
mod arrivals;
mod checks;
mod decap;
mod failing;
mod fragments;
mod full_nat;
mod guards;
mod handover;
mod homes;
mod icmp;
mod icmp_errors;
mod kept;
mod lent;
mod load;
mod martians;
mod mss;
mod nat;
mod packets;
mod passed;
#[path = "../../benches/support/plain.rs"]
mod plain;
mod ports;
mod properties;
mod quic;
mod scarce;
mod stress;
mod tables;
mod too_big;
mod tracking;
mod tunnels;
