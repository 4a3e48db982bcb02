//! What happens to the load balancer, its hosts and its links while flows go on.

mod checks;
mod daemon;
mod links;
mod members;
mod spoofed;

use std::fmt;
use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::bed::Bed;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Disturbance {
    /// A backend's checks fail while its flows are well.
    ChecksFail,
    /// A backend's link is down for a moment.
    BackendLinkFlaps,
    /// One of the load balancer's own links is.
    OwnLinkFlaps,
    /// A client's link is.
    ClientLinkFlaps,
    /// Hosts forget their neighbours.
    NeighboursForgotten,
    /// The daemon is killed with SIGKILL, and started again.
    DaemonKilled,
    /// The daemon is stopped, and goes on later.
    DaemonHangs,
    /// Another build takes over from the daemon.
    DaemonUpgraded,
    /// The pins are removed.
    PinsRemoved,
    /// A backend joins or leaves by the config file.
    MemberOfFile,
    /// A backend joins or leaves by the command line and the API.
    MemberByHand,
    /// A backend joins or leaves by discovery.
    MemberFound,
    /// Weights change.
    WeightsChange,
    /// A backend is drained, or enabled again.
    BackendDrained,
    /// A backend's host dies, and starts again later.
    HostDies,
    /// Packets come that belong to no flow, or pretend to.
    PacketsSpoofed,
}

impl Disturbance {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ChecksFail,
        Self::BackendLinkFlaps,
        Self::OwnLinkFlaps,
        Self::ClientLinkFlaps,
        Self::NeighboursForgotten,
        Self::DaemonKilled,
        Self::DaemonHangs,
        Self::DaemonUpgraded,
        Self::PinsRemoved,
        Self::MemberOfFile,
        Self::MemberByHand,
        Self::MemberFound,
        Self::WeightsChange,
        Self::BackendDrained,
        Self::HostDies,
        Self::PacketsSpoofed,
    ];

    /// Lets it happen; returns when it is over.
    pub fn run(self, bed: &mut Bed, chance: &mut Chance) -> Result<()> {
        match self {
            Self::ChecksFail => checks::fail(bed, chance),
            Self::HostDies => checks::host_dies(bed, chance),
            Self::BackendLinkFlaps => links::backend(bed, chance),
            Self::OwnLinkFlaps => links::own(bed, chance),
            Self::ClientLinkFlaps => links::client(bed, chance),
            Self::NeighboursForgotten => links::forget_neighbours(bed),
            Self::DaemonKilled => daemon::killed(bed, chance),
            Self::DaemonHangs => daemon::hangs(bed, chance),
            Self::DaemonUpgraded => daemon::upgraded(bed, chance),
            Self::PinsRemoved => daemon::pins_removed(bed),
            Self::MemberOfFile => members::of_file(bed, chance),
            Self::MemberByHand => members::by_hand(bed, chance),
            Self::MemberFound => members::found(bed, chance),
            Self::WeightsChange => members::weights_change(bed, chance),
            Self::BackendDrained => members::drained(bed, chance),
            Self::PacketsSpoofed => spoofed::packets(bed, chance),
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ChecksFail => "checks of a working backend fail",
            Self::BackendLinkFlaps => "a backend's link flaps",
            Self::OwnLinkFlaps => "a link of the load balancer flaps",
            Self::ClientLinkFlaps => "a client's link flaps",
            Self::NeighboursForgotten => "neighbours are forgotten",
            Self::DaemonKilled => "the daemon is killed and started again",
            Self::DaemonHangs => "the daemon hangs",
            Self::DaemonUpgraded => "the daemon is upgraded",
            Self::PinsRemoved => "the pins are removed",
            Self::MemberOfFile => "a backend joins or leaves by the config file",
            Self::MemberByHand => "a backend joins or leaves by the command line or API",
            Self::MemberFound => "a backend joins or leaves by discovery",
            Self::WeightsChange => "weights change",
            Self::BackendDrained => "a backend is drained or enabled",
            Self::HostDies => "a backend's host dies",
            Self::PacketsSpoofed => "spoofed packets come",
        })
    }
}

/// What is left to chance, and how long things take.
pub struct Chance {
    /// The randomness, so that a seed brings the same order and choices again.
    pub rng: fastrand::Rng,
    /// Whether everything takes the least of its time.
    pub is_brief: bool,
}

impl Chance {
    /// Another, of which the next choices do not depend on how many this one makes.
    pub fn fork(&mut self) -> Self {
        Self { rng: self.rng.fork(), is_brief: self.is_brief }
    }

    /// A time from this range of seconds.
    fn time(&mut self, seconds: Range<f64>) -> Duration {
        let part = if self.is_brief { 0.0 } else { self.rng.f64() };
        Duration::from_secs_f64(seconds.start + part * (seconds.end - seconds.start))
    }

    /// Sleeps for a time from this range of seconds.
    pub fn sleep(&mut self, seconds: Range<f64>) {
        sleep(self.time(seconds));
    }

    /// One of them.
    fn one<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    /// A weight.
    fn weight(&mut self) -> u16 {
        self.rng.u16(50..=300)
    }
}
