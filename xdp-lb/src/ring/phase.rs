//! How a backend comes into a ring bit by bit.

use std::collections::HashMap;

use xdp_lb_common::tables::BackendIndex;

use super::maglev::{self, Member};

/// The owners of a ring of `length` slots in which each member has its portion of what its weight gives it, measured by
/// the largest portion: where all have the same, all have their whole shares.
///
/// Members whose portion is smaller are on their way from a ring without them into the whole one. Each slot that the two rings
/// do not agree on goes over once, so the way moves no slot more than a single step would, and equal steps of a portion
/// move equally many. (A smaller weight would not do: each change of a weight also moves slots among the others.)
pub fn owners(members: &[Member], length: u32) -> Vec<BackendIndex> {
    let whole = maglev::build(members, length);
    let portions = || members.iter().filter(|member| member.weight > 0).map(|member| member.portion);
    let largest = portions().max().unwrap_or(0);
    if portions().all(|portion| portion == largest) {
        return whole;
    }
    let (full, partial): (Vec<Member>, Vec<Member>) =
        members.iter().copied().partition(|member| member.portion == largest);
    let without = maglev::build(&full, length);
    let portions: HashMap<BackendIndex, u8> =
        partial.iter().map(|member| (member.index, member.portion)).collect();
    mix(&without, whole, largest, &portions)
}

/// Of the slots that are to go over to each of `portions`' members, and of those that move between others, so many as
/// their portion says have gone.
fn mix(
    without: &[BackendIndex],
    whole: Vec<BackendIndex>,
    largest: u8,
    portions: &HashMap<BackendIndex, u8>,
) -> Vec<BackendIndex> {
    // Slots that move between others go with those of whoever has come farthest.
    let others = portions.values().copied().max().unwrap_or(largest);
    let class = |owner: BackendIndex| match portions.get(&owner) {
        Some(portion) => (Some(owner), *portion),
        None => (None, others),
    };
    let mut all: HashMap<Option<BackendIndex>, u64> = HashMap::new();
    for (_, after) in without.iter().zip(&whole).filter(|(before, after)| before != after) {
        *all.entry(class(*after).0).or_default() += 1;
    }
    let mut gone: HashMap<Option<BackendIndex>, u64> = HashMap::new();
    let owner = |(before, after): (&BackendIndex, BackendIndex)| {
        if *before == after {
            return after;
        }
        let (class, portion) = class(after);
        let wanted = (all[&class] * u64::from(portion)).div_ceil(u64::from(largest));
        let gone = gone.entry(class).or_default();
        *gone += 1;
        if *gone <= wanted { after } else { *before }
    };
    without.iter().zip(whole).map(owner).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::ring::{Member, length};

    fn member(number: u32, weight: u16, portion: u8) -> Member {
        let [_, _, high, low] = number.to_be_bytes();
        let address = SocketAddr::from(([198, 18, high, low], 80));
        Member { index: BackendIndex(number + 1), address, weight, portion }
    }

    fn slots_of(ring: &[BackendIndex], member: &Member) -> usize {
        ring.iter().filter(|owner| **owner == member.index).count()
    }

    fn moved(one: &[BackendIndex], other: &[BackendIndex]) -> usize {
        one.iter().zip(other).filter(|(one, other)| one != other).count()
    }

    /// Every ring on the way of the last member into a ring of so many, from without it to with all of it.
    fn way(members: u32, weight: u16) -> (Member, Vec<Vec<BackendIndex>>) {
        let others: Vec<_> = (0..members - 1).map(|number| member(number, 100, 100)).collect();
        let length = length(&vec![100; members as usize]);
        let ring = |portion: u8| {
            let last = member(members - 1, weight, portion);
            owners(&others.iter().copied().chain([last]).collect::<Vec<_>>(), length)
        };
        let mut rings = vec![maglev::build(&others, length)];
        rings.extend((1..=10).map(|step| ring(10 * step)));
        (member(members - 1, weight, 100), rings)
    }

    #[test]
    fn the_steps_together_move_no_slot_more_than_one_step_would_and_each_about_as_many() {
        for (members, weight) in [(2, 100), (3, 100), (3, 400), (10, 100), (10, 20), (200, 100)] {
            let (last, rings) = way(members, weight);
            let at_once = moved(&rings[0], &rings[10]);
            let steps: Vec<usize> = rings.windows(2).map(|pair| moved(&pair[0], &pair[1])).collect();
            let own = slots_of(&rings[10], &last);
            println!(
                "{members} of weight {weight}: {own} slots of its own, {at_once} move, in steps of {steps:?}"
            );
            assert_eq!(steps.iter().sum::<usize>(), at_once, "no slot moves twice");
            let (least, most) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
            assert!(most - least <= 2, "{steps:?}");
            // What a ring of Maglev's moves beyond the share itself.
            let ring = rings[0].len();
            assert!(at_once - own <= ring / 20, "{at_once} of {ring} for {own}");
            for (step, ring) in rings.iter().enumerate() {
                assert_eq!(slots_of(ring, &last), (own * step).div_ceil(10), "step {step}");
            }
        }
    }

    #[test]
    fn a_smaller_weight_instead_would_move_far_more() {
        let others: Vec<_> = (0..9).map(|number| member(number, 100, 100)).collect();
        let ring = |weight| {
            let last = member(9, weight, 100);
            owners(&others.iter().copied().chain([last]).collect::<Vec<_>>(), 1_009)
        };
        let rings: Vec<_> = (0..=10).map(|step| ring(10 * step)).collect();
        let by_weight: usize = rings.windows(2).map(|pair| moved(&pair[0], &pair[1])).sum();
        let at_once = moved(&rings[0], &rings[10]);
        println!("by weight {by_weight} slots move, at once {at_once}");
        assert!(by_weight > at_once * 3 / 2, "{by_weight}, {at_once}");
    }

    #[test]
    fn where_all_have_come_equally_far_all_have_their_shares() {
        let at = |portion| (0..4).map(|number| member(number, 100, portion)).collect::<Vec<_>>();
        assert_eq!(owners(&at(10), 1_009), owners(&at(100), 1_009));
        // And one of portion 20 has half of its share where the others have come to 40.
        let mut members = at(40);
        members[0].portion = 20;
        let ring = owners(&members, 1_009);
        assert_eq!(slots_of(&ring, &members[0]), 127);
    }

    proptest! {
        #[test]
        fn every_slot_has_an_owner_and_nobody_less_than_its_portion(
            members in prop::collection::vec((0_u16..=200, 1_u8..=100), 1..12),
        ) {
            let members: Vec<_> = members
                .into_iter()
                .enumerate()
                .map(|(number, (weight, portion))| member(number as u32, weight, portion))
                .collect();
            let length = length(&vec![100; members.len()]);
            let (ring, whole) = (owners(&members, length), maglev::build(&members, length));
            let weighted = || members.iter().filter(|member| member.weight > 0);
            prop_assert_eq!(ring.len(), if weighted().count() > 0 { length as usize } else { 0 });
            let largest = weighted().map(|member| member.portion).max().unwrap_or(1);
            for member in weighted() {
                let portion = usize::from(member.portion) * slots_of(&whole, member) / usize::from(largest);
                let slots = slots_of(&ring, member);
                if member.portion < largest {
                    prop_assert!(slots.abs_diff(portion) <= 1, "{slots} instead of {portion}");
                }
                prop_assert!(slots > 0);
            }
            prop_assert!(ring.iter().all(|owner| weighted().any(|member| member.index == *owner)));
        }
    }
}
