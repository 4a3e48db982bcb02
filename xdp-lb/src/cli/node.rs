//! `xdp-lb node`.

use clap::Subcommand;

use super::Done;
use super::drain::{self, Patience, Subject};
use super::output::Screen;
use crate::api::client::Client;
use crate::model::request::AdminPatch;
use crate::model::state::AdminState;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Withdraw all VIPs from this host so that clients go elsewhere; flows whose packets still arrive continue
    ///
    /// With --wait, returns once no flow is left and no client has sent a packet for 5 seconds (exit code 0), or the
    /// timeout has passed (exit code 1), and says which. The node stays drained, also across restarts, until `xdp-lb
    /// node undrain`. The daemon removes only the addresses that it added itself (`vips.interface` in its config).
    #[command(after_help = "\
Examples:
  xdp-lb node drain --wait --timeout 10m && systemctl reboot
  xdp-lb node drain --wait --quiet 30s        does not wait for idle connections")]
    Drain {
        #[command(flatten)]
        patience: Patience,
    },
    /// Put the VIPs back on this host
    #[command(visible_alias = "enable")]
    Undrain,
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        match self {
            Self::Drain { patience } => drain::execute(client, screen, &Subject::Node, &patience).await,
            Self::Undrain => {
                let outcome = client.patch_node(&AdminPatch { admin: AdminState::Enabled }).await?;
                Done::of(&outcome, screen)
            }
        }
    }
}
