//! Verifies that the kernel still has what was written, pinned and attached, and restores it. What cannot be restored is
//! reported as a trouble.

use std::path::Path;
use std::time::{Duration, Instant};

use xdp_lb_common::tables::{Backend, BackendIndex, SlotIndex, Traffic};

use super::journal::Journal;
use super::kernel::Kernel;
use super::sync::TableSync;
use crate::model::state::TroubleKind;
use crate::net::arrivals;
use crate::report::traffic::Counters;
use crate::tables::{Tables, Write};

/// How often to verify.
const EVERY: Duration = Duration::from_secs(2);

/// The number of table entries that are compared at a time, and of unused indices of backends.
const SAMPLE: usize = 1024;

/// The number of slots of a ring that count as one entry.
const SLOTS: usize = 512;

/// This many packets in a row that the program does not count are not a coincidence.
const UNCOUNTED: u64 = 1_000;

/// The position in the tables, and earlier results.
#[derive(Debug, Default)]
pub(super) struct Verification {
    at: Option<Instant>,
    /// The number of entries compared in this round.
    compared: usize,
    /// The same for vacant indices.
    compared_vacant: usize,
    packets: Packets,
    /// Packets to and from backends, in the last sample.
    forwarded: u64,
}

impl Verification {
    /// Updates the sum of the backends' counters.
    pub(super) fn take_forwarded<'a>(&mut self, backends: impl Iterator<Item = &'a Traffic>) {
        let sum = |sum: u64, traffic: &Traffic| {
            sum.wrapping_add(traffic.packets_in).wrapping_add(traffic.packets_out)
        };
        self.forwarded = backends.fold(0, sum);
    }

    /// Whether it is time to verify again. Resets the timer.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.at.is_none_or(|at| now.duration_since(at) >= EVERY);
        if is_due {
            self.at = Some(now);
        }
        is_due
    }

    /// Compares the next entries of the tables. If one differs, compares all of them.
    pub(super) fn look_at_tables(
        &mut self,
        sync: &mut TableSync,
        kernel: &mut dyn Kernel,
        journal: &mut Journal,
    ) {
        if journal.trouble_of(TroubleKind::Tables).is_some() {
            // Their content is unknown, and they are about to be written.
            return;
        }
        let (tables, places) = (sync.tables(), kernel.sizes().limits.backends);
        let (mut sample, is_last) = next(entries(tables), &mut self.compared);
        sample.extend(next(vacant(tables, places), &mut self.compared_vacant).0);
        let mut restored = kernel.restore(&sample);
        let differs = restored.as_ref().is_ok_and(|restored| !restored.is_empty());
        if differs {
            let all: Vec<Write> = entries(tables).chain(vacant(tables, places)).collect();
            restored = restored.and_then(|found| Ok([found, kernel.restore(&all)?].concat()));
        }
        if differs || is_last {
            restored = restored.and_then(|found| Ok([found, kernel.restore_whole(tables)?].concat()));
        }
        take_restored(restored, sync, kernel, journal);
    }

    /// Compares the number of packets that arrived on these interfaces with the number that the program counted.
    pub(super) fn look_at_packets<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a str>,
        counters: &dyn Counters,
        journal: &mut Journal,
    ) {
        let (Some(arrived), Ok(reasons)) = (arrivals::packets(interfaces), counters.reasons()) else {
            return;
        };
        let counted = self.forwarded.wrapping_add(reasons.iter().sum());
        let uncounted = self.packets.take(arrived, counted);
        let why = uncounted.map(|packets| {
            format!(
                "{packets} have arrived since it last counted one: see `ip -s link` and `bpftool net`; `xdp-lb \
                 unload` and a new start attach it again"
            )
        });
        journal.note(TroubleKind::Packets, why.as_deref());
    }
}

/// Verifies the pins.
pub(super) fn restore_pins(pin_path: &Path, kernel: &mut dyn Kernel, journal: &mut Journal) {
    let restored = kernel.restore_pins();
    match &restored {
        Ok(restored) => journal.report_restored("pinned again", restored),
        Err(error) => tracing::debug!("pins: {error:#}"),
    }
    let why = restored.err().map(|error| {
        let path = pin_path.display();
        format!("{error:#}; missing pins in {path} will be restored as soon as possible")
    });
    journal.note(TroubleKind::Pins, why.as_deref());
}

/// Reads back the written tables.
pub(super) fn verify_written(
    writes: &[Write],
    sync: &mut TableSync,
    kernel: &mut dyn Kernel,
    journal: &mut Journal,
) {
    let expected: Vec<Write> = writes.iter().map(|write| expected(sync.tables(), write)).collect();
    let restored = kernel.restore(&expected);
    take_restored(restored, sync, kernel, journal);
}

fn take_restored(
    restored: anyhow::Result<Vec<String>>,
    sync: &mut TableSync,
    kernel: &dyn Kernel,
    journal: &mut Journal,
) {
    match restored {
        Ok(restored) => {
            journal.report_restored("something else changed the BPF tables; restored", &restored);
        }
        Err(error) => {
            let why = format!("{error:#}");
            sync.read_again(kernel);
            journal.note(TroubleKind::Tables, Some(&why));
        }
    }
}

/// Packets that arrived on the interfaces with the program, compared with those that it counted.
#[derive(Debug, Default)]
struct Packets {
    arrived: Option<u64>,
    counted: u64,
    /// The number of arrivals since the last counted packet.
    uncounted: u64,
}

impl Packets {
    /// Updates both totals. Returns the number of arrivals since the last counted packet, if that is too many.
    fn take(&mut self, arrived: u64, counted: u64) -> Option<u64> {
        let more = self.arrived.map_or(0, |before| arrived.saturating_sub(before));
        self.uncounted = if self.counted == counted { self.uncounted + more } else { 0 };
        (self.arrived, self.counted) = (Some(arrived), counted);
        (self.uncounted >= UNCOUNTED).then_some(self.uncounted)
    }
}

/// The next entries of a round, and whether they are its last.
fn next(entries: impl Iterator<Item = Write>, compared: &mut usize) -> (Vec<Write>, bool) {
    let sample: Vec<Write> = entries.skip(*compared).take(SAMPLE).collect();
    let is_last = sample.len() < SAMPLE;
    *compared = if is_last { 0 } else { *compared + SAMPLE };
    (sample, is_last)
}

/// The entries of the tables, each as a write.
fn entries(tables: &Tables) -> impl Iterator<Item = Write> {
    let rings = tables.rings.iter().flat_map(|(offset, ring)| {
        let part = |(number, slots): (usize, &[_])| {
            Write::Slots(SlotIndex(offset.0 + (number * SLOTS) as u32), slots.to_vec())
        };
        ring.chunks(SLOTS).enumerate().map(part)
    });
    let services = tables.services.iter().map(|(vip, service)| Write::Service(*vip, *service));
    let replies = tables.replies.iter().map(|(endpoint, reply)| Write::Reply(*endpoint, *reply));
    let addresses = tables.snat_addresses.iter().map(|(place, address)| Write::SnatAddress(*place, *address));
    let backends = tables.backends.iter().map(|(index, backend)| Write::Backend(*index, *backend));
    services.chain(rings).chain(replies).chain(addresses).chain(backends)
}

/// The unused indices of backends.
fn vacant(tables: &Tables, places: u32) -> impl Iterator<Item = Write> {
    let is_vacant = |index: &BackendIndex| !tables.backends.contains_key(index);
    let vacant = (0..=places).map(BackendIndex).filter(is_vacant);
    vacant.map(|index| Write::Backend(index, Backend::default()))
}

/// The final content at the key of this write, after all writes.
fn expected(tables: &Tables, write: &Write) -> Write {
    match write {
        Write::Backend(index, _) => {
            Write::Backend(*index, tables.backends.get(index).copied().unwrap_or_default())
        }
        Write::SnatAddress(place, _) => {
            Write::SnatAddress(*place, tables.snat_addresses.get(place).copied().unwrap_or_default())
        }
        Write::Slots(first, slots) => {
            let present = (first.0..).map(SlotIndex).zip(slots);
            Write::Slots(*first, present.map(|(at, slot)| tables.slot(at).unwrap_or(*slot)).collect())
        }
        Write::Reply(endpoint, _) | Write::RemoveReply(endpoint) => match tables.replies.get(endpoint) {
            Some(reply) => Write::Reply(*endpoint, *reply),
            None => Write::RemoveReply(*endpoint),
        },
        Write::QuicServer(key, _) | Write::RemoveQuicServer(key) => match tables.quic_servers.get(key) {
            Some(backend) => Write::QuicServer(*key, *backend),
            None => Write::RemoveQuicServer(*key),
        },
        Write::Source(range, _) | Write::RemoveSource(range) => match tables.sources.get(range) {
            Some(verdict) => Write::Source(*range, *verdict),
            None => Write::RemoveSource(*range),
        },
        Write::Service(vip, _) | Write::RemoveService(vip) => match tables.services.get(vip) {
            Some(service) => Write::Service(*vip, *service),
            None => Write::RemoveService(*vip),
        },
    }
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::tables::Service;
    use xdp_lb_common::tables::slot::Slot;

    use super::*;

    #[test]
    fn packets_that_nobody_counts_are_told_once_they_are_many() {
        let mut packets = Packets::default();
        assert_eq!(packets.take(5_000, 70), None, "from before the daemon started");
        assert_eq!(packets.take(5_999, 70), None);
        assert_eq!(packets.take(6_000, 70), Some(1_000));
        assert_eq!(packets.take(6_500, 71), None, "it counts again");
        assert_eq!(packets.take(7_000, 71), None);
        // A recreated interface counts from 0.
        assert_eq!(packets.take(10, 71), None);
    }

    #[test]
    fn every_entry_is_compared_once_a_round() {
        let mut tables = Tables::default();
        let ring: Vec<Slot> = (0..SLOTS as u32 + 7).map(|index| Slot::settled(BackendIndex(index))).collect();
        tables.apply(&Write::Slots(SlotIndex(10), ring.clone()));
        let service =
            Service { ring_offset: SlotIndex(10), ring_len: ring.len() as u32, ..Service::default() };
        let vip = xdp_lb_common::net::Endpoint::default();
        tables.apply(&Write::Service(vip, service));
        let backend = Backend { ifindex: 7, ..Backend::default() };
        tables.apply(&Write::Backend(BackendIndex(1), backend));
        let [first, second] = [&ring[..SLOTS], &ring[SLOTS..]].map(<[Slot]>::to_vec);
        assert_eq!(
            entries(&tables).collect::<Vec<_>>(),
            [
                Write::Service(vip, service),
                Write::Slots(SlotIndex(10), first),
                Write::Slots(SlotIndex(10 + SLOTS as u32), second),
                Write::Backend(BackendIndex(1), backend),
            ]
        );
        let places = [0, 2, 3].map(|index| Write::Backend(BackendIndex(index), Backend::default()));
        assert_eq!(vacant(&tables, 3).collect::<Vec<_>>(), places);
        // A round visits all of them, one sample at a time.
        let (mut compared, mut seen) = (0, 0);
        loop {
            let (sample, is_last) = next(vacant(&tables, 5 * SAMPLE as u32), &mut compared);
            seen += sample.len();
            if is_last {
                break;
            }
        }
        assert_eq!((seen, compared), (5 * SAMPLE, 0));
    }
}
