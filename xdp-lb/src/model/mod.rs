//! The words of the domain: what can be configured and its rules, states, requests, refusals and changes. It knows neither the
//! config file's text nor the API.

#![forbid(unsafe_code)]

pub(crate) mod agent;
pub mod change;
pub(crate) mod check;
pub(crate) mod choices;
pub(crate) mod config;
pub(crate) mod discovery;
pub(crate) mod effective;
pub mod event;
pub(crate) mod feedback;
pub mod options;
pub mod patch;
pub(crate) mod place;
pub(crate) mod policy;
pub(crate) mod recovery;
pub mod refusal;
pub mod request;
pub(crate) mod rules;
pub(crate) mod section;
pub(crate) mod service;
pub mod state;
pub mod table;
pub mod text;
pub mod unknown;
pub(crate) mod values;
pub(crate) mod vip;
pub(crate) mod written_discovery;

pub use agent::Agent;
pub use check::*;
pub use choices::*;
pub use config::*;
pub use discovery::{Discovery, Dns, OnEmpty, Priorities, Record, Source};
pub use effective::{Effective, EffectiveBackend, EffectiveService, Refused};
pub use feedback::Feedback;
pub use options::{Options, Row};
pub use patch::Patch;
pub use policy::{Affinity, Prefix, Quic, ServerId};
pub use recovery::{CircuitBreaker, DownPolicy};
pub use rules::{refusal, validate_backend, validate_service};
pub use service::*;
pub use vip::{PortRange, Vip};
