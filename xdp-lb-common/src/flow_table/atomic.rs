//! Words in a process's memory.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::memory::Word;

impl Word for AtomicU64 {
    // Stronger than in the kernel, where an address dependency orders what follows.
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        let is_old = self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        fence(Ordering::SeqCst);
        is_old
    }

    fn add(&self, by: u64) {
        self.fetch_add(by, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}
