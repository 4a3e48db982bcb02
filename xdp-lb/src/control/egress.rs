//! Interfaces that lose packets that the program redirects to them, according to their drivers and to the kernel's drops.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use xdp_lb_common::tables::loss::{LossKey, REDIRECT};

use super::journal::Journal;
use super::kernel::Kernel;
use crate::datapath::Loss;
use crate::model::state::TroubleKind;
use crate::report::documents::LossView;
use crate::report::losses::{takes_no_redirected, views};

/// How long an interface that has lost packets gets no more of them. Then some are tried again.
const HOLD: Duration = Duration::from_secs(10);

/// How often one kind of loss is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The interfaces, and the counts.
#[derive(Debug, Default)]
pub(super) struct Egress {
    /// The previous counts.
    counted: HashMap<LossKey, u64>,
    /// Interfaces that lost everything: until when they get no packets, and why.
    held: BTreeMap<u32, (Instant, String)>,
    /// Losses that are a trouble: until when, and in words.
    recent: BTreeMap<LossKey, (Instant, String)>,
    /// The last log entry of each kind of loss: its time, and the number of packets then.
    logged: HashMap<LossKey, (Instant, u64)>,
}

impl Egress {
    /// The interfaces that lose redirected packets, and why. Checks those to which packets are redirected, by index and name, and
    /// those with losses.
    pub(super) fn look<'a>(
        &mut self,
        kernel: &dyn Kernel,
        redirected_to: impl Iterator<Item = (u32, &'a str)>,
        losses: &[Loss],
        journal: &mut Journal,
        now: Instant,
    ) -> BTreeMap<u32, String> {
        self.take(losses, now);
        let mut failing: BTreeMap<u32, String> =
            self.held.iter().map(|(ifindex, (_, why))| (*ifindex, why.clone())).collect();
        for (ifindex, name) in redirected_to {
            if kernel.transmits_redirected(ifindex) == Some(false) {
                let (cause, fix) = takes_no_redirected(name);
                failing.insert(ifindex, format!("{cause}: {fix}"));
            }
        }
        let recent = self.recent.values().map(|(_, why)| why);
        let mut troubles: Vec<String> = failing.values().chain(recent).cloned().collect();
        troubles.sort_unstable();
        troubles.dedup();
        let why = (!troubles.is_empty()).then(|| troubles.join("; "));
        journal.note(TroubleKind::Losses, why.as_deref());
        failing
    }

    /// Updates the counts.
    fn take(&mut self, losses: &[Loss], now: Instant) {
        self.held.retain(|_, (until, _)| *until > now);
        self.recent.retain(|_, (until, _)| *until > now);
        for (loss, view) in losses.iter().zip(views(losses)) {
            let before = self.counted.insert(loss.key, loss.packets).unwrap_or_default();
            if loss.packets == before {
                continue;
            }
            let LossView { interface, cause, fix, .. } = &view;
            let why = format!("{cause}: {fix}");
            if loses_everything(loss.key) {
                self.held.insert(loss.key.ifindex, (now + HOLD, why.clone()));
            }
            self.recent.insert(loss.key, (now + HOLD, why));
            let (at, logged) = self.logged.get(&loss.key).copied().unzip();
            if at.is_none_or(|at| now.duration_since(at) >= LOG_AGAIN) {
                let since = loss.packets - logged.unwrap_or_default();
                let verdict = &view.verdict;
                tracing::warn!("{interface}: the kernel dropped {since} packets ({verdict}): {cause}: {fix}");
                self.logged.insert(loss.key, (now, loss.packets));
            }
        }
    }
}

/// Whether an interface that has lost a packet in this way loses all of them.
fn loses_everything(key: LossKey) -> bool {
    let error = Errno::from_raw(key.error.saturating_neg());
    key.action == REDIRECT && matches!(error, Errno::EOPNOTSUPP | Errno::ENXIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::InMemory;

    #[test]
    fn an_interface_that_loses_everything_is_held_for_a_while_and_one_that_loses_some_is_a_trouble() {
        let (mut egress, mut journal) = (Egress::default(), Journal::default());
        let start = Instant::now();
        let loss =
            |ifindex, error, packets| Loss { key: LossKey { ifindex, action: REDIRECT, error }, packets };
        let mut look = |losses: &[Loss], after| {
            let failing = egress.look(
                &InMemory::new(0),
                std::iter::empty(),
                losses,
                &mut journal,
                start + Duration::from_secs(after),
            );
            let trouble = journal.trouble_of(TroubleKind::Losses).map(str::to_owned);
            (failing.into_keys().collect::<Vec<_>>(), trouble)
        };
        assert_eq!(look(&[], 0), (vec![], None));
        let (failing, trouble) = look(&[loss(7, -libc::EOPNOTSUPP, 20)], 1);
        assert_eq!(failing, [7]);
        assert!(trouble.unwrap().contains("ethtool -K PEER gro on"));
        assert_eq!(look(&[loss(7, -libc::EOPNOTSUPP, 20)], 5).0, [7]);
        assert_eq!(look(&[loss(7, -libc::EOPNOTSUPP, 20)], 12), (vec![], None), "some try again");
        let (failing, trouble) = look(&[loss(7, -libc::EOPNOTSUPP, 20), loss(8, -libc::EMSGSIZE, 1)], 13);
        assert_eq!(failing, [] as [u32; 0], "smaller packets go through");
        assert!(trouble.unwrap().contains("MTU"));
    }
}
