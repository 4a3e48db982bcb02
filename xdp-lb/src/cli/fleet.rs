//! `xdp-lb fleet`.

use anyhow::bail;
use clap::Subcommand;
use comfy_table::Cell;

use super::Done;
use super::output::{Screen, number, text, words};
use super::units::grouped;
use crate::api::client::Client;
use crate::report::documents::{FleetView, PeerView};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the load balancers that this one exchanges flows with: `[fleet]` in the config
    Status,
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let Self::Status = self;
        let Some(fleet) = client.status().await?.fleet else {
            bail!("this daemon exchanges flows with no other one: there is no [fleet] in its config");
        };
        Ok(screen.show(&fleet, || shown(screen, &fleet))?.into())
    }
}

/// The fleet, as this node sees it.
pub(super) fn shown(screen: &Screen, fleet: &FleetView) -> String {
    let joining =
        if fleet.joined { "" } else { ", JOINING: waits for the flows of the others, and its VIPs with it" };
    let head = format!("fleet {}: this is {} at {}{joining}\n", fleet.name, fleet.node, fleet.address);
    let columns = [
        text("NODE"),
        text("ADDRESS"),
        text("STATE"),
        number("HEARD"),
        number("FLOWS SENT"),
        number("RECEIVED"),
        number("REFUSED"),
        words("NOTE"),
    ];
    head + &screen.table(&columns, fleet.peers.iter().map(row))
}

fn row(peer: &PeerView) -> Vec<Cell> {
    let heard = peer.heard_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}s ago"));
    vec![
        Cell::new(&peer.node),
        Cell::new(peer.address),
        Cell::new(peer.state.name()),
        Cell::new(heard),
        Cell::new(grouped(peer.sent_flows)),
        Cell::new(grouped(peer.received_flows)),
        Cell::new(grouped(peer.refused_flows.values().sum())),
        Cell::new(peer.reason.as_deref().unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use crate::report;

    #[test]
    fn a_node_that_joins_says_what_its_vips_wait_for() {
        let screen = Screen { format: Format::Table, colour: false, width: None };
        let fleet = report::testing::fleet();
        let said = shown(&screen, &fleet);
        assert!(said.contains("lb2   192.0.2.2:7946  synced       0.4s ago"), "{said}");
        assert!(said.contains("lb3   192.0.2.3:7946  unreachable         -"), "{said}");
        assert!(!said.contains("JOINING"));
        assert!(
            shown(&screen, &FleetView { joined: false, ..fleet }).contains("JOINING: waits for the flows")
        );
    }
}
