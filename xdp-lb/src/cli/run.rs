//! `xdp-lb run`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::daemon::run::{self, Options};
use crate::logging::{self, Format};
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
    /// The log: text on stderr for people, json on stderr, a document a line, or journald: systemd's journal, with fields
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = logging::VARIABLE, hide_env = true)]
    log_format: Format,
    /// Take over from the daemon that started this process: see `xdp-lb upgrade`
    #[arg(long, hide = true)]
    take_over: bool,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        logging::start(self.log_format)?;
        run::run(&self.options()?)
    }

    /// With an absolute path of the config file, because clients in other directories read and write it.
    fn options(self) -> anyhow::Result<Options> {
        let config_file = std::path::absolute(&self.config)
            .with_context(|| format!("cannot tell where {} is", self.config.display()))?;
        Ok(Options { config_file, takes_over: self.take_over })
    }
}

pub(super) fn serve_checks(format: Format) -> anyhow::Result<()> {
    logging::start(format)?;
    namespace::serve_on_stdin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_file_is_where_it_was_at_the_start() {
        let of = |config: &str| {
            Run { config: config.into(), log_format: Format::Text, take_over: false }
                .options()
                .unwrap()
                .config_file
        };
        assert_eq!(of("c.toml"), std::env::current_dir().unwrap().join("c.toml"));
        assert_eq!(of("/etc/c.toml"), PathBuf::from("/etc/c.toml"));
    }
}
