//! What discovery tells: taken in, said once, and what is not found any more removed when its flows have ended.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use xdp_lb_common::process::records_flows;
use xdp_lb_common::tables::BackendIndex;

use super::fleet::{target_id, vip};
use super::handle::Refusal;
use super::kernel::Kernel;
use super::owner::{Owner, Persist};
use super::plan::{Identity, identities, identity};
use crate::api::types::{BackendState, DiscoveryView};
use crate::config::{self, Discovery, EffectiveService};
use crate::discovery::Update;

/// Reasons in a view.
const MOST_REASONS: usize = 10;

/// How discovery goes, by service.
#[derive(Debug, Default)]
pub(super) struct Discoveries(BTreeMap<String, Status>);

#[derive(Debug)]
struct Status {
    discovery: Discovery,
    answered: Option<Instant>,
    next: Option<Instant>,
    failing: Option<(Instant, String)>,
    refused: Vec<String>,
    /// What the config's other services stand against, as it was logged.
    refused_here: Vec<String>,
    answers: u64,
    failures: u64,
}

impl Discoveries {
    /// Forgets the services that are not there, or that look elsewhere now.
    pub(super) fn retain(&mut self, services: &[EffectiveService]) {
        let present: BTreeMap<&str, &Discovery> = services
            .iter()
            .filter_map(|it| Some((it.service.name.as_str(), it.service.discovery.as_ref()?)))
            .collect();
        self.0.retain(|name, status| present.get(name.as_str()) == Some(&&status.discovery));
    }

    /// Remembers how it went, and says what is new of it.
    fn note(&mut self, update: &Update, now: Instant) {
        let name = &update.service;
        let status = self.0.entry(name.clone()).or_insert_with(|| Status {
            discovery: update.discovery.clone(),
            answered: None,
            next: None,
            failing: None,
            refused: Vec::new(),
            refused_here: Vec::new(),
            answers: 0,
            failures: 0,
        });
        status.next = update.next.map(|next| now + next);
        match &update.result {
            Ok(found) => {
                if let Some((since, _)) = status.failing.take() {
                    let took = humantime::format_duration(Duration::from_secs((now - since).as_secs()));
                    tracing::info!("service {name}: discovery is well again after {took}");
                }
                status.answered = Some(now);
                status.answers += 1;
                if status.refused != found.refused {
                    for line in &found.refused {
                        tracing::warn!("service {name}: discovery: {line}");
                    }
                    status.refused.clone_from(&found.refused);
                }
            }
            Err(why) => {
                status.failures += 1;
                let (since, before) = status.failing.take().unwrap_or((now, String::new()));
                if before != *why {
                    tracing::warn!("service {name}: discovery fails, and what was found before stays: {why}");
                }
                status.failing = Some((since, why.clone()));
            }
        }
    }
}

impl<K: Kernel> Owner<K> {
    /// Whether a service's first lookup is still out.
    pub(super) fn is_discovery_pending(&self) -> bool {
        let services = &self.fleet.effective().services;
        services
            .iter()
            .any(|it| it.service.discovery.is_some() && !self.discoveries.0.contains_key(&it.service.name))
    }

    /// Takes in what discovery tells, all of it at once.
    pub(super) fn take_in_found(&mut self, updates: Vec<Update>) {
        let now = Instant::now();
        let mut overlay = self.overlay.clone();
        for update in updates {
            let is_wanted = self.fleet.effective().services.iter().any(|it| {
                it.service.name == update.service && it.service.discovery.as_ref() == Some(&update.discovery)
            });
            if !is_wanted {
                continue;
            }
            self.discoveries.note(&update, now);
            let Ok(found) = &update.result else { continue };
            let taken = overlay.discover(&self.config, &update.service, &found.backends, unix_now());
            for change in taken.changes {
                tracing::info!("service {}: {change}", update.service);
            }
            if taken.left_out > 0 {
                tracing::warn!(
                    "service {}: discovery: {} backends more than max_backends are left out",
                    update.service,
                    taken.left_out
                );
            }
        }
        self.put_discovered(overlay);
    }

    /// Removes what is not found any more and has no flows left, or has had time enough.
    pub(super) fn release_left(&mut self) {
        if !self.overlay.is_any_leaving() {
            return;
        }
        let indices = identities(self.planner.tables());
        let mut overlay = self.overlay.clone();
        for service in &self.fleet.effective().services {
            let Some(discovery) = &service.service.discovery else { continue };
            let name = &service.service.name;
            for (address, since) in self.overlay.leaving(name) {
                let left = unix_now().saturating_sub(since);
                let why = if left >= discovery.drain_timeout.as_secs() {
                    format!("its flows had {}", humantime::format_duration(discovery.drain_timeout))
                } else if let Some(why) = self.is_over(service, address, &indices) {
                    why.to_owned()
                } else {
                    continue;
                };
                tracing::info!(
                    "service {name}: backend {address}: removed, since it is not found any more and {why}"
                );
                overlay.release(name, address);
            }
        }
        self.put_discovered(overlay);
    }

    /// Why nothing is lost with a backend that leaves; `None` while flows may be.
    fn is_over(
        &self,
        service: &EffectiveService,
        address: SocketAddr,
        indices: &HashMap<Identity, BackendIndex>,
    ) -> Option<&'static str> {
        let Some(backend) = service.backends.iter().find(|it| it.backend.address == address) else {
            return Some("the config refuses it");
        };
        let state = self.fleet.known(&target_id(service, backend)).map(|known| known.condition.state);
        if state != Some(BackendState::Draining) {
            return Some("it gets no packets");
        }
        let present = self.planner.tables().services.get(&vip(service))?;
        let index = *indices.get(&identity(present.index, address))?;
        let tables = self.planner.tables();
        // Before that, a flow from before its slots moved may have no record yet.
        let is_known = records_flows(present)
            || !self
                .settling
                .known_at(present, vip(service).protocol, tables, &self.config.timeouts)
                .contains_key(&index);
        let flows = self.census.live.get(&index).copied().unwrap_or(0);
        (self.is_census_fresh() && is_known && flows == 0).then_some("its flows have ended")
    }

    fn put_discovered(&mut self, overlay: config::Overlay) {
        if overlay == self.overlay {
            return;
        }
        let adopted = config::effective(&self.config, &overlay)
            .map_err(|lines| Refusal::Conflict(lines.join("\n")))
            .and_then(|effective| {
                self.adopt(self.config.clone(), overlay, effective, Refusal::Conflict, Persist::IfItCan)
            });
        if let Err(refusal) = adopted {
            tracing::error!("what discovery found cannot be put into effect: {refusal}");
        }
        self.say_what_is_refused();
    }

    /// Says once what stands against the rest of the config.
    fn say_what_is_refused(&mut self) {
        for service in &self.fleet.effective().services {
            let Some(status) = self.discoveries.0.get_mut(&service.service.name) else { continue };
            let refused: Vec<String> = refused_in_words(service);
            if status.refused_here != refused {
                for line in refused.iter().take(MOST_REASONS) {
                    tracing::warn!("service {}: discovery: {line}", service.service.name);
                }
                status.refused_here = refused;
            }
        }
    }

    pub(super) fn discovery_view(&self, service: &EffectiveService) -> Option<DiscoveryView> {
        let discovery = service.service.discovery.clone()?;
        let status = self.discoveries.0.get(&service.service.name);
        let is_found = |origin| origin == discovery.origin();
        let count = |is_leaving: bool| {
            let found =
                service.backends.iter().filter(|it| is_found(it.origin) && it.is_leaving == is_leaving);
            found.count() as u32
        };
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then).as_secs();
        let mut refused: Vec<String> = status.map(|it| it.refused.clone()).unwrap_or_default();
        refused.extend(refused_in_words(service));
        let more = refused.len().saturating_sub(MOST_REASONS);
        refused.truncate(MOST_REASONS);
        refused.extend((more > 0).then(|| format!("and {more} more")));
        let failing = status.and_then(|it| it.failing.as_ref());
        Some(DiscoveryView {
            source: discovery.to_string(),
            found: count(false),
            leaving: count(true),
            refused,
            last_answer_seconds: status.and_then(|it| it.answered).map(since),
            next_lookup_seconds: status
                .and_then(|it| it.next)
                .map(|next| next.saturating_duration_since(now).as_secs()),
            failing_since_seconds: failing.map(|(since_when, _)| since(*since_when)),
            trouble: failing.map(|(_, why)| why.clone()),
            answers: status.map_or(0, |it| it.answers),
            failures: status.map_or(0, |it| it.failures),
            config: discovery,
        })
    }
}

fn refused_in_words(service: &EffectiveService) -> Vec<String> {
    service.refused.iter().map(|it| format!("backend {}: {}", it.address, it.why)).collect()
}

/// Seconds of Unix time.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
