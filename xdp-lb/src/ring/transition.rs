//! How one ring becomes the next without a live flow changing its backend.

use xdp_lb_common::slot::Slot;
use xdp_lb_common::tables::BackendIndex;

/// The slots of the ring that follows `old` when `owners` is what new flows are to see.
///
/// A slot whose owner changes begins to move: flows without a record stay with the owner that it had
/// before it moved first. Where that one is down (or gone), its flows are lost anyway and the owner
/// takes over. A ring of another length starts settled, since its flows are hashed anew: they keep
/// their backends by their records.
pub fn transition(
    old: &[Slot],
    owners: &[BackendIndex],
    is_down: impl Fn(BackendIndex) -> bool,
) -> Vec<Slot> {
    if old.len() != owners.len() {
        return owners.iter().copied().map(Slot::settled).collect();
    }
    old.iter()
        .zip(owners)
        .map(|(old, owner)| {
            if !old.is_tracked() && old.owner() == *owner {
                return *old;
            }
            let prior = if old.is_tracked() { old.prior() } else { old.owner() };
            Slot::moving(*owner, if is_down(prior) { *owner } else { prior })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_prior_owner_that_goes_down_is_replaced_by_the_owner() {
        assert_eq!(step(Slot::moving(B, A), B, &[A]), Slot::moving(B, B));
        assert_eq!(step(Slot::settled(A), B, &[A]), Slot::moving(B, B));
    }

    #[test]
    fn another_length_starts_settled() {
        assert_eq!(transition(&[Slot::settled(A)], &[A, B], |_| false), [Slot::settled(A), Slot::settled(B)]);
        assert!(transition(&[Slot::settled(A)], &[], |_| false).is_empty());
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
                prop_assert_eq!(next.prior(), if down.contains(&slot.prior().0) && next != slot { owner } else { slot.prior() });
                prop_assert_eq!(next.is_tracked(), slot.is_tracked() || slot.owner() != owner);
                slot = next;
            }
        }
    }
}
