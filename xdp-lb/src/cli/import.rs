//! `xdp-lb import`.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::units::counted;
use crate::{config, import};

/// Translate the configuration of another load balancer
///
/// Prints a config file, for the plain cases. What has no counterpart is on stderr, each with its line: read those before you
/// use the result. Changes nothing, and needs no daemon.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// Whose configuration it is
    #[arg(value_enum)]
    from: From,
    /// Its file; for ipvs, what `ipvsadm --save --numeric` prints
    file: PathBuf,
    /// An interface on which packets of clients and backends arrive; may be given several times
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    interface: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// HAProxy, sections of mode tcp
    Haproxy,
    /// IPVS
    Ipvs,
}

impl Import {
    pub(super) fn execute(self) -> anyhow::Result<String> {
        let file = self.file.display();
        let text = fs::read_to_string(&self.file).with_context(|| format!("cannot read {file}"))?;
        let imported = match self.from {
            From::Haproxy => import::haproxy(&text),
            From::Ipvs => import::ipvs(&text),
        };
        let mut stderr = io::stderr();
        for note in &imported.notes {
            // A closed stderr is not an error.
            let _ = writeln!(stderr, "{file}:{}: {}", note.line, note.what);
        }
        if imported.count() == 0 {
            bail!("{file} has no service that xdp-lb can have");
        }
        let toml = imported.toml(&self.interface);
        if let Err(errors) = config::parse(&toml) {
            let _ = writeln!(stderr, "the result is not valid yet: correct these lines of it\n{errors}");
        }
        let services = counted(imported.count() as u64, "service");
        Ok(format!("# {services}, imported from {file}. Check it: xdp-lb check FILE\n{toml}"))
    }
}
