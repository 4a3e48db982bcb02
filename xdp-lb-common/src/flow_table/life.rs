//! A line's first word: its owner, and the flow's last packet and progress.

use crate::net::Protocol;
use crate::tables::Settings;
use crate::tables::flow::{self, CLIENT_RESET, CONFIRMED, COUNTED, ESTABLISHED, Stage};

/// [`Life::proof`]: a backend's packet of this flow has been seen.
pub const ANSWERED: u8 = 128;

/// [`Life::proof`]: the number of different seconds with packets, up to this.
const SECONDS: u8 = 15;

/// A flow with packets in this many different seconds is not a burst of spoofed packets.
const STEADY: u8 = 3;

/// A line's first word.
///
/// Bits 48 to 63 are the version, which is odd if the line is a record. Then bits 0 to 31 are the time of the flow's last packet
/// (seconds of the kernel's monotonic clock), 32 to 39 its progress ([`flow`]), 40 to 47 the evidence that it is not spoofed.
/// If the version is even, the line is free (bits 0 to 47: 0), taken (1), or the second line of the record before it (2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Life(u64);

const VERSION_SHIFT: u32 = 48;
const VERSION: u64 = 1 << VERSION_SHIFT;
const TAKEN: u64 = 1;
const BELONGS: u64 = 2;

impl Life {
    /// From its word.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the line is a record.
    #[inline(always)]
    pub const fn is_record(self) -> bool {
        self.0 & VERSION != 0
    }

    /// Whether the line is free.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & (2 * VERSION - 1) == 0
    }

    /// Whether the line is taken: someone is changing it.
    #[inline(always)]
    pub const fn is_taken(self) -> bool {
        !self.is_record() && !self.is_free() && !self.belongs()
    }

    /// Whether the line is the second one of the record before it.
    #[inline(always)]
    pub const fn belongs(self) -> bool {
        self.0 & (2 * VERSION - 1) == BELONGS
    }

    /// Whether both are of the same record, which only packets' notes have changed.
    #[inline(always)]
    pub const fn is_same_record(self, other: Self) -> bool {
        (self.0 ^ other.0) >> VERSION_SHIFT == 0
    }

    /// This version if it is even, else the next one.
    #[inline(always)]
    const fn even(self) -> u64 {
        (self.0 >> VERSION_SHIFT).wrapping_add(1) >> 1 << (VERSION_SHIFT + 1)
    }

    /// The word that takes the line.
    #[inline(always)]
    pub const fn taken(self) -> Self {
        Self(self.even() | TAKEN)
    }

    /// The word that frees a taken line.
    #[inline(always)]
    pub const fn freed(self) -> Self {
        Self(self.even())
    }

    /// The word that makes a taken line the second one of the record before it.
    #[inline(always)]
    pub const fn lent(self) -> Self {
        Self(self.even() | BELONGS)
    }

    /// The word that makes a taken line a record, of a flow with a packet at `now`.
    #[inline(always)]
    pub const fn begun(self, now: u32, progress: u8) -> Self {
        Self(self.even() | VERSION | (progress as u64) << 32 | now as u64)
    }

    /// The word that makes a taken line a record again, with its flow's latest progress.
    #[inline(always)]
    pub const fn resumed(self, noted: Self) -> Self {
        Self(self.even() | VERSION | noted.0 & (VERSION - 1))
    }

    /// The same record after a packet at `now`, with this progress added, and `proof` added to its evidence.
    #[inline(always)]
    pub const fn noted(self, now: u32, progress: u8, proof: u8) -> Self {
        let seconds = self.proof() & SECONDS;
        let is_later = (self.last_seen() != now) as u8;
        let seconds = if seconds < SECONDS { seconds + is_later } else { seconds };
        let proof = self.proof() & ANSWERED | proof & ANSWERED | seconds;
        let noted = (proof as u64) << 40 | (progress as u64) << 32 | now as u64;
        Self(self.0 >> VERSION_SHIFT << VERSION_SHIFT | noted)
    }

    /// The same record with the progress of another one.
    pub const fn with_notes_of(self, other: Self) -> Self {
        Self(self.0 >> VERSION_SHIFT << VERSION_SHIFT | other.0 & (VERSION - 1))
    }

    /// The same record, with packets that were noted in another one, too: the last at `now`, a flow that has come so far, and what
    /// speaks for it.
    pub const fn joined(self, now: u32, progress: u8, proof: u8) -> Self {
        let own = self.proof();
        let seconds = if own & SECONDS > proof & SECONDS { own & SECONDS } else { proof & SECONDS };
        let proof = (own | proof) & ANSWERED | seconds;
        let noted = (proof as u64) << 40 | (progress as u64) << 32 | now as u64;
        Self(self.0 >> VERSION_SHIFT << VERSION_SHIFT | noted)
    }

    /// The same record without these bits of progress.
    pub const fn without(self, progress: u8) -> Self {
        Self(self.0 & !((progress as u64) << 32))
    }

    /// The same record with this evidence.
    pub const fn with_proof(self, proof: u8) -> Self {
        Self(self.0 | (proof as u64) << 40)
    }

    /// Whether a client's packet that is neither its flow's first nor its last would change nothing at `now`.
    #[inline(always)]
    pub const fn is_noted(self, now: u32) -> bool {
        const GOES_ON: u8 = ESTABLISHED | CONFIRMED;
        (self.progress() & (GOES_ON | CLIENT_RESET) == GOES_ON) & (self.last_seen() == now)
    }

    /// The time of the last packet, in seconds of the kernel's monotonic clock.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// The flow's progress: the bits of [`flow`].
    #[inline(always)]
    pub const fn progress(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// The evidence that the flow is not spoofed: [`ANSWERED`], and the number of seconds with packets.
    #[inline(always)]
    pub const fn proof(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Seconds since the last packet. Several CPUs read the clock, so a record may be slightly ahead of `now`.
    #[inline(always)]
    pub const fn idle(self, now: u32) -> u32 {
        now.saturating_sub(self.last_seen())
    }

    /// The flow's stage.
    pub fn stage(self, protocol: Protocol) -> Stage {
        match protocol {
            Protocol::TCP if flow::is_closing(self.progress()) => Stage::Closing,
            _ if self.progress() & CONFIRMED == 0 => Stage::HalfOpen,
            _ => Stage::Established,
        }
    }

    /// Whether the flow may still have packets; `now` in seconds of the clock of [`Life::last_seen`].
    #[inline(always)]
    pub fn is_live(self, protocol: Protocol, now: u32, settings: &Settings) -> bool {
        flow::is_live(protocol, self.progress(), self.idle(now), settings)
    }

    /// Whether the record is no longer needed: another flow may have its lines and its port.
    #[inline(always)]
    pub fn is_over(self, protocol: Protocol, now: u32, settings: &Settings) -> bool {
        flow::is_over(protocol, self.progress(), self.idle(now), settings)
    }

    /// Whether the flow counts as one of its backend's, for limits and for `drain --wait`.
    ///
    /// A single packet of a client may be spoofed. Where the backend's replies pass here (`sees_replies`), such a flow counts only
    /// as long as a half-open one: if it is real, the backend answers, and the client goes on.
    #[inline(always)]
    pub fn counts(self, protocol: Protocol, now: u32, settings: &Settings, sees_replies: bool) -> bool {
        let is_unproven = sees_replies && self.progress() & CONFIRMED == 0 && protocol == Protocol::TCP;
        let is_old = is_unproven && self.idle(now) > flow::half_open_patience(settings);
        !is_old && self.is_live(protocol, now, settings)
    }

    /// Whether the flow has closed, so that it no longer counts.
    #[inline(always)]
    pub const fn has_ended_since(self, before: Self) -> bool {
        before.progress() & COUNTED != 0 && self.progress() & COUNTED == 0
    }

    /// The worth of this record: of two, the one with the smaller number is evicted first. `None`: it is not evicted for a new flow.
    ///
    /// Flows that are over go first, then flows with a single packet, then those with more packets but only the client's; of each
    /// kind the oldest first. A flow stays if its backend has answered and its client went on, or if it had packets in several
    /// seconds.
    #[inline(always)]
    pub fn worth(self, protocol: Protocol, now: u32, settings: &Settings) -> Option<u32> {
        // 28 bits hold eight years of seconds.
        const YEARS: u32 = (1 << 28) - 1;
        let idle = self.idle(now);
        let youth = YEARS - if idle < YEARS { idle } else { YEARS };
        if flow::is_over(protocol, self.progress(), idle, settings) {
            return Some(youth);
        }
        let seconds = self.proof() & SECONDS;
        // Someone who spoofs one datagram can spoof another. A TCP client that goes on has seen the answer.
        let is_convincing =
            if protocol == Protocol::TCP { self.progress() & ESTABLISHED != 0 } else { seconds > 0 };
        let is_answered = (self.proof() & ANSWERED != 0) & is_convincing;
        let is_proven = (is_answered | (seconds >= STEADY)) & !flow::is_surely_closed(self.progress());
        let kind = 1 + u32::from(self.progress() / CONFIRMED);
        (!is_proven).then_some(kind << 28 | youth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_hand_to_hand() {
        let free = Life::default();
        assert!(free.is_free() && !free.is_record() && !free.belongs());
        let taken = free.taken();
        assert!(!taken.is_free() && !taken.is_record() && !taken.belongs());
        assert_eq!(taken.freed(), free);
        let record = taken.begun(77, ESTABLISHED);
        assert!(record.is_record() && !record.is_free());
        assert_eq!((record.last_seen(), record.progress(), record.proof()), (77, ESTABLISHED, 0));
        let again = record.taken();
        assert!(!again.is_record() && !again.is_same_record(taken), "not the line that it was");
        assert!(again.freed().is_free() && again.lent().belongs());
        let resumed = again.resumed(record);
        assert!(!resumed.is_same_record(record) && resumed.last_seen() == 77);
    }

    #[test]
    fn versions_come_round() {
        let mut life = Life::default();
        for _ in 0..40_000 {
            let record = life.taken().begun(1, 255).noted(2, 255, 255);
            assert!(record.is_record() && record.is_same_record(record.noted(3, 0, 0)));
            life = record.taken().freed();
            assert!(life.is_free());
        }
    }

    #[test]
    fn seconds_with_packets_are_counted() {
        let mut life = Life::default().taken().begun(100, 0);
        for now in [100, 100, 101, 101, 102] {
            life = life.noted(now, 0, 0);
        }
        assert_eq!(life.proof(), 2);
        life = life.noted(102, 0, ANSWERED);
        assert_eq!(life.proof(), ANSWERED | 2);
        (103..200).for_each(|now| life = life.noted(now, 0, 0));
        assert_eq!(life.proof(), ANSWERED | SECONDS);
    }

    #[test]
    fn who_goes_first_is_over_or_has_little_to_speak_for_it() {
        let settings = crate::flow_table::testing::SETTINGS;
        let life = |seen, progress, proof| {
            Life::default().taken().begun(seen, progress).noted(seen, progress, proof)
        };
        let worth = |life: Life| life.worth(Protocol::TCP, 1000, &settings);
        let steady = (995..1000).fold(life(995, ESTABLISHED, 0), |life, now| life.noted(now, ESTABLISHED, 0));
        for stays in [life(999, ESTABLISHED, ANSWERED), life(200, ESTABLISHED | CONFIRMED, ANSWERED), steady]
        {
            assert_eq!(worth(stays), None, "{stays:?}");
        }
        let order = [
            life(50, ESTABLISHED | CONFIRMED, ANSWERED), // over
            life(900, 0, 0),                             // over, too
            life(990, 0, 0),
            life(999, 0, ANSWERED),
            life(999, ESTABLISHED, 0),
            life(990, ESTABLISHED | CONFIRMED, 0),
            life(999, ESTABLISHED | CONFIRMED, 0),
        ];
        assert!(order.map(worth).is_sorted(), "{:?}", order.map(worth));
        assert!(order.into_iter().all(|life| worth(life).is_some()));
    }
}
