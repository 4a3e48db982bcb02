//! `xdp-lb upgrade`.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::time::Instant;

use super::output::Screen;
use super::units::parse_span;
use crate::api::client::Client;
use crate::model::request::Outcome;
use crate::model::state::UpgradeState;
use crate::report::documents::UpgradeView;

/// The interval of polling.
const LOOK: Duration = Duration::from_millis(200);

/// Upgrade the running daemon to the binary that is now at its path
///
/// First replace the old binary (write the new one beside it, then rename it). The running daemon starts the new
/// binary, which checks the config, the pinned tables and the backends, takes over the tables, and replaces the
/// program through its link. No packet is lost, and no flow breaks. If the new daemon does not become ready, does
/// not take over, or dies or hangs within 5 seconds after that, the old one takes everything back, and this command
/// fails with the reason and exit code 1.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// How long to wait at most: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = parse_span)]
    pub(super) timeout: Duration,
}

impl Upgrade {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        let before = client.status().await?.pid;
        // From here on, only the new daemon reports completion.
        client.upgrade().await?;
        let deadline = Instant::now() + self.timeout;
        let mut trouble = None;
        while Instant::now() < deadline {
            match client.status().await {
                Ok(status) => match status.upgrade {
                    Some(UpgradeView { state: UpgradeState::Failed, message }) => bail!("{message}"),
                    Some(UpgradeView { state: UpgradeState::Done, message }) => {
                        let message = format!("{message}: process {before} -> {}", status.pid);
                        let outcome = Outcome { message, changed: true, trouble: None };
                        return screen.show(&outcome, || outcome.message.clone());
                    }
                    _ => {}
                },
                // The old daemon is stopping or has closed the socket, and the new one has not taken it yet.
                Err(error) => trouble = Some(error),
            }
            tokio::time::sleep(LOOK).await;
        }
        let trouble = trouble.map_or_else(String::new, |error| format!(" (last: {error})"));
        bail!(
            "the upgrade did not finish within the timeout{trouble}; see xdp-lb status and the daemon's log"
        )
    }
}
