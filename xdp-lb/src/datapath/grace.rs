//! Waits until no packet can be reading what was removed from the tables.

use std::time::Duration;

use tracing::warn;

/// If the kernel refuses: a packet takes microseconds.
const LONG_ENOUGH: Duration = Duration::from_millis(500);

/// Waits for an RCU grace period: every program that was running at the call has ended at the return. Takes some 10 ms.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` (4.16; `SHARED` before) calls `synchronize_rcu()` (kernel/sched/membarrier.c), and XDP
/// programs run as RCU readers. Kernels with `nohz_full` refuse it.
pub fn wait() {
    // SAFETY: the system call takes two numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        warn!("membarrier failed ({error}): waiting {LONG_ENOUGH:?} for packets in flight instead");
        std::thread::sleep(LONG_ENOUGH);
    }
}
