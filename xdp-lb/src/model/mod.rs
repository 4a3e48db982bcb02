//! The words of the domain: states, requests, refusals and changes. It knows neither the config file nor the API.

pub mod change;
pub mod event;
pub mod refusal;
pub mod request;
pub mod state;
pub mod text;
pub mod unknown;
