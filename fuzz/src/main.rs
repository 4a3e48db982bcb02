//! The targets under libFuzzer: built and called by `cargo xtask fuzz`, which names the target in an environment
//! variable.
#![no_main]

use std::sync::LazyLock;

use xdp_lb_fuzz::{TARGET_VARIABLE, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("{TARGET_VARIABLE} names no target: `{name}`"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
