//! What is known of the exchange with the peers.

use std::net::SocketAddr;
use std::time::Instant;

use super::table::Refusal;
use crate::model::state::PeerState;

/// The exchange of this node with its peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The fleet's name.
    pub fleet: String,
    /// This node's name.
    pub node: String,
    /// Where it hears its peers.
    pub address: SocketAddr,
    /// Whether it has the flows of all peers that it can reach, or has waited for them long enough.
    pub is_joined: bool,
    /// The peers, by name.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is there, and has its flows here.
    pub state: PeerState,
    /// Why it is not.
    pub why: Option<String>,
    /// When it was last heard.
    pub heard: Option<Instant>,
    /// What has passed.
    pub tally: Tally,
}

/// What has passed between this node and a peer since the daemon started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Flows that the peer was told of, updates included.
    pub sent_flows: u64,
    /// Flows that it has told of, updates included.
    pub received_flows: u64,
    /// Those of them that were refused, by reason, in the order of [`Refusal::ALL`].
    pub refused_flows: [u64; Refusal::ALL.len()],
    /// Bytes of datagrams and pulls to it.
    pub sent_bytes: u64,
    /// Datagrams that were sent again, since it had not acknowledged them.
    pub resent: u64,
    /// Datagrams from its address that are not its own, or were played back.
    pub forged: u64,
}
