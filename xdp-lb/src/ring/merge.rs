//! How a ring becomes a shorter one without a live flow changing its backend.
//!
//! A slot of the shorter ring takes the flows of several slots side by side. It can remember one backend for flows without a
//! record, so those slots must agree on it. Where they do not, all their flows are recorded first.

use xdp_lb_common::tables::BackendIndex;
use xdp_lb_common::tables::slot::Slot;

/// The ring of this length that takes the flows of `ring`, whose length is a multiple of it. Nothing, as long as flows without
/// a record would have to stay with different backends in one slot.
pub fn merged(ring: &[Slot], length: u32) -> Option<Vec<Slot>> {
    groups(ring, length).map(merge).collect()
}

/// Has the flows of slots recorded that could not be merged otherwise, however long they stay as they are.
pub fn record_for_merge(ring: &mut [Slot], length: u32) {
    for group in ring.chunks_mut(group_size(ring.len(), length)) {
        if keeps_apart(group) {
            for slot in group.iter_mut().filter(|slot| !slot.is_tracked()) {
                *slot = Slot::moving(slot.owner(), slot.owner());
            }
        }
    }
}

/// Whether the slot at this place has to stay recorded until the ring is merged to this length.
pub fn is_held(ring: &[Slot], length: u32, place: usize) -> bool {
    let mut groups = groups(ring, length);
    groups.nth(place / group_size(ring.len(), length)).is_some_and(keeps_apart)
}

fn groups(ring: &[Slot], length: u32) -> std::slice::Chunks<'_, Slot> {
    ring.chunks(group_size(ring.len(), length))
}

fn group_size(present: usize, length: u32) -> usize {
    (present / length.max(1) as usize).max(1)
}

/// Whether these slots, once they are settled, send their flows to different backends.
fn keeps_apart(group: &[Slot]) -> bool {
    group.windows(2).any(|pair| pair[0].owner() != pair[1].owner())
}

fn merge(group: &[Slot]) -> Option<Slot> {
    let owner = group.first()?.owner();
    if group.iter().all(|slot| *slot == Slot::settled(owner)) {
        return Some(Slot::settled(owner));
    }
    let mut of_unrecorded = group.iter().filter_map(of_unrecorded);
    match of_unrecorded.next() {
        None => Some(Slot::recorded(owner)),
        Some(backend) => of_unrecorded.all(|other| other == backend).then(|| Slot::moving(owner, backend)),
    }
}

/// The backend of the flows without a record, where there may be such.
fn of_unrecorded(slot: &Slot) -> Option<BackendIndex> {
    match (slot.is_tracked(), slot.is_recorded()) {
        (false, _) => Some(slot.owner()),
        (true, false) => Some(slot.prior()),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendIndex = BackendIndex(1);
    const B: BackendIndex = BackendIndex(2);
    const C: BackendIndex = BackendIndex(3);

    #[test]
    fn slots_of_one_backend_merge_as_they_are() {
        assert_eq!(merged(&[Slot::settled(A); 8], 1), Some(vec![Slot::settled(A)]));
        let ring = [Slot::settled(A), Slot::settled(A), Slot::settled(B), Slot::settled(B)];
        assert_eq!(merged(&ring, 2), Some(vec![Slot::settled(A), Slot::settled(B)]));
    }

    #[test]
    fn flows_without_a_record_stay_with_their_backend() {
        let merges = [
            ([Slot::settled(A), Slot::recorded(A)], Slot::moving(A, A)),
            ([Slot::recorded(A), Slot::recorded(B)], Slot::recorded(A)),
            ([Slot::moving(B, A), Slot::settled(A)], Slot::moving(B, A)),
            ([Slot::moving(B, A), Slot::moving(C, A)], Slot::moving(B, A)),
            ([Slot::recorded(C), Slot::moving(B, A)], Slot::moving(C, A)),
        ];
        for (ring, expected) in merges {
            assert_eq!(merged(&ring, 1), Some(vec![expected]), "{ring:?}");
        }
        for ring in [
            [Slot::settled(A), Slot::settled(B)],
            [Slot::settled(B), Slot::moving(B, A)],
            [Slot::moving(C, A), Slot::moving(C, B)],
        ] {
            assert_eq!(merged(&ring, 1), None, "{ring:?}");
        }
    }

    #[test]
    fn slots_that_differ_are_recorded_and_held_until_they_merge() {
        let mut ring = [Slot::settled(A), Slot::settled(B), Slot::settled(C), Slot::settled(C)];
        record_for_merge(&mut ring, 2);
        assert_eq!(ring, [Slot::moving(A, A), Slot::moving(B, B), Slot::settled(C), Slot::settled(C)]);
        assert_eq!([0, 1, 2, 3].map(|place| is_held(&ring, 2, place)), [true, true, false, false]);
        assert_eq!(merged(&ring, 2), None);
        // What settling does once every flow has a record.
        ring[..2].copy_from_slice(&[Slot::recorded(A), Slot::recorded(B)]);
        assert_eq!(merged(&ring, 2), Some(vec![Slot::recorded(A), Slot::settled(C)]));
    }
}
