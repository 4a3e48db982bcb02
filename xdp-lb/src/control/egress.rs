//! Interfaces that lose what the program redirects to them: what their drivers say, and what the kernel dropped.

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

/// For how long an interface that has lost packets gets no more: then some try again.
const HOLD: Duration = Duration::from_secs(10);

/// How often one kind of loss is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The interfaces, and what was counted.
#[derive(Debug, Default)]
pub(super) struct Egress {
    /// What was counted before.
    counted: HashMap<LossKey, u64>,
    /// Until when interfaces that lost everything get nothing, and why.
    held: BTreeMap<u32, (Instant, String)>,
    /// Until when losses are a trouble, and which.
    recent: BTreeMap<LossKey, (Instant, String)>,
    /// When a kind of loss was logged last, and how many packets there were then.
    logged: HashMap<LossKey, (Instant, u64)>,
}

impl Egress {
    /// Which interfaces lose what is redirected to them, and why: those by index and name that packets are redirected to, and those
    /// whose losses say so.
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

    /// Takes in what was counted.
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

/// Whether an interface that has lost a packet so loses all of them.
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
