//! Discovered backends: part of the runtime changes, and validated by the rules of the config each time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use super::kept::{Discovered, Overlay};
use super::merge::Merge;
use crate::model::config::{Config, Limits};
use crate::model::effective::{EffectiveService, Refused};
use crate::model::rules;
use crate::model::service::{Backend, Service};
use crate::model::text::grouped;
use crate::model::vip::Vip;

/// The effect of an answer of discovery.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Taken {
    /// A line for each backend that is new, changed or no longer found.
    pub changes: Vec<String>,
    /// How many were left out because of `max_backends`.
    pub left_out: usize,
    /// Those that wait until some leaving ones are gone.
    pub waiting: Vec<SocketAddr>,
}

impl Overlay {
    /// Replaces the discovered backends of a service. Those that are no longer found are no longer wanted. If there are more than
    /// `max_backends`, present and leaving ones come first, then those with the lowest addresses. As many again may be leaving at a
    /// time; new ones wait for more.
    pub fn discover(&mut self, config: &Config, name: &str, found: &[Backend]) -> Taken {
        let mut taken = Taken::default();
        let Some(discovery) =
            Merge::new(config, self).base(name).and_then(|(base, _)| base.discovery.clone())
        else {
            return taken;
        };
        let most = discovery.max_backends as usize;
        let before = self.discovered.remove(name).unwrap_or_default();
        let leaving: BTreeSet<SocketAddr> = self.leaving(name).map(|(address, _)| address).collect();
        let by_address: BTreeMap<SocketAddr, &Backend> =
            found.iter().map(|backend| (backend.address, backend)).collect();
        let will_leave = |address: &&SocketAddr| !by_address.contains_key(*address);
        let leave = leaving.iter().chain(before.keys()).filter(will_leave).count();
        let (mut kept, mut new): (Vec<&Backend>, Vec<&Backend>) = by_address
            .into_values()
            .partition(|backend| before.contains_key(&backend.address) || leaving.contains(&backend.address));
        taken.left_out = (kept.len() + new.len()).saturating_sub(most);
        kept.truncate(most);
        new.truncate(most - kept.len());
        let room = (2 * most).saturating_sub(leave + kept.len()).min(new.len());
        taken.waiting = new.split_off(room).into_iter().map(|backend| backend.address).collect();
        kept.extend(new);

        let after: BTreeMap<SocketAddr, Discovered> = kept
            .into_iter()
            .map(|backend| (backend.address, Discovered { backend: *backend, leaving_since: None }))
            .collect();
        taken.changes = changes(&before, &after, &leaving);
        self.set_discovered(name, after);
        taken
    }

    /// A service's discovered backends that are in use.
    pub fn discovered(&self, name: &str) -> impl Iterator<Item = Backend> {
        self.discovered.get(name).into_iter().flatten().map(|(_, it)| it.backend)
    }

    fn set_discovered(&mut self, name: &str, discovered: BTreeMap<SocketAddr, Discovered>) {
        if discovered.is_empty() {
            self.discovered.remove(name);
        } else {
            self.discovered.insert(name.into(), discovered);
        }
    }
}

fn changes(
    before: &BTreeMap<SocketAddr, Discovered>,
    after: &BTreeMap<SocketAddr, Discovered>,
    leaving: &BTreeSet<SocketAddr>,
) -> Vec<String> {
    let addresses: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let words = |address: &SocketAddr| match (before.get(address), after.get(address)) {
        (None, Some(_)) if leaving.contains(address) => Some("found again".to_owned()),
        (None, Some(_)) => Some("found".to_owned()),
        (Some(_), None) => Some("no longer found".to_owned()),
        (Some(before), Some(after)) if before.backend.weight != after.backend.weight => {
            Some(format!("weight {} -> {}", before.backend.weight, after.backend.weight))
        }
        (Some(before), Some(after)) => (before.backend != after.backend).then(|| "found changed".to_owned()),
        (None, None) => None,
    };
    addresses.into_iter().filter_map(|it| Some(format!("backend {it} {}", words(it)?))).collect()
}

/// Adds discovered backends to their services. Those that break a rule are reported instead: an answer from outside never makes the
/// config invalid.
pub(crate) fn add(services: &mut [EffectiveService], merge: &Merge, limits: Limits) {
    let mut vips: HashMap<_, Vec<_>> = HashMap::new();
    for Service { name, vip, protocol, .. } in services.iter().map(|it| &it.service) {
        vips.entry((vip.ip(), *protocol)).or_default().push((*vip, name.clone()));
    }
    // A backend with port 0 gets packets to every port of its service.
    let loops = |address: SocketAddr, protocol| {
        let at = vips.get(&(address.ip(), protocol))?;
        let is_met = |vip: &Vip| address.port() == 0 || vip.meets(address.port(), address.port());
        at.iter().find(|(vip, _)| is_met(vip)).map(|(_, name)| name)
    };
    let listed: usize = services.iter().map(|service| service.backends.len()).sum();
    let mut room = (limits.backends as usize).saturating_sub(listed);
    for service in services {
        let Some(discovery) = &service.service.discovery else { continue };
        let origin = discovery.origin();
        let mut ids: BTreeSet<_> =
            service.backends.iter().filter_map(|it| Some(it.backend.server_id?.to_string())).collect();
        for discovered in merge.discovered(&service.service.name) {
            let backend = merge.with_changes(&service.service.name, discovered, origin);
            let Backend { address, server_id, .. } = backend.backend;
            let id = server_id.map(|id| id.to_string());
            let why = if let Some(why) = rules::refusal(&service.service, &backend.backend) {
                Some(why)
            } else if let Some(other) = loops(address, service.service.protocol) {
                Some(format!("is the VIP of service {other}, so its packets would loop through this host"))
            } else if room == 0 {
                Some(format!("no room: limits.backends = {}", grouped(limits.backends.into())))
            } else if id.as_ref().is_some_and(|id| ids.contains(id)) {
                Some("has the server_id of another backend".into())
            } else {
                None
            };
            match why {
                Some(why) => service.refused.push(Refused { address, why }),
                None => {
                    room -= 1;
                    ids.extend(id);
                    service.backends.push(backend);
                }
            }
        }
        service.backends.sort_by_key(|backend| backend.backend.address);
    }
}

#[cfg(test)]
mod tests;
