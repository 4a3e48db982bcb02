//! `xdp-lb doctor`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Done;
use super::output::Screen;
use super::units::counted;
use crate::api::client::Client;
use crate::doctor::{self, Report, Subject};
use crate::overlay::{self, Overlay};
use crate::{config, datapath, store};

const USUAL_CONFIG: &str = "/etc/xdp-lb/config.toml";

/// Find problems that keep this host from balancing load, and say how to fix them
///
/// Examines the kernel, interfaces, XDP programs and offloads, reverse path filters and forwarding, next hops and
/// MTU, VIPs, limits and the firewall. Works with or without a running daemon, and changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 no findings, 1 findings, 2 the examination failed.")]
pub(super) struct Doctor {
    /// The config file [default: that of the running daemon, or /etc/xdp-lb/config.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Doctor {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        match self.examine(client).await {
            Ok(report) => {
                let code = if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                Ok(Done { text: screen.show(&report, || text(&report))?, code })
            }
            Err(error) => {
                // A closed stderr is not an error.
                let _ = writeln!(io::stderr(), "error: cannot examine this host: {error:#}");
                Ok(Done { text: String::new(), code: ExitCode::from(2) })
            }
        }
    }

    async fn examine(&self, client: &Client) -> anyhow::Result<Report> {
        let (daemon, denied) = match client.status().await {
            Ok(daemon) => (Some(daemon), None),
            Err(error) if error.is_denied() => (None, Some(error.to_string())),
            Err(_) => (None, None),
        };
        let running = daemon.as_ref().map(|daemon| PathBuf::from(&daemon.config_file));
        let config = match self.config.clone().or_else(|| running.clone()) {
            Some(file) => config::load(&file)?,
            None => config::load(Path::new(USUAL_CONFIG)).context(
                "no daemon answers, and the default config file cannot be used: name yours with --config FILE",
            )?,
        };
        // The state of another daemon does not apply to this file.
        let daemon = daemon.filter(|daemon| Path::new(&daemon.pin_path) == config.pin_path);
        let overlay: Overlay = store::look(&config.state_file).ok().and_then(Result::ok).unwrap_or_default();
        let effective = overlay::effective(&config, &overlay)
            .map_err(|lines| anyhow::anyhow!(lines.join("\n")))
            .context("the config file conflicts with the changes made at runtime")?;
        let subject = Subject {
            config: &config,
            effective: &effective,
            daemon: daemon.as_ref(),
            denied,
            pins_are_denied: datapath::is_denied(&config.pin_path),
        };
        doctor::examine(&subject).await
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text += &format!("{}: {}\n    fix: {}\n", finding.check, finding.what, finding.fix);
    }
    for (check, why) in &report.skipped {
        text += &format!("{check}: skipped: {why}\n");
    }
    let (checks, findings) = (report.checked.len() as u64, report.findings.len() as u64);
    text + &format!("{}, {}", counted(checks, "check"), counted(findings, "finding"))
}
