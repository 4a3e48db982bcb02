//! Requests for upgrades, and their results.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::UpgradeState;
use crate::report::documents::UpgradeView;

/// Requests for upgrades, and their results.
#[derive(Clone, Debug)]
pub struct Upgrades {
    wanted: mpsc::Sender<()>,
    state: Arc<watch::Sender<Option<UpgradeView>>>,
}

impl Upgrades {
    /// With the receiver of requests.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (wanted, asked) = mpsc::channel(1);
        (Self { wanted, state: Arc::new(watch::channel(None).0) }, asked)
    }

    /// Requests an upgrade.
    pub(crate) fn begin(&self) -> Answer<Outcome> {
        let is_under_way = self.view().is_some_and(|upgrade| upgrade.state == UpgradeState::UnderWay);
        if is_under_way || self.wanted.try_send(()).is_err() {
            return Err(Refusal::Conflict("an upgrade is already in progress".into()));
        }
        self.note(UpgradeState::UnderWay, "the new binary is starting".into());
        let message = "starting the binary at the daemon's path: it takes over once it has checked everything; if \
                       it does not become ready, this daemon continues (see xdp-lb status)";
        Ok(Outcome { message: message.into(), changed: true, trouble: None })
    }

    /// The state of the last upgrade, from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<UpgradeView>> {
        self.state.subscribe()
    }

    /// The state of the last upgrade.
    pub(crate) fn view(&self) -> Option<UpgradeView> {
        self.state.borrow().clone()
    }

    pub(crate) fn note(&self, state: UpgradeState, message: String) {
        self.state.send_replace(Some(UpgradeView { state, message }));
    }
}
