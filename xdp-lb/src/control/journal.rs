//! Reports to the log and to watchers, and troubles, which stay until they are over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::events::{EventLog, EventReaders};
use super::troubles::{self, News, Troubles};
use crate::model::Effective;
use crate::model::change::ChangeKind;
use crate::model::event::WatchEvent;
use crate::model::state::{BackendState, TroubleKind};
use crate::pool::decide::Transition;
use crate::pool::pool::Pool;
use crate::pool::weigh::WeightChange;
use crate::report::documents::TroubleView;
use crate::report::unused::{MOST, unused};

/// Maximum number of restored items named in one line.
const NAMED: usize = 5;

/// Events, troubles, and what has already been logged.
#[derive(Debug, Default)]
pub(super) struct Journal {
    events: EventLog,
    troubles: Troubles,
    /// The number of restored items since the daemon started.
    restored: u64,
    /// Unused backends, by the name of their service.
    unused: BTreeMap<String, Vec<String>>,
    /// Interfaces outside the config that lead to backends.
    uncovered: BTreeSet<String>,
}

impl Journal {
    /// Adds an event for watchers.
    pub(super) fn add(&self, event: WatchEvent) {
        self.events.add(event);
    }

    /// Logs an event, and adds it for watchers.
    pub(super) fn tell(&self, event: WatchEvent) {
        log(&event);
        self.events.add(event);
    }

    /// Creates readers for watchers.
    pub(super) fn readers(&self) -> EventReaders {
        self.events.readers()
    }

    /// Reports changed states of backends.
    pub(super) fn report_states(&self, transitions: Vec<Transition>) {
        for Transition { id, before, lasted, now } in transitions {
            self.tell(WatchEvent::Backend {
                service: id.service,
                address: id.backend,
                before,
                // Rounded to a millisecond.
                before_seconds: lasted.map(|lasted| (lasted.as_secs_f64() * 1e3).round() / 1e3),
                state: now.state,
                reason: now.reason,
            });
        }
    }

    /// Reports adjusted weights of backends.
    pub(super) fn report_weights(&self, reweighed: Vec<WeightChange>) {
        for WeightChange { id, weight, percent, reason } in reweighed {
            let ratio = f64::from(percent) / 100.0;
            self.tell(WatchEvent::Weight { service: id.service, address: id.backend, weight, ratio, reason });
        }
    }

    /// Warns once about each interface outside the config through which backends are reached.
    pub(super) fn warn_of_uncovered(&mut self, pool: &Pool) {
        let uncovered = pool.uncovered();
        for (interface, (backend, warning)) in &uncovered {
            if !self.uncovered.contains(interface) {
                tracing::warn!("service {}: backend {}: {warning}", backend.service, backend.backend);
            }
        }
        self.uncovered = uncovered.into_keys().collect();
    }

    /// Reports each unused backend once.
    pub(super) fn report_unused(&mut self, effective: &Effective) {
        let mut before = std::mem::take(&mut self.unused);
        for service in effective.services.iter().filter(|service| !service.refused.is_empty()) {
            let name = service.service.name.clone();
            let lines = unused(service);
            let told = before.remove(&name).unwrap_or_default();
            let news: Vec<String> = lines.iter().filter(|line| !told.contains(line)).cloned().collect();
            for line in news.iter().take(MOST) {
                tracing::warn!("service {name}: {line}");
            }
            if !news.is_empty() {
                let changes = news.into_iter().map(|line| format!("service {name}: {line}"));
                self.add(WatchEvent::Service {
                    service: name.clone(),
                    kind: ChangeKind::Changed,
                    changes: changes.take(WatchEvent::MOST_CHANGES).collect(),
                });
            }
            self.unused.insert(name, lines);
        }
    }

    /// Reports what was restored.
    pub(super) fn report_restored(&mut self, what: &str, restored: &[String]) {
        if restored.is_empty() {
            return;
        }
        self.restored += restored.len() as u64;
        let named = restored[..restored.len().min(NAMED)].join(", ");
        let more = match restored.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = format!("{what}: {named}{more}");
        tracing::warn!(event = "restored", "{what}");
        self.add(WatchEvent::Restored { what });
    }

    /// The number of restored items since the daemon started.
    pub(super) fn restored(&self) -> u64 {
        self.restored
    }

    /// Records a trouble of this kind, and reports its start and its end once.
    pub(super) fn note(&mut self, kind: TroubleKind, why: Option<&str>) {
        match self.troubles.note(kind, why, Instant::now()) {
            News::None => {}
            News::Began(trouble) => {
                tracing::error!(event = "trouble", kind = kind.name(), trouble, "{trouble}");
                self.add(WatchEvent::Trouble { trouble: Some(trouble) });
            }
            News::Ended => {
                tracing::info!(event = "trouble", kind = kind.name(), "recovered: {}", troubles::over(kind));
                self.add(WatchEvent::Trouble { trouble: self.trouble() });
            }
        }
    }

    /// The same for an error.
    pub(super) fn note_error(&mut self, kind: TroubleKind, error: Option<anyhow::Error>) {
        let why = error.map(|error| format!("{error:#}; retrying"));
        self.note(kind, why.as_deref());
    }

    /// All troubles in one line.
    pub(super) fn trouble(&self) -> Option<String> {
        self.troubles.all()
    }

    /// The trouble of this kind.
    pub(super) fn trouble_of(&self, kind: TroubleKind) -> Option<&str> {
        self.troubles.of(kind)
    }

    /// All troubles as API documents.
    pub(super) fn trouble_views(&self, now: Instant) -> Vec<TroubleView> {
        self.troubles.views(now)
    }
}

/// Logs an event: its message in words, and its subject as fields.
fn log(event: &WatchEvent) {
    let name = event.name();
    match event {
        WatchEvent::Backend { service, address, before, before_seconds, state, reason } => {
            let before = before.map(BackendState::name);
            let state = state.name();
            tracing::info!(
                event = name,
                service,
                backend = %address,
                before,
                seconds = before_seconds,
                state,
                reason,
                "{event}"
            );
        }
        WatchEvent::Weight { service, address, weight, ratio, reason } => {
            tracing::info!(event = name, service, backend = %address, weight, ratio, reason, "{event}");
        }
        WatchEvent::Service { service, .. } => tracing::info!(event = name, service, "{event}"),
        WatchEvent::Node { admin } => tracing::info!(event = name, state = admin.name(), "{event}"),
        WatchEvent::Interface { interface, up } => {
            tracing::info!(event = name, interface, up, "{event}");
        }
        WatchEvent::Reload { changes } => tracing::info!(event = name, changes, "{event}"),
        WatchEvent::Restored { .. }
        | WatchEvent::Trouble { .. }
        | WatchEvent::Drop { .. }
        | WatchEvent::Lost { .. } => {
            tracing::info!(event = name, "{event}");
        }
    }
}
