//! The interfaces that the program is to be attached to, and how it is.
//!
//! The config names them. Where the program is, is known by the interface's index, which stays the same when names change:
//! interfaces that swap their names keep it without a packet lost, and one that was renamed keeps it until a reload or a
//! restart with all that the config names in place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::flow_worker::FlowWorker;
use super::journal::Journal;
use super::kernel::Kernel;
use crate::datapath::{Attached, NoInterface};
use crate::model::XdpMode;
use crate::model::event::WatchEvent;
use crate::model::refusal::{Answer, Refusal};
use crate::model::state::TroubleKind;
use crate::pool::covered::Covered;
use crate::report::documents::InterfaceView;

/// How often it is tried again to attach to an interface where that failed.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

/// What the program is attached to.
pub(super) struct Attachments {
    /// The interfaces that it is to be attached to, and how it is, or why not.
    interfaces: BTreeMap<String, Result<Attached, String>>,
    /// Under which index each of them had the program last.
    last_index: BTreeMap<String, u32>,
    /// The interfaces that are up and have a carrier.
    up: BTreeSet<String>,
    /// How it is to be attached.
    mode: XdpMode,
    /// When it was last tried to attach where that had failed.
    tried: Instant,
    /// Whether the interfaces that it covers may be others than when they were asked for last.
    is_changed: bool,
}

/// What everything here works on.
pub(super) struct Tools<'a> {
    pub(super) kernel: &'a mut dyn Kernel,
    pub(super) journal: &'a mut Journal,
    pub(super) flows: &'a FlowWorker,
}

impl Attachments {
    /// Nothing is attached yet.
    pub(super) fn new(mode: XdpMode, now: Instant) -> Self {
        Self {
            interfaces: BTreeMap::new(),
            last_index: BTreeMap::new(),
            up: BTreeSet::new(),
            mode,
            tried: now,
            is_changed: false,
        }
    }

    /// Attaches the program to every interface of the config, and detaches it from every other.
    ///
    /// # Errors
    /// At a first start, where an interface refuses the program, or none of them exists. One of several that is missing may
    /// come later, and is waited for. Where tables were adopted, forwarding goes on through the others and it is tried again,
    /// as at runtime.
    pub(super) fn attach_configured(
        &mut self,
        names: &[String],
        tools: &mut Tools<'_>,
    ) -> anyhow::Result<()> {
        let is_first = !tools.kernel.is_adopted();
        for name in names {
            match tools.kernel.attach(name, self.mode) {
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

    /// The interfaces that the program is to be attached to, and how it is, or why not.
    pub(super) fn interfaces(&self) -> &BTreeMap<String, Result<Attached, String>> {
        &self.interfaces
    }

    /// The names of the interfaces that have the program.
    pub(super) fn attached(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().filter(|(_, attached)| attached.is_ok()).map(|(name, _)| name.as_str())
    }

    /// The interfaces, as the API tells of them.
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

    /// The interfaces that the program covers, where they may be others than when this was asked last.
    pub(super) fn changed(&mut self) -> Option<Covered> {
        let index = |attached: &Result<Attached, String>| Some(attached.as_ref().ok()?.index);
        std::mem::take(&mut self.is_changed).then(|| Covered {
            names: self.interfaces.keys().cloned().collect(),
            indices: self.interfaces.values().filter_map(index).collect(),
        })
    }

    /// Takes in that an interface came, went or changed. One that came back, with another index, has lost the
    /// program.
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

    /// Takes in that no interface has this name any more; it had this index. `is_first`: it has just been heard.
    fn miss(&mut self, name: &str, index: u32, is_first: bool, tools: &mut Tools<'_>) {
        match tools.kernel.verify_attached(index) {
            // It is back already, or goes from name to name: the next look tells.
            Ok(present) if present == name || is_first => return,
            Ok(_) => {}
            // Nothing is left of it but the pin of its link.
            Err(_) => tools.detach(name, index),
        }
        let why = self.why_missing(name, tools.kernel);
        self.note(name, Err(why), tools);
    }

    /// Why the program is not attached under this name, of which there is no interface.
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

    /// Has flows go on through an interface that came in the place of one that is gone.
    fn follow(&mut self, name: &str, index: u32, tools: &mut Tools<'_>) {
        let Some(before) = self.last_index.insert(name.to_owned(), index).filter(|before| *before != index)
        else {
            return;
        };
        // One that has another name now has its flows still.
        if tools.kernel.verify_attached(before).is_ok() {
            return;
        }
        tools.detach(name, before);
        tools.flows.move_flows(name, before, index);
    }

    /// Looks whether the kernel has the program where it was attached, and attaches it again where it has not.
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
                        tools.journal.tell_restored("attached again", &[format!("{name} ({why})")]);
                    }
                }
            }
        }
        if !lost.is_empty() {
            self.attach_alike(tools);
        }
        self.verify_classifiers(tools);
    }

    /// Looks whether the kernel has the program at TC ingress beside it, and attaches that again where it has not.
    fn verify_classifiers(&mut self, tools: &mut Tools<'_>) {
        let attached = |(name, attached): (&String, &Result<Attached, String>)| {
            Some((name.clone(), attached.as_ref().ok()?.clone()))
        };
        let all: Vec<_> = self.interfaces.iter().filter_map(attached).collect();
        for (name, attached) in all {
            let restored = tools.kernel.restore_classifier(attached.index);
            if let Ok(Some(why)) = &restored {
                let what = format!("the program at TC ingress of {name} ({why})");
                tools.journal.tell_restored("attached again", &[what]);
            }
            let without_classifier = restored.err().map(|error| format!("{error:#}"));
            if without_classifier != attached.without_classifier {
                self.note(&name, Ok(Attached { without_classifier, ..attached }), tools);
            }
        }
    }

    /// Tries again, now and then, where the program could not be attached.
    pub(super) fn attach_missing(&mut self, tools: &mut Tools<'_>, now: Instant) {
        if now.duration_since(self.tried) >= ATTACH_AGAIN {
            self.attach_missing_now(tools, now);
        }
    }

    /// Tries again where the program could not be attached; returns where it is now.
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

    /// Attaches the program to each of these, or to none of them.
    pub(super) fn attach_all<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        tools: &mut Tools<'_>,
    ) -> Answer<AttachedAnew> {
        let mut done = AttachedAnew { all: Vec::new(), held: tools.kernel.attached_interfaces() };
        for name in names {
            match tools.kernel.attach(name, self.mode) {
                Ok(attached) => done.all.push((name.clone(), attached)),
                Err(error) => {
                    done.take_back(tools);
                    return Err(Refusal::Failed(format!("{error:#}; nothing was changed")));
                }
            }
        }
        Ok(done)
    }

    /// Takes over what was attached so.
    pub(super) fn take(&mut self, anew: AttachedAnew, tools: &mut Tools<'_>) {
        for (name, attached) in anew.all {
            self.note(&name, Ok(attached), tools);
        }
    }

    fn attach(&mut self, name: &str, tools: &mut Tools<'_>) {
        let attached = tools.kernel.attach(name, self.mode).map_err(|error| {
            if error.is::<NoInterface>() {
                self.why_missing(name, tools.kernel)
            } else {
                format!("{error:#}")
            }
        });
        self.note(name, attached, tools);
    }

    /// Where one interface of `auto` had to be generic, has the others be so, too: a native program cannot send
    /// through a driver without XDP, and the kernel would drop what it sends there without a word.
    pub(super) fn attach_alike(&mut self, tools: &mut Tools<'_>) {
        let attached = |mode| {
            let of_mode = move |(name, attached): (&String, &Result<Attached, String>)| {
                attached.as_ref().is_ok_and(|attached| attached.mode == mode).then(|| name.clone())
            };
            self.interfaces.iter().filter_map(of_mode)
        };
        if self.mode != XdpMode::Auto {
            return;
        }
        let Some(generic) = attached(XdpMode::Generic).next() else { return };
        let native: Vec<_> = attached(XdpMode::Native).collect();
        for name in native {
            let again = tools.kernel.attach(&name, XdpMode::Generic).map(|attached| Attached {
                note: Some(format!("{generic} runs in generic mode, and native XDP cannot send to it")),
                ..attached
            });
            self.note(&name, again.map_err(|error| format!("{error:#}")), tools);
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

    /// Detaches the program from an interface that is not in the config any more.
    pub(super) fn forget(&mut self, name: &str, tools: &mut Tools<'_>) {
        self.last_index.remove(name);
        if let Some(Ok(attached)) = self.interfaces.remove(name) {
            tools.detach(name, attached.index);
        }
        self.note_covered(tools.journal);
    }

    /// Detaches the program from the interfaces that the config does not name, such as one that was renamed; but only where it
    /// has all that it names.
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

/// What a reload attached.
pub(super) struct AttachedAnew {
    /// Each interface, and how.
    all: Vec<(String, Attached)>,
    /// Where the program was before: the interfaces' indices.
    held: Vec<u32>,
}

impl AttachedAnew {
    /// Detaches what was attached, but for what was attached before.
    pub(super) fn take_back(&self, tools: &mut Tools<'_>) {
        for (name, attached) in self.all.iter().filter(|(_, it)| !self.held.contains(&it.index)) {
            tools.detach(name, attached.index);
        }
    }
}
