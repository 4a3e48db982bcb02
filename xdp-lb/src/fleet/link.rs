//! What passes between this node and a peer by datagrams. It neither has a socket nor asks the clock.
//!
//! A datagram counts only if the session that it is of is known, and a session becomes known by a pull alone ([`super::pull`]), in which
//! the peer proves that it has it now. So nothing of an earlier session can be played back. A session of the peer's that is not known,
//! after a restart or when too much was missed, asks for a pull.

use std::time::{Duration, Instant};

use super::datagram::{self, Acknowledgement, CONTROL, DATA, Head, ROOM};
use super::flow::{LONGEST, SharedFlow};
use super::outbox::Outbox;
use super::seal::{Key, Secret, Session};
use super::window::Window;

/// How often a node shows that it lives where it has nothing to acknowledge.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long nothing may be heard of a peer before it is taken for gone. What it misses from then on, it has to pull.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// How many datagrams of unknown sessions are looked at in a second: each costs a key.
const UNKNOWN_IN_A_SECOND: u32 = 20;

/// One peer, as datagrams reach it.
pub struct Link {
    secret: Secret,
    node: String,
    peer: String,
    outbox: Outbox,
    /// The key and the next number of acknowledgements.
    control: (Key, u64),
    /// Whether the peer gets flows: since it last pulled.
    is_open: bool,
    inbox: Option<Inbox>,
    /// When the peer was last heard.
    heard: Option<Instant>,
    /// Whether there is something to acknowledge.
    is_owing: bool,
    told_at: Option<Instant>,
    /// Whether the peer has flows that this node lacks.
    wants_pull: bool,
    unknown: (Instant, u32),
}

/// The peer's session.
struct Inbox {
    session: Session,
    data: Key,
    control: Key,
    window: Window,
    /// The number of the last acknowledgement and one more.
    next_control: u64,
    /// Whether all flows from before the session's datagrams have come.
    is_whole: bool,
}

/// What a datagram was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Flows that the peer tells of.
    Flows(Vec<SharedFlow>),
    /// Nothing to do.
    Nothing,
    /// It did not come from the peer, or was played back.
    Refused,
}

impl Link {
    /// A link from this node to a peer, in a session of this number.
    pub fn new(secret: &Secret, node: &str, peer: &str, session: Session, now: Instant) -> Self {
        let (outbox, control) = keys(secret, node, peer, session);
        Self {
            secret: secret.clone(),
            node: node.to_owned(),
            peer: peer.to_owned(),
            outbox,
            control,
            is_open: false,
            inbox: None,
            heard: None,
            is_owing: false,
            told_at: None,
            wants_pull: true,
            unknown: (now, 0),
        }
    }

    /// The peer's name.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// When the peer was last heard, if it is not taken for gone.
    pub fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether the peer is told of new flows.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether this node has to pull the peer's flows.
    pub fn wants_pull(&self) -> bool {
        self.wants_pull
    }

    /// The peer's session of which nothing is missed.
    pub fn whole_session(&self) -> Option<Session> {
        self.inbox.as_ref().filter(|inbox| inbox.is_whole).map(|inbox| inbox.session)
    }

    fn known_session(&self) -> Option<Session> {
        self.inbox.as_ref().map(|inbox| inbox.session)
    }

    /// How many flows may be sent.
    pub fn room(&self) -> usize {
        self.outbox.room() * (ROOM / LONGEST)
    }

    /// The peer pulls: from here on it is told of all that is new. Returns the session, and the number of the next datagram.
    pub fn open(&mut self, now: Instant) -> (Session, u64) {
        self.is_open = true;
        self.heard = Some(now);
        (*self.outbox.session(), self.outbox.next())
    }

    /// A pull from the peer has begun, which is in this session and will number its next datagram so.
    pub fn pulling(&mut self, session: Session, next: u64, now: Instant) {
        let key = |purpose| self.secret.key(purpose, &self.peer, &self.node, &session);
        if self.known_session() != Some(session) {
            self.inbox = Some(Inbox {
                session,
                data: key("data"),
                control: key("control"),
                window: Window::new(next),
                next_control: 0,
                is_whole: false,
            });
        }
        self.heard = Some(now);
        self.is_owing = true;
    }

    /// Flows were missed of which the peer takes it that they are known: they have to be pulled.
    pub fn miss(&mut self) {
        self.wants_pull = true;
        self.inbox.iter_mut().for_each(|inbox| inbox.is_whole = false);
    }

    /// That pull has ended well.
    pub fn pulled(&mut self) {
        self.wants_pull = false;
        self.inbox.iter_mut().for_each(|inbox| inbox.is_whole = true);
    }

    /// The datagrams that tell the peer of these flows.
    pub fn send(&mut self, flows: &[SharedFlow], now: Instant) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut message = Vec::with_capacity(ROOM);
        for flow in flows {
            if message.len() + LONGEST > ROOM {
                datagrams.push(self.outbox.send(std::mem::take(&mut message), now));
            }
            flow.write(&mut message);
        }
        if !message.is_empty() {
            datagrams.push(self.outbox.send(message, now));
        }
        datagrams
    }

    /// What is to be sent now: what was not acknowledged, and what has to be acknowledged. A peer that is not heard any more is
    /// taken for gone; then what it has not acknowledged is dropped, and this node is in another session, `next`.
    pub fn tick(&mut self, next: impl FnOnce() -> Session, now: Instant) -> Vec<Vec<u8>> {
        if self.heard.is_some_and(|heard| now.duration_since(heard) > PATIENCE) {
            self.heard = None;
            self.is_open = false;
            (self.outbox, self.control) = keys(&self.secret, &self.node, &self.peer, next());
        }
        let mut datagrams = if self.is_open { self.outbox.due(now) } else { Vec::new() };
        if self.is_owing || self.told_at.is_none_or(|at| now.duration_since(at) >= HEARTBEAT) {
            self.is_owing = false;
            self.told_at = Some(now);
            datagrams.push(self.acknowledge());
        }
        datagrams
    }

    fn acknowledge(&mut self) -> Vec<u8> {
        let (before, ranges) =
            self.inbox.as_ref().map(|inbox| inbox.window.acknowledgement()).unwrap_or_default();
        let message = Acknowledgement { session: self.known_session(), before, ranges }.write();
        let (key, number) = &mut self.control;
        let datagram = datagram::seal(key, CONTROL, self.outbox.session(), *number, message);
        *number += 1;
        datagram
    }

    /// Takes a datagram that has come from the peer's address.
    pub fn receive(&mut self, datagram: &mut [u8], now: Instant) -> Heard {
        let Ok(head) = Head::read(datagram) else { return Heard::Refused };
        if self.known_session() != Some(head.session) {
            return self.receive_unknown(&head, datagram, now);
        }
        match head.kind {
            DATA => self.receive_flows(&head, datagram, now),
            _ => self.receive_control(&head, datagram, now),
        }
    }

    fn receive_flows(&mut self, head: &Head, datagram: &mut [u8], now: Instant) -> Heard {
        let Some(inbox) = &mut self.inbox else { return Heard::Refused };
        let Ok(message) = datagram::open(&inbox.data, head.number, datagram) else { return Heard::Refused };
        // What has come before was perhaps acknowledged in vain.
        self.is_owing = true;
        if !inbox.window.is_new(head.number) {
            return Heard::Nothing;
        }
        let Ok(flows) = SharedFlow::read_all(message) else { return Heard::Refused };
        inbox.window.note(head.number);
        self.heard = Some(now);
        Heard::Flows(flows)
    }

    fn receive_control(&mut self, head: &Head, datagram: &mut [u8], now: Instant) -> Heard {
        let Some(inbox) = &mut self.inbox else { return Heard::Refused };
        let opened = datagram::open(&inbox.control, head.number, datagram);
        let Some(told) = opened.ok().and_then(|message| Acknowledgement::read(message).ok()) else {
            return Heard::Refused;
        };
        if head.number < inbox.next_control {
            // Overtaken, or played back.
            return Heard::Nothing;
        }
        inbox.next_control = head.number + 1;
        self.heard = Some(now);
        if told.session == Some(*self.outbox.session()) {
            self.outbox.acknowledged(told.before, &told.ranges);
        }
        Heard::Nothing
    }

    /// A datagram of another session than is known: if it is the peer's, a pull tells whether it is in that one now.
    fn receive_unknown(&mut self, head: &Head, datagram: &mut [u8], now: Instant) -> Heard {
        let (since, count) = &mut self.unknown;
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > UNKNOWN_IN_A_SECOND {
            return Heard::Refused;
        }
        let purpose = if head.kind == DATA { "data" } else { "control" };
        let key = self.secret.key(purpose, &self.peer, &self.node, &head.session);
        if datagram::open(&key, head.number, datagram).is_err() {
            return Heard::Refused;
        }
        self.wants_pull = true;
        Heard::Nothing
    }
}

/// What a session sends by.
fn keys(secret: &Secret, node: &str, peer: &str, session: Session) -> (Outbox, (Key, u64)) {
    let key = |purpose| secret.key(purpose, node, peer, &session);
    (Outbox::new(session, key("data")), (key("control"), 0))
}

#[cfg(test)]
mod tests;
