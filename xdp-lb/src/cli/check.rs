//! `xdp-lb check`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::output::Screen;
use super::units::counted;
use crate::model::Config;
use crate::store::{self, StateError};
use crate::{config, overlay};

/// Validate a config file
///
/// Prints a summary of the file, or every error in it with the line, the field and the fix. Also reports conflicts
/// with the changes made at runtime, in its state file. Changes nothing, and needs no daemon.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The config file
    file: PathBuf,
}

/// The summary of a valid file, as `--output json` prints it.
#[derive(Serialize)]
struct Valid {
    file: PathBuf,
    services: usize,
    backends: usize,
    /// A problem that does not keep a daemon from starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl Check {
    pub(super) fn execute(self, screen: &Screen) -> anyhow::Result<String> {
        let config = config::load(&self.file)?;
        let mut warnings: Vec<String> = config.obsolete.iter().map(|line| (*line).to_owned()).collect();
        warnings.extend(check_state(&config, &self.file)?);
        let warning = (!warnings.is_empty()).then(|| warnings.join("\nwarning: "));
        let valid = Valid {
            file: self.file,
            services: config.services.len(),
            backends: config.services.iter().map(|service| service.backends.len()).sum(),
            warning,
        };
        screen.show(&valid, || {
            let mut text = format!(
                "{} is valid: {}, {}",
                valid.file.display(),
                counted(valid.services as u64, "service"),
                counted(valid.backends as u64, "backend")
            );
            if let Some(warning) = &valid.warning {
                text += &format!("\nwarning: {warning}");
            }
            text
        })
    }
}

/// Compares the config with the runtime changes, if they can be read; returns a warning.
fn check_state(config: &Config, file: &Path) -> anyhow::Result<Option<String>> {
    let state_file = config.state_file.display();
    let overlay = match store::look(&config.state_file) {
        Ok(Ok(overlay)) => overlay,
        Ok(Err(why)) => {
            return Ok(Some(format!(
                "the state file {state_file} {why}: the next start renames it, and the changes made at runtime are \
                 not applied"
            )));
        }
        // The user may not have access to the state file. One that the daemon cannot read either keeps it from starting.
        Err(StateError::Unreadable { cause, .. }) if cause.kind() == ErrorKind::PermissionDenied => {
            let what = "the changes made at runtime were not checked";
            return Ok(Some(format!("{what}: the state file {state_file} cannot be read: {cause}")));
        }
        Err(error) => return Err(error.into()),
    };
    match overlay::effective(config, &overlay) {
        Ok(_) => Ok(None),
        Err(lines) => bail!(
            "{} conflicts with the changes made at runtime in {state_file}:\n{}",
            file.display(),
            lines.join("\n")
        ),
    }
}
