//! The time since this host was started, which no administrator and no time server sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long ago this host was started, the time that it was suspended included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn now() -> Duration {
    // This clock is there since Linux 2.6.39 and cannot fail.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The id of this boot: another one after each start of the host (random(4)).
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
