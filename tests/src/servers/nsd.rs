//! A DNS server whose zone changes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::Process;
use crate::{paths, wait};

/// nsd, authoritative for one zone on all of a host's addresses, UDP and TCP. Stopped when dropped.
pub struct Nsd {
    host: Host,
    zone: &'static str,
    process: Option<Process>,
    serial: u32,
}

impl Nsd {
    /// Starts it with the zone `example.test` of these records, in the form of a zone file, and waits until it serves them.
    /// Names are relative to the zone. TTLs are 1 s where none is written, and so is that of negative answers.
    pub fn start(host: &Host, records: &str) -> Result<Self> {
        Self::start_zone(host, "example.test", records)
    }

    /// Like [`Nsd::start`], with another zone.
    pub fn start_zone(host: &Host, zone: &'static str, records: &str) -> Result<Self> {
        let mut nsd = Self { host: host.clone(), zone, process: None, serial: 0 };
        fs::create_dir_all(nsd.dir())?;
        nsd.write_zone(records)?;
        nsd.restart()?;
        Ok(nsd)
    }

    /// Replaces the zone, and waits until the new one is served.
    pub fn set_zone(&mut self, records: &str) -> Result<()> {
        self.write_zone(records)?;
        self.process.as_ref().context("nsd is stopped")?.signal(Signal::SIGHUP)?;
        self.wait_for_serial()
    }

    /// Kills it: nobody answers on its port.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again after [`Nsd::stop`], with the zone that it had.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let program = paths::program("nsd").context("nsd is not installed: run `cargo xtask setup`")?;
        let dir = self.dir();
        let config = dir.join("nsd.conf");
        let shown = dir.display();
        // Without a limit of answers a second, which tests exceed.
        let text = format!(
            "server:\n port: 53\n server-count: 1\n username: \"\"\n chroot: \"\"\n zonesdir: \"{shown}\"\n \
             database: \"\"\n pidfile: \"{shown}/nsd.pid\"\n zonelistfile: \"{shown}/zone.list\"\n \
             xfrdfile: \"{shown}/xfrd.state\"\n xfrdir: \"{shown}\"\n rrl-ratelimit: 0\n\
             remote-control:\n control-enable: no\n\
             zone:\n name: \"{}\"\n zonefile: \"zone\"\n",
            self.zone
        );
        fs::write(&config, text).context("cannot write nsd's config")?;
        let mut command = self.host.command(program);
        command.arg("-d").arg("-c").arg(&config);
        self.process = Some(self.host.spawn_command("nsd", command)?);
        self.wait_for_serial()
    }

    fn dir(&self) -> PathBuf {
        self.host.dir().join("nsd")
    }

    fn write_zone(&mut self, records: &str) -> Result<()> {
        self.serial += 1;
        let zone = format!(
            "$ORIGIN {}.\n$TTL 1\n@ SOA ns root {} 3600 600 86400 1\n@ NS ns\nns A 192.0.2.53\n{records}\n",
            self.zone, self.serial
        );
        fs::write(self.dir().join("zone"), zone).context("cannot write the zone")
    }

    fn wait_for_serial(&mut self) -> Result<()> {
        let serial = self.serial.to_string();
        let mut process = self.process.take().context("nsd is stopped")?;
        wait::until(&format!("nsd to serve zone {serial}"), Duration::from_secs(30), || {
            if process.exited()?.is_some() {
                bail!("nsd ended: {}", process.log().trim());
            }
            let soa = self
                .host
                .run(&format!("dig @127.0.0.1 +short +tries=1 +timeout=1 {} SOA", self.zone))
                .unwrap_or_default();
            Ok(soa.split_whitespace().nth(2) == Some(&serial))
        })?;
        self.process = Some(process);
        Ok(())
    }
}
