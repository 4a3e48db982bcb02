//! Runtime changes, discovered backends, and what is leaving, on top of the config file.

#![forbid(unsafe_code)]

mod changes;
pub(crate) mod diff;
pub(crate) mod discovered;
pub(crate) mod effective;
mod inline_list;
pub(crate) mod kept;
pub(crate) mod leaving;
mod merge;
mod save;
pub(crate) mod settings;
mod show;

pub use diff::diff;
pub use discovered::Taken;
pub use effective::{effective, effective_beside};
pub use kept::Overlay;
pub use leaving::{BootTime, Leave, longest_drain};
pub use save::{Saved, save};
pub use settings::{changed_settings, reloadable};
pub use show::{running, runtime_changes, runtime_lines};
