//! How one ring becomes the next without a live flow changing its backend.

use xdp_lb_common::tables::BackendIndex;
use xdp_lb_common::tables::slot::Slot;

/// The slots of the ring that follows `old` when `owners` is what new flows are to see; it is as long as `old`, or a
/// multiple of that.
///
/// A slot whose owner changes begins to move: flows without a record stay with the owner that it had
/// before it moved first. Where that one is down (or gone), its flows are lost anyway: all that live have a record.
pub fn transition(
    old: &[Slot],
    owners: &[BackendIndex],
    is_down: impl Fn(BackendIndex) -> bool,
) -> Vec<Slot> {
    let inherited = inherited(old, owners.len());
    let next = |(place, owner): (usize, &BackendIndex)| match inherited(place) {
        Some(old) => step(old, *owner, &is_down),
        None => Slot::settled(*owner),
    };
    owners.iter().enumerate().map(next).collect()
}

/// How many slots of the ring `new` have another owner than in the ring `old` that it follows.
pub fn moved(old: &[Slot], new: &[Slot]) -> u32 {
    let inherited = inherited(old, new.len());
    let is_moved =
        |(place, new): &(usize, &Slot)| inherited(*place).is_some_and(|old| old.owner() != new.owner());
    new.iter().enumerate().filter(is_moved).count() as u32
}

/// Which of the old slots each one of a ring of this length was. Without an old ring there are no flows, and none was any.
fn inherited(old: &[Slot], length: usize) -> impl Fn(usize) -> Option<Slot> {
    // How many slots each of the old ones becomes.
    let stretch = length.checked_div(old.len()).unwrap_or(0);
    move |place| old.get(place.checked_div(stretch)?).copied()
}

fn step(old: Slot, owner: BackendIndex, is_down: impl Fn(BackendIndex) -> bool) -> Slot {
    if !old.is_tracked() && old.owner() == owner {
        return old;
    }
    let prior = if old.is_tracked() { old.prior() } else { old.owner() };
    if old.is_recorded() || is_down(prior) { Slot::recorded(owner) } else { Slot::moving(owner, prior) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xdp_lb_common::hash::FlowHash;
    use xdp_lb_common::net::{Address, Port};

    use super::*;

    const A: BackendIndex = BackendIndex(1);
    const B: BackendIndex = BackendIndex(2);
    const C: BackendIndex = BackendIndex(3);

    fn step(old: Slot, owner: BackendIndex, down: &[BackendIndex]) -> Slot {
        transition(&[old], &[owner], |index| down.contains(&index))[0]
    }

    #[test]
    fn a_slot_that_keeps_its_owner_stays_settled() {
        assert_eq!(step(Slot::settled(A), A, &[]), Slot::settled(A));
    }

    #[test]
    fn a_slot_with_a_new_owner_moves_and_remembers_the_old_one() {
        assert_eq!(step(Slot::settled(A), B, &[]), Slot::moving(B, A));
    }

    #[test]
    fn a_slot_that_moves_twice_remembers_the_first_owner() {
        assert_eq!(step(Slot::moving(B, A), C, &[]), Slot::moving(C, A));
    }

    #[test]
    fn a_slot_that_moves_back_stays_tracked_for_the_flows_begun_elsewhere() {
        assert_eq!(step(Slot::moving(B, A), A, &[]), Slot::moving(A, A));
    }

    #[test]
    fn where_the_prior_owner_is_down_every_living_flow_has_a_record() {
        assert_eq!(step(Slot::moving(B, A), B, &[A]), Slot::recorded(B));
        assert_eq!(step(Slot::settled(A), B, &[A]), Slot::recorded(B));
    }

    #[test]
    fn a_slot_whose_flows_are_all_recorded_needs_no_prior_owner_any_more() {
        assert_eq!(step(Slot::recorded(B), C, &[]), Slot::recorded(C));
        assert_eq!(step(Slot::recorded(B), B, &[]), Slot::recorded(B));
    }

    #[test]
    fn a_longer_ring_inherits_from_the_slots_that_its_flows_had() {
        let old = [Slot::settled(A), Slot::moving(B, A)];
        let new = transition(&old, &[A, B, B, C], |_| false);
        assert_eq!(new, [Slot::settled(A), Slot::moving(B, A), Slot::moving(B, A), Slot::moving(C, A)]);
        for number in 0..1_000_u32 {
            let keys = std::array::from_fn(|at| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1));
            let client = (&Address::default(), Port::new(number as u16));
            let hash = FlowHash::new(&keys, client, client);
            assert_eq!(hash.reduce(8 * 1_009) / 8, hash.reduce(1_009));
        }
    }

    #[test]
    fn the_first_ring_is_settled() {
        assert_eq!(transition(&[], &[A, B], |_| false), [Slot::settled(A), Slot::settled(B)]);
    }

    proptest! {
        /// Flows without a record belong to `prior`: it must not move from a backend that lives.
        #[test]
        fn flows_without_a_record_keep_their_backend_while_it_is_not_down(
            steps in prop::collection::vec((1_u32..6, prop::collection::btree_set(1_u32..6, 0..3)), 1..20),
        ) {
            let mut slot = Slot::settled(BackendIndex(1));
            for (owner, down) in steps {
                let owner = BackendIndex(owner);
                let next = step(slot, owner, &down.iter().copied().map(BackendIndex).collect::<Vec<_>>());
                prop_assert_eq!(next.owner(), owner);
                let keeps = next == slot || !slot.is_recorded() && !down.contains(&slot.prior().0);
                prop_assert_eq!(next.prior(), if keeps { slot.prior() } else { owner });
                prop_assert_eq!(next.is_tracked(), slot.is_tracked() || slot.owner() != owner);
                slot = next;
            }
        }
    }
}
