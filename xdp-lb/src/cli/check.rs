//! `xdp-lb check`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::Screen;
use super::units::counted;
use crate::config;

/// Validate a config file
///
/// Prints what the file describes, or every error in it: its line, the field, and what to write
/// instead. Nothing is changed and no daemon is asked.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The config file
    file: PathBuf,
}

/// What a valid file describes, as `--output json` prints it.
#[derive(Serialize)]
struct Valid {
    file: PathBuf,
    services: usize,
    backends: usize,
}

impl Check {
    pub(super) fn execute(self, screen: &Screen) -> anyhow::Result<String> {
        let config = config::load(&self.file)?;
        let valid = Valid {
            file: self.file,
            services: config.services.len(),
            backends: config.services.iter().map(|service| service.backends.len()).sum(),
        };
        screen.show(&valid, || {
            format!(
                "{} is valid: {}, {}",
                valid.file.display(),
                counted(valid.services as u64, "service"),
                counted(valid.backends as u64, "backend")
            )
        })
    }
}
