//! Updates of discovery. An address that is missing from DNS answers is held for some time, because many servers answer with a
//! changing subset of the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::journal::Journal;
use crate::discovery::Update;
use crate::model::change::ChangeKind;
use crate::model::event::WatchEvent;
use crate::model::{Backend, Config, Discovery, EffectiveService};
use crate::overlay::Overlay;
use crate::report::documents::DiscoveryView;
use crate::report::unused::{some, unused};

/// If addresses keep returning, a missing one is held for this multiple of the longest observed absence.
const ABSENCES: u32 = 4;

/// The maximum of that time.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// The number of addresses that must return before answers count as varying: a single one may be a restarted host.
const DIFFERING: usize = 3;

/// The state of discovery, by service.
#[derive(Debug, Default)]
pub(super) struct Discoveries(BTreeMap<String, Status>);

#[derive(Debug)]
struct Status {
    discovery: Discovery,
    answered: Option<Instant>,
    next: Option<Instant>,
    failing: Option<(Instant, String)>,
    refused: Vec<String>,
    answers: u64,
    failures: u64,
    /// The last answer.
    found: Vec<Backend>,
    /// Addresses of earlier answers, with the start of their absence.
    missing: BTreeMap<SocketAddr, (Instant, Backend)>,
    /// Addresses that returned after being missing.
    returned: BTreeSet<SocketAddr>,
    /// The longest time that one of them was missing.
    longest_absence: Duration,
    /// The number of those that exceed `max_backends`.
    left_out: usize,
    /// Backends that wait for room.
    waiting: Vec<SocketAddr>,
}

impl Status {
    fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            answered: None,
            next: None,
            failing: None,
            refused: Vec::new(),
            answers: 0,
            failures: 0,
            found: Vec::new(),
            missing: BTreeMap::new(),
            returned: BTreeSet::new(),
            longest_absence: Duration::ZERO,
            left_out: 0,
            waiting: Vec::new(),
        }
    }

    /// How long a missing address is held.
    fn hold(&self) -> Duration {
        let hold = self.discovery.hold();
        if hold.is_zero() { hold } else { hold.max((self.longest_absence * ABSENCES).min(LONGEST_HOLD)) }
    }

    /// Handles an answer. `before`: the known backends without it.
    fn answer(&mut self, found: &[Backend], before: impl Iterator<Item = Backend>, now: Instant) {
        let present: BTreeSet<SocketAddr> = found.iter().map(|it| it.address).collect();
        let known: Vec<Backend> =
            if self.answers == 0 { before.collect() } else { std::mem::take(&mut self.found) };
        for backend in known.into_iter().filter(|it| !present.contains(&it.address)) {
            self.missing.entry(backend.address).or_insert((now, backend));
        }
        let most = self.discovery.max_backends as usize;
        for address in &present {
            let Some((since, _)) = self.missing.remove(address) else { continue };
            self.longest_absence = self.longest_absence.max(now - since);
            if self.returned.len() < most {
                self.returned.insert(*address);
            }
        }
        self.found = found.to_vec();
        self.answers += 1;
    }

    /// The found backends: the last answer, and held addresses that still fit.
    fn held_and_found(&mut self, now: Instant) -> Vec<Backend> {
        let hold = self.hold();
        self.missing.retain(|_, (since, _)| now.saturating_duration_since(*since) < hold);
        let room = (self.discovery.max_backends as usize).saturating_sub(self.found.len());
        // Those missing for the shortest time first.
        let mut held: Vec<(Instant, Backend)> = self.missing.values().copied().collect();
        held.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        held.truncate(room);
        self.missing = held.iter().map(|(since, backend)| (backend.address, (*since, *backend))).collect();
        self.found.iter().copied().chain(held.into_iter().map(|(_, backend)| backend)).collect()
    }

    /// Whether held addresses have expired, or waiting backends may fit.
    fn is_due(&self, now: Instant) -> bool {
        let hold = self.hold();
        !self.waiting.is_empty()
            || self.missing.values().any(|(since, _)| now.saturating_duration_since(*since) >= hold)
    }

    /// Logs that answers vary.
    fn differs(&self) -> Option<String> {
        let count = self.returned.len();
        (count >= DIFFERING && !self.hold().is_zero()).then(|| {
            let [absence, hold] = [self.longest_absence, self.hold()]
                .map(|it| humantime::format_duration(Duration::from_secs(it.as_secs().max(1))));
            format!(
                "DNS answers vary: {count} addresses disappeared and came back, after up to {absence}. A missing \
                 address is now kept for {hold}. Configure the DNS server to return all addresses"
            )
        })
    }

    /// Logs the backends that wait for room.
    fn waits(&self) -> Option<String> {
        let (first, most) = (self.waiting.first()?, self.discovery.max_backends);
        let others = match self.waiting.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "backend {first}{others}: found, but waiting for room: max_backends = {most}, and removed backends \
             still have flows"
        ))
    }
}

impl Discoveries {
    /// Removes services that no longer exist or have another source.
    pub(super) fn retain(&mut self, services: &[EffectiveService]) {
        let present: BTreeMap<&str, &Discovery> = services
            .iter()
            .filter_map(|it| Some((it.service.name.as_str(), it.service.discovery.as_ref()?)))
            .collect();
        self.0.retain(|name, status| present.get(name.as_str()) == Some(&&status.discovery));
    }

    /// Records the result of a lookup, and logs what is new. `before`: the known backends without an answer.
    fn note(&mut self, update: &Update, before: impl Iterator<Item = Backend>, now: Instant) {
        let name = &update.service;
        let status = self.0.entry(name.clone()).or_insert_with(|| Status::new(update.discovery.clone()));
        status.next = update.next.map(|next| now + next);
        match &update.result {
            Ok(found) => {
                if let Some((since, _)) = status.failing.take() {
                    let took = humantime::format_duration(Duration::from_secs((now - since).as_secs()));
                    tracing::info!("service {name}: discovery has recovered after {took}");
                }
                status.answered = Some(now);
                let differed = status.differs().is_some();
                status.answer(&found.backends, before, now);
                if let Some(words) = status.differs().filter(|_| !differed) {
                    tracing::warn!("service {name}: discovery: {words}");
                }
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
                    tracing::warn!("service {name}: discovery fails, keeping the known backends: {why}");
                }
                status.failing = Some((since, why.clone()));
            }
        }
    }

    /// Whether a service's first lookup is pending.
    pub(super) fn is_pending(&self, services: &[EffectiveService]) -> bool {
        services.iter().any(|it| it.service.discovery.is_some() && !self.0.contains_key(&it.service.name))
    }

    /// Applies updates for these services, all at once, to the overlay.
    pub(super) fn take_in(
        &mut self,
        updates: Vec<Update>,
        services: &[EffectiveService],
        config: &Config,
        overlay: &mut Overlay,
        journal: &Journal,
        now: Instant,
    ) {
        for update in updates {
            let is_wanted = services.iter().any(|it| {
                it.service.name == update.service && it.service.discovery.as_ref() == Some(&update.discovery)
            });
            if !is_wanted {
                continue;
            }
            self.note(&update, overlay.discovered(&update.service), now);
            if update.result.is_ok() {
                self.take(&update.service, config, overlay, journal, now);
            }
        }
    }

    /// The services whose held addresses have expired, or whose waiting backends may fit.
    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        let due = self.0.iter().filter(|(_, status)| status.is_due(now));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Applies a service's found backends to the overlay.
    pub(super) fn take(
        &mut self,
        name: &str,
        config: &Config,
        overlay: &mut Overlay,
        journal: &Journal,
        now: Instant,
    ) {
        let Some(status) = self.0.get_mut(name) else { return };
        let taken = overlay.discover(config, name, &status.held_and_found(now));
        for change in taken.changes {
            tracing::info!("service {name}: {change}");
        }
        if taken.left_out > 0 && taken.left_out != status.left_out {
            tracing::warn!(
                "service {name}: discovery: ignoring {} backends beyond max_backends",
                taken.left_out
            );
        }
        status.left_out = taken.left_out;
        let is_news = taken.waiting.iter().any(|it| !status.waiting.contains(it));
        status.waiting = taken.waiting;
        if let Some(words) = status.waits().filter(|_| is_news) {
            tracing::warn!("service {name}: {words}");
            journal.add(WatchEvent::Service {
                service: name.into(),
                kind: ChangeKind::Changed,
                changes: vec![format!("service {name}: {words}")],
            });
        }
    }

    /// The state of discovery, by service.
    pub(super) fn views(
        &self,
        services: &[EffectiveService],
        now: Instant,
    ) -> BTreeMap<String, DiscoveryView> {
        let view = |it: &EffectiveService| Some((it.service.name.clone(), self.view(it, now)?));
        services.iter().filter_map(view).collect()
    }

    fn view(&self, service: &EffectiveService, now: Instant) -> Option<DiscoveryView> {
        let discovery = service.service.discovery.clone()?;
        let status = self.0.get(&service.service.name);
        let is_found = |origin| origin == discovery.origin();
        let count = |is_leaving: bool| {
            let found =
                service.backends.iter().filter(|it| is_found(it.origin) && it.is_leaving == is_leaving);
            found.count() as u32
        };
        let since = |then: Instant| now.saturating_duration_since(then).as_secs();
        let mut refused: Vec<String> = status.map(|it| it.refused.clone()).unwrap_or_default();
        refused.extend(status.and_then(Status::waits));
        refused.extend(unused(service));
        let failing = status.and_then(|it| it.failing.as_ref());
        Some(DiscoveryView {
            source: discovery.to_string(),
            found: count(false),
            leaving: count(true),
            refused: some(refused),
            waiting: status.map_or(0, |it| it.waiting.len() as u32),
            held: status.map_or(0, |it| it.missing.len() as u32),
            warning: status.and_then(Status::differs),
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
