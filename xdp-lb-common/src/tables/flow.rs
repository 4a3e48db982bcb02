//! The life of a flow: when it is established, closing or over.

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

/// The record also has the key of the backend's packets, so that the FINs of both sides are seen.
pub const PAIRED: u8 = 32;

/// The flow counts towards the `max_flows` of its service and backend.
pub const COUNTED: u8 = 64;

/// The client has sent another packet after the flow's first.
pub const CONFIRMED: u8 = 128;

/// Both sides have closed.
pub const FINS: u8 = CLIENT_FIN | BACKEND_FIN;
const RESETS: u8 = CLIENT_RESET | BACKEND_RESET;

/// How far a flow has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The client has sent only a SYN.
    HalfOpen,
    /// Data may be sent.
    Established,
    /// A side has sent a FIN or a RST.
    Closing,
}

/// What the idle timeout of a flow's record depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Age {
    /// UDP, which has no handshake.
    Udp = 0,
    /// The client has sent only a SYN.
    HalfOpen = 1,
    /// Data may be sent.
    Established = 2,
    /// The client has sent a FIN, and the backend's would not be seen; or a RST, which may be spoofed.
    Closing = 3,
    /// One side has sent a FIN.
    HalfClosed = 4,
    /// Both sides have sent one.
    Closed = 5,
    /// The backend has sent a RST, or the client has before the flow was established.
    Reset = 6,
}

/// Seconds for which a half-closed flow is kept at least: the "transitory connection idle-timeout" of RFC 5382 section 5.
const HALF_CLOSED: u32 = 240;

/// The idle timeouts by [`Age`], in seconds. The operator chooses two of them.
pub const fn patience(tcp_idle: u32, udp_idle: u32) -> [u32; AGES] {
    [
        udp_idle,
        // Some retransmissions of a SYN (RFC 6298 section 2).
        30,
        tcp_idle,
        // A client that has sent everything may wait for a long response. If the backend's FIN would not be seen, most such flows
        // are closed, and their records are not kept for longer.
        HALF_CLOSED,
        // A half-closed connection is still in use (RFC 5382 section 5, REQ-5).
        if tcp_idle > HALF_CLOSED { tcp_idle } else { HALF_CLOSED },
        // The port is kept as long as Linux keeps a connection in TIME-WAIT (TCP_TIMEWAIT_LEN).
        60,
        // For packets in flight, and so that a side whose reset was spoofed can continue.
        10,
        0,
    ]
}

/// The longest idle timeout of a protocol, in seconds.
#[inline(always)]
pub fn longest_patience(protocol: Protocol, settings: &Settings) -> u32 {
    let age = if protocol == Protocol::TCP { Age::HalfClosed } else { Age::Udp };
    settings.patience[age as usize]
}

/// The age of each progress of a TCP flow. A table, because the verifier would follow each branch.
static AGE: [u8; 64] = {
    let mut ages = [0; 64];
    let mut progress = 0;
    while progress < 64 {
        let bits = progress as u8;
        // Anybody can spoof a client's reset, and the load balancer does not know the sequence numbers: it counts as a FIN. A
        // backend's reset has arrived where the backend is.
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

/// Seconds after which an idle flow whose client has sent a FIN no longer counts as live if the backend's FIN is never seen: most
/// such flows are closed, and a drain would wait for them.
const CLOSING: u32 = 10;

/// The progress of a flow after a packet with these TCP control bits (UDP: none). A side that continues after its reset did not
/// send that reset, and a client that opens the connection again has not closed it. A backend that accepts a connection has no
/// other one between the same endpoints (RFC 9293 section 3.10.7.4, RFC 5961 section 4.2).
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
    if tcp_flags & TCP_SYN != 0 {
        progress &= match direction {
            Direction::Forward => !CLIENT_FIN,
            Direction::Reply => PAIRED | COUNTED,
        };
    }
    if tcp_flags & TCP_FIN != 0 {
        progress |= fin;
    }
    if matches!(direction, Direction::Forward) && tcp_flags & TCP_SYN == 0 {
        progress |= ESTABLISHED;
    }
    progress
}

/// The progress of a flow that no longer counts once it is closed.
#[inline(always)]
pub const fn settle(progress: u8) -> u8 {
    if is_closed(progress) { progress & !COUNTED } else { progress }
}

/// Whether both sides have closed a flow with this progress, or one has reset it, as far as its packets say.
#[inline(always)]
pub const fn is_closed(progress: u8) -> bool {
    progress & RESETS != 0 || progress & FINS == FINS
}

/// The same for sure: the backend has said so. Anybody can spoof a client's reset.
#[inline(always)]
pub const fn is_surely_closed(progress: u8) -> bool {
    progress & BACKEND_RESET != 0
        || progress & FINS == FINS
        || progress & (CLIENT_RESET | ESTABLISHED) == CLIENT_RESET
}

/// Whether any side has begun to close a flow with this progress.
#[inline(always)]
pub const fn is_closing(progress: u8) -> bool {
    progress & (RESETS | FINS) != 0
}

/// Whether a flow with this progress counts as live after this many idle seconds.
#[inline(always)]
pub fn is_live(protocol: Protocol, progress: u8, idle: u32, settings: &Settings) -> bool {
    let age = age(protocol, progress);
    let patience = settings.patience[usize::from(age) % AGES];
    let patience = if age == Age::Closing as u8 && patience > CLOSING { CLOSING } else { patience };
    !is_closed(progress) && idle <= patience
}

/// Seconds after which an idle flow whose client sent only one packet no longer counts.
#[inline(always)]
pub fn half_open_patience(settings: &Settings) -> u32 {
    settings.patience[Age::HalfOpen as usize]
}

/// Seconds without a packet for which the record of a flow that has come so far is kept.
#[inline(always)]
pub fn patience_of(protocol: Protocol, progress: u8, settings: &Settings) -> u32 {
    settings.patience[usize::from(age(protocol, progress)) % AGES]
}

#[inline(always)]
fn age(protocol: Protocol, progress: u8) -> u8 {
    match protocol {
        Protocol::TCP => AGE[usize::from(progress) % AGE.len()],
        _ => Age::Udp as u8,
    }
}

/// Whether a flow with this progress is over after this many idle seconds.
#[inline(always)]
pub fn is_over(protocol: Protocol, progress: u8, idle: u32, settings: &Settings) -> bool {
    idle > patience_of(protocol, progress, settings)
}

/// The direction of a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From a client to a backend.
    Forward = 0,
    /// From a backend to a client.
    Reply = 1,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_mac::{IN_SETTINGS, OwnMac};
    use crate::packet::headers::TCP_ACK;

    const SETTINGS: Settings = Settings {
        flow_buckets: 0,
        hash_keys: [0; crate::hash::KEYS],
        snat_port_first: 1024,
        snat_port_count: 1,
        patience: patience(900, 60),
        options: 0,
        handover: 0,
        heartbeat: 0,
        alone: 0,
        own_macs: [OwnMac::from_bits(0); IN_SETTINGS],
        flow_reach: 0,
    };

    /// How long after its last packet a flow of this progress is live, and how long its record is kept.
    fn ages(protocol: Protocol, progress: u8) -> (u32, u32) {
        let last = |holds: &dyn Fn(u32) -> bool| (0..2000).take_while(|idle| holds(*idle)).count() as u32;
        (
            last(&|idle| is_live(protocol, progress, idle, &SETTINGS)).saturating_sub(1),
            last(&|idle| !is_over(protocol, progress, idle, &SETTINGS)) - 1,
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
    fn a_backend_that_accepts_a_connection_says_that_an_earlier_one_is_over() {
        let closing = PAIRED | COUNTED | CONFIRMED | ESTABLISHED | CLIENT_FIN | BACKEND_FIN;
        assert_eq!(advance(closing, Direction::Reply, TCP_SYN | TCP_ACK), PAIRED | COUNTED);
        assert_eq!(
            advance(ESTABLISHED | CLIENT_FIN | CLIENT_RESET, Direction::Forward, TCP_SYN),
            ESTABLISHED,
            "a SYN alone says little: anybody can send it"
        );
    }
}
