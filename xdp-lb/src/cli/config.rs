//! `xdp-lb config`.

use std::io;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use nix::unistd::geteuid;

use super::Done;
use super::output::Screen;
use crate::api::client::Client;
use crate::file::Editing;
use crate::overlay::{Overlay, Saved, save};
use crate::report::documents::{ConfigQuery, ReloadView, RemovalQuery};
use crate::{config, store};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the running configuration as TOML, each value with its origin: file, default, runtime or discovered
    ///
    /// Values that are the default are left out, unless with --all. Secrets are not printed: flow_hash_secret, and the values
    /// of a health check's headers. What is drained, and what was removed and is draining, is marked by a comment.
    Show {
        /// Also print the values that are the default
        #[arg(long)]
        all: bool,
    },
    /// Write the runtime changes into the config file, and drop them from the state file; run it as root on the daemon's host
    ///
    /// Comments, the order and the line endings of the file stay. Nothing is written if the result would be invalid or would
    /// not match what runs, if the file has changes that are not in effect, or if it changes meanwhile. Drains stay runtime
    /// changes.
    Save {
        /// Change nothing: print what would be written
        #[arg(long)]
        dry_run: bool,
    },
}

impl Command {
    /// Whether it works on files of the daemon's host.
    pub(super) const fn is_of_this_host(&self) -> bool {
        matches!(self, Self::Save { .. })
    }

    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let all = matches!(self, Self::Show { all: true });
        let view = client.config(ConfigQuery { all }).await?;
        match self {
            Self::Show { .. } => Ok(screen.show(&view, || view.toml.clone())?.into()),
            Self::Save { dry_run } => {
                let saved = save_into(client, Path::new(&view.file), dry_run).await?;
                Ok(screen.show(&saved.lines, || words(&saved, &view.file, dry_run))?.into())
            }
        }
    }
}

async fn save_into(client: &Client, path: &Path, dry_run: bool) -> anyhow::Result<Saved> {
    if !geteuid().is_root() {
        bail!("only root may write the config file: run this as root on the daemon's host");
    }
    if !path.is_absolute() {
        bail!(
            "the daemon was started with the relative path {}: start it with an absolute one",
            path.display()
        );
    }
    let editing = Editing::begin(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => anyhow!("nothing was written: another \"config save\" is running"),
        _ => anyhow!(error).context(format!("cannot open the directory of {}", path.display())),
    })?;
    // Read before the daemon compares the file: edits in between are not overwritten.
    let text = read(path)?;
    let pending = pending(&client.plan_reload(RemovalQuery::default()).await?);
    if !pending.is_empty() {
        bail!(
            "nothing was written: {} has changes that are not in effect. Undo each of them, or do what it needs:\n{}",
            path.display(),
            pending.join("\n")
        );
    }
    let config = config::parse(&text)?;
    let overlay: Overlay = match store::look(&config.state_file)? {
        Ok(overlay) => overlay,
        Err(why) => bail!("the state file {} {why}", config.state_file.display()),
    };
    let saved = save(&text, &overlay).map_err(|why| anyhow!("nothing was written: {why}"))?;
    if dry_run || saved.lines.is_empty() {
        return Ok(saved);
    }
    if read(path)? != text {
        bail!("nothing was written: {} has just been changed; run this again", path.display());
    }
    editing
        .replace(saved.text.as_bytes())
        .with_context(|| format!("nothing was written: cannot replace {}", path.display()))?;
    // The daemon drops changes that are in the file now.
    client.reload(RemovalQuery::default()).await.with_context(|| {
        format!(
            "{} is written, but could not be reloaded: until then the state file has the changes, too",
            path.display()
        )
    })?;
    Ok(saved)
}

/// Changes in the file that are not in effect, a line each, with what puts it in effect.
fn pending(plan: &ReloadView) -> Vec<String> {
    let changes = plan.changes.iter().map(|line| format!("{line} (needs xdp-lb reload)"));
    let overridden = plan.overridden.iter().map(|line| {
        format!(
            "{line} (overridden at runtime: take that change back, see xdp-lb diff --runtime; or run xdp-lb reload, and a \
             save then replaces it)"
        )
    });
    changes.chain(plan.beyond_reload()).chain(overridden).collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn words(saved: &Saved, file: &str, dry_run: bool) -> String {
    let mut lines = saved.lines.clone();
    match (lines.is_empty(), dry_run) {
        (true, _) => lines.push("no runtime changes to save".into()),
        (false, true) => lines.push(format!("these changes would be written to {file}")),
        (false, false) => lines.push(format!("written to {file}")),
    }
    lines.extend(saved.stays.iter().map(|line| format!("stays a runtime change: {line}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::SettingChange;

    #[test]
    fn each_edit_that_is_not_in_effect_is_told_once_with_what_it_needs() {
        let setting = |key: &str, takes: Option<&str>| SettingChange {
            key: key.into(),
            old: 1.into(),
            new: 2.into(),
            takes: takes.map(str::to_owned),
        };
        let plan = ReloadView {
            changes: vec!["drain_timeout 1 -> 2".into()],
            settings: vec![
                setting("drain_timeout", None),
                setting("attach", Some("a restart of the daemon")),
            ],
            overridden: vec!["service web: max_flows 100 -> 5".into()],
            ..ReloadView::default()
        };
        let pending = pending(&plan);
        assert_eq!(
            pending[..2],
            ["drain_timeout 1 -> 2 (needs xdp-lb reload)", "attach 1 -> 2 (needs a restart of the daemon)"]
        );
        assert!(
            pending[2].starts_with("service web: max_flows 100 -> 5 (overridden at runtime: "),
            "{pending:?}"
        );
        assert_eq!(pending.len(), 3);
    }
}
