//! What was changed at runtime, found by discovery, and is leaving, over what the config file says.

pub(crate) mod diff;
pub(crate) mod discovered;
pub(crate) mod effective;
pub(crate) mod leaving;
#[expect(clippy::module_inception, reason = "the folder's main concept")]
pub(crate) mod overlay;
pub(crate) mod settings;

pub use diff::diff;
pub use discovered::Taken;
pub use effective::{effective, effective_beside};
pub use leaving::{Leave, Moment};
pub use overlay::Overlay;
pub use settings::{changed_settings, reloadable};
