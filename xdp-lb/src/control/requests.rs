//! What is asked of the owner task.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::flows::{FlowPages, Flows};
use super::handle::Request;
use super::leaving::end_of;
use super::owner::Owner;
use super::parts::Ended;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::Outcome;
use crate::model::state::TroubleKind;
use crate::model::{Config, EffectiveService};
use crate::overlay::{Leave, Overlay};
use crate::pool::definition::vip;

impl Owner {
    /// Answers a request; tells where it ends the daemon.
    pub(super) async fn serve(&mut self, request: Request) -> Option<Ended> {
        match request {
            Request::CountFlows(answer) => {
                self.refresh_census();
                self.reply(answer, Ok(()));
            }
            Request::Flows(answer) => reply(answer, self.flows()),
            Request::AddService(service, answer) => {
                let done = self.change(|overlay, config| overlay.add_service(config, *service));
                self.reply(answer, done);
            }
            Request::PatchService(name, patch, answer) => {
                let wait = self.all_recorded_in(&name);
                let done = self.change(|overlay, config| overlay.patch_service(config, &name, &patch, wait));
                self.reply(answer, done);
            }
            Request::PatchNode(admin, answer) => {
                let done = self.change(|overlay, config| overlay.patch_node(config, admin));
                self.reply(answer, done);
            }
            Request::RemoveService(name, leave, answer) => {
                let done = self.remove_service(&name, leave);
                self.reply(answer, done);
            }
            Request::AddBackend(service, backend, answer) => {
                let done = self.change(|overlay, config| overlay.add_backend(config, &service, backend));
                self.reply(answer, done);
            }
            Request::PatchBackend(service, address, patch, answer) => {
                let done =
                    self.change(|overlay, config| overlay.patch_backend(config, &service, address, &patch));
                self.reply(answer, done);
            }
            Request::RemoveBackend(service, address, leave, answer) => {
                let done = self.remove_backend(&service, address, leave);
                self.reply(answer, done);
            }
            Request::Config(answer) => reply(answer, self.running()),
            Request::ConfigFile(answer) => reply(answer, Ok(self.config_file.clone())),
            Request::PlanReload(config, leave, answer) => reply(answer, self.plan_reload(*config, leave)),
            Request::Upgrade(answer) => {
                let done = self.begin_upgrade();
                self.reply(answer, done);
            }
            Request::Reload(config, leave, answer) => {
                let done = self.reload(*config, leave);
                self.reply(answer, done);
            }
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

    /// Publishes what was done before it is answered: whoever hears of it sees it.
    fn reply<T>(&mut self, answer: oneshot::Sender<T>, done: T) {
        self.publish();
        reply(answer, done);
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

    /// How long it takes until all living flows of a service have a record, where it goes on recording them.
    fn all_recorded_in(&self, name: &str) -> Duration {
        let (settling, timeouts) = (self.sync.settling(), &self.config.timeouts);
        let wait = |service| settling.all_recorded_in(&vip(service), timeouts, Instant::now());
        self.service(name).map(wait).unwrap_or_default()
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

    /// Counts the flows anew, for somebody who waits for a backend to lose its last.
    fn refresh_census(&mut self) {
        let now = Instant::now();
        if self.census.is_old(now) {
            self.count_flows(now);
        }
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
