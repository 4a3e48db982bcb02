//! `xdp-lb run`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::output::coloured;
use crate::daemon::run::{self, Options};
use crate::net::namespace;

/// Run the daemon in the foreground
///
/// Loads and attaches the XDP program (or takes over the one that is running), checks the backends, and serves the
/// control socket and the metrics, until SIGTERM or SIGINT. Forwarding continues after the daemon ends: only `xdp-lb
/// unload` stops it. Logs go to stderr; XDP_LB_LOG sets their detail (error, warn, info, debug, trace; or
/// xdp_lb::health=debug,info).
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The config file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Take over from the daemon that started this process: see `xdp-lb upgrade`
    #[arg(long, hide = true)]
    take_over: bool,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        start_logging()?;
        run::run(&self.options()?)
    }

    /// With an absolute path of the config file, because clients in other directories read and write it.
    fn options(self) -> anyhow::Result<Options> {
        let config_file = std::path::absolute(&self.config)
            .with_context(|| format!("cannot tell where {} is", self.config.display()))?;
        Ok(Options { config_file, takes_over: self.take_over })
    }
}

pub(super) fn serve_checks() -> anyhow::Result<()> {
    start_logging()?;
    namespace::serve_on_stdin()
}

pub(super) fn start_logging() -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .with_env_var("XDP_LB_LOG")
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .context("XDP_LB_LOG is invalid: write info, debug, or xdp_lb::health=debug,info")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(coloured(&io::stderr()))
        .with_target(false);
    if journal_reads_stderr() {
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}

/// Whether stderr goes to systemd's journal, which stamps each line itself: `JOURNAL_STREAM` names
/// the device and inode of that stream (systemd.exec(5)).
fn journal_reads_stderr() -> bool {
    let stream = || {
        let metadata = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        Some(format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| Some(journal) == stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_file_is_where_it_was_at_the_start() {
        let of =
            |config: &str| Run { config: config.into(), take_over: false }.options().unwrap().config_file;
        assert_eq!(of("c.toml"), std::env::current_dir().unwrap().join("c.toml"));
        assert_eq!(of("/etc/c.toml"), PathBuf::from("/etc/c.toml"));
    }
}
