//! `xdp-lb decap`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::ifaddrs::getifaddrs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing::{info, warn};
use xdp_lb_common::decap::{ACCEPTS_GUE, ACCEPTS_IPIP, Outcome};
use xdp_lb_common::process::GUE_PORT;

use super::units::number_of;
use crate::datapath::Decapsulator;
use crate::logging;
use crate::model::XdpMode;

/// How often the interface's addresses are read.
const ADDRESSES: Duration = Duration::from_secs(2);
/// How often changed counters are logged.
const REPORT: Duration = Duration::from_secs(60);

/// On a backend: decapsulate packets of modes ipip and gue
///
/// Attaches an XDP program to the interface on which the load balancer's packets arrive. The inner packets go to
/// this host's own network stack, so the VIP must be an address of this host (ip address add 192.0.2.10/32 dev lo).
/// Only packets to the interface's own addresses are decapsulated; all others are left alone. Runs in the foreground
/// until SIGTERM or SIGINT, then detaches. Logs its counters to stderr, once a minute if they changed, and at its
/// end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdp-lb decap --interface eth0 --from 198.51.100.0/24
  xdp-lb decap --interface eth0 --mode gue --gue-port 6081 --local 198.51.100.11")]
pub(super) struct Decap {
    /// The interface on which tunnelled packets arrive
    #[arg(long, short, value_name = "NAME")]
    interface: String,
    /// What to decapsulate; may be given several times [default: both]
    #[arg(long = "mode", value_name = "MODE", value_enum)]
    modes: Vec<Tunnel>,
    /// The UDP port of gue
    #[arg(long, value_name = "PORT", default_value_t = GUE_PORT, value_parser = number_of(1..=u16::MAX))]
    gue_port: u16,
    /// An address of this host that tunnelled packets are sent to; may be given several times [default: the
    /// addresses of the interface, followed as they change]
    #[arg(long = "local", value_name = "ADDR")]
    local: Vec<IpAddr>,
    /// Decapsulate only packets from here (198.51.100.2, 198.51.100.0/24, 2001:db8:2::/64); may be given several
    /// times [default: from anywhere]
    #[arg(long = "from", value_name = "PREFIX", value_parser = str::parse::<Prefix>)]
    from: Vec<Prefix>,
    /// native, generic or auto
    #[arg(long, value_name = "MODE", default_value_t, value_parser = str::parse::<XdpMode>)]
    xdp_mode: XdpMode,
}

/// A kind of tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Tunnel {
    /// IP in IP, of all families
    Ipip,
    /// Generic UDP Encapsulation
    Gue,
}

/// A prefix of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) =
            text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let wrong =
            || format!("{text:?} is not a prefix; write 198.51.100.0/24, 2001:db8:2::/64 or an address");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(whole), |length| length.parse().map_err(|_| wrong()))?;
        if length > whole { Err(wrong()) } else { Ok(Self { address, length }) }
    }
}

impl Decap {
    pub(super) async fn execute(self) -> anyhow::Result<()> {
        logging::start(logging::Format::Text)?;
        let accepts =
            |tunnel, bit| if self.modes.is_empty() || self.modes.contains(&tunnel) { bit } else { 0 };
        let accepts = accepts(Tunnel::Ipip, ACCEPTS_IPIP) | accepts(Tunnel::Gue, ACCEPTS_GUE);
        let from: Vec<_> = self.from.iter().map(|prefix| (prefix.address, prefix.length)).collect();
        let mut program = Decapsulator::load(self.gue_port, accepts, &from)?;
        self.follow_addresses(&mut program)?;
        let (mode, note) = program.attach(&self.interface, self.xdp_mode)?;
        let why = note.map(|note| format!(": {note}")).unwrap_or_default();
        info!("attached to {} ({mode}{why})", self.interface);
        if mode == XdpMode::Generic {
            warn!(
                "in generic mode the kernel may merge packets (GRO) before the program sees them; to stop that: \
                 ethtool -K {} gro off",
                self.interface
            );
        }
        if from.is_empty() {
            warn!(
                "any host that can reach this one can inject packets with any inner source address: restrict the \
                 senders with --from"
            );
        }
        let listen = |kind| signal(kind).context("cannot install signal handlers");
        let (mut terminate, mut interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let (mut addresses, mut report) = (interval(ADDRESSES), interval(REPORT));
        let mut said = program.counters()?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = addresses.tick() => self.follow_addresses(&mut program)?,
                _ = report.tick() => {
                    let now = program.counters()?;
                    if now != said {
                        say(&now);
                        said = now;
                    }
                }
            }
        }
        say(&program.counters()?);
        drop(program);
        info!("detached from {}", self.interface);
        Ok(())
    }

    /// Takes packets for the addresses that the interface has now, or for those that were named.
    fn follow_addresses(&self, program: &mut Decapsulator) -> anyhow::Result<()> {
        let addresses = if self.local.is_empty() {
            addresses_of(&self.interface)?
        } else {
            self.local.iter().copied().collect()
        };
        let written: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        if program.set_local(addresses)? {
            if written.is_empty() {
                warn!("{} no longer has an address: nothing is decapsulated", self.interface);
            } else {
                info!("decapsulating packets to {}", written.join(", "));
            }
        }
        Ok(())
    }
}

/// The addresses that an interface has.
fn addresses_of(interface: &str) -> anyhow::Result<BTreeSet<IpAddr>> {
    let all = getifaddrs().context("cannot read this host's addresses")?;
    let address = |assigned: nix::ifaddrs::InterfaceAddress| {
        let address = assigned.address.filter(|_| assigned.interface_name == interface)?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    Ok(all.filter_map(address).collect())
}

/// Logs the number of packets of each outcome that has any.
fn say(counters: &[u64]) {
    for (outcome, packets) in Outcome::ALL.iter().zip(counters).filter(|(_, packets)| **packets > 0) {
        info!(packets, "{}", outcome.words());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_an_address_with_or_without_its_length() {
        let prefix = |text: &str| text.parse::<Prefix>();
        let is = |address: &str, length| Ok(Prefix { address: address.parse().unwrap(), length });
        assert_eq!(prefix("198.51.100.0/24"), is("198.51.100.0", 24));
        assert_eq!(prefix("198.51.100.2"), is("198.51.100.2", 32));
        assert_eq!(prefix("2001:db8:2::/64"), is("2001:db8:2::", 64));
        assert_eq!(prefix("2001:db8:2::2"), is("2001:db8:2::2", 128));
        for wrong in ["", "198.51.100.0/33", "2001:db8::/129", "198.51.100.0/", "198.51.100.0/-1", "lb/24"] {
            assert!(prefix(wrong).unwrap_err().contains("not a prefix"), "{wrong}");
        }
    }
}
