//! Converts DNS records to backends. They are untrusted input, and nothing about them is taken for granted. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record};

use super::Found;
use crate::model::{Backend, Priorities, Service, refusal};

/// The maximum number of reasons: as many as an operator reads.
const MOST_REASONS: usize = 10;

/// A host in an SRV record (RFC 2782).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Target {
    pub(super) is_backup: bool,
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// The addresses in these records.
pub(super) fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        RData::AAAA(address) => Some(IpAddr::from(address.0)),
        _ => None,
    };
    records.iter().filter_map(address).collect()
}

/// The targets, at most `most`, those of the lowest priority first; and the number of targets left out. Those of other priorities
/// are backups, or skipped.
///
/// Weight 0 counts as 1: such a host is selected rarely, but not never (RFC 2782). A target `.` means none.
pub(super) fn targets(records: &[Record], priorities: Priorities, most: usize) -> (Vec<Target>, usize) {
    let services = || {
        records.iter().filter_map(|record| match &record.data {
            RData::SRV(service) if !service.target.is_root() => Some(service),
            _ => None,
        })
    };
    let Some(lowest) = services().map(|service| service.priority).min() else { return (Vec::new(), 0) };
    let target = |service: &SRV| Target {
        is_backup: service.priority != lowest,
        name: service.target.to_lowercase(),
        port: service.port,
        weight: service.weight.max(1),
    };
    let mut targets: Vec<Target> =
        services().map(target).filter(|it| !it.is_backup || priorities == Priorities::Backup).collect();
    // Servers change the order with each answer.
    targets.sort();
    targets.dedup();
    let more = targets.len().saturating_sub(most);
    targets.truncate(most);
    (targets, more)
}

/// The backends that the service allows, each address once: not as a backup unless it is one everywhere, and with the largest of
/// its weights; and why the others are refused.
pub(super) fn allowed(service: &Service, found: impl IntoIterator<Item = Backend>) -> Found {
    let mut by_address: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    for mut backend in found {
        if service.vip.is_range() {
            // In this mode, packets keep their port.
            backend.address.set_port(0);
        }
        let known = by_address.entry(backend.address).or_insert(backend);
        known.weight = known.weight.max(backend.weight);
        known.backup &= backend.backup;
    }
    let mut reasons = Reasons::default();
    let mut backends = Vec::new();
    for backend in by_address.into_values() {
        match refusal(service, &backend) {
            None => backends.push(backend),
            Some(why) => reasons.add(why),
        }
    }
    Found { backends, refused: reasons.into_lines() }
}

/// Reasons. An answer may have thousands.
#[derive(Default)]
pub(super) struct Reasons {
    lines: Vec<String>,
    more: usize,
}

impl Reasons {
    pub(super) fn add(&mut self, line: String) {
        if self.lines.len() < MOST_REASONS {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::rdata::{A, AAAA};

    use super::*;
    use crate::model::Mode;

    fn record(data: RData) -> Record {
        Record::from_rdata(Name::from_str("web.example.com.").unwrap(), 60, data)
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
        record(RData::SRV(SRV::new(priority, weight, port, Name::from_str(target).unwrap())))
    }

    fn service(mode: Mode) -> Service {
        Service { mode, ..Service::new("web", "192.0.2.10:80".parse().unwrap()) }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_lowest_priority_counts_and_weight_0_is_seldom_rather_than_never() {
        let records = [
            srv(10, 5, 8080, "b.example.com."),
            srv(20, 9, 8080, "spare.example.com."),
            srv(10, 0, 8081, "A.example.com."),
            srv(10, 0, 8081, "a.example.com."),
            srv(10, 7, 8080, "."),
            record(RData::A(A::new(198, 51, 100, 1))),
        ];
        let words = |found: &[Target]| -> Vec<String> {
            let backup = |it: &Target| if it.is_backup { " backup" } else { "" };
            found.iter().map(|it| format!("{} {} {}{}", it.name, it.port, it.weight, backup(it))).collect()
        };
        let (found, more) = targets(&records, Priorities::Lowest, 9);
        assert_eq!(words(&found), ["a.example.com. 8081 1", "b.example.com. 8080 5"]);
        assert_eq!(more, 0);
        let (found, _) = targets(&records, Priorities::Backup, 9);
        assert_eq!(words(&found)[2..], ["spare.example.com. 8080 9 backup"]);
        let (few, more) = targets(&records, Priorities::Lowest, 1);
        assert_eq!((few.len(), more), (1, 1));
        let none = targets(&[srv(0, 0, 0, ".")], Priorities::Lowest, 9);
        assert_eq!(none, (vec![], 0), "the service is decidedly not there");
    }

    #[test]
    fn addresses_are_those_of_both_families_and_of_nothing_else() {
        let records = [
            record(RData::A(A::new(198, 51, 100, 1))),
            record(RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
            srv(1, 1, 1, "a.example.com."),
        ];
        let expected: [IpAddr; 2] = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(addresses(&records), expected);
    }

    #[test]
    fn what_no_backend_may_be_is_refused_with_the_reason_and_the_rest_is_taken() {
        let found = [
            ("198.51.100.1:80", 3),
            ("127.0.0.1:80", 1),
            ("224.0.0.1:80", 1),
            ("[2001:db8::1]:80", 1),
            ("192.0.2.10:80", 1),
            ("198.51.100.2:0", 1),
            ("198.51.100.1:80", 7),
            ("0.0.0.0:80", 1),
        ]
        .map(|(address, weight)| Backend::new(at(address), weight));
        let allowed_in = |mode| allowed(&service(mode), found);
        let Found { backends, refused } = allowed_in(Mode::FullNat);
        assert_eq!(backends, [Backend::new(at("198.51.100.1:80"), 7)]);
        let text = refused.join("\n");
        assert_eq!(refused.len(), 6, "{text}");
        for (address, why) in [
            ("127.0.0.1:80", "loopback"),
            ("224.0.0.1:80", "multicast"),
            ("[2001:db8::1]:80", "IPv6"),
            ("192.0.2.10:80", "is the VIP"),
            ("198.51.100.2:0", "port 0"),
            ("0.0.0.0:80", "unspecified address"),
        ] {
            assert!(
                refused.iter().any(|line| line.contains(address) && line.contains(why)),
                "{address}: {text}"
            );
        }
        assert_eq!(allowed_in(Mode::Ipip).backends.len(), 2, "tunnels take both families");
    }

    #[test]
    fn a_service_of_many_ports_takes_hosts_whatever_port_is_told() {
        let many = Service { ..Service::new("web", "192.0.2.10:5000-5999".parse().unwrap()) };
        let found = [1, 2].map(|port| Backend::new(SocketAddr::from(([198, 51, 100, 1], port)), port));
        let Found { backends, refused } = allowed(&many, found);
        assert_eq!((backends, refused), (vec![Backend::new(at("198.51.100.1:0"), 2)], vec![]));
    }

    #[test]
    fn thousands_of_reasons_are_told_in_few_lines() {
        let found = (0..=255u8).map(|host| Backend::new(([127, 0, 0, host], 80).into(), 1));
        let refused = allowed(&service(Mode::Nat), found).refused;
        assert_eq!(refused.len(), MOST_REASONS + 1);
        assert_eq!(refused[MOST_REASONS], "and 246 more");
    }
}
