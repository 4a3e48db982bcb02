//! The kernel's counts of the packets received on interfaces.

use std::fs;

/// The total number of packets received on these interfaces of the calling thread's network namespace. `None` if it cannot be
/// read, or an interface does not exist.
pub fn packets<'a>(mut interfaces: impl Iterator<Item = &'a str>) -> Option<u64> {
    // Not from sysfs: that shows the network namespace in which it was mounted, which may be another one.
    let table = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    interfaces.try_fold(0, |sum, name| Some(sum + of(&table, name)?))
}

/// The second number after an interface's name (proc_pid_net(5)).
fn of(table: &str, name: &str) -> Option<u64> {
    let counts = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    counts.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_stand_behind_the_bytes() {
        let table = "Inter-|   Receive          |  Transmit\n face |bytes    packets errs|bytes\n    lo:  560   8 0 0\n  eth0: \
                     1000 20 0 0\neth01:7 3 0\n";
        assert_eq!(
            ["lo", "eth0", "eth01", "eth"].map(|name| of(table, name)),
            [Some(8), Some(20), Some(3), None]
        );
        assert!(packets(["lo"].into_iter()).is_some());
        assert_eq!(packets(["lo", "nope0"].into_iter()), None);
    }
}
