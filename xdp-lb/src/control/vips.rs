//! Which VIPs are to be addresses of this host, told to whoever puts them there.

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::model::Config;
use crate::net::vips::{self, Standings, Wanted, Wish};
use crate::pool::vips::Wishes;

/// Who keeps the VIPs, as a trait: the owner's logic is tested without a kernel.
pub trait Vips: Send {
    /// Replaces what is wanted.
    fn set(&mut self, wanted: Wanted);
    /// How each VIP stands, from now on.
    fn standings(&self) -> watch::Receiver<Standings>;
    /// Takes away all that was added; says what.
    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>>;
}

impl Vips for vips::Vips {
    fn set(&mut self, wanted: Wanted) {
        vips::Vips::set(self, wanted);
    }

    fn standings(&self) -> watch::Receiver<Standings> {
        vips::Vips::standings(self)
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>> {
        vips::Vips::release(self).boxed()
    }
}

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

    /// How the VIPs stand, from now on.
    pub(super) fn standings(&self) -> watch::Receiver<Standings> {
        self.vips.standings()
    }
}
