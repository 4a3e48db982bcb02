//! The ways to backends and to VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Finding, Subject};
use crate::model::state::VipState;
use crate::model::{Mode, Service};
use crate::net::look::Network;
use crate::net::{Event, NextHop, NoNextHop, Resolver};

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
                    format!("{label} cannot be reached: {why}"),
                    "fix the route, the link or the backend; xdp-lb backend list shows when it is well",
                )),
                None => findings.push(Finding::new(
                    "next-hops",
                    format!("{label} cannot be reached: its next hop is not known after {PATIENCE:?}"),
                    "look whether it answers: ping, ip neigh",
                )),
            }
        }
    }
    Ok(findings)
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
                "{label} is reached through {}, which is not in `interfaces`: its replies may never reach the program",
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
                "{label} is reached through the router {router}, which would send packets to the VIP back"
            ),
            "put it on a link of this host, or choose mode = \"ipip\" or \"gue\"",
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
                "{label} takes packets of {} bytes, and mode {} adds {outer} to clients' of up to {largest}: the larger \
                 ones are answered with \"too big\", and are lost where that is filtered",
                hop.mtu, service.mode
            ),
            format!(
                "raise the MTU towards it, on the switches and at the backend too: ip link set {} mtu {needed}; or \
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
            format!("there is no interface {interface}, which vips.interface names: no VIP can be put on it"),
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
                "service {}: an IPv6 VIP on lo is answered for on no link, so it is reached only where it is routed here",
                service.service.name
            ),
            "write vips.interface = the clients' interface, unless a router has a route for it",
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
