//! BIRD 2.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Addresses, BFD_MILLISECONDS, BFD_TIMES, Bgp, Family, LESS_PREFERRED, PREPENDED};

/// A config file of BIRD's.
#[must_use]
pub fn bird(addresses: &Addresses, bgp: &Bgp) -> String {
    let mut text = format!("log syslog all;\nrouter id {};\n\nprotocol device {{\n}}\n", bgp.id);
    let families = Family::ALL.map(|family| (family, addresses.of_family(family)));
    if let Some(interface) = &addresses.interface {
        text += "\n# The VIPs that the daemon has put here; one that it withdraws is withdrawn.\n";
        text += &format!("protocol direct xdp_lb_vips {{\n\tipv4;\n\tipv6;\n\tinterface \"{interface}\";\n}}\n");
    }
    for (family, addresses) in families.iter().filter(|(_, addresses)| !addresses.is_empty()) {
        text += &of_family(*family, addresses, bgp);
    }
    if bgp.bfd {
        text += "\nprotocol bfd xdp_lb_bfd {\n\tinterface \"*\" {\n";
        text += &format!("\t\tinterval {BFD_MILLISECONDS} ms;\n\t\tmultiplier {BFD_TIMES};\n\t}};\n}}\n");
    }
    for (number, router) in (1..).zip(&bgp.routers) {
        let family = if router.is_ipv4() { Family::V4 } else { Family::V6 };
        if families.iter().any(|(it, addresses)| *it == family && !addresses.is_empty()) {
            text += &session(number, router, family, bgp);
        }
    }
    text
}

/// What is announced of a family.
fn of_family(family: Family, addresses: &Addresses, bgp: &Bgp) -> String {
    let number = family.number();
    // What is not an address of this host has a route that the kernel is not told of.
    let mut routes: BTreeSet<IpAddr> = addresses.own.union(&addresses.others).copied().collect();
    if addresses.interface.is_none() {
        routes.extend(&addresses.vips);
    }
    let mut text = String::new();
    if !routes.is_empty() {
        text += &format!("\nprotocol static xdp_lb_static{number} {{\n\tipv{number};\n");
        for address in &routes {
            let _ = writeln!(text, "\troute {} blackhole;", family.prefix(address));
        }
        text += "}\n";
    }
    text += &format!("\nfilter xdp_lb_export{number} {{\n");
    let served: BTreeSet<IpAddr> = addresses.vips.union(&addresses.own).copied().collect();
    if !served.is_empty() {
        text += &format!("\tif net ~ {} then accept;\n", set(family, &served));
    }
    let others: BTreeSet<IpAddr> = addresses.others.difference(&served).copied().collect();
    if !others.is_empty() {
        text += "\t# Other nodes', which are preferred while they live.\n";
        text += &format!("\tif net ~ {} then {{\n", set(family, &others));
        if bgp.is_internal() {
            text += &format!("\t\tbgp_local_pref = {LESS_PREFERRED};\n");
        } else {
            text += &format!("\t\tbgp_path.prepend({});\n", bgp.own).repeat(PREPENDED);
        }
        text += "\t\taccept;\n\t}\n";
    }
    text + "\treject;\n}\n"
}

fn set(family: Family, addresses: &BTreeSet<IpAddr>) -> String {
    let prefixes: Vec<_> = addresses.iter().map(|it| family.prefix(it)).collect();
    format!("[ {} ]", prefixes.join(", "))
}

fn session(number: usize, router: &IpAddr, family: Family, bgp: &Bgp) -> String {
    let Bgp { own, theirs, bfd, .. } = bgp;
    let bfd = if *bfd { "\tbfd on;\n" } else { "" };
    let channel = family.number();
    format!(
        "\nprotocol bgp xdp_lb_router{number} {{\n\tlocal as {own};\n\tneighbor {router} as {theirs};\n{bfd}\tipv{channel} {{\n\
         \t\timport none;\n\t\texport filter xdp_lb_export{channel};\n\t\tnext hop self;\n\t}};\n}}\n"
    )
}
