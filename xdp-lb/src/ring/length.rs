//! How many slots a ring has.

/// The shortest ring of several backends: a prime.
const SHORTEST: u32 = 127;

/// How often that may double: a slot's place has 24 bits and more, and 8,323,072 slots are enough for 80,000
/// backends.
const DOUBLINGS: u32 = 16;

/// At this many slots a backend, rounding to whole slots moves a backend's share by 1 % at most.
const SLOTS_PER_BACKEND: usize = 100;

/// The length of the ring of a service with this many backends: one slot for one backend, else 127 doubled until each
/// has 100 slots at least. `present` is the length that the ring has now (0 where there is none).
///
/// A ring only grows, and each length divides the longer ones: then a flow's slot in the longer ring lies where its
/// slot in the shorter one was stretched to, so that each slot inherits from exactly one. A shorter ring would have
/// to give two slots' flows to one prior owner.
///
/// No longer than it must be: packets to many services find their slots in the processor's cache as far as those
/// fit into it, and each slot takes 8 bytes.
pub fn length(backends: usize, present: u32) -> u32 {
    let needed = backends.saturating_mul(SLOTS_PER_BACKEND);
    let longest = SHORTEST << DOUBLINGS;
    let mut lengths = (0..=DOUBLINGS).map(|doublings| SHORTEST << doublings);
    let enough = match backends {
        0 | 1 => 1,
        _ => lengths.find(|length| *length as usize >= needed).unwrap_or(longest),
    };
    enough.max(present)
}

/// The next shorter length, for where there is no room for this one.
pub fn shorter(length: u32) -> Option<u32> {
    (length > SHORTEST).then_some(length / 2)
}

/// A step that leads through every slot of a ring of this length, by way of a number that may be any: it shares no
/// factor with the length.
pub fn step(length: u32, number: u64) -> u32 {
    // Odd, and no multiple of the prime: lengths have no other factors.
    let step = (number % u64::from(length)) as u32 | 1;
    if step.is_multiple_of(SHORTEST) { step.wrapping_add(2) % length } else { step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_of_several_has_a_hundred_slots() {
        for backends in [2, 10, 11, 40, 41, 1_000, 10_000, 80_000] {
            let length = length(backends, 0) as usize;
            assert!((backends * 100..backends * 204).contains(&length), "{backends}: {length}");
        }
    }

    #[test]
    fn one_backend_needs_no_more_than_one_slot() {
        assert_eq!(length(1, 0), 1);
        assert_eq!(length(1, 254), 254);
        assert_eq!(shorter(1), None);
        assert_eq!(step(1, 12_345), 1);
    }

    #[test]
    fn a_ring_grows_when_it_must_and_never_shrinks() {
        assert_eq!(length(2, 1), 254);
        assert_eq!(length(3, 254), 508);
        assert_eq!(length(4, 508), 508);
        assert_eq!(length(2, 508), 508);
        assert_eq!(length(1_000, 508), 127 << 10);
    }

    #[test]
    fn each_length_is_half_the_next() {
        let lengths: Vec<u32> =
            std::iter::successors(Some(length(80_000, 0)), |length| shorter(*length)).collect();
        assert_eq!((lengths.len(), lengths.last()), (17, Some(&127)));
        assert!(lengths.windows(2).all(|pair| pair[0] == 2 * pair[1]));
    }

    #[test]
    fn a_step_leads_through_every_slot() {
        for length in [1, 127, 254, 4_064] {
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
