//! Selects which of a service's backends take new flows: backups if too few others can, and all backends if almost none can.
//! Pure.

/// A backend that may be selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// Whether it is a backup.
    pub is_backup: bool,
    /// Whether it can take flows.
    pub eligibility: Eligibility,
}

/// Whether a backend can take flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Eligibility {
    /// It is up.
    Up,
    /// Its first check is pending: it may be up soon.
    Pending,
    /// It is reachable but down or ejected.
    Failing,
    /// It has no next hop.
    Unreachable,
    /// The operator or its agent excludes it.
    Excluded,
}

/// The backends that take new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chosen {
    /// The primaries that are up.
    Primaries,
    /// Also the backups that are up.
    WithBackups,
    /// All that are reachable.
    All,
}

/// The selection for a service, and its reasons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selection {
    /// The selected backends.
    pub chosen: Chosen,
    /// The number of primaries that are up.
    pub up: usize,
    /// The number of primaries, without excluded ones.
    pub primaries: usize,
    /// The number that must be up, at least one.
    pub needed: usize,
}

/// Selects by the number of backends that are up. `threshold` is in percent of the primaries. If fewer are up (0: if none is),
/// backups help. If too few are up even with them, and it is not 0, all do. Pending ones count as up for the latter: a new
/// backend is not a reason to use those that are down.
pub(crate) fn select(candidates: &[Candidate], threshold: u8) -> Selection {
    let count = |is_backup: bool, any: &[Eligibility]| {
        let counts = |it: &&Candidate| it.is_backup == is_backup && any.contains(&it.eligibility);
        candidates.iter().filter(counts).count()
    };
    use Eligibility::{Failing, Pending, Unreachable, Up};
    let primaries = count(false, &[Up, Pending, Failing, Unreachable]);
    let up = count(false, &[Up]);
    let needed = (primaries * usize::from(threshold)).div_ceil(100).max(1);
    let possible = count(false, &[Up, Pending]) + count(true, &[Up, Pending]);
    let failing = count(false, &[Failing]) + count(true, &[Failing]);
    let chosen = match () {
        () if up >= needed => Chosen::Primaries,
        () if threshold > 0 && possible < needed && failing > 0 => Chosen::All,
        () => Chosen::WithBackups,
    };
    Selection { chosen, up, primaries, needed }
}

impl Selection {
    /// How few are up, in words.
    pub(crate) fn words(&self) -> String {
        match (self.up, self.primaries) {
            (0, _) => "no other is up".into(),
            (up, all) => format!("only {up} of {all} others {} up", if up == 1 { "is" } else { "are" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Eligibility::{Excluded, Failing, Pending, Unreachable, Up};
    use super::*;

    fn chosen(primaries: &[Eligibility], backups: &[Eligibility], threshold: u8) -> Chosen {
        let candidate =
            |is_backup| move |eligibility: &Eligibility| Candidate { is_backup, eligibility: *eligibility };
        let all: Vec<_> =
            primaries.iter().map(candidate(false)).chain(backups.iter().map(candidate(true))).collect();
        select(&all, threshold).chosen
    }

    #[test]
    fn without_a_threshold_backups_serve_if_no_other_is_up_and_never_those_that_are_down() {
        for (primaries, backups, expected) in [
            (&[Up, Failing][..], &[Up][..], Chosen::Primaries),
            (&[Failing, Unreachable, Excluded], &[Up], Chosen::WithBackups),
            (&[Failing, Failing], &[Failing], Chosen::WithBackups),
            (&[], &[Up], Chosen::WithBackups),
        ] {
            assert_eq!(chosen(primaries, backups, 0), expected, "{primaries:?}, {backups:?}");
        }
    }

    #[test]
    fn below_the_threshold_backups_help_first_and_then_all_serve() {
        for (primaries, backups, expected) in [
            (&[Up, Up, Failing, Failing][..], &[Up][..], Chosen::Primaries),
            (&[Up, Failing, Failing, Failing], &[Up], Chosen::WithBackups),
            (&[Up, Failing, Failing, Failing], &[], Chosen::All),
            (&[Up, Failing, Failing, Failing], &[Failing], Chosen::All),
            // Drained backends count on neither side.
            (&[Up, Failing, Excluded, Excluded], &[], Chosen::Primaries),
            // Selecting all would change nothing.
            (&[Up, Unreachable, Unreachable], &[], Chosen::WithBackups),
            // A new one may be up soon.
            (&[Up, Pending, Failing, Failing], &[], Chosen::WithBackups),
        ] {
            assert_eq!(chosen(primaries, backups, 50), expected, "{primaries:?}, {backups:?}");
        }
        assert_eq!(chosen(&[Failing], &[], 1), Chosen::All);
        assert_eq!(chosen(&[Up, Up, Failing], &[], 100), Chosen::All);
    }

    proptest! {
        #[test]
        fn somebody_serves_wherever_somebody_could(
            abilities in prop::collection::vec((any::<bool>(), 0..5_usize), 1..12),
            threshold in 0..=100_u8,
        ) {
            let abilities: Vec<_> = abilities
                .into_iter()
                .map(|(is_backup, which)| {
                    Candidate { is_backup, eligibility: [Up, Pending, Failing, Unreachable, Excluded][which] }
                })
                .collect();
            let Selection { chosen, .. } = select(&abilities, threshold);
            let serves = |it: &&Candidate| match it.eligibility {
                Up => !it.is_backup || chosen != Chosen::Primaries,
                Failing => chosen == Chosen::All,
                _ => false,
            };
            let could = |it: &&Candidate| it.eligibility == Up;
            let serving = abilities.iter().filter(serves).count();
            prop_assert!(serving > 0 || abilities.iter().filter(could).count() == 0);
            let is_unwell = |it: &&Candidate| it.eligibility == Failing;
            if threshold == 0 {
                prop_assert!(!abilities.iter().filter(is_unwell).any(|it| serves(&it)));
            }
        }
    }
}
