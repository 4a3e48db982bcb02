//! Which VIPs are to be addresses of this host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::kernel::Kernel;
use super::owner::Owner;
use crate::model::state::{AdminState, VipState};
use crate::model::{EffectiveService, Withdraw};
use crate::net::vips::{self, Standings, Wanted, Wish};
use crate::pool::fleet::Fleet;
use crate::report::documents::VipView;

/// Who keeps the VIPs, as a trait: the owner's logic is tested without a kernel.
pub trait Vips: Send {
    /// Replaces what is wanted.
    fn set(&mut self, wanted: Wanted);
    /// How each VIP stands.
    fn standings(&self) -> Standings;
    /// Takes away all that was added; says what.
    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>>;
}

impl Vips for vips::Vips {
    fn set(&mut self, wanted: Wanted) {
        vips::Vips::set(self, wanted);
    }

    fn standings(&self) -> Standings {
        vips::Vips::standings(self)
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>> {
        vips::Vips::release(self).boxed()
    }
}

impl<K: Kernel> Owner<K> {
    /// Tells the keeper of the VIPs what follows from the states decided last.
    pub(super) fn tell_vips(&mut self) {
        self.vips.set(Wanted {
            interface: self.config.vips.interface.clone(),
            addresses: self.wishes(),
            announced_on: self.config.interfaces.iter().cloned().collect(),
        });
    }

    /// Tells the keeper again while it is not known what is wanted of a VIP: that ends by the time, too.
    pub(super) fn decide_vips(&mut self) {
        if self.wishes().values().any(|wish| *wish == Wish::Undecided) {
            self.is_undecided = true;
        } else if std::mem::take(&mut self.is_undecided) {
            self.tell_vips();
        }
    }

    /// Of each VIP that the daemon sees to, whether it is to be there.
    fn wishes(&self) -> BTreeMap<IpAddr, Wish> {
        match self.config.vips.interface {
            Some(_) if self.overlay.node_admin() == AdminState::Draining => {
                wishes(&self.fleet, |_| Wish::Absent)
            }
            Some(_) => {
                let withdraw = self.config.vips.withdraw;
                let mut wishes = wishes(&self.fleet, |service| self.fleet.wish(service, withdraw));
                if withdraw != Withdraw::Never {
                    self.wait_for_first_checks(&mut wishes);
                }
                wishes
            }
            None => BTreeMap::new(),
        }
    }

    /// A VIP waits for the first checks of all its services.
    fn wait_for_first_checks(&self, wishes: &mut BTreeMap<IpAddr, Wish>) {
        let now = Instant::now();
        for service in &self.fleet.effective().services {
            if let Some(wish @ Wish::Present) = wishes.get_mut(&service.service.vip.ip())
                && self.fleet.awaits_first_checks(service, now)
            {
                *wish = Wish::Undecided;
            }
        }
    }

    pub(super) fn vip_views(&self) -> Vec<VipView> {
        let standings = self.vips.standings();
        let view = |(address, wish): (IpAddr, Wish)| {
            let standing = standings.get(&address).cloned().unwrap_or_default();
            let state = match (standing.interface.is_some(), wish) {
                (true, Wish::Present | Wish::Undecided) => VipState::Present,
                (true, Wish::Absent) => VipState::Stays,
                (false, Wish::Present) => VipState::Missing,
                (false, Wish::Absent | Wish::Undecided) => VipState::Withdrawn,
            };
            VipView {
                address,
                state,
                interface: standing.interface,
                added_by_daemon: standing.is_own,
                note: standing.trouble,
            }
        };
        self.wishes().into_iter().map(view).collect()
    }
}

/// A VIP is wanted where one of its services wants it.
fn wishes(fleet: &Fleet, wish: impl Fn(&EffectiveService) -> Wish) -> BTreeMap<IpAddr, Wish> {
    let mut wishes: BTreeMap<IpAddr, Wish> = BTreeMap::new();
    for service in &fleet.effective().services {
        let wish = wish(service);
        let present = wishes.entry(service.service.vip.ip()).or_insert(wish);
        *present = match (*present, wish) {
            (Wish::Present, _) | (_, Wish::Present) => Wish::Present,
            (Wish::Undecided, _) | (_, Wish::Undecided) => Wish::Undecided,
            (Wish::Absent, Wish::Absent) => Wish::Absent,
        };
    }
    wishes
}
