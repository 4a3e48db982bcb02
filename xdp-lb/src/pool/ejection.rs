//! Which of the backends that fail their flows are ejected: never so many that too few are left. Pure.

use super::evidence::Failures;
use super::selection::{Ability, Candidate};

/// A backend that fails its flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspect {
    /// Which of the candidates it is.
    pub place: usize,
    /// What speaks against it.
    pub failures: Failures,
}

/// Which suspects are to be ejected, the worst first. Of the primaries, and of the backups, at most `max_ejected` percent are
/// ejected at a time, but one in any case; and so many stay up as are needed: `needed` of the primaries, one of the backups.
/// `is_ejected` says who is already.
pub(crate) fn eject(
    candidates: &[Candidate],
    is_ejected: &[bool],
    needed: usize,
    max_ejected: u8,
    mut suspects: Vec<Suspect>,
) -> Vec<Suspect> {
    suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.failures.percent()));
    let mut chosen: Vec<Suspect> = Vec::new();
    for suspect in suspects {
        let is_backup = candidates[suspect.place].is_backup;
        let alike = || candidates.iter().zip(is_ejected).filter(|(it, _)| it.is_backup == is_backup);
        let so_far = chosen.iter().filter(|it| candidates[it.place].is_backup == is_backup).count();
        let wanted = alike().filter(|(it, _)| it.ability != Ability::Unwanted).count();
        let up = alike().filter(|(it, _)| it.ability == Ability::Up).count() - so_far;
        let ejected = alike().filter(|(_, is_ejected)| **is_ejected).count() + so_far;
        let least = if is_backup { 1 } else { needed };
        let most = (wanted * usize::from(max_ejected) / 100).max(1);
        if up > least && ejected < most {
            chosen.push(suspect);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Candidate = Candidate { is_backup: false, ability: Ability::Up };
    const OUT: Candidate = Candidate { is_backup: false, ability: Ability::Unwell };
    const BACKUP: Candidate = Candidate { is_backup: true, ability: Ability::Up };

    fn ejected(
        candidates: &[Candidate],
        needed: usize,
        max_ejected: u8,
        percents: &[(usize, u64)],
    ) -> Vec<usize> {
        let suspects = percents.iter().map(|(place, failed)| Suspect {
            place: *place,
            failures: Failures { flows: 100, failed: *failed },
        });
        let is_ejected: Vec<bool> = candidates.iter().map(|it| *it == OUT).collect();
        eject(candidates, &is_ejected, needed, max_ejected, suspects.collect())
            .iter()
            .map(|it| it.place)
            .collect()
    }

    #[test]
    fn the_worst_go_first_up_to_the_limit() {
        assert_eq!(ejected(&[UP; 4], 1, 50, &[(0, 60), (1, 90), (2, 70), (3, 55)]), [1, 2]);
        assert_eq!(ejected(&[UP, UP, UP, OUT], 1, 50, &[(0, 60), (1, 90)]), [1]);
        assert_eq!(ejected(&[UP, UP, OUT, OUT], 1, 50, &[(0, 60)]), [0; 0]);
    }

    #[test]
    fn one_may_go_whatever_the_percentage_says_but_never_the_last() {
        assert_eq!(ejected(&[UP; 3], 1, 10, &[(0, 60), (1, 90)]), [1]);
        assert_eq!(ejected(&[UP; 2], 1, 100, &[(0, 100), (1, 100)]), [0]);
        assert_eq!(ejected(&[UP], 1, 100, &[(0, 100)]), [0; 0]);
    }

    #[test]
    fn the_panic_threshold_is_kept() {
        assert_eq!(ejected(&[UP; 4], 3, 100, &[(0, 100), (1, 100)]), [0]);
        assert_eq!(ejected(&[UP, UP, UP, OUT], 3, 100, &[(0, 100)]), [0; 0]);
    }

    #[test]
    fn backups_are_counted_by_themselves() {
        assert_eq!(ejected(&[UP, BACKUP, BACKUP], 1, 100, &[(0, 100), (1, 100), (2, 100)]), [1]);
    }
}
