//! Reading the config file again: all of it is applied, or nothing.

use std::collections::BTreeSet;
use std::time::Instant;

use super::handle::{Answer, Refusal};
use super::kernel::Kernel;
use super::owner::Owner;
use crate::api::types::ReloadView;
use crate::config::{self, Config, Vips};
use crate::datapath::Policy;

impl<K: Kernel> Owner<K> {
    pub(super) fn reload(&mut self) -> Answer<ReloadView> {
        let file = self.config_file.display();
        let mut config = config::load(&self.config_file)
            .map_err(|errors| Refusal::Invalid(format!("{file}: nothing was changed\n{errors}")))?;
        let mut overlay = self.overlay.clone();
        let mut changes = overlay.prune(&config);
        // By the file's own limits: what the tables have room for, the plan says.
        let effective = config::effective(&config, &overlay).map_err(|lines| {
            Refusal::Invalid(format!("{file}: nothing was changed\n{}", lines.join("\n")))
        })?;
        let kept = keep_what_needs_a_restart(&mut config, &self.config);
        changes.extend(config::diff(self.fleet.effective(), &effective));

        let vips_changed = diff_vips(&self.config.vips, &config.vips);
        let before: BTreeSet<String> = self.interfaces.keys().cloned().collect();
        let after: BTreeSet<String> = config.interfaces.iter().cloned().collect();
        let attached = self.attach_all(after.difference(&before), &config)?;
        let adopted = self.set_policy(&config).and_then(|()| {
            let changed =
                (self.config.snat_ports, self.config.timeouts) != (config.snat_ports, config.timeouts);
            let refuse = |why| Refusal::Invalid(format!("nothing was changed: {why}"));
            Ok((changed, self.adopt(config, overlay, effective, refuse)?))
        });
        let (settings_changed, mut warnings) = match adopted {
            Ok(adopted) => adopted,
            Err(refusal) => {
                // What was attached and set for the new config is taken back.
                attached.iter().for_each(|(name, _)| self.detach(name));
                let present = self.config.clone();
                self.set_policy(&present)?;
                return Err(refusal);
            }
        };
        changes.extend(vips_changed);
        if settings_changed {
            changes.push("snat_ports or timeouts changed".into());
        }
        for (name, attached) in attached {
            changes.push(format!("interface {name} added"));
            self.note_attached(name, Ok(attached));
        }
        for name in before.difference(&after) {
            changes.push(format!("interface {name} removed"));
            self.forget_interface(name);
        }
        let found = self.attach_missing_now(Instant::now());
        changes.extend(found.iter().map(|name| format!("interface {name} attached again")));
        self.attach_alike();
        for change in &changes {
            tracing::info!("reload: {change}");
        }
        self.say_what_the_host_lacks();
        let needs_restart: Vec<String> = kept.iter().map(|(key, _)| (*key).to_owned()).collect();
        for (key, takes) in kept {
            let warning = format!("{key} was left as it was: to change it takes {takes}");
            tracing::warn!("reload: {warning}");
            warnings.push(warning);
        }
        Ok(ReloadView { changes, needs_restart, warnings })
    }

    fn set_policy(&mut self, config: &Config) -> Answer<()> {
        self.kernel.set_policy(&Policy::of(config)).map_err(|error| Refusal::Failed(format!("{error:#}")))
    }
}

fn diff_vips(old: &Vips, new: &Vips) -> Vec<String> {
    let interface = |vips: &Vips| vips.interface.clone().unwrap_or_else(|| "none".into());
    [
        ("interface", interface(old), interface(new)),
        ("withdraw", old.withdraw.to_string(), new.withdraw.to_string()),
    ]
    .into_iter()
    .filter(|(_, old, new)| old != new)
    .map(|(key, old, new)| format!("vips.{key} {old} -> {new}"))
    .collect()
}

/// Puts the present values of what cannot change while the daemon runs into the new config; returns
/// the keys whose values were others, and what it takes to change each.
fn keep_what_needs_a_restart(new: &mut Config, present: &Config) -> Vec<(&'static str, &'static str)> {
    const RESTART: &str = "a restart of the daemon";
    const UNLOAD: &str = "`xdp-lb unload` and a new start, since a restart takes over what is pinned";
    const MOVE: &str = "the daemon stopped, the file moved there, and a start; else the changes made at runtime are \
                        not found";
    let mut keys = Vec::new();
    let mut keep = |is_same: bool, key, takes| {
        if !is_same {
            keys.push((key, takes));
        }
    };
    keep(new.xdp_mode == present.xdp_mode, "xdp_mode", RESTART);
    keep(new.state_file == present.state_file, "state_file", MOVE);
    keep(new.pin_path == present.pin_path, "pin_path", UNLOAD);
    keep(new.flow_hash_secret == present.flow_hash_secret, "flow_hash_secret", RESTART);
    keep(new.api == present.api, "api.socket", RESTART);
    keep(new.metrics == present.metrics, "metrics.listen", RESTART);
    keep(new.limits == present.limits, "limits", UNLOAD);
    new.xdp_mode = present.xdp_mode;
    new.state_file.clone_from(&present.state_file);
    new.pin_path.clone_from(&present.pin_path);
    new.flow_hash_secret = present.flow_hash_secret;
    new.api = present.api.clone();
    new.metrics = present.metrics.clone();
    new.limits = present.limits;
    keys
}
