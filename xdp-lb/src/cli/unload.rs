//! `xdp-lb unload`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::output::Screen;
use super::usual_socket;
use crate::api::client::{self, Client};
use crate::model::request::Outcome;
use crate::net::vips;
use crate::{config, datapath};

const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/xdp-lb";
const DEFAULT_STATE_FILE: &str = "/var/lib/xdp-lb/state.json";

/// Stop forwarding: end the daemon, detach the program and remove its pins
///
/// A running daemon is asked to do it, and then ends. If none is running, this removes the pins that one left behind
/// and the VIPs that it added. Every flow through this host ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdp-lb unload                                   the daemon at the default socket, or its pins
  xdp-lb unload --config /etc/xdp-lb/edge.toml    with the socket and the pins of this config")]
pub(super) struct Unload {
    /// The bpffs directory of the pins [default: /sys/fs/bpf/xdp-lb]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "config")]
    pin_path: Option<PathBuf>,
    /// The daemon's config file, which names its socket and pins
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Unload {
    /// Unloads the daemon of another host, or of this one.
    pub(super) async fn execute(
        self,
        remote: Option<&Client>,
        socket: Option<PathBuf>,
        screen: &Screen,
    ) -> anyhow::Result<String> {
        if let Some(client) = remote {
            if self.config.is_some() || self.pin_path.is_some() {
                bail!("--config and --pin-path apply to this host, but --api names another: remove them");
            }
            let outcome = client.unload().await?;
            return screen.show(&outcome, || outcome.message.clone());
        }
        let config = self.config.as_deref().map(config::load).transpose()?;
        let named = self.pin_path.or(config.as_ref().map(|config| config.pin_path.clone()));
        // A directory of pins does not identify the VIPs.
        let state_file = match &config {
            Some(config) => Some(config.state_file.clone()),
            None => named.is_none().then(|| DEFAULT_STATE_FILE.into()),
        };
        let socket = socket.or(config.map(|config| config.api.socket));
        let client = Client::new(socket.unwrap_or_else(usual_socket));
        let outcome = match client.status().await {
            Ok(daemon) if named.as_deref().is_none_or(|named| named == Path::new(&daemon.pin_path)) => {
                client.unload().await?
            }
            // The daemon that answers has other pins than those that are meant.
            Ok(_) | Err(client::Error::NoDaemon(_)) => {
                let vips = release_vips(state_file.as_deref()).await?;
                remove_pins(&named.unwrap_or_else(|| DEFAULT_PIN_PATH.into()), vips)?
            }
            Err(error) => return Err(error.into()),
        };
        screen.show(&outcome, || outcome.message.clone())
    }
}

async fn release_vips(state_file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(state_file) = state_file else { return Ok(Vec::new()) };
    vips::release(&vips::record_file(state_file)).await.context("cannot remove the VIPs")
}

fn remove_pins(pin_path: &Path, vips: Vec<String>) -> anyhow::Result<Outcome> {
    let mut removed = datapath::unload(pin_path)
        .with_context(|| format!("cannot remove the pins in {}", pin_path.display()))?;
    removed.extend(vips);
    let message = match removed.as_slice() {
        [] => format!("no daemon is running, and nothing is pinned in {}", pin_path.display()),
        removed => {
            format!("no daemon is running; removed from {}: {}", pin_path.display(), removed.join(", "))
        }
    };
    Ok(Outcome { changed: !removed.is_empty(), message, trouble: None })
}
