//! What stands in the tables, for whoever judges flow records by it while the owner task goes on.
//!
//! Nobody waits: the owner says that it changes the tables, changes them, and shows what stands there then. Whoever judges
//! asks right before it removes a record whether what it judged by still stands.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::tables::Tables;

/// The tables as they were shown last.
#[derive(Debug)]
pub struct TablesView {
    /// Odd while the tables are changed.
    version: AtomicU64,
    /// Taken for as long as it takes to copy or to replace the pointer.
    tables: Mutex<Arc<Tables>>,
    is_over: AtomicBool,
}

impl TablesView {
    /// These tables.
    pub fn new(tables: Arc<Tables>) -> Self {
        Self { version: AtomicU64::new(0), tables: Mutex::new(tables), is_over: AtomicBool::new(false) }
    }

    /// Says that from here on the tables are no longer what was shown. Also where they already were not.
    pub fn hide(&self) {
        self.version.fetch_or(1, Ordering::SeqCst);
    }

    /// Shows what stands in the tables now.
    pub fn show(&self, tables: Arc<Tables>) {
        self.hide();
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Says that whoever judges by it has to stop.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.hide();
    }

    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// What stands in the tables, and a number by which to ask whether it still does; nothing while they are changed.
    pub fn look(&self) -> Option<(u64, Arc<Tables>)> {
        let version = self.version.load(Ordering::SeqCst);
        if version & 1 != 0 {
            return None;
        }
        let tables = Arc::clone(&self.tables.lock().unwrap_or_else(PoisonError::into_inner));
        self.stands(version).then_some((version, tables))
    }

    /// Whether what was seen with this number still stands in the tables.
    pub fn stands(&self, version: u64) -> bool {
        self.version.load(Ordering::SeqCst) == version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_stands_until_the_tables_are_changed() {
        let view = TablesView::new(Arc::default());
        let (first, _) = view.look().unwrap();
        assert!(view.stands(first));
        view.hide();
        assert!(!view.stands(first) && view.look().is_none());
        let shown = Arc::new(Tables::default());
        view.show(Arc::clone(&shown));
        let (second, tables) = view.look().unwrap();
        assert!(!view.stands(first) && view.stands(second) && Arc::ptr_eq(&tables, &shown));
        view.show(shown);
        assert!(!view.stands(second), "shown without having been hidden");
        view.end();
        assert!(view.is_over() && view.look().is_none());
    }
}
