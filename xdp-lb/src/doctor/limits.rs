//! The limits of the process and of the kernel's tables.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, Subject};

/// What a daemon has open beside its checks: tables, sockets, logs.
const OTHER_FILES: u64 = 256;

pub(super) fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let services = &subject.effective.services;
    let backends: u64 = services.iter().map(|service| service.backends.len() as u64).sum();
    let addresses =
        || services.iter().flat_map(|service| &service.backends).map(|backend| backend.backend.address.ip());
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let mut findings: Vec<_> = open_files(files, backends).into_iter().collect();
    for (family, is_ours) in [("ipv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("ipv6", IpAddr::is_ipv6)] {
        let count = addresses().filter(is_ours).collect::<BTreeSet<_>>().len() as u64;
        let limit = fs::read_to_string(format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"));
        let limit = limit.ok().and_then(|limit| limit.trim().parse().ok());
        findings.extend(limit.and_then(|limit| neighbours(family, limit, count)));
    }
    findings
}

/// Each check takes a socket, and a slow one more until it ends.
fn open_files(hard: u64, backends: u64) -> Option<Finding> {
    let needed = 2 * backends + OTHER_FILES;
    (hard < needed).then(|| {
        Finding::new(
            "limits",
            format!("the limit of open files is {hard}, but health checks of {backends} backends may need {needed}"),
            format!("set LimitNOFILE={} in the daemon's unit, or ulimit -Hn", needed.next_power_of_two()),
        )
    })
}

fn neighbours(family: &str, limit: u64, addresses: u64) -> Option<Finding> {
    let needed = 2 * addresses;
    (limit < needed).then(|| {
        Finding::new(
            "limits",
            format!("the {family} neighbour table holds {limit} entries, but there are {addresses} backends"),
            format!("sysctl -w net.{family}.neigh.default.gc_thresh3={}", needed.next_power_of_two()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held_against_the_backends() {
        assert_eq!(open_files(1024, 300), None);
        assert!(open_files(1024, 10_000).unwrap().fix.starts_with("set LimitNOFILE=32768"));
        assert_eq!(neighbours("ipv4", 1024, 100), None);
        assert_eq!(
            neighbours("ipv6", 1024, 1000).unwrap().fix,
            "sysctl -w net.ipv6.neigh.default.gc_thresh3=2048"
        );
    }
}
