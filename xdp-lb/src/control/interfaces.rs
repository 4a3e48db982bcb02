//! The interfaces that the program is to be attached to, and how it is.

use std::time::{Duration, Instant};

use super::fleet::Covered;
use super::handle::{Answer, Refusal};
use super::kernel::Kernel;
use super::owner::Owner;
use crate::api::events::WatchEvent;
use crate::config::{Config, XdpMode};
use crate::datapath::Attached;

/// How often it is tried again to attach to an interface where that failed.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

impl<K: Kernel> Owner<K> {
    /// Attaches the program to every interface of the config, and detaches it from every other.
    ///
    /// # Errors
    /// At a first start, where an interface refuses the program. Where tables were adopted, forwarding goes on
    /// through the others and it is tried again, as at runtime.
    pub(super) fn attach_configured(&mut self) -> anyhow::Result<()> {
        for name in self.config.interfaces.clone() {
            match self.kernel.attach(&name, self.config.xdp_mode) {
                Err(error) if !self.kernel.is_adopted() => {
                    anyhow::bail!("{error:#}: create or mend {name}, or take it out of `interfaces`");
                }
                attached => self.note_attached(name, attached.map_err(|error| format!("{error:#}"))),
            }
        }
        self.attach_alike();
        for name in self.kernel.attached_interfaces()? {
            if !self.interfaces.contains_key(&name) {
                self.detach(&name);
            }
        }
        Ok(())
    }

    /// Takes in that an interface came, went or changed. One that came back, with another index, has lost the
    /// program.
    pub(super) fn interface(&mut self, name: String, index: Option<u32>, up: bool) {
        let is_news = if up { self.links_up.insert(name.clone()) } else { self.links_up.remove(&name) };
        let Some(present) = self.interfaces.get(&name) else { return };
        if is_news {
            tracing::info!("interface {name}: {}", if up { "up" } else { "down" });
            self.events.add(WatchEvent::Interface { interface: name.clone(), up });
        }
        match (present, index) {
            (Ok(attached), Some(index)) if attached.index == index => {}
            (Err(_), None) => {}
            (Ok(_), None) => self.note_attached(name, Err("the interface is gone".into())),
            (_, Some(_)) => {
                self.attach(name);
                self.attach_alike();
            }
        }
    }

    /// Tries again, now and then, where the program could not be attached.
    pub(super) fn attach_missing(&mut self, now: Instant) {
        if now.duration_since(self.attach_tried) >= ATTACH_AGAIN {
            self.attach_missing_now(now);
        }
    }

    /// Tries again where the program could not be attached; returns where it is now.
    pub(super) fn attach_missing_now(&mut self, now: Instant) -> Vec<String> {
        self.attach_tried = now;
        let missing = |(name, attached): (&String, &Result<_, _>)| attached.is_err().then(|| name.clone());
        let mut missing: Vec<String> = self.interfaces.iter().filter_map(missing).collect();
        missing.iter().for_each(|name| self.attach(name.clone()));
        missing.retain(|name| self.interfaces[name].is_ok());
        if !missing.is_empty() {
            self.attach_alike();
        }
        missing
    }

    /// Attaches the program to each of these, or to none of them.
    pub(super) fn attach_all<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String>,
        config: &Config,
    ) -> Answer<Vec<(String, Attached)>> {
        self.write_own_macs(&config.interfaces);
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

    fn attach(&mut self, name: String) {
        let attached = self.kernel.attach(&name, self.config.xdp_mode);
        self.note_attached(name, attached.map_err(|error| format!("{error:#}")));
    }

    /// Where one interface of `auto` had to be generic, has the others be so, too: a native program cannot send
    /// through a driver without XDP, and the kernel would drop what it sends there without a word.
    pub(super) fn attach_alike(&mut self) {
        let attached = |mode| {
            let of_mode = move |(name, attached): (&String, &Result<Attached, String>)| {
                attached.as_ref().is_ok_and(|attached| attached.mode == mode).then(|| name.clone())
            };
            self.interfaces.iter().filter_map(of_mode)
        };
        if self.config.xdp_mode != XdpMode::Auto {
            return;
        }
        let Some(generic) = attached(XdpMode::Generic).next() else { return };
        let native: Vec<_> = attached(XdpMode::Native).collect();
        for name in native {
            let again = self.kernel.detach(&name).and_then(|()| self.kernel.attach(&name, XdpMode::Generic));
            let again = again.map(|attached| Attached {
                note: Some(format!("{generic} is generic, and native XDP cannot send to it")),
                ..attached
            });
            self.note_attached(name, again.map_err(|error| format!("{error:#}")));
        }
    }

    pub(super) fn note_attached(&mut self, name: String, attached: Result<Attached, String>) {
        match &attached {
            Ok(Attached { mode, note: None, .. }) => tracing::info!("{name}: attached, {mode}"),
            Ok(Attached { mode, note: Some(note), .. }) => tracing::warn!("{name}: attached, {mode}: {note}"),
            Err(why) if self.interfaces.get(&name) == Some(&attached) => tracing::debug!("{name}: {why}"),
            Err(why) => {
                tracing::error!("{name}: not attached, which is tried again every {ATTACH_AGAIN:?}: {why}");
            }
        }
        self.interfaces.insert(name, attached);
        self.note_covered();
    }

    /// Detaches the program from an interface that is not in the config any more.
    pub(super) fn forget_interface(&mut self, name: &str) {
        self.detach(name);
        self.interfaces.remove(name);
        self.note_covered();
    }

    pub(super) fn detach(&mut self, name: &str) {
        match self.kernel.detach(name) {
            Ok(()) => tracing::info!("{name}: detached"),
            Err(error) => tracing::error!("{name}: cannot be detached: {error:#}"),
        }
    }

    fn note_covered(&mut self) {
        let index = |attached: &Result<Attached, String>| Some(attached.as_ref().ok()?.index);
        self.fleet.set_covered(Covered {
            names: self.interfaces.keys().cloned().collect(),
            indices: self.interfaces.values().filter_map(index).collect(),
        });
        self.is_stale = true;
    }
}
