//! What is sent to a peer, until the peer has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::datagram::{self, DATA};
use super::seal::{Key, Session};

/// How many datagrams may be on their way to a peer.
pub const WINDOW: u64 = 4096;

/// How long a datagram may go unacknowledged before it is sent again; twice as long each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(150);
const LONGEST_WAIT: Duration = Duration::from_millis(600);

/// The numbered datagrams of a session: each is sent again until the peer acknowledges it.
pub struct Outbox {
    session: Session,
    key: Key,
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    datagram: Vec<u8>,
    again_at: Instant,
    wait: Duration,
}

impl Outbox {
    /// Nothing sent yet.
    pub fn new(session: Session, key: Key) -> Self {
        Self { session, key, next: 0, waiting: BTreeMap::new() }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The number of the next datagram.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many more datagrams may be on their way.
    pub fn room(&self) -> usize {
        let oldest = self.waiting.keys().next().copied().unwrap_or(self.next);
        (WINDOW - (self.next - oldest)) as usize
    }

    /// The datagram of this message, which is kept until it is acknowledged.
    pub fn send(&mut self, message: Vec<u8>, now: Instant) -> Vec<u8> {
        let datagram = datagram::seal(&self.key, DATA, &self.session, self.next, message);
        let waiting = Waiting { datagram: datagram.clone(), again_at: now + FIRST_WAIT, wait: FIRST_WAIT };
        self.waiting.insert(self.next, waiting);
        self.next += 1;
        datagram
    }

    /// The peer has all datagrams before this number, and those from the first to the last of each range.
    pub fn acknowledged(&mut self, before: u64, ranges: &[(u64, u64)]) {
        self.waiting = self.waiting.split_off(&before);
        for (first, last) in ranges.iter().filter(|(first, last)| first <= last) {
            let has: Vec<u64> = self.waiting.range(first..=last).map(|(number, _)| *number).collect();
            for number in has {
                self.waiting.remove(&number);
            }
        }
    }

    /// The datagrams that are to be sent again.
    pub fn due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let due = self.waiting.values_mut().filter(|it| it.again_at <= now);
        due.map(|it| {
            it.wait = (it.wait * 2).min(LONGEST_WAIT);
            it.again_at = now + it.wait;
            it.datagram.clone()
        })
        .collect()
    }
}
