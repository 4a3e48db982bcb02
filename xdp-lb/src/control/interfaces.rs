//! The interfaces that the program is to be attached to, and how it is.
//!
//! The config names them. Where the program is, is known by the interface's index, which stays the same when names change:
//! interfaces that swap their names keep it without a packet lost, and one that was renamed keeps it until a reload or a
//! restart with all that the config names in place.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::owner::Owner;
use crate::datapath::{Attached, NoInterface};
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::state::TroubleKind;
use crate::model::{Config, XdpMode};
use crate::pool::fleet::Covered;

/// How often it is tried again to attach to an interface where that failed.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

impl<K: Kernel> Owner<K> {
    /// Attaches the program to every interface of the config, and detaches it from every other.
    ///
    /// # Errors
    /// At a first start, where an interface refuses the program, or none of them exists. One of several that is missing may
    /// come later, and is waited for. Where tables were adopted, forwarding goes on through the others and it is tried again,
    /// as at runtime.
    pub(super) fn attach_configured(&mut self) -> anyhow::Result<()> {
        let is_first = !self.kernel.is_adopted();
        for name in self.config.interfaces.clone() {
            match self.kernel.attach(&name, self.config.xdp_mode) {
                Err(error) if is_first && !error.is::<NoInterface>() => {
                    anyhow::bail!("{error:#}: create or fix {name}, or take it out of `interfaces`");
                }
                attached => self.note_attached(name, attached.map_err(|error| format!("{error:#}"))),
            }
        }
        if is_first && !self.interfaces.values().any(Result::is_ok) {
            let missing: Vec<_> = self.config.interfaces.iter().map(String::as_str).collect();
            anyhow::bail!(
                "none of the interfaces that the config names exists ({}): create one, or correct `interfaces`",
                missing.join(", ")
            );
        }
        self.attach_alike();
        self.release_others();
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
            (Ok(attached), None) => self.miss(name, attached.index, true),
            (_, Some(_)) => {
                self.attach(name);
                self.attach_alike();
            }
        }
    }

    /// Takes in that no interface has this name any more; it had this index. `is_first`: it has just been heard.
    fn miss(&mut self, name: String, index: u32, is_first: bool) {
        match self.kernel.verify_attached(index) {
            // It is back already, or goes from name to name: the next look tells.
            Ok(present) if present == name || is_first => return,
            Ok(_) => {}
            // Nothing is left of it but the pin of its link.
            Err(_) => self.detach(&name, index),
        }
        let why = self.why_missing(&name);
        self.note_attached(name, Err(why));
    }

    /// Why the program is not attached under this name, of which there is no interface.
    fn why_missing(&self, name: &str) -> String {
        let last = self.last_index.get(name).map(|index| self.kernel.verify_attached(*index));
        match last {
            Some(Ok(present)) if present != name => format!(
                "it was renamed to {present}, where the program stays attached: name it so in `interfaces` and reload, or \
                 rename it back"
            ),
            _ => NoInterface(name.to_owned()).to_string(),
        }
    }

    /// Has flows go on through an interface that came in the place of one that is gone.
    fn follow(&mut self, name: &str, index: u32) {
        let Some(before) = self.last_index.insert(name.to_owned(), index).filter(|before| *before != index)
        else {
            return;
        };
        // One that has another name now has its flows still.
        if self.kernel.verify_attached(before).is_ok() {
            return;
        }
        self.detach(name, before);
        match self.kernel.move_flows(before, index) {
            Ok(0) => {}
            Ok(flows) => {
                tracing::info!("{name} was made anew: the replies of {flows} recorded flows leave by it now")
            }
            Err(error) => {
                tracing::error!("{name} was made anew, and recorded flows wait for their clients: {error:#}")
            }
        }
    }

    /// Looks whether the kernel has the program where it was attached, and attaches it again where it has not.
    pub(super) fn verify_interfaces(&mut self) {
        let lost = |(name, attached): (&String, &Result<Attached, String>)| {
            let index = attached.as_ref().ok()?.index;
            match self.kernel.verify_attached(index) {
                Ok(present) if present == *name => None,
                Ok(_) => Some((name.clone(), index, None)),
                Err(why) => Some((name.clone(), index, Some(why))),
            }
        };
        let lost: Vec<_> = self.interfaces.iter().filter_map(lost).collect();
        for (name, index, why) in &lost {
            match why {
                None => self.miss(name.clone(), *index, false),
                Some(why) => {
                    tracing::warn!("{name}: {why}");
                    self.attach(name.clone());
                    if self.interfaces[name].is_ok() {
                        self.tell_restored("attached again", &[format!("{name} ({why})")]);
                    }
                }
            }
        }
        if !lost.is_empty() {
            self.attach_alike();
        }
        self.verify_classifiers();
    }

    /// Looks whether the kernel has the program at TC ingress beside it, and attaches that again where it has not.
    fn verify_classifiers(&mut self) {
        let attached = |(name, attached): (&String, &Result<Attached, String>)| {
            Some((name.clone(), attached.as_ref().ok()?.clone()))
        };
        let all: Vec<_> = self.interfaces.iter().filter_map(attached).collect();
        for (name, attached) in all {
            let restored = self.kernel.restore_classifier(attached.index);
            if let Ok(Some(why)) = &restored {
                self.tell_restored(
                    "attached again",
                    &[format!("the program at TC ingress of {name} ({why})")],
                );
            }
            let without_classifier = restored.err().map(|error| format!("{error:#}"));
            if without_classifier != attached.without_classifier {
                self.note_attached(name, Ok(Attached { without_classifier, ..attached }));
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
    ) -> Answer<AttachedAnew> {
        self.write_own_macs(&config.interfaces);
        let held = self.kernel.attached_interfaces();
        let mut done = AttachedAnew { all: Vec::new(), held };
        for name in names {
            match self.kernel.attach(name, config.xdp_mode) {
                Ok(attached) => done.all.push((name.clone(), attached)),
                Err(error) => {
                    self.take_back(&done);
                    return Err(Refusal::Failed(format!("{error:#}; nothing was changed")));
                }
            }
        }
        Ok(done)
    }

    /// Detaches what [`attach_all`](Self::attach_all) attached, but for what was attached before.
    pub(super) fn take_back(&mut self, anew: &AttachedAnew) {
        for (name, attached) in anew.all.iter().filter(|(_, it)| !anew.held.contains(&it.index)) {
            self.detach(name, attached.index);
        }
    }

    fn attach(&mut self, name: String) {
        let attached = self.kernel.attach(&name, self.config.xdp_mode).map_err(|error| {
            if error.is::<NoInterface>() { self.why_missing(&name) } else { format!("{error:#}") }
        });
        self.note_attached(name, attached);
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
            let again = self.kernel.attach(&name, XdpMode::Generic).map(|attached| Attached {
                note: Some(format!("{generic} is generic, and native XDP cannot send to it")),
                ..attached
            });
            self.note_attached(name, again.map_err(|error| format!("{error:#}")));
        }
    }

    pub(super) fn note_attached(&mut self, name: String, attached: Result<Attached, String>) {
        let is_known = self.interfaces.get(&name) == Some(&attached);
        match &attached {
            _ if is_known => {}
            Ok(attached) => match attached.remarks() {
                None => tracing::info!("{name}: attached, {}", attached.mode),
                Some(remarks) => tracing::warn!("{name}: attached, {}: {remarks}", attached.mode),
            },
            Err(why) => {
                tracing::error!("{name}: not attached, which is tried again every {ATTACH_AGAIN:?}: {why}");
            }
        }
        if let Ok(Attached { index, .. }) = &attached {
            self.follow(&name, *index);
        }
        self.interfaces.insert(name, attached);
        self.note_covered();
    }

    /// Detaches the program from an interface that is not in the config any more.
    pub(super) fn forget_interface(&mut self, name: &str) {
        self.last_index.remove(name);
        if let Some(Ok(attached)) = self.interfaces.remove(name) {
            self.detach(name, attached.index);
        }
        self.note_covered();
    }

    /// Detaches the program from the interfaces that the config does not name, such as one that was renamed; but only where it
    /// has all that it names.
    pub(super) fn release_others(&mut self) {
        if self.interfaces.values().any(Result::is_err) {
            return;
        }
        let own: BTreeSet<u32> = self.interfaces.values().flatten().map(|attached| attached.index).collect();
        for index in self.kernel.attached_interfaces() {
            if !own.contains(&index) {
                let name = self.kernel.verify_attached(index);
                self.detach(&name.unwrap_or_else(|_| format!("interface {index}")), index);
            }
        }
    }

    fn detach(&mut self, name: &str, index: u32) {
        match self.kernel.detach(index) {
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
        let missing: Vec<String> = self
            .interfaces
            .iter()
            .filter_map(|(name, attached)| Some(format!("{name}: {}", attached.as_ref().err()?)))
            .collect();
        let why = (!missing.is_empty()).then(|| missing.join("; "));
        self.note_trouble(TroubleKind::Interfaces, why.as_deref());
    }
}

/// What a reload attached.
pub(super) struct AttachedAnew {
    /// Each interface, and how.
    pub(super) all: Vec<(String, Attached)>,
    /// Where the program was before: the interfaces' indices.
    held: Vec<u32>,
}
