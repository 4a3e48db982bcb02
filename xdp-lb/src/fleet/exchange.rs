//! The state of the exchange: the flow table, and a link to each peer. It has no sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};

use super::flow::SharedFlow;
use super::link::{Heard, Link};
use super::seal::Secret;
use super::status::{PeerStatus, Status, Tally};
use super::table::{FlowTable, Refusal, RingWord, TrackedRing};
use crate::model;
use crate::model::state::PeerState;

/// How long a node waits for the flows of its peers before it serves without: for all, and for one that does not answer.
const JOIN: Duration = Duration::from_secs(60);
const JOIN_UNANSWERED: Duration = Duration::from_secs(3);

/// Datagrams, and where they go.
pub type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

/// The exchange of this node with its peers.
pub struct Exchange {
    /// What the nodes have in common.
    pub secret: Secret,
    /// This node's name.
    pub node: String,
    fleet: String,
    address: SocketAddr,
    table: Box<dyn FlowTable>,
    peers: Vec<Peer>,
    /// Whoever has the rings.
    rings: mpsc::UnboundedSender<RingWord>,
    started: Instant,
    is_joined: bool,
    flows: Vec<SharedFlow>,
}

struct Peer {
    link: Link,
    address: SocketAddr,
    tally: Tally,
    /// Why the last pull did not succeed.
    trouble: Option<String>,
    /// Whether its rings were looked at: once, as this node joins.
    has_told_rings: bool,
    /// Flows of it were refused when there were these backends: for want of others.
    refused_with: Option<u64>,
}

impl Exchange {
    /// Nothing exchanged yet.
    pub fn new(
        config: &model::Fleet,
        secret: Secret,
        table: Box<dyn FlowTable>,
        rings: mpsc::UnboundedSender<RingWord>,
        now: Instant,
    ) -> Self {
        let peers = config.peers().map(|(name, address)| Peer {
            link: Link::new(&secret, &config.node, name, rand::random(), now),
            address,
            tally: Tally::default(),
            trouble: None,
            has_told_rings: false,
            refused_with: None,
        });
        Self {
            node: config.node.clone(),
            fleet: config.name.clone(),
            address: config.address(),
            table,
            peers: peers.collect(),
            rings,
            started: now,
            is_joined: false,
            flows: Vec::new(),
            secret,
        }
    }

    /// Where this node hears its peers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of each peer, by its number.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.iter().map(|peer| peer.address)
    }

    /// The number of the peer at an address.
    pub fn peer_at(&self, address: SocketAddr) -> Option<usize> {
        self.peers.iter().position(|peer| peer.address == address)
    }

    /// The number of the peer of this name.
    pub fn peer_of(&self, name: &str) -> Option<usize> {
        self.peers.iter().position(|peer| peer.link.peer() == name)
    }

    /// The link to a peer.
    pub fn link(&mut self, peer: usize) -> &mut Link {
        &mut self.peers[peer].link
    }

    /// Why a pull from a peer has not succeeded; nothing: it has.
    pub fn note_pull(&mut self, peer: usize, trouble: Option<String>) {
        let peer = &mut self.peers[peer];
        if trouble.is_none() {
            peer.link.pulled();
            peer.has_told_rings = true;
        }
        match (&peer.trouble, &trouble) {
            (None, Some(why)) => {
                tracing::warn!("fleet: cannot get the flows of {}: {why}; trying again", peer.link.peer());
            }
            (_, None) => tracing::info!("fleet: has the flows of {}", peer.link.peer()),
            _ => {}
        }
        peer.trouble = trouble;
    }

    /// Notes what a peer was sent by a pull.
    pub fn note_sent(&mut self, peer: usize, flows: usize, bytes: usize) {
        let tally = &mut self.peers[peer].tally;
        tally.sent_flows += flows as u64;
        tally.sent_bytes += bytes as u64;
    }

    /// A part of all flows that peers should know, from a place in the table on, and where to go on.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn page(&mut self, from: u32) -> Result<(Vec<SharedFlow>, Option<u32>)> {
        let mut flows = Vec::new();
        let next = self.table.page(from, &mut flows)?;
        Ok((flows, next))
    }

    /// The slots of this node that are not settled, once they are looked up.
    pub fn tracked(&self) -> oneshot::Receiver<Vec<TrackedRing>> {
        let (answer, tracked) = oneshot::channel();
        // The owner may have ended.
        let _ = self.rings.send(RingWord::Asked(answer));
        tracked
    }

    /// Takes in a ring of a peer's: as this node joins.
    pub fn take_ring(&mut self, peer: usize, ring: TrackedRing) {
        if !self.peers[peer].has_told_rings {
            // The owner may have ended.
            let _ = self.rings.send(RingWord::Told(vec![ring]));
        }
    }

    /// Takes in flows of a peer's.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn take(&mut self, peer: usize, flows: &[SharedFlow]) -> Result<()> {
        let mut is_unknown = false;
        let tally = &mut self.peers[peer].tally;
        for flow in flows {
            tally.received_flows += 1;
            if let Err(refusal) = self.table.take(flow)? {
                let count = Refusal::ALL.iter().position(|it| *it == refusal);
                count.into_iter().for_each(|count| tally.refused_flows[count] += 1);
                is_unknown |= refusal == Refusal::Unknown;
            }
        }
        if is_unknown {
            self.peers[peer].refused_with = Some(self.table.backends()?);
        }
        let differing = self.table.differing();
        if !differing.is_empty() {
            let _ = self.rings.send(RingWord::Told(differing));
        }
        Ok(())
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn receive(&mut self, from: SocketAddr, datagram: &mut [u8], now: Instant) -> Result<()> {
        let Some(number) = self.peer_at(from) else { return Ok(()) };
        let peer = &mut self.peers[number];
        match peer.link.receive(datagram, now) {
            Heard::Flows(flows) => self.take(number, &flows)?,
            Heard::Refused => peer.tally.forged += 1,
            Heard::Nothing => {}
        }
        Ok(())
    }

    /// Walks on over the table; returns the datagrams that tell peers what is new, and whether the walk is through. No peer is told
    /// more than it can take; who cannot take any more holds up the walk, until it does or is taken for gone.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn walk(&mut self, now: Instant) -> Result<(Datagrams, bool)> {
        let rooms = self.peers.iter().filter(|peer| peer.link.is_open()).map(|peer| peer.link.room());
        let room = rooms.min().unwrap_or(usize::MAX);
        if room == 0 {
            return Ok((Vec::new(), true));
        }
        self.flows.clear();
        let is_through = self.table.news(room, &mut self.flows)?;
        let mut datagrams = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| peer.link.is_open()) {
            let sent = peer.link.send(&self.flows, now);
            peer.tally.sent_flows += self.flows.len() as u64;
            peer.tally.sent_bytes += sent.iter().map(|it| it.len() as u64).sum::<u64>();
            datagrams.extend(sent.into_iter().map(|it| (peer.address, it)));
        }
        Ok((datagrams, is_through))
    }

    /// Asks peers again for flows whose backends were not known, once there are others.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    pub fn ask_again(&mut self) -> Result<()> {
        let refused = self.peers.iter_mut().filter(|peer| peer.refused_with.is_some());
        for peer in refused {
            let backends = self.table.backends()?;
            if peer.refused_with.is_some_and(|with| with != backends) {
                peer.refused_with = None;
                peer.link.miss();
            }
        }
        Ok(())
    }

    /// The datagrams that are due besides.
    pub fn tick(&mut self, now: Instant) -> Datagrams {
        let mut datagrams = Vec::new();
        for peer in &mut self.peers {
            let was_heard = peer.link.heard().is_some();
            let due = peer.link.tick(rand::random, now);
            if was_heard && peer.link.heard().is_none() {
                tracing::warn!("fleet: {} at {} does not answer any more", peer.link.peer(), peer.address);
            }
            // The last one is an acknowledgement, if there is one.
            peer.tally.resent += due.len().saturating_sub(1) as u64;
            peer.tally.sent_bytes += due.iter().map(|it| it.len() as u64).sum::<u64>();
            datagrams.extend(due.into_iter().map(|it| (peer.address, it)));
        }
        self.look_whether_joined(now);
        datagrams
    }

    fn look_whether_joined(&mut self, now: Instant) {
        if self.is_joined {
            return;
        }
        let waited = now.duration_since(self.started);
        let is_awaited = |peer: &Peer| {
            let answers = peer.trouble.is_none() || waited < JOIN_UNANSWERED;
            peer.link.whole_session().is_none() && answers
        };
        let awaited: Vec<_> = self.peers.iter().filter(|peer| is_awaited(peer)).collect();
        if awaited.is_empty() || waited >= JOIN {
            self.is_joined = true;
            let missing = self.peers.iter().filter(|peer| peer.link.whole_session().is_none());
            let missing: Vec<_> = missing.map(|peer| peer.link.peer()).collect();
            match missing.is_empty() {
                true => tracing::info!("fleet: joined, with the flows of all nodes"),
                false => tracing::warn!("fleet: joined without the flows of {}", missing.join(", ")),
            }
        }
    }

    /// What is known of the peers.
    pub fn status(&self) -> Status {
        let peers = self.peers.iter().map(|peer| PeerStatus {
            node: peer.link.peer().to_owned(),
            address: peer.address,
            state: match (peer.link.heard(), peer.link.wants_pull()) {
                (None, _) => PeerState::Unreachable,
                (Some(_), true) => PeerState::Syncing,
                (Some(_), false) => PeerState::Synced,
            },
            why: peer.trouble.clone(),
            heard: peer.link.heard(),
            tally: peer.tally.clone(),
        });
        Status {
            fleet: self.fleet.clone(),
            node: self.node.clone(),
            address: self.address,
            is_joined: self.is_joined,
            peers: peers.collect(),
        }
    }
}
