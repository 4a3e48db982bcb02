//! A flow's life: when it is established, closing, over.

#![expect(unsafe_code, reason = "CPUs share a flow's life")]

use core::cell::UnsafeCell;

use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use super::settings::{AGES, Settings};
use crate::net::Protocol;
use crate::packet::headers::{TCP_FIN, TCP_RST, TCP_SYN};

/// The client has sent a packet after its first: a TCP flow without it is half-open.
pub const ESTABLISHED: u8 = 1;
/// The client has sent a FIN.
pub const CLIENT_FIN: u8 = 2;
/// The backend has sent a FIN.
pub const BACKEND_FIN: u8 = 4;
/// The client has sent a RST, and nothing else since.
pub const CLIENT_RESET: u8 = 8;
/// The backend has sent a RST, and nothing else since.
pub const BACKEND_RESET: u8 = 16;

/// The flow has a record of each direction, so that both sides' FINs are seen.
pub const PAIRED: u8 = 32;

/// The flow counts towards the `max_flows` of its service and backend.
pub const COUNTED: u8 = 64;

const FINS: u8 = CLIENT_FIN | BACKEND_FIN;
const RESETS: u8 = CLIENT_RESET | BACKEND_RESET;

impl Direction {
    /// The bits of progress that a packet of this direction may set or clear; the others are the other
    /// direction's.
    #[inline(always)]
    const fn own(self) -> u8 {
        match self {
            Self::Forward => ESTABLISHED | CLIENT_FIN | CLIENT_RESET | COUNTED,
            Self::Reply => BACKEND_FIN | BACKEND_RESET,
        }
    }

    /// How far a flow has come, by what a packet of this direction says of its own side and what the
    /// other half's record says of the other.
    #[inline(always)]
    pub fn merge(self, own: u8, others: u8) -> u8 {
        own & self.own() | others & !self.own()
    }
}

/// How far a flow has come, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The client has sent a SYN, and no more.
    HalfOpen,
    /// Data may flow.
    Established,
    /// A side has sent a FIN or a RST.
    Closing,
}

/// What a flow's patience depends on: how long after its last packet its record is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Age {
    /// UDP has no handshake to go by.
    Udp = 0,
    /// A SYN, and nothing else from the client.
    HalfOpen = 1,
    /// Data may flow.
    Established = 2,
    /// The client has sent a FIN, and the backend's would not be seen; or a RST, which somebody else may have sent.
    Closing = 3,
    /// One side has sent a FIN.
    HalfClosed = 4,
    /// Both sides have.
    Closed = 5,
    /// The backend has sent a RST, or somebody has before the client went on.
    Reset = 6,
}

/// Seconds for which a half-closed flow is kept at least: the "transitory connection idle-timeout" of RFC 5382 section 5.
const HALF_CLOSED: u32 = 240;

/// Seconds of patience by [`Age`], with the two that are the operator's to choose.
pub const fn patience(tcp_idle: u32, udp_idle: u32) -> [u32; AGES] {
    [
        udp_idle, // Some retransmissions of a SYN (RFC 6298 section 2).
        30,
        tcp_idle,
        // A client that has said all may wait for a long answer. Where the backend's FIN would not be seen, most such flows
        // are closed, and their records are not kept for longer than that takes.
        HALF_CLOSED,
        // A half-closed connection is as good as another (RFC 5382 section 5, REQ-5).
        if tcp_idle > HALF_CLOSED { tcp_idle } else { HALF_CLOSED },
        // The port is kept as long as Linux keeps a connection in TIME-WAIT (TCP_TIMEWAIT_LEN).
        60,
        // For packets on their way, and for a side in whose name somebody else sent the reset to go on.
        10,
        0,
    ]
}

/// Seconds after its last packet for which a flow is kept, whatever it has come to: the longest patience of its protocol.
#[inline(always)]
pub fn longest_patience(protocol: Protocol, settings: &Settings) -> u32 {
    let age = if protocol == Protocol::TCP { Age::HalfClosed } else { Age::Udp };
    settings.patience[age as usize]
}

/// The age of each progress of a TCP flow. A table, since the verifier would follow each branch.
static AGE: [u8; 64] = {
    let mut ages = [0; 64];
    let mut progress = 0;
    while progress < 64 {
        let bits = progress as u8;
        // Anybody may send a reset in a client's name, and the load balancer knows no sequence numbers: it says no more than
        // a FIN. A backend's has come from where the backend is.
        let is_reset = bits & BACKEND_RESET != 0 || bits & CLIENT_RESET != 0 && bits & ESTABLISHED == 0;
        ages[progress] = if is_reset {
            Age::Reset
        } else if bits & FINS == FINS {
            Age::Closed
        } else if bits & CLIENT_RESET != 0 {
            Age::Closing
        } else if bits & FINS != 0 && bits & PAIRED != 0 {
            Age::HalfClosed
        } else if bits & FINS != 0 {
            Age::Closing
        } else if bits & ESTABLISHED != 0 {
            Age::Established
        } else {
            Age::HalfOpen
        } as u8;
        progress += 1;
    }
    ages
};

/// Seconds without a packet after which a flow whose client has sent a FIN no longer counts as live where the
/// backend's is never seen: most such flows are closed, and whoever waits for the last flow waits for them.
const CLOSING: u32 = 10;

/// Seconds after which the port of a closed flow is given to another if no other is free.
const SCARCE: u32 = 10;

/// How far a flow has come after a packet with these TCP control bits (none, for UDP). A side that goes on
/// after its reset did not send that reset.
#[inline(always)]
pub fn advance(progress: u8, direction: Direction, tcp_flags: u8) -> u8 {
    let (fin, reset) = match direction {
        Direction::Forward => (CLIENT_FIN, CLIENT_RESET),
        Direction::Reply => (BACKEND_FIN, BACKEND_RESET),
    };
    if tcp_flags & TCP_RST != 0 {
        return progress | reset;
    }
    let mut progress = progress & !reset;
    if tcp_flags & TCP_FIN != 0 {
        progress |= fin;
    }
    if matches!(direction, Direction::Forward) && tcp_flags & TCP_SYN == 0 {
        progress |= ESTABLISHED;
    }
    progress
}

/// Whether this progress is that of a flow that is closed and still counts.
#[inline(always)]
pub fn is_closed_and_counted(progress: u8) -> bool {
    (progress & COUNTED != 0) & ((progress & RESETS != 0) | (progress & FINS == FINS))
}

/// Which way the packets of a flow record go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From a client to a backend.
    Forward = 0,
    /// From a backend to a client.
    Reply = 1,
}

/// What a packet notes in its flow's record, in one word that is read and written at once: when it
/// was seen (seconds of the kernel's monotonic clock, bits 0 to 31), how far the flow has come (32 to
/// 39), and the record's direction, which never changes (40).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct Life(UnsafeCell<u64>);

// SAFETY: in the kernel every access is one load or store of the aligned word, so that CPUs that share
// a record see one note or another, never a mixture.
// Clippy looks at the kernel's side as if it were built for the host.
#[cfg(any(target_arch = "bpf", clippy))]
unsafe impl Sync for Life {}

impl Clone for Life {
    fn clone(&self) -> Self {
        Self(UnsafeCell::new(self.read()))
    }
}

impl Life {
    /// The life of a record that begins, or goes on, with a packet seen at `now`.
    #[inline(always)]
    pub fn new(direction: Direction, now: u32, progress: u8) -> Self {
        Self(UnsafeCell::new(Self::word(direction as u64, now, progress)))
    }

    #[inline(always)]
    fn word(direction: u64, now: u32, progress: u8) -> u64 {
        direction << 40 | u64::from(progress) << 32 | u64::from(now)
    }

    /// Notes a packet. Of two CPUs that note one at the same time, one is forgotten.
    #[inline(always)]
    pub fn note(&self, now: u32, progress: u8) {
        let word = Self::word(self.read() >> 40, now, progress);
        // SAFETY: as for `read`.
        unsafe { self.0.get().write_volatile(word) }
    }

    /// The word. LLVM 22 has no atomic loads for BPF; a volatile access of an aligned word is one
    /// instruction there, as the kernel's own READ_ONCE relies on.
    #[inline(always)]
    fn read(&self) -> u64 {
        // SAFETY: the cell is aligned and lives as long as self. On the host a Life is not Sync, so
        // nobody writes it meanwhile; in the kernel the access is one instruction.
        unsafe { self.0.get().read_volatile() }
    }

    /// When the last packet was seen, seconds of the kernel's monotonic clock.
    #[inline(always)]
    pub fn last_seen(&self) -> u32 {
        self.read() as u32
    }

    /// How far the flow has come: [`ESTABLISHED`] and the other bits of this module.
    #[inline(always)]
    pub fn progress(&self) -> u8 {
        (self.read() >> 32) as u8
    }

    /// How far the flow has come, in short.
    pub fn stage(&self, protocol: Protocol) -> Stage {
        match protocol {
            Protocol::TCP if self.is_closing() => Stage::Closing,
            Protocol::TCP if self.progress() & ESTABLISHED == 0 => Stage::HalfOpen,
            _ => Stage::Established,
        }
    }

    /// Whether the record is that of a backend's packets.
    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.read() >> 40 == Direction::Reply as u64
    }

    /// Whether both sides have closed the flow, or one has reset it.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        let progress = self.progress();
        progress & RESETS != 0 || progress & FINS == FINS
    }

    /// Whether any side has begun to close the flow.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.progress() & (RESETS | FINS) != 0
    }

    /// Whether the flow may still have packets; `now` in seconds of the clock of [`Life::last_seen`].
    #[inline(always)]
    pub fn is_live(&self, protocol: Protocol, now: u32, settings: &Settings) -> bool {
        let age = self.age(protocol);
        let patience = settings.patience[usize::from(age) % AGES];
        let patience = if age == Age::Closing as u8 && patience > CLOSING { CLOSING } else { patience };
        !self.is_closed() && self.idle(now) <= patience
    }

    /// Whether the flow counts as one that its backend has: for limits, and for whoever waits for the backend's last one.
    ///
    /// `is_unproven`: the client has sent one packet, which anybody may have made up, and the backend's replies pass here.
    /// It counts as long as one that is half-open does: a backend that knows the flow answers, and the client goes on.
    #[inline(always)]
    pub fn counts(&self, protocol: Protocol, now: u32, settings: &Settings, is_unproven: bool) -> bool {
        let half_open = settings.patience[Age::HalfOpen as usize];
        let is_old = is_unproven && protocol == Protocol::TCP && self.idle(now) > half_open;
        !is_old && self.is_live(protocol, now, settings)
    }

    /// Whether the record is of no more use: its place and its port may be given to another flow.
    #[inline(always)]
    pub fn is_over(&self, protocol: Protocol, now: u32, settings: &Settings) -> bool {
        self.idle(now) > self.patience(protocol, settings)
    }

    /// Whether the flow's port may be given to another where ports are scarce.
    #[inline(always)]
    pub fn may_yield(&self, now: u32) -> bool {
        self.is_closed() && self.idle(now) > SCARCE
    }

    /// Seconds since its last packet. The clock is read on several CPUs: a record may be a little
    /// ahead of `now`.
    #[inline(always)]
    fn idle(&self, now: u32) -> u32 {
        now.saturating_sub(self.last_seen())
    }

    #[inline(always)]
    fn patience(&self, protocol: Protocol, settings: &Settings) -> u32 {
        settings.patience[usize::from(self.age(protocol)) % AGES]
    }

    #[inline(always)]
    fn age(&self, protocol: Protocol) -> u8 {
        match protocol {
            Protocol::TCP => AGE[usize::from(self.progress()) % AGE.len()],
            _ => Age::Udp as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_mac::{IN_SETTINGS, OwnMac};
    use crate::packet::headers::TCP_ACK;

    const SETTINGS: Settings = Settings {
        hash_keys: [0; crate::hash::KEYS],
        snat_port_first: 1024,
        snat_port_count: 1,
        patience: patience(900, 60),
        options: 0,
        handover: 0,
        heartbeat: 0,
        alone: 0,
        own_macs: [OwnMac::from_bits(0); IN_SETTINGS],
    };

    /// How long after its last packet a flow of this progress is live, and how long its record is kept.
    fn ages(protocol: Protocol, progress: u8) -> (u32, u32) {
        let life = Life::new(Direction::Forward, 1000, progress);
        let last = |holds: &dyn Fn(u32) -> bool| (0..2000).take_while(|age| holds(1000 + age)).count() as u32;
        (
            last(&|now| life.is_live(protocol, now, &SETTINGS)).saturating_sub(1),
            last(&|now| !life.is_over(protocol, now, &SETTINGS)) - 1,
        )
    }

    #[test]
    fn a_flow_lives_as_long_as_its_progress_says() {
        assert_eq!(ages(Protocol::UDP, 0), (60, 60));
        assert_eq!(ages(Protocol::TCP, 0), (30, 30), "half-open");
        assert_eq!(ages(Protocol::TCP, ESTABLISHED), (900, 900));
        assert_eq!(
            ages(Protocol::TCP, ESTABLISHED | CLIENT_FIN),
            (10, 240),
            "the backend's FIN is never seen"
        );
        assert_eq!(ages(Protocol::TCP, PAIRED | ESTABLISHED | CLIENT_FIN), (900, 900), "half closed");
        assert_eq!(patience(1, 60)[Age::HalfClosed as usize], 240, "an answer may take its time");
        assert_eq!(ages(Protocol::TCP, PAIRED | ESTABLISHED | FINS), (0, 60), "closed");
        assert_eq!(ages(Protocol::TCP, PAIRED | ESTABLISHED | BACKEND_RESET), (0, 10), "reset");
        assert_eq!(ages(Protocol::TCP, CLIENT_RESET), (0, 10), "reset before it was established");
        for others in [0, PAIRED, PAIRED | CLIENT_FIN] {
            let progress = ESTABLISHED | CLIENT_RESET | others;
            assert_eq!(ages(Protocol::TCP, progress), (0, 240), "somebody says that the client has reset it");
        }
    }

    #[test]
    fn a_closed_flow_s_port_is_given_away_early_only_where_ports_are_scarce() {
        let closed = Life::new(Direction::Reply, 1000, PAIRED | ESTABLISHED | FINS);
        assert!(!closed.may_yield(1010) && closed.may_yield(1011));
        assert!(!Life::new(Direction::Reply, 1000, PAIRED | ESTABLISHED).may_yield(2000));
    }

    #[test]
    fn a_reset_counts_until_its_sender_goes_on() {
        let reset = advance(ESTABLISHED, Direction::Forward, TCP_RST);
        assert_eq!(reset, ESTABLISHED | CLIENT_RESET);
        assert_eq!(
            advance(reset, Direction::Reply, TCP_ACK),
            reset,
            "the other side's packet was on its way"
        );
        assert_eq!(advance(reset, Direction::Forward, TCP_ACK), ESTABLISHED);
    }

    #[test]
    fn each_direction_has_the_last_word_on_its_own_side() {
        let merged = Direction::Forward.merge(ESTABLISHED | CLIENT_FIN, PAIRED | CLIENT_RESET | BACKEND_FIN);
        assert_eq!(merged, PAIRED | ESTABLISHED | CLIENT_FIN | BACKEND_FIN);
    }
}
