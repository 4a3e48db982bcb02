//! The exchange of flows with other load balancers, as a document.

use super::documents::{FleetView, PeerView};
use super::snapshot::Clock;
use crate::fleet::{PeerStatus, Refusal, Status};

/// The document.
pub(super) fn view(status: &Status, clock: &Clock) -> FleetView {
    FleetView {
        name: status.fleet.clone(),
        node: status.node.clone(),
        address: status.address,
        joined: status.is_joined,
        peers: status.peers.iter().map(|peer| peer_view(peer, clock)).collect(),
    }
}

fn peer_view(peer: &PeerStatus, clock: &Clock) -> PeerView {
    let PeerStatus { node, address, state, why, heard, tally } = peer;
    let refused: Vec<_> =
        Refusal::ALL.into_iter().zip(tally.refused_flows).filter(|(_, flows)| *flows > 0).collect();
    let worst = refused.iter().max_by_key(|(_, flows)| *flows).map(|(refusal, _)| refusal.to_string());
    PeerView {
        node: node.clone(),
        address: *address,
        state: *state,
        reason: why.clone().or(worst),
        heard_seconds: heard.map(|heard| clock.now.saturating_duration_since(heard).as_secs_f64()),
        sent_flows: tally.sent_flows,
        received_flows: tally.received_flows,
        refused_flows: refused
            .into_iter()
            .map(|(refusal, flows)| (refusal.name().to_owned(), flows))
            .collect(),
        sent_bytes: tally.sent_bytes,
        resent_datagrams: tally.resent,
        forged_datagrams: tally.forged,
    }
}
