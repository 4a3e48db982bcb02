//! FRR.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Addresses, BFD_MILLISECONDS, BFD_TIMES, Bgp, Family, LESS_PREFERRED, PREPENDED};

/// A config file of FRR's.
#[must_use]
pub fn frr(addresses: &Addresses, bgp: &Bgp) -> String {
    let mut text = "! In /etc/frr/daemons: bgpd=yes".to_owned();
    text += if bgp.bfd { ", bfdd=yes\n" } else { "\n" };
    text += "frr defaults traditional\nlog syslog informational\n!\n";
    let families = Family::ALL.map(|family| (family, addresses.of_family(family)));
    let families: Vec<_> = families.into_iter().filter(|(_, addresses)| !addresses.is_empty()).collect();
    for (family, addresses) in &families {
        text += &lists(*family, addresses, bgp);
    }
    if bgp.bfd {
        text += &format!(
            "bfd\n profile xdp-lb\n  detect-multiplier {BFD_TIMES}\n  receive-interval {BFD_MILLISECONDS}\n  \
             transmit-interval {BFD_MILLISECONDS}\n exit\nexit\n!\n"
        );
    }
    let Bgp { own, theirs, id, .. } = bgp;
    text += &format!("router bgp {own}\n bgp router-id {id}\n no bgp default ipv4-unicast\n");
    // What is not an address of this host is announced all the same.
    text += " no bgp network import-check\n";
    let is_used = |router: &&IpAddr| families.iter().any(|(family, _)| family.has(router));
    for router in bgp.routers.iter().filter(is_used) {
        let _ = writeln!(text, " neighbor {router} remote-as {theirs}");
        if bgp.bfd {
            let _ = writeln!(text, " neighbor {router} bfd profile xdp-lb");
        }
    }
    for (family, addresses) in &families {
        text += &sessions(*family, addresses, bgp);
    }
    text + "exit\n!\n"
}

/// The lists of what is announced of a family, and how.
fn lists(family: Family, addresses: &Addresses, bgp: &Bgp) -> String {
    let (number, ip) = (family.number(), ip(family));
    let served: BTreeSet<IpAddr> = addresses.vips.union(&addresses.own).copied().collect();
    let others: BTreeSet<IpAddr> = addresses.others.difference(&served).copied().collect();
    let mut text = String::new();
    for (name, addresses) in [("vips", &addresses.vips), ("served", &served), ("others", &others)] {
        for (place, address) in (1..).zip(addresses) {
            let place = 5 * place;
            let prefix = family.prefix(address);
            let _ = writeln!(text, "{ip} prefix-list xdp-lb-{name}{number} seq {place} permit {prefix}");
        }
    }
    let matching = |name: &str| format!(" match {ip} address prefix-list xdp-lb-{name}{number}\n");
    if !addresses.vips.is_empty() {
        text += &format!("route-map xdp-lb-vips{number} permit 10\n{}exit\n", matching("vips"));
    }
    if !served.is_empty() {
        text += &format!("route-map xdp-lb-out{number} permit 10\n{}exit\n", matching("served"));
    }
    if !others.is_empty() {
        text += "! Other nodes', which are preferred while they live.\n";
        text += &format!("route-map xdp-lb-out{number} permit 20\n{}", matching("others"));
        text += &match bgp.is_internal() {
            true => format!(" set local-preference {LESS_PREFERRED}\n"),
            false => format!(" set as-path prepend{}\n", format!(" {}", bgp.own).repeat(PREPENDED)),
        };
        text += "exit\n";
    }
    text + &format!("route-map xdp-lb-in{number} deny 10\nexit\n!\n")
}

/// What a family's sessions announce.
fn sessions(family: Family, addresses: &Addresses, bgp: &Bgp) -> String {
    let number = family.number();
    let mut text = format!(" address-family ipv{number} unicast\n");
    let mut networks: BTreeSet<IpAddr> = addresses.own.union(&addresses.others).copied().collect();
    match &addresses.interface {
        // A VIP that the daemon withdraws is withdrawn.
        Some(_) if !addresses.vips.is_empty() => {
            text += &format!("  redistribute connected route-map xdp-lb-vips{number}\n");
        }
        _ => networks.extend(&addresses.vips),
    }
    for address in &networks {
        let _ = writeln!(text, "  network {}", family.prefix(address));
    }
    for router in bgp.routers.iter().filter(|it| family.has(it)) {
        let _ = writeln!(text, "  neighbor {router} activate");
        let _ = writeln!(text, "  neighbor {router} route-map xdp-lb-in{number} in");
        let _ = writeln!(text, "  neighbor {router} route-map xdp-lb-out{number} out");
    }
    text + " exit-address-family\n"
}

fn ip(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ipv6" }
}
