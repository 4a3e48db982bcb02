//! Which VIPs are to be addresses of this host, told to whoever puts them there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::model::state::{AdminState, VipState};
use crate::model::{Config, Withdraw};
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

/// What is wanted of each VIP, by its address.
pub(super) type Wishes = BTreeMap<IpAddr, Wish>;

/// The VIPs that the daemon sees to.
pub(super) struct VipKeeper {
    vips: Box<dyn Vips>,
    /// Whether it was not known, when it was looked last, what is wanted of some VIP.
    is_undecided: bool,
}

impl VipKeeper {
    /// Nothing is known yet.
    pub(super) fn new(vips: Box<dyn Vips>) -> Self {
        Self { vips, is_undecided: true }
    }

    /// Tells what is wanted.
    pub(super) fn tell(&mut self, config: &Config, addresses: Wishes) {
        self.vips.set(Wanted {
            interface: config.vips.interface.clone(),
            addresses,
            announced_on: config.interfaces.iter().cloned().collect(),
        });
    }

    /// Tells it again while it is not known what is wanted of a VIP: that ends by the time, too.
    pub(super) fn tell_once_decided(&mut self, config: &Config, wishes: Wishes) {
        if wishes.values().any(|wish| *wish == Wish::Undecided) {
            self.is_undecided = true;
        } else if std::mem::take(&mut self.is_undecided) {
            self.tell(config, wishes);
        }
    }

    /// Takes away all that was added; says what.
    pub(super) async fn release(&mut self) -> Result<Vec<String>> {
        self.vips.release().await
    }

    /// How the VIPs stand, of which this is wanted.
    pub(super) fn views(&self, wishes: Wishes) -> Vec<VipView> {
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
        wishes.into_iter().map(view).collect()
    }
}

/// Of each VIP that the daemon sees to, whether it is to be there.
pub(super) fn wishes(fleet: &Fleet, config: &Config, node: AdminState, now: Instant) -> Wishes {
    let withdraw = config.vips.withdraw;
    let mut wishes = Wishes::new();
    if config.vips.interface.is_none() {
        return wishes;
    }
    let services = &fleet.effective().services;
    for service in services {
        let wish = match node {
            AdminState::Draining => Wish::Absent,
            AdminState::Enabled => fleet.wish(service, withdraw),
        };
        // A VIP is wanted where one of its services wants it.
        let present = wishes.entry(service.service.vip.ip()).or_insert(wish);
        *present = match (*present, wish) {
            (Wish::Present, _) | (_, Wish::Present) => Wish::Present,
            (Wish::Undecided, _) | (_, Wish::Undecided) => Wish::Undecided,
            (Wish::Absent, Wish::Absent) => Wish::Absent,
        };
    }
    if withdraw != Withdraw::Never {
        // A VIP waits for the first checks of all its services.
        for service in services {
            if let Some(wish @ Wish::Present) = wishes.get_mut(&service.service.vip.ip())
                && fleet.awaits_first_checks(service, now)
            {
                *wish = Wish::Undecided;
            }
        }
    }
    wishes
}
