//! What is asked of the daemon, and what it answers.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::AdminState;

/// A change to a backend: what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1), example = serde_json::json!({ "weight": 50 }))]
pub struct BackendPatch {
    /// The new weight, 0 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The new administrative state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminState>,
}

/// A change to a service or to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "admin": "draining" }))]
pub struct AdminPatch {
    /// The new administrative state.
    pub admin: AdminState,
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// One line for the operator.
    pub message: String,
    /// Whether anything changed.
    pub changed: bool,
    /// What is wrong with the daemon's part of forwarding, looked at after the change; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Which recorded flows are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Those of this service.
    #[schemars(example = &"web")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Those of this backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// Those of this client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// How many at most: 10,000 a page, whatever is asked for. Default 1,000.
    #[serde(default = "default_flows")]
    pub limit: u32,
    /// Those that come behind this: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl FlowQuery {
    /// How many flows are listed where nobody says how many.
    pub const DEFAULT_LIMIT: u32 = 1_000;
    /// How many flows a page has at most.
    pub const MOST: u32 = 10_000;
}

const fn default_flows() -> u32 {
    FlowQuery::DEFAULT_LIMIT
}
