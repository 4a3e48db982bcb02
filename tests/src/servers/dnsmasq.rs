//! A DNS server.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::Process;
use crate::{paths, wait};

/// dnsmasq on all of a host's addresses, UDP and TCP. Stopped when dropped.
///
/// It answers a TXT query for `whoami.example.test` with the host's name, and an A query for `www.example.test` with
/// 203.0.113.80; any other name under `example.test` is NXDOMAIN.
pub struct Dnsmasq {
    host: Host,
    port: u16,
    process: Option<Process>,
}

impl Dnsmasq {
    /// Starts it, and waits until it answers.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let mut dnsmasq = Self { host: host.clone(), port, process: None };
        dnsmasq.restart()?;
        Ok(dnsmasq)
    }

    /// Starts it again after [`Dnsmasq::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let program =
            paths::program("dnsmasq").context("dnsmasq is not installed: run `cargo xtask setup`")?;
        let mut command = self.host.command(program);
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
                "--log-facility=-",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--local=/example.test/",
                "--address=/www.example.test/203.0.113.80",
            ])
            .arg(format!("--txt-record=whoami.example.test,{}", self.host.name()))
            .arg(format!("--port={}", self.port));
        let mut process = self.host.spawn_command(&format!("dnsmasq-{}", self.port), command)?;
        wait::until(&format!("dnsmasq on {}", self.host.name()), Duration::from_secs(30), || {
            if process.exited()?.is_some() {
                bail!("dnsmasq on {} ended: {}", self.host.name(), process.log().trim());
            }
            self.host.enter(|| answers(self.port))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it: the host answers queries with ICMP port unreachable.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

/// Whether a DNS server on this host answers anything at all.
fn answers(port: u16) -> bool {
    // RFC 1035 section 4.1: id, recursion desired, one question: the root's NS records.
    const QUERY: [u8; 17] = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { return false };
    let sent = socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .and_then(|()| socket.send_to(&QUERY, (Ipv4Addr::LOCALHOST, port)));
    sent.is_ok() && socket.recv(&mut [0; 512]).is_ok()
}
