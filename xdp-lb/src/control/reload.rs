//! Reloading the config file, all or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::owner::{Owner, Persist, unix_seconds};
use crate::config::Errors;
use crate::datapath::Policy;
use crate::model::change::{SettingChange, SlotsChange};
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::{Config, Effective, Probe};
use crate::overlay::{self, Leave, Overlay};
use crate::plan::places::Plan;
use crate::pool::definition::vip;
use crate::pool::pool::Pool;
use crate::report::documents::ReloadView;
use crate::report::unused::unused;
use crate::ring;
use crate::tables::Tables;

/// The valid new config, and its differences from the running one.
struct Reload {
    config: Config,
    overlay: Overlay,
    effective: Effective,
    view: ReloadView,
}

impl Owner {
    /// What a reload would do now, with the slots that would move.
    pub(super) fn plan_reload(&self, read: Result<Config, Errors>, leave: Leave) -> Answer<ReloadView> {
        let Reload { effective, mut view, .. } = self.hold_against(read, leave)?;
        let now = Instant::now();
        let mut pool = Pool::clone(&self.pool);
        pool.set_effective(effective, self.sync.tables(), now);
        pool.expect_of_new_backends();
        pool.decide(now, &mut rand::random);
        let plan = self.sync.plan(&pool.wanted()).map_err(|full| refused(full.to_string()))?;
        let after = tables_after(self.sync.tables(), &plan);
        for change in &mut view.services {
            let mut services = pool.effective().services.iter();
            let service = services.find(|service| service.service.name == change.service);
            change.slots = service.map(|service| {
                let rings = [self.sync.tables(), &after].map(|tables| {
                    tables.services.get(&vip(service)).map_or(&[][..], |present| tables.ring(present))
                });
                let [before, after] = rings;
                SlotsChange { moving: ring::moved(before, after), of: after.len() as u32 }
            });
        }
        Ok(view)
    }

    pub(super) fn reload(&mut self, read: Result<Config, Errors>, leave: Leave) -> Answer<ReloadView> {
        let reloaded = self.try_reload(read, leave);
        self.last_reload.error = reloaded.as_ref().err().map(ToString::to_string);
        if reloaded.is_ok() {
            self.last_reload.success_time = unix_seconds();
        }
        self.note_change();
        reloaded
    }

    fn try_reload(&mut self, read: Result<Config, Errors>, leave: Leave) -> Answer<ReloadView> {
        let Reload { config, overlay, effective, mut view } = self.hold_against(read, leave)?;
        let before: BTreeSet<String> = self.attachments.interfaces().keys().cloned().collect();
        let after: BTreeSet<String> = config.interfaces.iter().cloned().collect();
        self.write_own_macs(&config.interfaces);
        let attached =
            self.attach(|attachments, tools| attachments.attach_all(after.difference(&before), tools))?;
        let adopted = self
            .set_policy(&config)
            .and_then(|()| self.adopt(Arc::new(config), overlay, effective, refused, Persist::First));
        let warnings = match adopted {
            Ok(warnings) => warnings,
            Err(refusal) => {
                // Undoes what was attached and set for the new config.
                self.attach(|_, tools| attached.take_back(tools));
                let present = Arc::clone(&self.config);
                self.set_policy(&present)?;
                return Err(refusal);
            }
        };
        let found = self.attach(|attachments, tools| {
            attachments.take(attached, tools);
            before.difference(&after).for_each(|name| attachments.forget(name, tools));
            let found = attachments.attach_missing_now(tools, Instant::now());
            attachments.attach_alike(tools);
            found
        });
        view.changes.extend(found.iter().map(|name| format!("interface {name} attached again")));
        self.write_router_addresses();
        self.attach(|attachments, tools| attachments.release_others(tools));
        for change in &view.changes {
            tracing::info!("reload: {change}");
        }
        self.warn_of_host_problems();
        for warning in &view.warnings {
            tracing::warn!("reload: {warning}");
        }
        view.warnings.splice(0..0, warnings);
        view.trouble = self.journal.trouble();
        self.journal.add(WatchEvent::Reload { changes: view.changes.len() as u64 });
        Ok(view)
    }

    /// Compares the config file with the running config.
    fn hold_against(&self, read: Result<Config, Errors>, leave: Leave) -> Answer<Reload> {
        let file = self.config_file.display();
        let read =
            read.map_err(|errors| Refusal::Invalid(format!("{file}: nothing was changed\n{errors}")))?;
        let mut overlay = Overlay::clone(&self.overlay);
        let mut changes = overlay.prune(&read);
        let contradiction = |lines: Vec<String>| {
            Refusal::Invalid(format!("{file}: nothing was changed\n{}", lines.join("\n")))
        };
        // By the limits in the file. Whether the tables have room is checked by the plan.
        let effective = self.effective_by(&read, &mut overlay, leave).map_err(contradiction)?;
        if !self.config.allow_exec_checks
            && let Some(name) = runs_a_program(&effective)
        {
            return Err(refused(format!(
                "service {name} has a check of type \"exec\", but this daemon started without allow_exec_checks and \
                 dropped the capabilities to run programs: restart it"
            )));
        }
        let is_new = |name: &&String| !self.attachments.interfaces().contains_key(*name);
        if let Some(name) =
            read.interfaces.iter().filter(is_new).find(|name| !self.kernel.has_interface(name))
        {
            return Err(refused(format!(
                "interface {name} does not exist: create it, or correct `interfaces`"
            )));
        }
        let settings = overlay::changed_settings(&self.config, &read);
        let services = self.backend_flows().changes(self.pool.effective(), &effective);
        let stays = |setting: &&SettingChange| setting.takes.is_some();
        changes.extend(settings.iter().filter(|setting| !stays(setting)).map(ToString::to_string));
        changes.extend(services.iter().flat_map(|service| service.lines()));
        let stay = settings.iter().filter(stays);
        let needs_restart = stay.clone().map(|setting| setting.key.clone()).collect();
        let warning = |SettingChange { key, takes, .. }: &SettingChange| {
            let takes = takes.as_deref().unwrap_or_default();
            format!("{key} is unchanged: it needs {takes}")
        };
        let mut warnings: Vec<String> = stay.map(warning).collect();
        let waiting = effective.services.iter().filter(|it| it.service.discovery.is_none());
        warnings.extend(waiting.flat_map(|service| {
            let name = &service.service.name;
            unused(service).into_iter().map(move |line| format!("service {name}: {line}"))
        }));
        warnings.extend(read.obsolete.iter().map(|line| (*line).to_owned()));
        let overridden = self.overridden(&read, &overlay).map_err(contradiction)?;
        let view =
            ReloadView { changes, needs_restart, warnings, settings, services, overridden, trouble: None };
        Ok(Reload { config: overlay::reloadable(read, &self.config), overlay, effective, view })
    }

    /// Changes to services in the file since it was last read that these runtime changes override.
    fn overridden(&self, read: &Config, runtime: &Overlay) -> Result<Vec<String>, Vec<String>> {
        let before = Config { limits: read.limits, ..Config::clone(&self.config) };
        let [before, after] = [&before, read].map(|config| overlay::effective(config, &Overlay::default()));
        let runtime = overlay::runtime_changes(read, runtime)?;
        let changes = overlay::diff(&before?, &after?).into_iter();
        Ok(changes.filter_map(|it| it.overridden_by(&runtime)).flat_map(|it| it.lines()).collect())
    }

    fn set_policy(&mut self, config: &Config) -> Answer<()> {
        let kernel = self.kernel.as_mut();
        let set = self.sync.change(|| kernel.set_policy(&Policy::of(config)));
        set.map_err(|error| Refusal::Failed(format!("{error:#}")))
    }
}

/// The first service whose checks run programs.
fn runs_a_program(effective: &Effective) -> Option<&str> {
    let mut services = effective.services.iter().map(|service| &service.service);
    let found = services.find(|service| matches!(service.check().probe, Probe::Exec { .. }));
    found.map(|service| service.name.as_str())
}

fn refused(why: String) -> Refusal {
    Refusal::Invalid(format!("nothing was changed: {why}"))
}

fn tables_after(tables: &Tables, plan: &Plan) -> Tables {
    let mut after = tables.clone();
    plan.writes.iter().for_each(|write| after.apply(write));
    after
}
