//! Host settings that only the operator can change: checks and warnings.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::{fmt, fs};

use nix::ifaddrs::getifaddrs;

use crate::model::{Config, Effective, EffectiveService, Mode, PortRange, Service};

/// Maximum number of warnings of one kind.
const MOST: usize = 10;

/// A host whose settings can be read.
pub trait Host {
    /// A sysctl's value, by its path under `/proc/sys`. `None` if it does not exist.
    fn sysctl(&self, path: &str) -> Option<String>;
    /// Whether this is an address of the host.
    fn is_local(&self, address: IpAddr) -> bool;
}

/// This host, in the daemon's network namespace.
#[derive(Clone, Copy, Debug)]
pub struct ThisHost;

impl Host for ThisHost {
    fn sysctl(&self, path: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/sys/{path}")).ok().map(|value| value.trim().to_owned())
    }

    fn is_local(&self, address: IpAddr) -> bool {
        let is_assigned = getifaddrs().is_ok_and(|mut assigned| {
            assigned.any(|assigned| {
                let address_of = assigned.address.as_ref();
                address_of.and_then(|it| it.as_sockaddr_in()).is_some_and(|v4| v4.ip() == address)
                    || address_of.and_then(|it| it.as_sockaddr_in6()).is_some_and(|v6| v6.ip() == address)
            })
        });
        // A local route also makes an address this host's, and then it can be bound. With ip_nonlocal_bind, every address can.
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let binds_any =
            self.sysctl(&format!("net/{family}/ip_nonlocal_bind")).is_some_and(|value| value != "0");
        is_assigned || !binds_any && UdpSocket::bind((address, 0)).is_ok()
    }
}

/// A missing setting of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostProblem {
    /// What is missing, and the consequence.
    pub what: String,
    /// The fix.
    pub fix: String,
}

impl fmt::Display for HostProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

/// Missing settings for these services.
pub fn lacks(host: &impl Host, config: &Config, effective: &Effective) -> Vec<HostProblem> {
    let mut lines = forwarding(host, config, effective);
    lines.extend(ports(host, config.snat_ports, effective));
    lines.extend(addresses(host, config, effective));
    lines
}

/// Missing settings for services that need more than before.
pub fn new_problems(
    host: &impl Host,
    config: &Config,
    before: &Effective,
    after: &Effective,
) -> Vec<HostProblem> {
    let needs_as_much = |one: &Service, other: &Service| {
        let needs = |it: &Service| (it.vip, it.mode);
        one.name == other.name
            && needs(one) == needs(other)
            && one.snat_addresses.iter().all(|address| other.snat_addresses.contains(address))
    };
    let is_new = |service: &&EffectiveService| {
        !before.services.iter().any(|it| needs_as_much(&service.service, &it.service))
    };
    let services: Vec<_> = after.services.iter().filter(is_new).cloned().collect();
    if services.is_empty() {
        return Vec::new();
    }
    let names: BTreeSet<&str> = services.iter().map(|it| it.service.name.as_str()).collect();
    let is_named = |it: &&EffectiveService| names.contains(it.service.name.as_str());
    let old = Effective { services: before.services.iter().filter(is_named).cloned().collect() };
    let known = lacks(host, config, &old);
    let mut lines = lacks(host, config, &Effective { services: services.clone() });
    lines.retain(|line| !known.contains(line));
    lines
}

fn forwarding(host: &impl Host, config: &Config, effective: &Effective) -> Vec<HostProblem> {
    let mut lines = Vec::new();
    for (is_v4, family, all) in
        [(true, "ipv4", "net.ipv4.ip_forward"), (false, "ipv6", "net.ipv6.conf.all.forwarding")]
    {
        let needs_it = |service: &&EffectiveService| {
            service.service.mode == Mode::Nat && service.service.vip.is_ipv4() == is_v4
        };
        let Some(service) = effective.services.iter().find(needs_it) else { continue };
        let is_off = |interface: &&String| {
            host.sysctl(&format!("net/{family}/conf/{interface}/forwarding")).as_deref() == Some("0")
        };
        let off: Vec<&str> = config.interfaces.iter().filter(is_off).map(String::as_str).collect();
        let of_each: Vec<String> =
            off.iter().map(|interface| format!("net.{family}.conf.{interface}.forwarding=1")).collect();
        if !off.is_empty() {
            lines.push(HostProblem {
                what: format!(
                    "service {} has mode nat, but {family} forwarding is off on {}, so replies to its clients are \
                     dropped",
                    service.service.name,
                    off.join(", ")
                ),
                fix: if host.sysctl(&all.replace('.', "/")).as_deref() == Some("1") {
                    // To write what is there already changes nothing for the interfaces.
                    format!("sysctl -w {}", of_each.join(" "))
                } else {
                    format!("sysctl -w {all}=1")
                },
            });
        }
    }
    lines
}

/// The same sysctls hold for IPv6.
fn ports(host: &impl Host, snat: PortRange, effective: &Effective) -> Option<HostProblem> {
    let service = effective.services.iter().find(|service| service.service.mode == Mode::FullNat)?;
    let local = host.sysctl("net/ipv4/ip_local_port_range")?;
    let mut ends = local.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else { return None };
    let (first, last) = (snat.first.max(low), snat.last.min(high));
    let reserved = host.sysctl("net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let is_reserved = reserved.split(',').any(|range| {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let inside = |low: u16, high: u16| low <= first && last <= high;
        matches!((low.trim().parse(), high.trim().parse()), (Ok(low), Ok(high)) if inside(low, high))
    });
    (first <= last && !is_reserved).then(|| HostProblem {
        what: format!(
            "snat_ports = \"{snat}\" overlaps this host's own ports ({low}-{high}), so service {} may intercept \
             connections of this host",
            service.service.name
        ),
        fix: format!(
            "choose other ports, or reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={first}-{last}"
        ),
    })
}

fn addresses(host: &impl Host, config: &Config, effective: &Effective) -> Vec<HostProblem> {
    let device = config.interfaces.first().map_or("lo", String::as_str);
    let prefix = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let (mut vips, mut snat) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for service in effective.services.iter().map(|service| &service.service) {
        let vip = service.vip.ip();
        // VIPs managed by the daemon may be withdrawn.
        let is_own = config.vips.interface.is_none() && !config.vips.routed;
        if seen.insert(vip) && is_own && !host.is_local(vip) {
            let asks = if vip.is_ipv4() { "ARP" } else { "neighbour discovery" };
            vips.push(HostProblem {
                what: format!(
                    "service {}: this host does not own the VIP {vip}; {asks} does not answer for it, so clients \
                     reach it only if a router sends it here",
                    service.name
                ),
                fix: format!(
                    "ip address add {vip}/{} dev {device}, or let the daemon do it: vips.interface; if a router sends it \
                     here, say so: vips.routed = true",
                    prefix(vip)
                ),
            });
        }
        let sees = if service.mode == Mode::FullNat { &service.snat_addresses[..] } else { &[] };
        for address in sees {
            if seen.insert(*address) && !host.is_local(*address) {
                snat.push(HostProblem {
                    what: format!(
                        "service {}: this host does not own {address} of snat_addresses, so replies to it may not \
                         arrive here",
                        service.name
                    ),
                    fix: format!("ip address add {address}/{} dev {device}", prefix(*address)),
                });
            }
        }
    }
    [(vips, "VIPs"), (snat, "snat_addresses")]
        .into_iter()
        .flat_map(|(lines, what)| bounded(lines, what))
        .collect()
}

fn bounded(mut lines: Vec<HostProblem>, what: &str) -> Vec<HostProblem> {
    let more = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    lines.extend((more > 0).then(|| HostProblem {
        what: format!("and {more} more {what} are not addresses of this host"),
        fix: "add them the same way".into(),
    }));
    lines
}

#[cfg(test)]
mod tests {
    use crate::overlay;
    use std::collections::HashMap;

    use super::*;
    use crate::config::{self};
    use crate::overlay::Overlay;

    #[derive(Default)]
    struct Described {
        sysctls: HashMap<&'static str, &'static str>,
        addresses: Vec<IpAddr>,
    }

    impl Host for Described {
        fn sysctl(&self, path: &str) -> Option<String> {
            self.sysctls.get(path).map(|value| (*value).to_owned())
        }

        fn is_local(&self, address: IpAddr) -> bool {
            self.addresses.contains(&address)
        }
    }

    fn said(host: &Described, config: &str) -> Vec<String> {
        let config = config::parse(&format!("interfaces = [\"eth0\", \"eth1\"]\n{config}")).unwrap();
        let effective = overlay::effective(&config, &Overlay::default()).unwrap();
        lacks(host, &config, &effective).iter().map(ToString::to_string).collect()
    }

    const NAT6: &str = "[[service]]\nname = \"web\"\nvip = \"[2001:db8::10]:80\"\nmode = \"nat\"\n";
    const FULL_NAT: &str =
        "[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nsnat_addresses = [\"198.51.100.2\"]\n";

    #[test]
    fn nat_needs_forwarding_on_for_its_family() {
        let host = |v4, v6| Described {
            sysctls: [
                ("net/ipv4/conf/eth0/forwarding", v4),
                ("net/ipv4/conf/eth1/forwarding", v4),
                ("net/ipv6/conf/eth0/forwarding", "1"),
                ("net/ipv6/conf/eth1/forwarding", v6),
            ]
            .into(),
            addresses: vec!["2001:db8::10".parse().unwrap()],
        };
        assert_eq!(said(&host("0", "1"), NAT6), Vec::<String>::new());
        let lines = said(&host("1", "0"), NAT6);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("ipv6 forwarding is off on eth1"), "{lines:?}");
        assert!(lines[0].ends_with("sysctl -w net.ipv6.conf.all.forwarding=1"), "{lines:?}");
    }

    #[test]
    fn full_nat_needs_ports_that_the_host_does_not_use() {
        let addresses = ["192.0.2.10".parse().unwrap(), "198.51.100.2".parse().unwrap()];
        let host = |range, reserved| Described {
            sysctls: [
                ("net/ipv4/ip_local_port_range", range),
                ("net/ipv4/ip_local_reserved_ports", reserved),
            ]
            .into(),
            addresses: addresses.into(),
        };
        assert_eq!(said(&host("32768\t60999", ""), FULL_NAT), Vec::<String>::new());
        assert_eq!(said(&host("30000\t60999", "80,29000-33000"), FULL_NAT), Vec::<String>::new());
        let lines = said(&host("30000\t60999", "80"), FULL_NAT);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("ip_local_reserved_ports=30000-32767"), "{lines:?}");
        assert_eq!(said(&host("1024\t60999", ""), ""), Vec::<String>::new());
    }

    #[test]
    fn an_address_that_is_not_this_hosts_is_said_with_the_command_that_mends_it() {
        let lines = said(&Described::default(), FULL_NAT);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("ip address add 192.0.2.10/32 dev eth0, or let the daemon"), "{lines:?}");
        assert!(lines[1].ends_with("ip address add 198.51.100.2/32 dev eth0"), "{lines:?}");
    }

    #[test]
    fn of_vips_that_the_daemon_adds_itself_nothing_is_said() {
        let lines = said(&Described::default(), &format!("vips.interface = \"lo\"\n{FULL_NAT}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("snat_addresses"), "{lines:?}");
    }

    #[test]
    fn a_change_is_told_what_it_lacks_anew() {
        let file = |snat: &str| {
            let text = format!(
                "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nsnat_addresses = [{snat}]\n"
            );
            let config = config::parse(&text).unwrap();
            let effective = overlay::effective(&config, &Overlay::default()).unwrap();
            (config, effective)
        };
        let host = Described { addresses: vec!["198.51.100.1".parse().unwrap()], ..Described::default() };
        let [(config, own), (_, foreign), (_, both)] =
            ["\"198.51.100.1\"", "\"198.51.100.2\"", "\"198.51.100.1\", \"198.51.100.2\""].map(file);
        let said = |before, after| {
            let lacks = new_problems(&host, &config, before, after);
            lacks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for after in [&foreign, &both] {
            let lines = said(&own, after);
            assert_eq!(lines.len(), 1, "{lines:?}: not the VIP, which was missing before");
            assert!(lines[0].contains("does not own 198.51.100.2 of snat_addresses"), "{lines:?}");
        }
        assert_eq!(said(&foreign, &own), Vec::<String>::new());
        assert_eq!(said(&foreign, &foreign), Vec::<String>::new());
    }

    #[test]
    fn many_addresses_are_said_in_few_lines() {
        let services =
            (1..=40).map(|n| format!("[[service]]\nname = \"web{n}\"\nvip = \"192.0.2.{n}:80\"\n"));
        let lines = said(&Described::default(), &services.collect::<String>());
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!(lines[MOST], "and 30 more VIPs are not addresses of this host: add them the same way");
    }

    #[test]
    fn loopback_is_this_hosts_and_a_documentation_address_is_not() {
        assert!(ThisHost.is_local("127.0.0.1".parse().unwrap()));
        assert!(ThisHost.is_local("127.7.7.7".parse().unwrap()), "by a local route");
        assert!(!ThisHost.is_local("192.0.2.254".parse().unwrap()));
    }
}
