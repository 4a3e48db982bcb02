//! Attaching the program to the configured interfaces.
//!
//! Attachments are identified by the interface's index, which stays the same when names change. So interfaces that swap their
//! names keep the program without losing a packet. A renamed interface keeps it until a reload or restart for which all
//! configured interfaces exist.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::flow_worker::FlowWorker;
use super::journal::Journal;
use super::kernel::Kernel;
use crate::datapath::{Attached, NoInterface};
use crate::model::Attach;
use crate::model::config::Attaching;
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::state::TroubleKind;
use crate::pool::covered::Covered;
use crate::report::documents::InterfaceView;

/// How often a failed attachment is retried.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

/// The state of all attachments.
pub(super) struct Attachments {
    /// The configured interfaces, and how the program is attached, or why not.
    interfaces: BTreeMap<String, Result<Attached, String>>,
    /// The last index of each interface with the program.
    last_index: BTreeMap<String, u32>,
    /// The interfaces that are up and have a carrier.
    up: BTreeSet<String>,
    /// How the config has them attached.
    attach: Attaching,
    /// The time of the last retry.
    tried: Instant,
    /// Whether the covered interfaces may have changed since they were last read.
    is_changed: bool,
}

/// What attaching needs.
pub(super) struct Tools<'a> {
    pub(super) kernel: &'a mut dyn Kernel,
    pub(super) journal: &'a mut Journal,
    pub(super) flows: &'a FlowWorker,
}

impl Attachments {
    /// Nothing is attached yet.
    pub(super) fn new(attach: Attaching, now: Instant) -> Self {
        Self {
            interfaces: BTreeMap::new(),
            last_index: BTreeMap::new(),
            up: BTreeSet::new(),
            attach,
            tried: now,
            is_changed: false,
        }
    }

    /// Attaches the program to every interface of the config, and detaches it from every other.
    ///
    /// # Errors
    /// At a first start, if an interface refuses the program, or none exists. If one of several is missing, the daemon waits
    /// for it. With adopted tables, forwarding continues through the others, and it is retried, as at runtime.
    pub(super) fn attach_configured(
        &mut self,
        names: &[String],
        tools: &mut Tools<'_>,
    ) -> anyhow::Result<()> {
        let is_first = !tools.kernel.is_adopted();
        for name in names {
            match tools.kernel.attach(name, self.attach.of(name)) {
                Err(error) if is_first && !error.is::<NoInterface>() => {
                    anyhow::bail!("{error:#}: create or fix {name}, or remove it from `interfaces`");
                }
                attached => self.note(name, attached.map_err(|error| format!("{error:#}")), tools),
            }
        }
        if is_first && !self.interfaces.values().any(Result::is_ok) {
            anyhow::bail!(
                "none of the configured interfaces exists ({}): create one, or correct `interfaces`",
                names.join(", ")
            );
        }
        self.attach_alike(tools);
        self.release_others(tools);
        Ok(())
    }

    /// The configured interfaces, and how the program is attached, or why not.
    pub(super) fn interfaces(&self) -> &BTreeMap<String, Result<Attached, String>> {
        &self.interfaces
    }

    /// The names of the interfaces that have the program.
    pub(super) fn attached(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().filter(|(_, attached)| attached.is_ok()).map(|(name, _)| name.as_str())
    }

    /// Whether a program in a driver redirects packets to this interface: not those that came in by it, and not after the kernel has
    /// allocated a socket buffer.
    pub(super) fn redirect_to(&self, ifindex: u32) -> bool {
        let attached = self.interfaces.values().flatten();
        attached.into_iter().any(|it| it.mode == Attach::Xdp && it.index != ifindex)
    }

    /// The interfaces as an API document.
    pub(super) fn views(&self) -> Vec<InterfaceView> {
        let view = |(name, attached): (&String, &Result<Attached, String>)| {
            let (index, mode, note) = match attached {
                Ok(attached) => (attached.index, Some(attached.mode), attached.remarks()),
                Err(why) => (0, None, Some(format!("not attached: {why}"))),
            };
            InterfaceView { name: name.clone(), index, mode, up: self.up.contains(name), note }
        };
        self.interfaces.iter().map(view).collect()
    }

    /// The covered interfaces, if they may have changed since the last call.
    pub(super) fn changed(&mut self) -> Option<Covered> {
        let index = |attached: &Result<Attached, String>| Some(attached.as_ref().ok()?.index);
        std::mem::take(&mut self.is_changed).then(|| Covered {
            names: self.interfaces.keys().cloned().collect(),
            indices: self.interfaces.values().filter_map(index).collect(),
        })
    }

    /// Handles an interface that was added, removed or changed. One that was recreated has another index, and no program.
    pub(super) fn hear(&mut self, name: &str, index: Option<u32>, up: bool, tools: &mut Tools<'_>) {
        let is_news = if up { self.up.insert(name.to_owned()) } else { self.up.remove(name) };
        let Some(present) = self.interfaces.get(name) else { return };
        if is_news {
            tracing::info!("interface {name}: {}", if up { "up" } else { "down" });
            tools.journal.add(WatchEvent::Interface { interface: name.to_owned(), up });
        }
        match (present, index) {
            (Ok(attached), Some(index)) if attached.index == index => {}
            (Err(_), None) => {}
            (Ok(attached), None) => self.miss(name, attached.index, true, tools),
            (_, Some(_)) => {
                self.attach(name, tools);
                self.attach_alike(tools);
            }
        }
    }

    /// Handles the removal of a name; the interface had this index. `is_first`: this is the first event about it.
    fn miss(&mut self, name: &str, index: u32, is_first: bool, tools: &mut Tools<'_>) {
        match tools.kernel.verify_attached(index) {
            // It is back already, or is being renamed: the next verification shows.
            Ok(present) if present == name || is_first => return,
            Ok(_) => {}
            // Only the pin of its link is left.
            Err(_) => tools.detach(name, index),
        }
        let why = self.why_missing(name, tools.kernel);
        self.note(name, Err(why), tools);
    }

    /// Why the program is not attached to this missing interface.
    fn why_missing(&self, name: &str, kernel: &dyn Kernel) -> String {
        let last = self.last_index.get(name).map(|index| kernel.verify_attached(*index));
        match last {
            Some(Ok(present)) if present != name => format!(
                "it was renamed to {present}, where the program stays attached: use that name in `interfaces` and \
                 reload, or rename it back"
            ),
            _ => NoInterface(name.to_owned()).to_string(),
        }
    }

    /// Moves flows to an interface that replaces a removed one.
    fn follow(&mut self, name: &str, index: u32, tools: &mut Tools<'_>) {
        let Some(before) = self.last_index.insert(name.to_owned(), index).filter(|before| *before != index)
        else {
            return;
        };
        // A renamed interface still has its flows.
        if tools.kernel.verify_attached(before).is_ok() {
            return;
        }
        tools.detach(name, before);
        tools.flows.move_flows(name, before, index);
    }

    /// Verifies that the kernel has the program where it was attached, and restores it.
    pub(super) fn verify(&mut self, tools: &mut Tools<'_>) {
        let lost = |(name, attached): (&String, &Result<Attached, String>)| {
            let index = attached.as_ref().ok()?.index;
            match tools.kernel.verify_attached(index) {
                Ok(present) if present == *name => None,
                Ok(_) => Some((name.clone(), index, None)),
                Err(why) => Some((name.clone(), index, Some(why))),
            }
        };
        let lost: Vec<_> = self.interfaces.iter().filter_map(lost).collect();
        for (name, index, why) in &lost {
            match why {
                None => self.miss(name, *index, false, tools),
                Some(why) => {
                    tracing::warn!("{name}: {why}");
                    self.attach(name, tools);
                    if self.interfaces[name].is_ok() {
                        tools.journal.report_restored("attached again", &[format!("{name} ({why})")]);
                    }
                }
            }
        }
        if !lost.is_empty() {
            self.attach_alike(tools);
        }
        self.verify_classifiers(tools);
    }

    /// Verifies the program at TC ingress, and restores it.
    fn verify_classifiers(&mut self, tools: &mut Tools<'_>) {
        let attached = |(name, attached): (&String, &Result<Attached, String>)| {
            Some((name.clone(), attached.as_ref().ok()?.clone()))
        };
        let all: Vec<_> = self.interfaces.iter().filter_map(attached).collect();
        for (name, attached) in all {
            let restored = tools.kernel.restore_classifier(attached.index);
            if let Ok(Some(why)) = &restored {
                let what = format!("the program at TC ingress of {name} ({why})");
                tools.journal.report_restored("attached again", &[what]);
            }
            let without_classifier = restored.err().map(|error| format!("{error:#}"));
            if without_classifier != attached.without_classifier {
                self.note(&name, Ok(Attached { without_classifier, ..attached }), tools);
            }
        }
    }

    /// Retries failed attachments from time to time.
    pub(super) fn attach_missing(&mut self, tools: &mut Tools<'_>, now: Instant) {
        if now.duration_since(self.tried) >= ATTACH_AGAIN {
            self.attach_missing_now(tools, now);
        }
    }

    /// Retries failed attachments; returns the new ones.
    pub(super) fn attach_missing_now(&mut self, tools: &mut Tools<'_>, now: Instant) -> Vec<String> {
        self.tried = now;
        let missing = |(name, attached): (&String, &Result<_, _>)| attached.is_err().then(|| name.clone());
        let mut missing: Vec<String> = self.interfaces.iter().filter_map(missing).collect();
        missing.iter().for_each(|name| self.attach(name, tools));
        missing.retain(|name| self.interfaces[name].is_ok());
        if !missing.is_empty() {
            self.attach_alike(tools);
        }
        missing
    }

    /// Attaches the program to all of these interfaces, or to none.
    pub(super) fn attach_all<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        tools: &mut Tools<'_>,
    ) -> Answer<AttachedAnew> {
        let mut done = AttachedAnew { all: Vec::new(), held: tools.kernel.attached_interfaces() };
        for name in names {
            match tools.kernel.attach(name, self.attach.of(name)) {
                Ok(attached) => done.all.push((name.clone(), attached)),
                Err(error) => {
                    done.take_back(tools);
                    return Err(Refusal::Failed(format!("{error:#}; nothing was changed")));
                }
            }
        }
        Ok(done)
    }

    /// Takes over these attachments.
    pub(super) fn take(&mut self, anew: AttachedAnew, tools: &mut Tools<'_>) {
        for (name, attached) in anew.all {
            self.note(&name, Ok(attached), tools);
        }
    }

    fn attach(&mut self, name: &str, tools: &mut Tools<'_>) {
        let attached = tools.kernel.attach(name, self.attach.of(name)).map_err(|error| {
            if error.is::<NoInterface>() {
                self.why_missing(name, tools.kernel)
            } else {
                format!("{error:#}")
            }
        });
        self.note(name, attached, tools);
    }

    /// If one interface is at TC ingress, attaches those of `auto` there, too: native XDP can send only through drivers that take
    /// its frames, and the kernel drops others silently.
    pub(super) fn attach_alike(&mut self, tools: &mut Tools<'_>) {
        let attached = |mode| {
            let of_mode = move |(name, attached): (&String, &Result<Attached, String>)| {
                attached.as_ref().is_ok_and(|attached| attached.mode == mode).then(|| name.clone())
            };
            self.interfaces.iter().filter_map(of_mode)
        };
        let Some(at_tc) = attached(Attach::Tc).next() else { return };
        let native: Vec<_> = attached(Attach::Xdp).collect();
        for name in native {
            let note =
                Some(format!("{at_tc} is at TC ingress, and native XDP may not be able to send to it"));
            let again = match (&self.interfaces[&name], self.attach.of(&name)) {
                (_, Attach::Auto) => {
                    tools.kernel.attach(&name, Attach::Tc).map_err(|error| format!("{error:#}"))
                }
                (present, _) => present.clone(),
            };
            self.note(&name, again.map(|attached| Attached { note, ..attached }), tools);
        }
    }

    fn note(&mut self, name: &str, attached: Result<Attached, String>, tools: &mut Tools<'_>) {
        let is_known = self.interfaces.get(name) == Some(&attached);
        match &attached {
            _ if is_known => {}
            Ok(attached) => match attached.remarks() {
                None => tracing::info!("{name}: attached, {}", attached.mode),
                Some(remarks) => tracing::warn!("{name}: attached, {}: {remarks}", attached.mode),
            },
            Err(why) => {
                tracing::error!("{name}: not attached, retrying every {ATTACH_AGAIN:?}: {why}");
            }
        }
        if let Ok(Attached { index, .. }) = &attached {
            self.follow(name, *index, tools);
        }
        self.interfaces.insert(name.to_owned(), attached);
        self.note_covered(tools.journal);
    }

    /// Detaches the program from an interface that is no longer configured.
    pub(super) fn forget(&mut self, name: &str, tools: &mut Tools<'_>) {
        self.last_index.remove(name);
        if let Some(Ok(attached)) = self.interfaces.remove(name) {
            tools.detach(name, attached.index);
        }
        self.note_covered(tools.journal);
    }

    /// Detaches the program from interfaces that are not configured, such as a renamed one, but only if it is attached to all
    /// configured ones.
    pub(super) fn release_others(&self, tools: &mut Tools<'_>) {
        if self.interfaces.values().any(Result::is_err) {
            return;
        }
        let own: BTreeSet<u32> = self.interfaces.values().flatten().map(|attached| attached.index).collect();
        for index in tools.kernel.attached_interfaces() {
            if !own.contains(&index) {
                let name = tools.kernel.verify_attached(index);
                tools.detach(&name.unwrap_or_else(|_| format!("interface {index}")), index);
            }
        }
    }

    fn note_covered(&mut self, journal: &mut Journal) {
        self.is_changed = true;
        let missing: Vec<String> = self
            .interfaces
            .iter()
            .filter_map(|(name, attached)| Some(format!("{name}: {}", attached.as_ref().err()?)))
            .collect();
        let why = (!missing.is_empty()).then(|| missing.join("; "));
        journal.note(TroubleKind::Interfaces, why.as_deref());
    }
}

impl Tools<'_> {
    fn detach(&mut self, name: &str, index: u32) {
        match self.kernel.detach(index) {
            Ok(()) => tracing::info!("{name}: detached"),
            Err(error) => tracing::error!("{name}: cannot detach: {error:#}"),
        }
    }
}

/// Attachments made by a reload.
pub(super) struct AttachedAnew {
    /// Each interface, and how.
    all: Vec<(String, Attached)>,
    /// The indices of the interfaces that had the program before.
    held: Vec<u32>,
}

impl AttachedAnew {
    /// Detaches the new attachments.
    pub(super) fn take_back(&self, tools: &mut Tools<'_>) {
        for (name, attached) in self.all.iter().filter(|(_, it)| !self.held.contains(&it.index)) {
            tools.detach(name, attached.index);
        }
    }
}
