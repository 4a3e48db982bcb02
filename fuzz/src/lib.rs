//! Fuzz targets for the datapath.
//!
//! A target is a function of bytes that panics where something is wrong. From the bytes it makes tables and
//! packets, with enough structure that the deep paths are reached: packets are built towards the tables' services,
//! backends and flows, and then damaged. What must hold of every packet is in `check.rs`, told by a parser
//! of its own (`dissect.rs`).
//!
//! The same targets run for a few seconds with every `cargo test`, from the corpus and from random bytes, and for as
//! long as one likes, guided by coverage, with `cargo xtask fuzz`.

#![forbid(unsafe_code)]

#[cfg(test)]
mod bounded;
mod check;
mod decap;
mod dissect;
mod frame;
mod targets;
mod world;

/// The environment variable that tells the libFuzzer program which target it runs.
pub const TARGET_VARIABLE: &str = "XDP_LB_FUZZ_TARGET";

/// What can be fuzzed.
pub struct Target {
    /// Its name, and that of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// What it looks at.
    pub words: &'static str,
    /// Runs it on one input; panics where something is wrong.
    pub run: fn(&[u8]),
}

impl Target {
    /// Every target.
    pub const ALL: &[Self] = &[
        Self { name: "parse", words: "any frame: what is read of it is what is there", run: targets::parse },
        Self { name: "process", words: "any frame, with any tables", run: targets::process },
        Self {
            name: "sequence",
            words: "packets, replies and changes in a row, with the same tables",
            run: targets::sequence,
        },
        Self { name: "decap", words: "any frame at a backend of ipip or gue", run: targets::decap },
    ];

    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|target| target.name == name)
    }
}
