//! Which of a service's backends take new flows: backups where others are too few, and all rather than next to none.
//! Pure.

/// What is known of a backend by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// Whether it is there for when others are too few.
    pub is_backup: bool,
    /// What it could do.
    pub ability: Ability,
}

/// What a backend could do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ability {
    /// It is well, and can take flows.
    Up,
    /// Its first check is out: it may be up in a moment.
    Unproven,
    /// It can be reached, and is not well.
    Unwell,
    /// There is no way to it.
    Unreachable,
    /// The operator wants it to take none.
    Unwanted,
}

/// Who takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chosen {
    /// Those that are up and no backups.
    Primaries,
    /// Backups that are up, too.
    WithBackups,
    /// All that can be reached.
    All,
}

/// Who takes a service's new flows, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selection {
    /// Who does.
    pub chosen: Chosen,
    /// How many that are wanted and no backups are up.
    pub up: usize,
    /// How many are wanted and no backups.
    pub primaries: usize,
    /// How many have to be up, at least one.
    pub needed: usize,
}

/// Chooses by how many are up. `threshold` is in percent of the primaries, those that are wanted and no backups: where fewer
/// are up (none, where it is 0), backups help; where too few are up with them, and it is not 0, all do. What is
/// unproven counts as up before it comes to that: a new backend is not a reason to use those that are down.
pub(crate) fn select(candidates: &[Candidate], threshold: u8) -> Selection {
    let count = |is_backup: bool, abilities: &[Ability]| {
        let counts = |it: &&Candidate| it.is_backup == is_backup && abilities.contains(&it.ability);
        candidates.iter().filter(counts).count()
    };
    use Ability::{Unproven, Unreachable, Unwell, Up};
    let primaries = count(false, &[Up, Unproven, Unwell, Unreachable]);
    let up = count(false, &[Up]);
    let needed = (primaries * usize::from(threshold)).div_ceil(100).max(1);
    let hopeful = count(false, &[Up, Unproven]) + count(true, &[Up, Unproven]);
    let unwell = count(false, &[Unwell]) + count(true, &[Unwell]);
    let chosen = match () {
        () if up >= needed => Chosen::Primaries,
        () if threshold > 0 && hopeful < needed && unwell > 0 => Chosen::All,
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

    use super::Ability::{Unproven, Unreachable, Unwanted, Unwell, Up};
    use super::*;

    fn chosen(primaries: &[Ability], backups: &[Ability], threshold: u8) -> Chosen {
        let candidate = |is_backup| move |ability: &Ability| Candidate { is_backup, ability: *ability };
        let all: Vec<_> =
            primaries.iter().map(candidate(false)).chain(backups.iter().map(candidate(true))).collect();
        select(&all, threshold).chosen
    }

    #[test]
    fn without_a_threshold_backups_serve_when_no_other_is_up_and_nobody_that_is_down() {
        for (primaries, backups, expected) in [
            (&[Up, Unwell][..], &[Up][..], Chosen::Primaries),
            (&[Unwell, Unreachable, Unwanted], &[Up], Chosen::WithBackups),
            (&[Unwell, Unwell], &[Unwell], Chosen::WithBackups),
            (&[], &[Up], Chosen::WithBackups),
        ] {
            assert_eq!(chosen(primaries, backups, 0), expected, "{primaries:?}, {backups:?}");
        }
    }

    #[test]
    fn below_the_threshold_backups_help_first_and_then_all_serve() {
        for (primaries, backups, expected) in [
            (&[Up, Up, Unwell, Unwell][..], &[Up][..], Chosen::Primaries),
            (&[Up, Unwell, Unwell, Unwell], &[Up], Chosen::WithBackups),
            (&[Up, Unwell, Unwell, Unwell], &[], Chosen::All),
            (&[Up, Unwell, Unwell, Unwell], &[Unwell], Chosen::All),
            // What the operator drained counts on neither side.
            (&[Up, Unwell, Unwanted, Unwanted], &[], Chosen::Primaries),
            // All would change nothing.
            (&[Up, Unreachable, Unreachable], &[], Chosen::WithBackups),
            // One that is new may be up in a moment.
            (&[Up, Unproven, Unwell, Unwell], &[], Chosen::WithBackups),
        ] {
            assert_eq!(chosen(primaries, backups, 50), expected, "{primaries:?}, {backups:?}");
        }
        assert_eq!(chosen(&[Unwell], &[], 1), Chosen::All);
        assert_eq!(chosen(&[Up, Up, Unwell], &[], 100), Chosen::All);
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
                    Candidate { is_backup, ability: [Up, Unproven, Unwell, Unreachable, Unwanted][which] }
                })
                .collect();
            let Selection { chosen, .. } = select(&abilities, threshold);
            let serves = |it: &&Candidate| match it.ability {
                Up => !it.is_backup || chosen != Chosen::Primaries,
                Unwell => chosen == Chosen::All,
                _ => false,
            };
            let could = |it: &&Candidate| it.ability == Up;
            let serving = abilities.iter().filter(serves).count();
            prop_assert!(serving > 0 || abilities.iter().filter(could).count() == 0);
            let is_unwell = |it: &&Candidate| it.ability == Unwell;
            if threshold == 0 {
                prop_assert!(!abilities.iter().filter(is_unwell).any(|it| serves(&it)));
            }
        }
    }
}
