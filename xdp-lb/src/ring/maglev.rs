//! Weighted Maglev: which backend owns which slot (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use xdp_lb_common::net::Address;
use xdp_lb_common::tables::BackendIndex;
use xxhash_rust::xxh3::xxh3_128;
use zerocopy::IntoBytes as _;

use super::length::step;

/// A backend that takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// What the ring's slots name it.
    pub index: BackendIndex,
    /// What its slots derive from, so that every node of a fleet builds the same ring.
    pub address: SocketAddr,
    /// Its share relative to the others; 0: no slot.
    pub weight: u16,
    /// What it gets of its share, in percent of what those with the most get, at least 1: less than 100 while it comes
    /// into the ring. [`build`] gives everyone its whole share.
    pub portion: u8,
}

/// The owners of a ring of `length` slots (one of [`length`](super::length)'s), which do not depend on the members' order or
/// indices. Empty where no member has a weight.
///
/// A member's number of slots is its exact share, rounded, and one at least.
pub fn build(members: &[Member], length: u32) -> Vec<BackendIndex> {
    let mut members: Vec<Member> = members.iter().copied().filter(|member| member.weight > 0).collect();
    members.sort_unstable_by_key(|member| member.address);
    if members.is_empty() {
        return Vec::new();
    }

    let mut preferences: Vec<Preferences> =
        members.iter().map(|member| Preferences::new(member.address, length)).collect();
    let mut turns: BinaryHeap<Reverse<Turn>> =
        (0..members.len() as u32).map(|place| Reverse(Turn { due: 0, place, taken: 0 })).collect();
    let mut ring = vec![BackendIndex::default(); length as usize];
    let mut taken = Taken(vec![0; length.div_ceil(u64::BITS) as usize]);
    for _ in 0..length {
        let Some(mut turn) = turns.peek_mut() else { break };
        let place = turn.0.place as usize;
        let slot = preferences[place].first_free(&mut taken, length);
        ring[slot as usize] = members[place].index;
        turn.0.take(members[place].weight);
    }
    ring
}

/// The slots that have an owner, a bit each: a large ring is probed millions of times, and its bits
/// stay in the cache where its slots would not.
struct Taken(Vec<u64>);

impl Taken {
    fn take(&mut self, slot: u32) -> bool {
        let word = &mut self.0[(slot / u64::BITS) as usize];
        let bit = 1 << (slot % u64::BITS);
        let free = *word & bit == 0;
        *word |= bit;
        free
    }
}

/// When a member chooses its next slot; the earliest is the next to choose, and among equals the
/// one with the lowest address, which makes equal weights take turns.
///
/// The k-th choice after the first is due at (k + 1/2) / weight: whenever the ring is full, every
/// member has had its exact share of choices, rounded (Webster's method of apportionment).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u64,
    place: u32,
    taken: u32,
}

impl Turn {
    fn take(&mut self, weight: u16) {
        self.taken += 1;
        // A ring has fewer than 2^24 slots, so this stays below 2^57.
        self.due = ((u64::from(self.taken) * 2 + 1) << 32) / u64::from(weight);
    }
}

/// The order in which a member wants the slots: every slot once, since step and length share no factor.
struct Preferences {
    next: u32,
    skip: u32,
}

impl Preferences {
    fn new(address: SocketAddr, length: u32) -> Self {
        let mut identity = [0; 18];
        identity[..16].copy_from_slice(Address::from(address.ip()).as_bytes());
        identity[16..].copy_from_slice(&address.port().to_be_bytes());
        // XXH3 is specified byte for byte: every version on every machine builds the same ring.
        let hash = xxh3_128(&identity);
        let (offset, skip) = ((hash >> 64) as u64, hash as u64);
        Self { next: (offset % u64::from(length)) as u32, skip: step(length, skip) }
    }

    fn first_free(&mut self, taken: &mut Taken, length: u32) -> u32 {
        loop {
            let slot = self.next;
            self.next += self.skip;
            if self.next >= length {
                self.next -= length;
            }
            if taken.take(slot) {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};
    use proptest::prelude::*;

    use super::*;

    fn member(number: u32, weight: u16) -> Member {
        let [_, _, high, low] = number.to_be_bytes();
        Member {
            index: BackendIndex(number + 1),
            address: SocketAddr::from(([198, 18, high, low], 80)),
            weight,
            portion: 100,
        }
    }

    fn equal(members: u32) -> Vec<Member> {
        (0..members).map(|number| member(number, 100)).collect()
    }

    fn slots_of(ring: &[BackendIndex], member: &Member) -> usize {
        ring.iter().filter(|owner| **owner == member.index).count()
    }

    #[test]
    fn nobody_with_a_weight_is_no_ring() {
        assert!(build(&[], 1_009).is_empty());
        assert!(build(&[member(0, 0)], 1_009).is_empty());
    }

    #[test]
    fn a_backend_of_another_port_has_other_preferences() {
        let one = member(0, 100);
        let two = Member { address: SocketAddr::new(one.address.ip(), 81), index: BackendIndex(2), ..one };
        let three = member(3, 100);
        assert_ne!(
            build(&[one, three], 1_009).iter().map(|owner| *owner == one.index).collect::<Vec<_>>(),
            build(&[two, three], 1_009).iter().map(|owner| *owner == two.index).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn a_ring_is_the_same_in_every_version() {
        let ring = build(&[member(0, 100), member(1, 200), member(2, 50)], 1_009);
        let places: Vec<u8> = ring.iter().flat_map(|owner| owner.0.to_be_bytes()).collect();
        assert_eq!(xxh3_128(&places), FLEET_RING, "nodes of other versions build another ring");
    }

    #[test]
    fn a_heavy_member_does_not_starve_a_light_one() {
        let members = [member(0, u16::MAX), member(1, 1)];
        assert_eq!(slots_of(&build(&members, 1_009), &members[1]), 1);
    }

    #[test]
    fn removing_one_of_n_moves_few_slots_beyond_its_own() {
        for count in [3, 10, 100, 1_000] {
            let length = super::super::length(&vec![100; count as usize]);
            let members = equal(count);
            let full = build(&members, length);
            let mut worst = 0.0_f64;
            for gone in (0..members.len()).step_by(members.len().div_ceil(10)) {
                let mut rest = members.clone();
                let gone = rest.remove(gone);
                let moved = full
                    .iter()
                    .zip(build(&rest, length))
                    .filter(|(before, after)| **before != gone.index && **before != *after)
                    .count();
                worst = worst.max(moved as f64 / f64::from(length));
            }
            println!(
                "{count} backends, {length} slots: one removed moves {:.2} % of the others'",
                worst * 100.0
            );
            assert!(worst < 0.05, "{count} backends: {worst}");
        }
    }

    /// What this thread has computed so far: a busy machine does not count.
    fn processor_time() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has this clock").into()
    }

    #[test]
    fn a_thousand_backends_are_quick_and_ten_thousand_are_not_slow() {
        for (count, most) in [(1_000, 20), (10_000, 300)] {
            let members = equal(count);
            let length = super::super::length(&vec![100; members.len()]);
            let begin = processor_time();
            let ring = build(&members, length);
            let took = processor_time() - begin;
            println!("{count} backends, {length} slots: {took:?}");
            assert_eq!(ring.len(), length as usize);
            if !cfg!(debug_assertions) {
                assert!(took < Duration::from_millis(most), "{count} backends: {took:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_slot_has_an_owner_and_every_share_is_exact_to_a_slot(
            weights in prop::collection::vec(0_u16..=1_000, 1..30),
        ) {
            let members: Vec<_> =
                weights.iter().enumerate().map(|(number, weight)| member(number as u32, *weight)).collect();
            let length = super::super::length(&vec![100; members.len()]);
            let ring = build(&members, length);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for member in &members {
                let slots = slots_of(&ring, member) as f64;
                let exact = f64::from(member.weight) / total * f64::from(length);
                if member.weight == 0 {
                    prop_assert_eq!(slots, 0.0);
                } else {
                    // Rounding, and 1 % for the slots that very light members were given on top.
                    prop_assert!((slots - exact).abs() <= 1.5 + exact * 0.01, "{} slots, exactly {}", slots, exact);
                    prop_assert!(slots >= 1.0);
                }
            }
            if total > 0.0 {
                prop_assert!(ring.iter().all(|owner| members.iter().any(|member| member.index == *owner)));
            }
        }

        #[test]
        fn the_order_and_the_indices_of_the_members_do_not_matter(
            weights in prop::collection::vec(1_u16..=300, 1..12),
            seed in any::<prop::sample::Index>(),
        ) {
            let members: Vec<_> =
                weights.iter().enumerate().map(|(number, weight)| member(number as u32, *weight)).collect();
            let mut others = members.clone();
            others.rotate_left(seed.index(members.len()));
            others.iter_mut().for_each(|member| member.index.0 += 1_000);
            let renamed: Vec<_> =
                build(&members, 1_009).iter().map(|owner| BackendIndex(owner.0 + 1_000)).collect();
            prop_assert_eq!(renamed, build(&others, 1_009));
        }

        #[test]
        fn changing_one_weight_moves_few_slots_between_the_others(
            weights in prop::collection::vec(50_u16..=200, 3..20),
            weight in 50_u16..=200,
        ) {
            let mut members: Vec<_> =
                weights.iter().enumerate().map(|(number, weight)| member(number as u32, *weight)).collect();
            let length = super::super::length(&vec![100; members.len()]);
            let before = build(&members, length);
            members[0].weight = weight;
            let after = build(&members, length);
            let between = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before != after && **before != members[0].index && **after != members[0].index)
                .count();
            prop_assert!((between as f64) < 0.1 * f64::from(length), "{} of {}", between, length);
        }
    }

    const FLEET_RING: u128 = 95317222546365515633460572057661979696;
}
