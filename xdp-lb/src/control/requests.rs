//! Requests that need more than a line in [`Handle`](super::handle::Handle).

use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::oneshot;

use super::leaving::end_of;
use super::owner::Owner;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{Outcome, ServicePatch};
use crate::model::state::TroubleKind;
use crate::model::{Config, EffectiveService};
use crate::overlay::{Leave, Overlay};
use crate::pool::definition::vip;

impl Owner {
    /// Begins an upgrade: the successor takes over the pins.
    pub(super) fn begin_upgrade(&mut self) -> Answer<Outcome> {
        self.verify_holds();
        match self.journal.trouble_of(TroubleKind::Pins) {
            Some(why) => Err(Refusal::Failed(format!("nothing was changed: {why}"))),
            None => self.upgrades.begin(),
        }
    }

    /// Makes a persistent change: it is validated, planned and saved before it takes effect.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>,
    ) -> Answer<Outcome> {
        self.change_with(Leave::Drain, change)
    }

    /// Removes a backend. The message reports whether it drains, or which flows ended.
    pub(super) fn remove_backend(
        &mut self,
        service: &str,
        address: SocketAddr,
        leave: Leave,
    ) -> Answer<Outcome> {
        if leave == Leave::Drain && self.overlay.is_leaving(service, address) {
            let message = format!(
                "service {service}: backend {address} was removed before and is draining; --now removes it with its \
                 flows"
            );
            return Ok(Outcome { message, changed: false, trouble: self.journal.trouble() });
        }
        let ends = self.service(service).and_then(|it| self.backend_flows().left(it, address));
        let mut outcome =
            self.change_with(leave, |overlay, config| overlay.remove_backend(config, service, address))?;
        if outcome.changed {
            let (effective, longest) = (self.pool.effective(), self.config.drain_timeout);
            outcome.message += &end_of(service, Some(address), ends, effective, longest);
        }
        Ok(outcome)
    }

    /// The same for a service with its backends.
    pub(super) fn remove_service(&mut self, name: &str, leave: Leave) -> Answer<Outcome> {
        let service = self.service(name);
        if leave == Leave::Drain && service.is_some_and(|it| it.is_leaving) {
            let message =
                format!("service {name} was removed before and is draining; --now removes it with its flows");
            return Ok(Outcome { message, changed: false, trouble: self.journal.trouble() });
        }
        let ends = service.and_then(|service| self.backend_flows().left_of_all(service));
        let mut outcome = self.change_with(leave, |overlay, config| overlay.remove_service(config, name))?;
        if outcome.changed {
            let (effective, longest) = (self.pool.effective(), self.config.drain_timeout);
            outcome.message += &end_of(name, None, ends, effective, longest);
        }
        Ok(outcome)
    }

    /// Changes options or the administrative state of a service.
    pub(super) fn patch_service(&mut self, name: &str, patch: &ServicePatch) -> Answer<Outcome> {
        let (settling, timeouts) = (self.sync.settling(), &self.config.timeouts);
        let wait = |service| settling.all_recorded_in(&vip(service), timeouts, Instant::now());
        let all_recorded_in = self.service(name).map(wait).unwrap_or_default();
        self.change(|overlay, config| overlay.patch_service(config, name, patch, all_recorded_in))
    }

    fn service(&self, name: &str) -> Option<&EffectiveService> {
        self.pool.effective().services.iter().find(|it| it.service.name == name)
    }

    /// If the last count of the flows is too old for a caller that waits for a backend's last flow to end, requests a new one,
    /// and returns the receiver of its end.
    pub(super) fn refresh_census(&mut self) -> Option<oneshot::Receiver<()>> {
        let now = Instant::now();
        let newer = self.census.newer(now);
        self.census.go_on(&self.flows, &mut self.sync, now);
        newer
    }

    /// Detaches the program and removes the pins, and the VIPs that the daemon added.
    pub(super) async fn unload(&mut self) -> Answer<Outcome> {
        let mut removed = self.vips.release().await.unwrap_or_else(|error| {
            tracing::error!("cannot remove every VIP: {error:#}");
            vec![format!("could not remove every VIP ({error:#})")]
        });
        removed.extend(self.kernel.unload().map_err(|error| Refusal::Failed(format!("{error:#}")))?);
        let message = match removed.as_slice() {
            [] => format!("nothing was pinned in {}; the daemon exits", self.config.pin_path.display()),
            removed => format!("{}; the daemon exits", removed.join(", ")),
        };
        tracing::info!("{message}");
        Ok(Outcome { message, changed: true, trouble: None })
    }
}
