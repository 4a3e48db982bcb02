//! The answer to "where would this packet go?", as an API document.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Protocol, TcpFlag};

/// What would become of a packet, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainView {
    /// The result in one line.
    pub message: String,
    /// `forward`, `pass` (to this host), `drop` or `answer` (the sender is told).
    pub verdict: String,
    /// The packet's sender.
    pub client: SocketAddr,
    /// Whom it is sent to.
    pub vip: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its TCP flags.
    pub flags: Vec<TcpFlag>,
    /// The interface that it comes in by.
    pub interface: String,
    /// The service that it is for; null if there is none.
    pub service: Option<String>,
    /// The backend that it goes to; null if it is not forwarded.
    pub backend: Option<SocketAddr>,
    /// Why it is not forwarded, as `counters` names it; null if it is.
    pub reason: Option<String>,
    /// Each decision on its way, in order.
    pub steps: Vec<ExplainStep>,
    /// What would leave; null if nothing does.
    pub sent: Option<SentView>,
    /// With more than one client: where their flows go, the most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<SpreadView>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainStep {
    /// What it is about, in a word.
    pub step: String,
    /// What was found, in words.
    pub finding: String,
}

/// A frame that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SentView {
    /// The interface.
    pub interface: String,
    /// The Ethernet address that it comes from.
    pub source_mac: String,
    /// The Ethernet address that it goes to.
    pub destination_mac: String,
    /// The outer packet's source and destination, in a tunnel.
    pub tunnel: Option<TunnelView>,
    /// The packet's source; in a tunnel, the inner packet's.
    pub source: SocketAddr,
    /// The packet's destination; in a tunnel, the inner packet's.
    pub destination: SocketAddr,
}

/// The outer header of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelView {
    /// Its source address.
    pub source: std::net::IpAddr,
    /// Its destination address.
    pub destination: std::net::IpAddr,
}

/// How many of the flows have one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpreadView {
    /// The backend; null if the flows are not forwarded.
    pub backend: Option<SocketAddr>,
    /// Why they are not forwarded, as `counters` names it; null if they are.
    pub reason: Option<String>,
    /// How many flows.
    pub flows: u64,
    /// Their part of all flows, 0 to 1.
    pub share: f64,
    /// The backend's part of the service's ring, 0 to 1: what its weight gives it. Null without a backend.
    pub ring_share: Option<f64>,
}
