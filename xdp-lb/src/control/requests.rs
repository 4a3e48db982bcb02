//! What is asked of the owner task.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::oneshot;

use super::flows::{FlowPages, Flows};
use super::handle::Request;
use super::leaving::end_of;
use super::owner::Owner;
use super::parts::Ended;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::{AdminState, TroubleKind};
use crate::model::{Config, EffectiveService};
use crate::overlay::{Leave, Overlay};

impl Owner {
    /// Answers a request; tells where it ends the daemon.
    pub(super) async fn serve(&mut self, request: Request) -> Option<Ended> {
        match request {
            Request::Status(answer) => reply(answer, self.status()),
            Request::Services(answer) => reply(answer, self.services()),
            Request::Backends(service, answer) => {
                let counted = self.refresh_census();
                reply(answer, counted.and_then(|()| self.backends(service.as_deref())));
            }
            Request::Counters(answer) => reply(answer, self.counters()),
            Request::Flows(answer) => reply(answer, self.flows()),
            Request::AddService(service, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_service(config, *service)));
            }
            Request::PatchService(name, patch, answer) => {
                reply(answer, self.change(|overlay, config| overlay.patch_service(config, &name, &patch)));
            }
            Request::PatchNode(admin, answer) => {
                reply(answer, self.change(|overlay, config| overlay.patch_node(config, admin)));
            }
            Request::RemoveService(name, leave, answer) => reply(answer, self.remove_service(&name, leave)),
            Request::AddBackend(service, backend, answer) => {
                reply(answer, self.change(|overlay, config| overlay.add_backend(config, &service, backend)));
            }
            Request::PatchBackend(service, address, patch, answer) => reply(
                answer,
                self.change(|overlay, config| overlay.patch_backend(config, &service, address, &patch)),
            ),
            Request::RemoveBackend(service, address, leave, answer) => {
                reply(answer, self.remove_backend(&service, address, leave));
            }
            Request::ConfigFile(answer) => reply(answer, Ok(self.config_file.clone())),
            Request::PlanReload(config, leave, answer) => reply(answer, self.plan_reload(*config, leave)),
            Request::Upgrade(answer) => reply(answer, self.begin_upgrade()),
            Request::Reload(config, leave, answer) => reply(answer, self.reload(*config, leave)),
            Request::IsPending(answer) => reply(answer, Ok(self.is_pending())),
            Request::Watch(after, answer) => reply(answer, Ok(self.journal.reader(after.as_deref()))),
            Request::Unload(answer) => {
                let unloaded = self.unload().await;
                let ended = unloaded.is_ok().then_some(Ended::Unloaded);
                reply(answer, unloaded);
                return ended;
            }
        }
        None
    }

    /// Begins an upgrade: the successor takes over what is pinned.
    fn begin_upgrade(&mut self) -> Answer<Outcome> {
        self.verify_holds();
        match self.journal.trouble_of(TroubleKind::Pins) {
            Some(why) => Err(Refusal::Failed(format!("nothing was changed: {why}"))),
            None => self.upgrades.begin(),
        }
    }

    /// Makes a change that survives a restart: checked, planned, saved, and only then in effect.
    fn change(&mut self, change: impl FnOnce(&mut Overlay, &Config) -> Answer<Outcome>) -> Answer<Outcome> {
        self.change_with(Leave::Drain, change)
    }

    fn remove_backend(&mut self, service: &str, address: SocketAddr, leave: Leave) -> Answer<Outcome> {
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

    fn remove_service(&mut self, name: &str, leave: Leave) -> Answer<Outcome> {
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

    fn service(&self, name: &str) -> Option<&EffectiveService> {
        self.pool.effective().services.iter().find(|it| it.service.name == name)
    }

    /// What lists the recorded flows.
    fn flows(&self) -> Answer<Box<dyn FlowPages>> {
        let records = self
            .kernel
            .flow_records()
            .map_err(|error| Refusal::Failed(format!("cannot read the flows: {error:#}")))?;
        Ok(Box::new(Flows::new(records, self.pool.effective(), self.sync.tables())))
    }

    /// Counts the flows anew where somebody waits for a backend to lose its last.
    fn refresh_census(&mut self) -> Answer<()> {
        let now = Instant::now();
        let drains = |service: &EffectiveService| {
            let backends =
                || service.backends.iter().any(|it| it.admin == AdminState::Draining || it.is_leaving);
            service.admin == AdminState::Draining || backends()
        };
        let is_awaited = self.overlay.node_admin() == AdminState::Draining
            || self.pool.effective().services.iter().any(drains);
        if self.census.is_old(now) && is_awaited {
            self.count_flows(now);
        }
        // No count is better than a wrong one: whoever waits for the last flow would not wait.
        let trouble = self.journal.trouble_of(TroubleKind::Flows);
        trouble.map_or(Ok(()), |why| Err(Refusal::Failed(why.to_owned())))
    }

    async fn unload(&mut self) -> Answer<Outcome> {
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

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    // Whoever asked may have gone, which is their affair.
    let _ = answer.send(value);
}
