//! Troubles with forwarding: reported once when they start and end, and shown meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::state::TroubleKind;
use crate::report::documents::TroubleView;

/// The current troubles.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<TroubleKind, Noted>);

#[derive(Debug)]
struct Noted {
    message: String,
    since: Instant,
}

/// How a trouble changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// No change.
    None,
    /// It started, or has another cause.
    Began(String),
    /// It is over.
    Ended,
}

impl Troubles {
    /// Sets the trouble of this kind. `None`: there is none.
    pub(super) fn note(&mut self, kind: TroubleKind, why: Option<&str>, now: Instant) -> News {
        let before = self.0.remove(&kind);
        let Some(why) = why else {
            return if before.is_some() { News::Ended } else { News::None };
        };
        let message = format!("{}: {why}", words(kind));
        let is_new = before.as_ref().is_none_or(|before| before.message != message);
        let since = before.map_or(now, |before| before.since);
        self.0.insert(kind, Noted { message: message.clone(), since });
        if is_new { News::Began(message) } else { News::None }
    }

    /// The trouble of this kind.
    pub(super) fn of(&self, kind: TroubleKind) -> Option<&str> {
        self.0.get(&kind).map(|noted| noted.message.as_str())
    }

    /// All troubles in one line.
    pub(super) fn all(&self) -> Option<String> {
        let messages: Vec<&str> = self.0.values().map(|noted| noted.message.as_str()).collect();
        (!messages.is_empty()).then(|| messages.join("; "))
    }

    /// All troubles as API documents.
    pub(super) fn views(&self, now: Instant) -> Vec<TroubleView> {
        let view = |(kind, noted): (&TroubleKind, &Noted)| TroubleView {
            kind: *kind,
            message: noted.message.clone(),
            since_seconds: now.duration_since(noted.since).as_secs(),
        };
        self.0.iter().map(view).collect()
    }
}

/// The name of a kind of trouble.
const fn words(kind: TroubleKind) -> &'static str {
    match kind {
        TroubleKind::Tables => "the BPF tables are out of sync with the configuration",
        TroubleKind::Settling => "moved slots of a ring cannot be settled",
        TroubleKind::Flows => "the flows cannot be counted",
        TroubleKind::OwnMacs => "packets to some of this host's MAC addresses are not balanced",
        TroubleKind::Interfaces => "the program is not attached to every interface",
        TroubleKind::Packets => "packets arrive but the program counts none",
        TroubleKind::Pins => "not everything is pinned, so forwarding would end with this daemon",
        TroubleKind::Metrics => "the metrics cannot be served",
        TroubleKind::Losses => "forwarded packets are lost on their way out",
    }
}

/// The message when a trouble of this kind is over.
pub(super) const fn over(kind: TroubleKind) -> &'static str {
    match kind {
        TroubleKind::Tables => "the BPF tables are in sync with the configuration",
        TroubleKind::Settling => "moved slots are settled again",
        TroubleKind::Flows => "the flows are counted again",
        TroubleKind::OwnMacs => "packets to all of this host's MAC addresses are balanced",
        TroubleKind::Interfaces => "the program is attached to every interface",
        TroubleKind::Packets => "the program counts packets again",
        TroubleKind::Pins => "all links and tables are pinned again",
        TroubleKind::Metrics => "the metrics are served",
        TroubleKind::Losses => "no forwarded packet has been lost on its way out recently",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trouble_is_news_when_it_begins_changes_or_ends_and_keeps_its_beginning() {
        let (mut troubles, began) = (Troubles::default(), Instant::now());
        let kind = TroubleKind::Pins;
        let said = |why| format!("not everything is pinned, so forwarding would end with this daemon: {why}");
        assert_eq!(troubles.note(kind, None, began), News::None);
        assert_eq!(troubles.note(kind, Some("no bpffs"), began), News::Began(said("no bpffs")));
        assert_eq!(troubles.note(kind, Some("no bpffs"), began), News::None);
        let later = began + Duration::from_secs(7);
        assert_eq!(troubles.note(kind, Some("no room"), later), News::Began(said("no room")));
        assert_eq!(
            troubles.note(TroubleKind::Metrics, Some("in use"), later),
            News::Began("the metrics cannot be served: in use".into())
        );
        assert_eq!(troubles.views(later).iter().map(|view| view.since_seconds).collect::<Vec<_>>(), [7, 0]);
        assert!(
            troubles.all().is_some_and(|all| all.starts_with(&said("no room")) && all.ends_with("in use"))
        );
        assert_eq!(troubles.note(kind, None, later), News::Ended);
        assert_eq!(troubles.of(kind), None);
    }
}
