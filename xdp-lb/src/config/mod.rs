//! What the operator wants: the config file's schema, its validation, and what the CLI changed since.

mod check;
mod check_rules;
mod diff;
mod effective;
mod errors;
mod load;
mod overlay;
mod place;
mod policy;
mod recovery;
mod rules;
mod schema;
mod section;
mod settings;
pub mod state;
mod text;
mod unknown;
mod vip;
mod written_check;

pub use check::*;
pub use diff::diff;
pub use effective::{Effective, EffectiveBackend, EffectiveService, effective};
pub use errors::{ConfigError, Errors};
pub use load::{load, parse};
pub use overlay::Overlay;
pub use policy::{Affinity, Prefix, Quic, ServerId};
pub use rules::{validate_backend, validate_service};
pub use schema::*;
pub use settings::{changed_settings, reloadable};
pub(crate) use text::grouped;
pub use text::{duration_option, parse_endpoint};
pub use unknown::{unknown_backend, unknown_service};
pub use vip::Vip;
