//! Selects the backends to eject among those whose flows fail, so that enough are left. Pure.

use super::evidence::Failures;
use super::selection::{Candidate, Eligibility};

/// A backend whose flows fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outlier {
    /// Its index among the candidates.
    pub place: usize,
    /// Its failed flows.
    pub failures: Failures,
}

/// The outliers to eject, the worst first. Of the primaries, and of the backups, at most `max_ejected` percent, or one, are
/// ejected at a time, and enough stay up: `needed` of the primaries, one of the backups. `is_ejected`: those that are already
/// ejected.
pub(crate) fn eject(
    candidates: &[Candidate],
    is_ejected: &[bool],
    needed: usize,
    max_ejected: u8,
    mut outliers: Vec<Outlier>,
) -> Vec<Outlier> {
    outliers.sort_by_key(|outlier| std::cmp::Reverse(outlier.failures.percent()));
    let mut chosen: Vec<Outlier> = Vec::new();
    for outlier in outliers {
        let is_backup = candidates[outlier.place].is_backup;
        let alike = || candidates.iter().zip(is_ejected).filter(|(it, _)| it.is_backup == is_backup);
        let so_far = chosen.iter().filter(|it| candidates[it.place].is_backup == is_backup).count();
        let wanted = alike().filter(|(it, _)| it.eligibility != Eligibility::Excluded).count();
        let up = alike().filter(|(it, _)| it.eligibility == Eligibility::Up).count() - so_far;
        let ejected = alike().filter(|(_, is_ejected)| **is_ejected).count() + so_far;
        let least = if is_backup { 1 } else { needed };
        let most = (wanted * usize::from(max_ejected) / 100).max(1);
        if up > least && ejected < most {
            chosen.push(outlier);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Candidate = Candidate { is_backup: false, eligibility: Eligibility::Up };
    const OUT: Candidate = Candidate { is_backup: false, eligibility: Eligibility::Failing };
    const BACKUP: Candidate = Candidate { is_backup: true, eligibility: Eligibility::Up };

    fn ejected(
        candidates: &[Candidate],
        needed: usize,
        max_ejected: u8,
        percents: &[(usize, u64)],
    ) -> Vec<usize> {
        let outliers = percents.iter().map(|(place, failed)| Outlier {
            place: *place,
            failures: Failures { flows: 100, failed: *failed },
        });
        let is_ejected: Vec<bool> = candidates.iter().map(|it| *it == OUT).collect();
        eject(candidates, &is_ejected, needed, max_ejected, outliers.collect())
            .iter()
            .map(|it| it.place)
            .collect()
    }

    #[test]
    fn the_worst_are_ejected_first_up_to_the_limit() {
        assert_eq!(ejected(&[UP; 4], 1, 50, &[(0, 60), (1, 90), (2, 70), (3, 55)]), [1, 2]);
        assert_eq!(ejected(&[UP, UP, UP, OUT], 1, 50, &[(0, 60), (1, 90)]), [1]);
        assert_eq!(ejected(&[UP, UP, OUT, OUT], 1, 50, &[(0, 60)]), [0; 0]);
    }

    #[test]
    fn one_may_be_ejected_whatever_the_percentage_but_never_the_last() {
        assert_eq!(ejected(&[UP; 3], 1, 10, &[(0, 60), (1, 90)]), [1]);
        assert_eq!(ejected(&[UP; 2], 1, 100, &[(0, 100), (1, 100)]), [0]);
        assert_eq!(ejected(&[UP], 1, 100, &[(0, 100)]), [0; 0]);
    }

    #[test]
    fn the_panic_threshold_is_respected() {
        assert_eq!(ejected(&[UP; 4], 3, 100, &[(0, 100), (1, 100)]), [0]);
        assert_eq!(ejected(&[UP, UP, UP, OUT], 3, 100, &[(0, 100)]), [0; 0]);
    }

    #[test]
    fn backups_are_counted_by_themselves() {
        assert_eq!(ejected(&[UP, BACKUP, BACKUP], 1, 100, &[(0, 100), (1, 100), (2, 100)]), [1]);
    }
}
