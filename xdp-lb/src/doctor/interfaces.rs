//! The interfaces: there, up, and without anything before the program.

use std::fs;

use super::{Finding, Subject};
use crate::model::Attach;
use crate::net::kind;
use crate::net::look::{Interface, Network};
use crate::net::offloads::{self, Offloads};

pub(super) fn examine(subject: &Subject<'_>, network: &Network) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in &subject.config.interfaces {
        let Some(interface) = network.interface(name) else {
            findings.push(Finding::new(
                "interfaces",
                format!("interface {name} is in the config but does not exist"),
                format!(
                    "create it, or remove it from `interfaces`; existing interfaces: {}",
                    network.names()
                ),
            ));
            continue;
        };
        findings.extend(state(interface));
        findings.extend(programs(subject, interface));
        if let Ok(offloads) = offloads::offloads(name) {
            let has_vlans = network.interfaces.iter().any(|other| other.vlan_parent == Some(interface.index));
            findings.extend(offloading(name, offloads, has_vlans));
        }
    }
    findings
}

fn state(interface: &Interface) -> Option<Finding> {
    let name = &interface.name;
    if !interface.up {
        return Some(Finding::new("interfaces", format!("{name} is down"), format!("ip link set {name} up")));
    }
    (!interface.carrier).then(|| {
        Finding::new("interfaces", format!("{name} has no carrier"), "check the cable and the switch port")
    })
}

/// How the program is attached, or what is attached in its place.
fn programs(subject: &Subject<'_>, interface: &Interface) -> Option<Finding> {
    // Whose program it is cannot be told, and no advice is better than to detach the daemon's own.
    if subject.hides_programs().is_some() {
        return None;
    }
    let name = &interface.name;
    let attached =
        subject.daemon.and_then(|daemon| daemon.interfaces.iter().find(|attached| &attached.name == name));
    let is_ours = match attached {
        Some(attached) => attached.mode.is_some(),
        None => crate::datapath::is_pinned(&subject.config.pin_path, interface.index),
    };
    if interface.has_xdp && !is_ours {
        return Some(Finding::new(
            "xdp",
            format!("another XDP program is attached to {name}, and an interface can have only one"),
            format!("to identify it: ip link show dev {name}; to detach it: ip link set dev {name} xdp off"),
        ));
    }
    let attached = attached?;
    match attached.mode {
        None => Some(Finding::new(
            "xdp",
            format!("{name}: {}", attached.note.as_deref().unwrap_or("the program is not attached")),
            "fix the cause; the daemon then attaches the program by itself",
        )),
        Some(mode) => {
            unfit(name, mode, kind::of(interface.index).ok().flatten().as_deref(), offloads::has_gro(name))
        }
    }
}

/// XDP that was asked for by name where it loses packets.
fn unfit(name: &str, mode: Attach, kind: Option<&str>, has_gro: bool) -> Option<Finding> {
    let what = match mode {
        Attach::XdpGeneric if has_gro => format!(
            "generic XDP on {name} sees segments that the kernel has joined (GRO): they are larger than the MTU, and large \
             transfers stall; or: ethtool -K {name} gro off"
        ),
        Attach::Xdp if kind == Some("veth") => format!(
            "native XDP on {name}, a veth: packets from its other end have unfinished checksums, unless those are switched off \
             there (ethtool -K DEVICE tx off), and what is transmitted arrives only if that end has an XDP program or GRO"
        ),
        _ => return None,
    };
    Some(Finding::new(
        "offloads",
        what,
        format!("write attach = \"tc\" in the config, or attach = {{ {name} = \"tc\" }}"),
    ))
}

fn offloading(name: &str, offloads: Offloads, has_vlans: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if offloads.takes_tags && has_vlans {
        findings.push(Finding::new(
            "offloads",
            format!("{name} has VLAN devices, but strips VLAN tags before the program sees them"),
            format!("ethtool -K {name} rxvlan off"),
        ));
    }
    if offloads.joins_segments {
        findings.push(Finding::new(
            "offloads",
            format!("{name} merges segments in hardware (LRO): the results are too large to forward, and attaching \
                     XDP may fail"),
            format!("ethtool -K {name} lro off"),
        ));
    }
    findings
}

/// What the program leaves to the host (fragments before their first, ICMP) is held against the reverse path.
pub(super) fn rp_filter(subject: &Subject<'_>) -> Vec<Finding> {
    let value = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok().and_then(|value| value.trim().parse::<u8>().ok()).unwrap_or(0)
    };
    let all = value("all");
    // The kernel takes the larger of the two (ip-sysctl.rst).
    let is_strict = |name: &&String| value(name).max(all) == 1;
    let strict = subject.config.interfaces.iter().filter(is_strict);
    strict
        .map(|name| {
            Finding::new(
                "rp-filter",
                format!(
                    "{name} uses strict reverse path filtering: the host drops packets that the program passes to \
                     it if the route to their sender leaves by another interface"
                ),
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Effective;

    #[test]
    fn without_permission_no_program_is_said_to_be_another_s() {
        let text = "interfaces = [\"eth0\"]\npin_path = \"/sys/fs/bpf/none-of-this-name\"";
        let (config, effective) = (crate::config::parse(text).unwrap(), Effective::default());
        let interface = Interface {
            name: "eth0".into(),
            index: u32::MAX,
            up: true,
            carrier: true,
            mtu: 1500,
            vlan_parent: None,
            has_xdp: true,
        };
        let found = |denied: Option<&str>, pins_are_denied| {
            let denied = denied.map(str::to_owned);
            let subject =
                Subject { config: &config, effective: &effective, daemon: None, denied, pins_are_denied };
            programs(&subject, &interface)
        };
        assert!(found(None, false).unwrap().fix.contains("xdp off"));
        assert_eq!(found(None, true), None);
        assert_eq!(found(Some("no permission to use the socket"), false), None);
    }

    #[test]
    fn offloads_are_found_where_they_harm() {
        let offloads = |takes_tags, joins_segments| Offloads { takes_tags, joins_segments };
        assert_eq!(offloading("eth0", offloads(true, false), false), [], "no VLAN device is on it");
        assert_eq!(offloading("eth0", offloads(true, false), true)[0].fix, "ethtool -K eth0 rxvlan off");
        assert_eq!(offloading("eth0", offloads(false, true), true)[0].fix, "ethtool -K eth0 lro off");
    }
}
