//! Events for watchers. The last events are kept for readers that are slow or reconnect. A reader that falls further behind gets
//! an event that some were lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};

use crate::model::event::{EventView, WatchEvent};

/// The number of events that are kept.
const KEPT: usize = 4096;

/// How many dropped packets wait for a watcher that is slow; it misses others.
const DROPS: usize = 64;

/// The log of events.
#[derive(Debug)]
pub struct EventLog {
    log: Arc<Mutex<Log>>,
    news: watch::Sender<()>,
    drops: broadcast::Sender<Arc<EventView>>,
}

/// Creates readers of the log.
#[derive(Clone, Debug)]
pub struct EventReaders {
    log: Arc<Mutex<Log>>,
    news: watch::Receiver<()>,
    drops: broadcast::Sender<Arc<EventView>>,
}

/// A reader with its own position in the log.
#[derive(Debug)]
pub struct EventReader {
    log: Arc<Mutex<Log>>,
    news: watch::Receiver<()>,
    next: u64,
    /// Whether it asked for an unknown position, so that events may be missing.
    is_lost: bool,
    /// Dropped packets, if it has asked for them. They are not kept.
    drops: Option<broadcast::Receiver<Arc<EventView>>>,
}

#[derive(Debug)]
struct Log {
    /// Distinguishes the events of this daemon from those of earlier ones: its start, in Unix milliseconds.
    daemon: u128,
    /// The number of the first event that is kept.
    first: u64,
    kept: VecDeque<Arc<EventView>>,
}

impl Log {
    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.daemon)
    }

    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }
}

impl Default for EventLog {
    fn default() -> Self {
        let daemon = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let log = Log { daemon, first: 1, kept: VecDeque::new() };
        Self {
            log: Arc::new(Mutex::new(log)),
            news: watch::Sender::new(()),
            drops: broadcast::Sender::new(DROPS),
        }
    }
}

impl EventLog {
    /// Adds an event.
    pub fn add(&self, event: WatchEvent) {
        let mut log = lock(&self.log);
        let id = log.id(log.end());
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        log.kept.push_back(Arc::new(EventView { id, time, event }));
        if log.kept.len() > KEPT {
            log.kept.pop_front();
            log.first += 1;
        }
        drop(log);
        self.news.send_replace(());
    }

    /// Creates a source of readers.
    pub fn readers(&self) -> EventReaders {
        EventReaders { log: Arc::clone(&self.log), news: self.news.subscribe(), drops: self.drops.clone() }
    }
}

impl EventReaders {
    /// A reader of the events after the one with this id. Without an id, of those from now on.
    pub fn reader(&self, after: Option<&str>) -> EventReader {
        let log = lock(&self.log);
        let number = |after: &str| {
            let (daemon, number) = after.split_once('-')?;
            let number: u64 = number.parse().ok().filter(|number| *number < log.end())?;
            (daemon == log.daemon.to_string()).then_some(number)
        };
        let known = after.and_then(number);
        EventReader {
            next: known.map_or(log.end(), |number| number + 1),
            is_lost: after.is_some() && known.is_none(),
            log: Arc::clone(&self.log),
            news: self.news.clone(),
            drops: None,
        }
    }

    /// The same, and dropped packets as they come.
    pub fn reader_with_drops(&self, after: Option<&str>) -> EventReader {
        EventReader { drops: Some(self.drops.subscribe()), ..self.reader(after) }
    }

    /// Whether somebody wants to see dropped packets.
    pub fn drops_are_watched(&self) -> bool {
        self.drops.receiver_count() > 0
    }

    /// Shows a dropped packet to those who want to see them. It is not kept: others' events would have to go for them.
    pub fn show_drop(&self, event: WatchEvent) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        // Nobody may be there any more.
        let _ = self.drops.send(Arc::new(EventView { id: String::new(), time, event }));
    }

    /// The last events that are kept, at most `most`, the latest last.
    pub fn last(&self, most: usize) -> Vec<EventView> {
        let log = lock(&self.log);
        let skipped = log.kept.len().saturating_sub(most);
        log.kept.iter().skip(skipped).map(|event| EventView::clone(event)).collect()
    }
}

impl EventReader {
    /// The ID of the event before the next one, for a reader that reconnects.
    pub fn position(&self) -> String {
        lock(&self.log).id(self.next - 1)
    }

    /// The next event. `None` after the last one, when the log has ended.
    pub async fn next(&mut self) -> Option<Arc<EventView>> {
        loop {
            // Before reading the log: later events wake the reader.
            self.news.mark_unchanged();
            if let Some(event) = self.take() {
                return Some(event);
            }
            tokio::select! {
                changed = self.news.changed() => {
                    if changed.is_err() {
                        return self.take();
                    }
                }
                dropped = next_of(&mut self.drops) => {
                    // It has no number: a reader that reconnects goes on behind the last one that has.
                    return Some(Arc::new(EventView { id: self.position(), ..EventView::clone(&dropped) }));
                }
            }
        }
    }

    fn take(&mut self) -> Option<Arc<EventView>> {
        let log = lock(&self.log);
        let behind = log.first.saturating_sub(self.next);
        if self.is_lost || behind > 0 {
            let events = (!self.is_lost).then_some(behind);
            self.is_lost = false;
            self.next = self.next.max(log.first);
            let id = log.id(self.next - 1);
            let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            return Some(Arc::new(EventView { id, time, event: WatchEvent::Lost { events } }));
        }
        let event = log.kept.get((self.next - log.first) as usize).cloned()?;
        self.next += 1;
        Some(event)
    }
}

/// The next dropped packet that is shown.
async fn next_of(drops: &mut Option<broadcast::Receiver<Arc<EventView>>>) -> Arc<EventView> {
    if let Some(drops) = drops {
        loop {
            match drops.recv().await {
                Ok(event) => return event,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
    }
    std::future::pending().await
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    // No holder of the lock can leave it half-changed.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reload(changes: u64) -> WatchEvent {
        WatchEvent::Reload { changes }
    }

    async fn numbers(reader: &mut EventReader, count: usize) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(reader.next().await.unwrap().event.clone());
        }
        events
    }

    #[tokio::test]
    async fn a_reader_sees_what_happens_after_it_came_and_the_end() {
        let log = EventLog::default();
        log.add(reload(1));
        let mut reader = log.readers().reader(None);
        log.add(reload(2));
        assert_eq!(numbers(&mut reader, 1).await, [reload(2)]);
        let waiting = tokio::spawn(async move {
            let event = reader.next().await.unwrap().event.clone();
            (event, reader.next().await)
        });
        tokio::task::yield_now().await;
        log.add(reload(3));
        drop(log);
        assert_eq!(waiting.await.unwrap(), (reload(3), None));
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_goes_on_where_it_was() {
        let log = EventLog::default();
        let mut reader = log.readers().reader(None);
        let start = reader.position();
        (1..=3).for_each(|number| log.add(reload(number)));
        let seen = reader.next().await.unwrap().id.clone();
        assert_eq!(reader.position(), seen);
        assert_eq!(numbers(&mut log.readers().reader(Some(&seen)), 2).await, [reload(2), reload(3)]);
        assert_eq!(numbers(&mut log.readers().reader(Some(&start)), 3).await.len(), 3);
    }

    #[tokio::test]
    async fn dropped_packets_are_shown_to_those_who_ask_for_them_and_not_kept() {
        let log = EventLog::default();
        let readers = log.readers();
        assert!(!readers.drops_are_watched());
        let (mut one, mut other) = (readers.reader(None), readers.reader_with_drops(None));
        assert!(readers.drops_are_watched());
        let dropped = WatchEvent::Drop {
            reason: "source_denied".into(),
            meaning: "it is denied".into(),
            client: "192.0.2.7:1".parse().unwrap(),
            destination: "192.0.2.10:80".parse().unwrap(),
            protocol: "tcp".into(),
            interface: "eth0".into(),
            service: Some("web".into()),
            backend: None,
        };
        readers.show_drop(dropped.clone());
        let shown = other.next().await.unwrap();
        assert_eq!((&shown.event, &shown.id), (&dropped, &other.position()));
        log.add(reload(1));
        assert_eq!(numbers(&mut one, 1).await, [reload(1)]);
        assert_eq!(numbers(&mut other, 1).await, [reload(1)]);
        assert_eq!(readers.last(9).len(), 1);
        drop(other);
        assert!(!readers.drops_are_watched());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_lost() {
        let log = EventLog::default();
        let mut reader = log.readers().reader(None);
        let last = KEPT as u64 + 10;
        (1..=last).for_each(|number| log.add(reload(number)));
        assert_eq!(numbers(&mut reader, 2).await, [WatchEvent::Lost { events: Some(10) }, reload(11)]);
        let rest = numbers(&mut reader, KEPT - 1).await;
        assert_eq!(rest.last(), Some(&reload(last)));
        assert_eq!(lock(&log.log).kept.len(), KEPT, "no more are kept");
    }

    #[tokio::test]
    async fn a_reader_from_before_a_restart_is_told_that_it_may_have_lost_some() {
        let log = EventLog::default();
        let later = lock(&log.log).id(77);
        for id in ["1-1", "nonsense", &later] {
            let mut reader = log.readers().reader(Some(id));
            log.add(reload(1));
            assert_eq!(numbers(&mut reader, 2).await, [WatchEvent::Lost { events: None }, reload(1)], "{id}");
        }
    }
}
