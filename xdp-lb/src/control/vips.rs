//! Which VIPs should be addresses of this host.

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::model::Config;
use crate::net::vips::{self, Standings, VipIntent, Wanted};
use crate::pool::vips::VipIntents;

/// Adding and removing VIPs as a trait, so that the owner can be tested without a kernel.
pub trait Vips: Send {
    /// Replaces the wanted VIPs.
    fn set(&mut self, wanted: Wanted);
    /// The status of each VIP, from now on.
    fn statuses(&self) -> watch::Receiver<Standings>;
    /// Removes all VIPs that were added. Returns a list.
    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>>;
}

impl Vips for vips::Vips {
    fn set(&mut self, wanted: Wanted) {
        vips::Vips::set(self, wanted);
    }

    fn statuses(&self) -> watch::Receiver<Standings> {
        vips::Vips::statuses(self)
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<String>>> {
        vips::Vips::release(self).boxed()
    }
}

/// The VIPs that the daemon manages.
pub(super) struct VipKeeper {
    vips: Box<dyn Vips>,
    /// Whether a VIP's intent was undecided at the last update.
    is_undecided: bool,
}

impl VipKeeper {
    /// Without any VIPs yet.
    pub(super) fn new(vips: Box<dyn Vips>) -> Self {
        Self { vips, is_undecided: true }
    }

    /// Sets the wanted VIPs.
    pub(super) fn tell(&mut self, config: &Config, addresses: VipIntents) {
        self.vips.set(Wanted {
            interface: config.vips.interface.clone(),
            addresses,
            announced_on: config.interfaces.iter().cloned().collect(),
        });
    }

    /// Sets them again while a VIP is undecided, which also ends after some time.
    pub(super) fn tell_once_decided(&mut self, config: &Config, intents: VipIntents) {
        if intents.values().any(|intent| *intent == VipIntent::Undecided) {
            self.is_undecided = true;
        } else if std::mem::take(&mut self.is_undecided) {
            self.tell(config, intents);
        }
    }

    /// Removes all VIPs that were added. Returns a list.
    pub(super) async fn release(&mut self) -> Result<Vec<String>> {
        self.vips.release().await
    }

    /// The status of the VIPs, from now on.
    pub(super) fn statuses(&self) -> watch::Receiver<Standings> {
        self.vips.statuses()
    }
}
