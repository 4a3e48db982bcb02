//! Reading the config file again: all of it is applied, or nothing.

use std::collections::BTreeSet;

use super::handle::{Answer, Refusal};
use super::kernel::Kernel;
use super::owner::Owner;
use crate::api::types::ReloadView;
use crate::config::{self, Config};
use crate::datapath::{Attached, Policy};

impl<K: Kernel> Owner<K> {
    pub(super) fn reload(&mut self) -> Answer<ReloadView> {
        let file = self.config_file.display();
        let mut config = config::load(&self.config_file)
            .map_err(|errors| Refusal::Invalid(format!("{file}: nothing was changed\n{errors}")))?;
        let needs_restart = keep_what_needs_a_restart(&mut config, &self.config);
        let mut overlay = self.overlay.clone();
        let mut changes = overlay.prune(&config);
        let effective = config::effective(&config, &overlay).map_err(|lines| {
            Refusal::Invalid(format!("{file}: nothing was changed\n{}", lines.join("\n")))
        })?;
        changes.extend(config::diff(self.fleet.effective(), &effective));

        let before: BTreeSet<String> = self.interfaces.keys().cloned().collect();
        let after: BTreeSet<String> = config.interfaces.iter().cloned().collect();
        let attached = self.attach_all(after.difference(&before), &config)?;
        let adopted = self.set_policy(&config).and_then(|()| {
            let changed =
                (self.config.snat_ports, self.config.timeouts) != (config.snat_ports, config.timeouts);
            self.adopt(config, overlay, effective, Refusal::Invalid)?;
            Ok(changed)
        });
        let settings_changed = match adopted {
            Ok(changed) => changed,
            Err(refusal) => {
                // What was attached and set for the new config is taken back.
                attached.iter().for_each(|(name, _)| self.detach(name));
                let present = self.config.clone();
                self.set_policy(&present)?;
                return Err(refusal);
            }
        };
        if settings_changed {
            changes.push("snat_ports or timeouts changed".into());
        }
        for (name, attached) in attached {
            changes.push(format!("interface {name} added"));
            self.note_attached(name, Ok(attached));
        }
        for name in before.difference(&after) {
            changes.push(format!("interface {name} removed"));
            self.detach(name);
            self.interfaces.remove(name);
        }
        self.attach_alike();
        for change in &changes {
            tracing::info!("reload: {change}");
        }
        for key in &needs_restart {
            tracing::warn!("reload: {key} is another in the config file; that takes a restart of the daemon");
        }
        self.acknowledge(ReloadView { changes, needs_restart })
    }

    /// Attaches the program to each of these, or to none of them.
    fn attach_all<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String>,
        config: &Config,
    ) -> Answer<Vec<(String, Attached)>> {
        let mut done: Vec<(String, Attached)> = Vec::new();
        for name in names {
            match self.kernel.attach(name, config.xdp_mode) {
                Ok(attached) => done.push((name.clone(), attached)),
                Err(error) => {
                    done.iter().for_each(|(name, _)| self.detach(name));
                    return Err(Refusal::Failed(format!("{error:#}; nothing was changed")));
                }
            }
        }
        Ok(done)
    }

    pub(super) fn detach(&mut self, name: &str) {
        match self.kernel.detach(name) {
            Ok(()) => tracing::info!("{name}: detached"),
            Err(error) => tracing::error!("{name}: cannot be detached: {error:#}"),
        }
    }

    fn set_policy(&mut self, config: &Config) -> Answer<()> {
        self.kernel.set_policy(&Policy::of(config)).map_err(|error| Refusal::Failed(format!("{error:#}")))
    }
}

/// Puts the present values of what cannot change while the daemon runs into the new config; returns
/// the keys whose values were others.
fn keep_what_needs_a_restart(new: &mut Config, present: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut keep = |is_same: bool, key: &str| {
        if !is_same {
            keys.push(key.to_owned());
        }
    };
    keep(new.xdp_mode == present.xdp_mode, "xdp_mode");
    keep(new.state_file == present.state_file, "state_file");
    keep(new.pin_path == present.pin_path, "pin_path");
    keep(new.flow_hash_secret == present.flow_hash_secret, "flow_hash_secret");
    keep(new.api == present.api, "api.socket");
    keep(new.metrics == present.metrics, "metrics.listen");
    keep(new.limits == present.limits, "limits");
    new.xdp_mode = present.xdp_mode;
    new.state_file.clone_from(&present.state_file);
    new.pin_path.clone_from(&present.pin_path);
    new.flow_hash_secret = present.flow_hash_secret;
    new.api = present.api.clone();
    new.metrics = present.metrics.clone();
    new.limits = present.limits;
    keys
}
