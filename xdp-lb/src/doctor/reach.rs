//! The ways to backends and to VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Finding, Subject};
use crate::model::state::VipState;
use crate::model::{Attach, Mode, Service};
use crate::net::look::{Interface, Network};
use crate::net::netdev::{Features, Netdev};
use crate::net::{Event, NextHop, NoNextHop, Resolver};
use crate::report::losses::takes_no_redirected;

/// How long a neighbour may take to answer: the kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(4);

/// Events that may wait.
const QUEUE: usize = 1024;

type Hops = BTreeMap<IpAddr, Result<NextHop, NoNextHop>>;

pub(super) async fn examine(subject: &Subject<'_>, network: &Network) -> Result<Vec<Finding>> {
    let hops = hops(subject).await?;
    let mut findings = Vec::new();
    for service in &subject.effective.services {
        for backend in &service.backends {
            let address = backend.backend.address;
            let label = format!("service {}: backend {address}", service.service.name);
            match hops.get(&address.ip()) {
                Some(Ok(hop)) => findings.extend(way(subject, network, &service.service, &label, hop)),
                Some(Err(why)) => findings.push(Finding::new(
                    "next-hops",
                    format!("{label} is unreachable: {why}"),
                    "fix the route, the link or the backend; xdp-lb backend list shows when it has recovered",
                )),
                None => findings.push(Finding::new(
                    "next-hops",
                    format!("{label} is unreachable: its next hop did not resolve within {PATIENCE:?}"),
                    "check whether it answers: ping, ip neigh",
                )),
            }
        }
    }
    findings.extend(redirects(subject, network, hops.values().flatten()));
    Ok(findings)
}

/// The interfaces towards backends whose drivers do not transmit what programs in other drivers redirect to them.
fn redirects<'a>(
    subject: &Subject<'_>,
    network: &Network,
    hops: impl Iterator<Item = &'a NextHop>,
) -> Vec<Finding> {
    // Before Linux 6.3, only lost packets tell.
    let Ok(Some(netdev)) = Netdev::open() else { return Vec::new() };
    let is_native = |interface: &Interface| match subject.daemon {
        Some(daemon) => {
            daemon.interfaces.iter().any(|it| it.index == interface.index && it.mode == Some(Attach::Xdp))
        }
        // `auto` is native only where that fits every interface.
        None => {
            subject.config.attach.of(&interface.name) == Attach::Xdp
                && netdev.features(interface.index).is_ok_and(Features::runs_programs)
        }
    };
    let configured = subject.config.interfaces.iter().filter_map(|name| network.interface(name));
    let native: Vec<&Interface> = configured.filter(|interface| is_native(interface)).collect();
    let towards: BTreeMap<u32, &str> = hops.map(|hop| (hop.ifindex, hop.interface.as_str())).collect();
    let loses = |(index, _): &(u32, &str)| {
        native.iter().any(|interface| interface.index != *index)
            && netdev.features(*index).is_ok_and(|features| !features.transmits_redirected())
    };
    let finding = |(_, name): (u32, &str)| {
        let (cause, fix) = takes_no_redirected(name);
        Finding::new("redirects", format!("{cause}, so every packet to the backends behind it is lost"), fix)
    };
    towards.into_iter().filter(loses).map(finding).collect()
}

/// The next hops of all backends, as far as they become known.
async fn hops(subject: &Subject<'_>) -> Result<Hops> {
    let services = &subject.effective.services;
    let wanted: BTreeSet<IpAddr> = services
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| backend.backend.address.ip())
        .collect();
    let (told, mut heard) = mpsc::channel(QUEUE);
    let (resolver, _) = Resolver::start(told).await?;
    resolver.watch(wanted.clone());
    let deadline = Instant::now() + PATIENCE;
    let mut hops = Hops::new();
    while hops.len() < wanted.len() {
        match timeout_at(deadline, heard.recv()).await {
            Ok(Some(Event::NextHop { address, next_hop })) => drop(hops.insert(address, next_hop)),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    Ok(hops)
}

/// What is wrong with a way that there is.
fn way(
    subject: &Subject<'_>,
    network: &Network,
    service: &Service,
    label: &str,
    hop: &NextHop,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let covered = |name: &str| subject.config.interfaces.iter().any(|interface| interface == name);
    let transmitter = network.interfaces.iter().find(|interface| interface.index == hop.ifindex);
    let is_covered = covered(&hop.interface) || transmitter.is_some_and(|interface| covered(&interface.name));
    if !is_covered && !service.mode.keeps_destination() {
        findings.push(Finding::new(
            "next-hops",
            format!(
                "{label} is reached through {}, which is not in `interfaces`: the program may never see its replies",
                hop.interface
            ),
            format!("add {} to `interfaces` (of a VLAN device: its parent)", hop.interface),
        ));
    }
    if service.mode == Mode::Dsr
        && let Some(router) = hop.router
    {
        findings.push(Finding::new(
            "next-hops",
            format!(
                "{label} is reached through router {router}, which would route packets to the VIP back here"
            ),
            "put it on a link of this host, or use mode = \"ipip\" or \"gue\"",
        ));
    }
    findings.extend(mtu(subject, network, service, label, hop));
    findings
}

/// Clients send packets as large as the links that they come in by.
fn mtu(
    subject: &Subject<'_>,
    network: &Network,
    service: &Service,
    label: &str,
    hop: &NextHop,
) -> Option<Finding> {
    let outer = outer_bytes(service.mode, hop.source)?;
    let largest = subject.config.interfaces.iter().filter_map(|name| network.interface(name));
    let largest = largest.map(|interface| interface.mtu).max()?;
    let needed = largest + outer;
    (hop.mtu < needed).then(|| {
        Finding::new(
            "mtu",
            format!(
                "the path MTU to {label} is {}, but mode {} adds {outer} bytes to client packets of up to \
                 {largest}: larger ones are answered with ICMP \"too big\", and are lost if that is filtered",
                hop.mtu, service.mode
            ),
            format!(
                "raise the MTU towards it, also on the switches and the backend: ip link set {} mtu {needed}; or \
                 clamp the clients' MSS",
                hop.interface
            ),
        )
    })
}

/// How many bytes the outer headers of a mode have, towards a backend of this address's family.
fn outer_bytes(mode: Mode, backend: IpAddr) -> Option<u32> {
    let ip = if backend.is_ipv4() { 20 } else { 40 };
    match mode {
        Mode::Ipip => Some(ip),
        Mode::Gue => Some(ip + 8),
        Mode::FullNat | Mode::Nat | Mode::Dsr => None,
    }
}

/// The VIPs that the daemon puts on this host. Those that it does not are the host's own.
pub(super) fn vips(subject: &Subject<'_>, network: &Network) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(interface) = &subject.config.vips.interface else { return findings };
    if network.interface(interface).is_none() {
        findings.push(Finding::new(
            "vips",
            format!("vips.interface names {interface}, which does not exist: no VIP can be added"),
            format!("create it, or write one of {}", network.names()),
        ));
    }
    let v6 = subject.effective.services.iter().find(|service| !service.service.vip.is_ipv4());
    if interface == "lo"
        && let Some(service) = v6
    {
        findings.push(Finding::new(
            "vips",
            format!(
                "service {}: neighbour discovery does not answer for an IPv6 VIP on lo, so it is reachable only if \
                 a router routes it here",
                service.service.name
            ),
            "set vips.interface to the interface towards clients, unless a router has a route for the VIP",
        ));
    }
    for vip in subject.daemon.iter().flat_map(|daemon| &daemon.vips) {
        if matches!(vip.state, VipState::Missing | VipState::Stays) {
            findings.push(Finding::new(
                "vips",
                format!("the VIP {} is {}", vip.address, vip.state.name()),
                vip.note.clone().unwrap_or_else(|| "see the daemon's log".into()),
            ));
        }
    }
    findings
}
