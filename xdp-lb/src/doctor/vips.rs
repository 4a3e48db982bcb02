//! VIPs that somebody else on a link answers for: clients' packets go to whoever is heard last.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use xdp_lb_common::net::MacAddress;

use super::{Finding, Subject};
use crate::net::look::{Interface, Network};
use crate::net::{claims, ingress};

/// How many VIPs are asked for: each takes a part of a second.
const MOST: usize = 32;

pub(super) fn examine(subject: &Subject<'_>, network: &Network) -> Vec<Finding> {
    // On a link that a router sends them over, nobody answers for them.
    if subject.config.vips.routed {
        return Vec::new();
    }
    let services = &subject.effective.services;
    let vips: BTreeSet<IpAddr> = services.iter().map(|service| service.service.vip.ip()).take(MOST).collect();
    let interfaces = subject.config.interfaces.iter().filter_map(|name| network.interface(name));
    let asked: Vec<(IpAddr, &Interface)> = interfaces
        .filter(|interface| interface.up && interface.carrier)
        .flat_map(|interface| vips.iter().map(move |vip| (*vip, interface)))
        .collect();
    thread::scope(|scope| {
        let asking: Vec<_> = asked.iter().map(|(vip, on)| scope.spawn(move || ask(*vip, on))).collect();
        asking.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
    })
}

fn ask(vip: IpAddr, interface: &Interface) -> Option<Finding> {
    let mac = ingress::mac(&interface.name)?;
    let others = claims::claims(vip, interface.index, mac).ok()?;
    // This host may have it on another interface of the same link.
    let other = others.into_iter().find(|other| !ingress::is_own_mac(*other))?;
    let bits = if vip.is_ipv4() { 32 } else { 128 };
    let asks = if vip.is_ipv4() { "ARP" } else { "neighbour discovery" };
    Some(Finding::new(
        "vips",
        format!(
            "another host on {} answers {asks} for the VIP {vip}: {}. Clients' packets may go there",
            interface.name,
            MacAddress::new(other)
        ),
        format!(
            "on that host: ip address del {vip}/{bits} dev DEV (a backend of mode dsr: see docs/configuration/modes.md)"
        ),
    ))
}
