//! `xdp-lb reload` and `xdp-lb diff`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::Done;
use super::confirm::{self, Removal};
use super::output::Screen;
use super::units::grouped;
use crate::api::client::Client;
use crate::model::change::ServiceChange;
use crate::report::documents::{ConfigQuery, ConfigView, ReloadView, RemovalQuery};

/// Make the daemon reread its config file: all of it is applied, or nothing
///
/// The file is validated first; if it is refused, nothing changes. The rings of unchanged services do not change.
/// Services and backends that are no longer in the file drain: they are removed once their flows have ended, after
/// `drain_timeout` at the latest. SIGHUP does the same; the daemon's log says what changed.
#[derive(Debug, Args)]
pub(super) struct Reload {
    /// Change nothing: print what would change, and how many slots of each service's ring would move if every new
    /// backend passes its first check
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    removal: Removal,
}

/// Print what a reload would change: the config file compared with the running configuration
///
/// Lists services, backends and keys, with the old and the new value of each. Changes made at runtime stay in effect
/// after a reload, so they are not listed; an edit that such a change overrides is listed as "no effect". Exit codes like diff(1): 0 no differences, 1 differences, 2 failure.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// Print the runtime changes instead: what runs, compared with what the config file says
    #[arg(long)]
    runtime: bool,
}

impl Reload {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let removal = self.removal.query();
        if self.removal.asks() && !self.dry_run {
            let ends = ends(&client.plan_reload(removal).await?);
            if !ends.is_empty() {
                confirm::ask(&ends.join("\n"))?;
            }
        }
        let view = match self.dry_run {
            true => client.plan_reload(removal).await?,
            false => client.reload(removal).await?,
        };
        let nothing = if self.dry_run { "nothing would change" } else { "nothing changed" };
        let text = screen.show(&view, || sentences(&view, nothing, true))?;
        Ok(Done::in_view_of(text, view.trouble.as_deref()))
    }
}

/// The runtime changes as a document, with the fields of `diff`.
#[derive(Debug, Serialize)]
struct RuntimeChanges {
    changes: Vec<String>,
    services: Vec<ServiceChange>,
}

impl Diff {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        if self.runtime {
            let ConfigView { changes, services, .. } = client.config(ConfigQuery::default()).await?;
            let view = RuntimeChanges { changes, services };
            let text = screen.show(&view, || match view.changes.is_empty() {
                true => "no runtime changes".into(),
                false => view.changes.join("\n"),
            })?;
            return Ok(Done { text, code: ExitCode::from(u8::from(!view.changes.is_empty())) });
        }
        let view = client.plan_reload(RemovalQuery::default()).await?;
        let text = screen.show(&view, || sentences(&view, "no differences", false))?;
        let is_same = view.changes.is_empty() && view.settings.is_empty() && view.overridden.is_empty();
        Ok(Done { text, code: ExitCode::from(u8::from(!is_same)) })
    }
}

/// The lines of a plan that end flows.
fn ends(view: &ReloadView) -> Vec<String> {
    let services = view.services.iter().filter(|service| service.ends_flows());
    services.flat_map(ServiceChange::lines).filter(|line| line.contains("this ends")).collect()
}

fn sentences(view: &ReloadView, nothing: &str, with_slots: bool) -> String {
    let mut lines = view.changes.clone();
    let overridden = view
        .overridden
        .iter()
        .map(|line| format!("no effect: {line} (overridden by a runtime change; see xdp-lb diff --runtime)"));
    if !with_slots {
        lines.extend(view.beyond_reload().chain(overridden.clone()));
    }
    if lines.is_empty() {
        lines.push(nothing.to_owned());
    }
    if with_slots {
        lines.extend(view.services.iter().filter_map(|service| {
            let slots = service.slots?;
            let (moving, of) = (grouped(slots.moving.into()), grouped(slots.of.into()));
            Some(format!("service {}: {moving} of {of} slots would move", service.service))
        }));
        lines.extend(overridden.chain(view.warnings.iter().map(|warning| format!("warning: {warning}"))));
    }
    lines.join("\n")
}
