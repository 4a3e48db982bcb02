//! How many slots a ring has.

/// The shortest ring of several backends.
const SHORTEST: u32 = 127 * 8;

/// Each length is so many times the one before: few changes of a service change its ring's length.
const STEP: u32 = 8;

/// How many lengths there are above the shortest: 4,161,536 slots are enough for 83,000 backends.
const STEPS: u32 = 4;

/// With this many slots for each backend, rounding to whole slots changes an equal share by 1 % at most.
const SLOTS_PER_BACKEND: u64 = 50;

/// With this many slots for the backend of the least weight, rounding changes its share by 5 % at most.
const SLOTS_OF_LIGHTEST: u64 = 10;

/// The length of the ring of a service whose backends have these weights, up or not: one slot for one backend, else
/// 1,016 times 8 until each backend has 50 slots on average and the one of the least weight has 10. The longest
/// ring has 4,161,536 slots.
///
/// It follows from the configuration alone: load balancers with the same configuration agree on every slot. Each length divides
/// the longer ones. A flow's slot in the longer ring lies where its slot in the shorter one was stretched to, so each
/// slot of a longer ring inherits from exactly one.
pub fn length(weights: &[u16]) -> u32 {
    let weighted = || weights.iter().copied().filter(|weight| *weight > 0).map(u64::from);
    let (total, lightest) = (weighted().sum::<u64>(), weighted().min().unwrap_or(1));
    let needed = SLOTS_PER_BACKEND * weights.len() as u64;
    let needed = needed.max((SLOTS_OF_LIGHTEST * total).div_ceil(lightest));
    match weights.len() {
        0 | 1 => 1,
        _ => lengths().find(|length| u64::from(*length) >= needed).unwrap_or(LONGEST),
    }
}

const LONGEST: u32 = SHORTEST * STEP.pow(STEPS);

fn lengths() -> impl Iterator<Item = u32> {
    (0..=STEPS).map(|steps| SHORTEST * STEP.pow(steps))
}

/// The next shorter length, for where there is no room for this one.
pub fn shorter(length: u32) -> Option<u32> {
    (length > SHORTEST).then_some(length / STEP)
}

/// A step that leads through every slot of a ring of this length, by way of a number that may be any: it shares no
/// factor with the length.
pub fn step(length: u32, number: u64) -> u32 {
    // Odd, and no multiple of the prime: lengths have no other factors.
    let step = (number % u64::from(length)) as u32 | 1;
    if step.is_multiple_of(127) { step.wrapping_add(2) % length } else { step }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(backends: usize) -> u32 {
        length(&vec![100; backends])
    }

    #[test]
    fn every_backend_of_several_has_fifty_slots() {
        for backends in [2, 10, 20, 21, 40, 160, 161, 1_000, 10_000, 80_000] {
            let length = equal(backends) as usize;
            assert!(length >= backends * 50, "{backends}: {length}");
        }
        assert_eq!([2, 20, 21, 1_000].map(equal), [1016, 1016, 8128, 65_024]);
    }

    #[test]
    fn one_backend_needs_no_more_than_one_slot() {
        assert_eq!([equal(0), equal(1), length(&[7])], [1, 1, 1]);
        assert_eq!(shorter(1), None);
        assert_eq!(step(1, 12_345), 1);
    }

    #[test]
    fn the_backend_of_the_least_weight_has_ten_slots() {
        assert_eq!(length(&[100, 1]), 1016);
        assert_eq!(length(&[101, 1]), 8128);
        assert_eq!(length(&[50, 10_000]), 8128, "the weights' sizes do not matter");
        assert_eq!(length(&[0, 100, 100]), 1016, "a backend of weight 0 has no share");
        assert_eq!(length(&[u16::MAX, 1]), LONGEST);
    }

    #[test]
    fn each_length_divides_the_next() {
        let lengths: Vec<u32> = std::iter::successors(Some(LONGEST), |length| shorter(*length)).collect();
        assert_eq!(lengths, [4_161_536, 520_192, 65_024, 8128, 1016]);
    }

    #[test]
    fn a_step_leads_through_every_slot() {
        for length in [1, 1016, 8128] {
            for number in [0, 1, 2, 126, 127, 253, 254, 381, u64::MAX, 0x1234_5678_9abc_def0] {
                let step = step(length, number);
                let mut seen = vec![false; length as usize];
                let mut slot = 0;
                for _ in 0..length {
                    seen[slot as usize] = true;
                    slot = (slot + step) % length;
                }
                assert!(seen.iter().all(|seen| *seen), "{length}, {number}: {step}");
            }
        }
    }
}
