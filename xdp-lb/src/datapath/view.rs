//! A view of the tables' contents, for tasks that judge flow records while the owner task goes on.
//!
//! Nobody waits: the owner hides the view, changes the tables, and shows their new contents. A task that judges records checks
//! right before removing one whether the contents by which it judged are still valid.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::tables::Tables;

/// The tables as last shown.
#[derive(Debug)]
pub struct TablesView {
    /// Odd while the tables are being changed.
    version: AtomicU64,
    /// Held only while the pointer is copied or replaced.
    tables: Mutex<Arc<Tables>>,
    is_over: AtomicBool,
}

impl TablesView {
    /// A view of these tables.
    pub fn new(tables: Arc<Tables>) -> Self {
        Self { version: AtomicU64::new(0), tables: Mutex::new(tables), is_over: AtomicBool::new(false) }
    }

    /// Hides the view: from here on the tables differ from it. May be repeated.
    pub fn hide(&self) {
        self.version.fetch_or(1, Ordering::SeqCst);
    }

    /// Shows the current contents of the tables.
    pub fn show(&self, tables: Arc<Tables>) {
        self.hide();
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Tells tasks that use the view to stop.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.hide();
    }

    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// The contents of the tables, and a number by which to check whether they are still valid. `None` while the tables are being
    /// changed.
    pub fn look(&self) -> Option<(u64, Arc<Tables>)> {
        let version = self.version.load(Ordering::SeqCst);
        if version & 1 != 0 {
            return None;
        }
        let tables = Arc::clone(&self.tables.lock().unwrap_or_else(PoisonError::into_inner));
        self.stands(version).then_some((version, tables))
    }

    /// Whether the contents seen with this number are still valid.
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
