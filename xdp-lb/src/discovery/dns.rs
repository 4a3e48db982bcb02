//! Discovery of backends by DNS, with another lookup when the answer's TTL ends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::answer::{Target, addresses, allowed, targets};
use super::lookup::{Answer, Resolvers};
use super::{Found, Update};
use crate::model::{Backend, Discovery, Dns, OnEmpty, Record, Service};

/// The maximum time between failed lookups, unless `min_ttl` is longer.
const SLOWEST_RETRY: Duration = Duration::from_secs(30);

/// The number of hosts of SRV records that are looked up at a time.
const HOSTS_AT_A_TIME: usize = 16;

/// Looks up a service's backends until nobody listens any more.
pub(super) async fn follow(service: Service, discovery: Discovery, dns: Dns, updates: mpsc::Sender<Update>) {
    let mut lookup =
        Lookup { resolvers: Resolvers::new(&dns.resolvers, dns.timeout), service, discovery, dns };
    let mut failures = 0;
    loop {
        let (result, ttl) = lookup.look_up().await;
        failures = if ttl.is_none() { failures + 1 } else { 0 };
        let next = lookup.wait(ttl, failures);
        let (service, discovery) = (lookup.service.name.clone(), lookup.discovery.clone());
        if updates.send(Update { service, discovery, result, next: Some(next) }).await.is_err() {
            return;
        }
        // So that the lookups of many services that started together drift apart.
        sleep(next.mul_f64(rand::random_range(1.0..1.1))).await;
    }
}

struct Lookup {
    service: Service,
    discovery: Discovery,
    dns: Dns,
    resolvers: Resolvers,
}

/// The result, or why there is none; and how long it is valid, if there was an answer.
type Outcome = (Result<Found, String>, Option<Duration>);

impl Lookup {
    async fn look_up(&mut self) -> Outcome {
        let record = self.dns.record(self.service.vip.is_ipv4());
        let mut name = match Name::from_ascii(&self.dns.name) {
            Ok(name) => name,
            Err(error) => return (Err(format!("{} is not a DNS name: {error}", self.dns.name)), None),
        };
        name.set_fqdn(true);
        if let Err(why) = self.resolvers.prepare() {
            return (Err(failed(&name, &why)), None);
        }
        match record {
            Record::A => self.by_address(&name, RecordType::A).await,
            Record::Aaaa => self.by_address(&name, RecordType::AAAA).await,
            Record::Srv => self.by_service(&name).await,
        }
    }

    async fn by_address(&self, name: &Name, record: RecordType) -> Outcome {
        let port = self.dns.port.unwrap_or(self.service.vip.port());
        match self.resolvers.ask(name, record).await {
            Ok(Answer::Records(records, ttl)) => {
                let backend = |it| Backend::new(SocketAddr::new(it, port), self.dns.weight);
                let found = addresses(&records).into_iter().map(backend);
                (Ok(allowed(&self.service, found)), Some(ttl))
            }
            Ok(Answer::Nothing(why, ttl)) => self.nothing(name, &why, ttl),
            Err(why) => (Err(failed(name, &why)), None),
        }
    }

    async fn by_service(&self, name: &Name) -> Outcome {
        let (records, mut ttl) = match self.resolvers.ask(name, RecordType::SRV).await {
            Ok(Answer::Records(records, ttl)) => (records, ttl),
            Ok(Answer::Nothing(why, ttl)) => return self.nothing(name, &why, ttl),
            Err(why) => return (Err(failed(name, &why)), None),
        };
        let (targets, more) = targets(&records, self.dns.priorities, self.discovery.max_backends as usize);
        if targets.is_empty() {
            return self.nothing(name, "its SRV record says that the service does not exist", Some(ttl));
        }
        let mut found = Vec::new();
        let mut missing = Vec::new();
        let look_up = async |target: Target| (self.addresses_of(&target.name).await, target);
        let mut hosts = stream::iter(targets).map(look_up).buffered(HOSTS_AT_A_TIME);
        while let Some((result, Target { is_backup, name: target, port, weight })) = hosts.next().await {
            match result {
                Ok((addresses, valid)) => {
                    ttl = ttl.min(valid);
                    if addresses.is_empty() {
                        missing.push(format!("SRV target {target} has no address"));
                    }
                    found.extend(addresses.into_iter().map(|it| Backend {
                        backup: is_backup,
                        ..Backend::new(SocketAddr::new(it, port), weight)
                    }));
                }
                // Half of an answer would drain the other half.
                Err(why) => return (Err(failed(&target, &why)), None),
            }
        }
        let mut found = allowed(&self.service, found);
        found.refused.extend(missing.into_iter().take(10));
        if more > 0 {
            found.refused.push(format!("{more} more SRV records than max_backends"));
        }
        (Ok(found), Some(ttl))
    }

    /// A host's addresses of the families that the service uses, and how long they are valid.
    async fn addresses_of(&self, host: &Name) -> Result<(Vec<IpAddr>, Duration), String> {
        let (is_v4, both) = (self.service.vip.is_ipv4(), self.service.mode.encapsulates());
        let (mut all, mut least) = (Vec::new(), Duration::MAX);
        for (record, wanted) in [(RecordType::A, is_v4 || both), (RecordType::AAAA, !is_v4 || both)] {
            if !wanted {
                continue;
            }
            let ttl = match self.resolvers.ask(host, record).await? {
                Answer::Records(records, ttl) => {
                    all.extend(addresses(&records));
                    ttl
                }
                Answer::Nothing(_, ttl) => ttl.unwrap_or(self.dns.min_ttl),
            };
            least = least.min(ttl);
        }
        Ok((all, least))
    }

    fn nothing(&self, name: &Name, why: &str, ttl: Option<Duration>) -> Outcome {
        // Without an SOA record, a negative answer is not cached (RFC 2308 section 5).
        let ttl = Some(ttl.unwrap_or(self.dns.min_ttl));
        match self.dns.on_empty {
            OnEmpty::Drain => (Ok(Found { refused: vec![failed(name, why)], ..Found::default() }), ttl),
            OnEmpty::Keep => (Err(failed(name, why)), ttl),
        }
    }

    /// The time until the next lookup: as long as the answer is valid, within the bounds. After a failure, `min_ttl`, doubled
    /// each time.
    fn wait(&self, ttl: Option<Duration>, failures: u32) -> Duration {
        let Dns { min_ttl, max_ttl, .. } = self.dns;
        match ttl {
            Some(ttl) => ttl.clamp(min_ttl, max_ttl),
            None => {
                let slowest = SLOWEST_RETRY.clamp(min_ttl, max_ttl);
                min_ttl.saturating_mul(1 << (failures.saturating_sub(1)).min(10)).min(slowest)
            }
        }
    }
}

fn failed(name: &Name, why: &str) -> String {
    format!("{name}: {why}")
}

#[cfg(test)]
mod tests;
