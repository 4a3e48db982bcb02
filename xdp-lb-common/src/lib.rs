//! Code shared by the BPF programs and the daemon, which also runs on the host: header parsing and rewriting, checksums, the
//! flow hash, ring slots, the tables' keys and values, and the datapath itself.
#![cfg_attr(not(test), no_std)]

pub mod bench;
pub mod decap;
pub mod flow_table;
pub mod hash;
#[cfg(feature = "host")]
pub mod host;
pub mod layout;
pub mod net;
pub mod own_mac;
pub mod packet;
pub mod process;
pub mod rate;
pub mod reason;
pub mod tables;
pub mod trace;
