//! Where the load balancer is attached, and how: by XDP, or at TC ingress ([why](../../../docs/decisions/0015-tc-where-native-xdp-does-not-fit.md)).
//!
//! An interface has the XDP program, with one beside it at TC ingress that sends for it; or it has the load balancer at TC ingress
//! alone. From one to the other, both are there for a moment: what the one leaves to the host is looked at by the other.

use std::io;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{SchedClassifier, Xdp};
use nix::net::if_::if_nametoindex;
use xdp_lb_common::process::handover;
use xdp_lb_common::tables::Settings;

use super::classifier::Role;
use super::link::Flags;
use super::links::{self, Held, detached};
use super::program::Datapath;
use super::unload;
use crate::model::Attach;
use crate::net::{kind, offloads, xdp};

/// How the load balancer is attached to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The interface's index.
    pub index: u32,
    /// By what: never [`Attach::Auto`].
    pub mode: Attach,
    /// Why it is not native XDP, where `auto` decided so.
    pub note: Option<String>,
    /// Why the program at TC ingress is not beside that of XDP, where that could not be attached.
    pub without_classifier: Option<String>,
}

impl Attached {
    /// It is attached so.
    pub const fn new(index: u32, mode: Attach, note: Option<String>) -> Self {
        Self { index, mode, note, without_classifier: None }
    }

    /// What an operator should know of it, in words.
    pub fn remarks(&self) -> Option<String> {
        let lost = |why: &String| format!("packets to unresolved neighbours are lost: {why}");
        let remarks: Vec<String> =
            self.note.iter().cloned().chain(self.without_classifier.as_ref().map(lost)).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }
}

/// The interface does not exist; it may be created later.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("interface {0} does not exist")]
pub struct NoInterface(pub String);

impl Datapath {
    /// Attaches the load balancer to an interface, or puts it in the place of an earlier one's at once, without a packet lost.
    ///
    /// # Errors
    /// [`NoInterface`] where it does not exist. Where another XDP program is attached, or the driver lacks what is wanted.
    pub fn attach(&mut self, interface: &str, wanted: Attach) -> Result<Attached> {
        let index = if_nametoindex(interface).map_err(|_| NoInterface(interface.to_owned()))?;
        match wanted {
            Attach::Xdp => self.attach_xdp(interface, index, Flags::Native),
            Attach::XdpGeneric => self.attach_xdp(interface, index, Flags::Generic),
            Attach::Tc => self.attach_tc(interface, index, None),
            Attach::Auto => self.attach_as_fits(interface, index),
        }
    }

    fn attach_as_fits(&mut self, interface: &str, index: u32) -> Result<Attached> {
        let why_not = if let Some(why_not) = why_not_native(interface, index) {
            why_not
        } else if self.classifiers.role(index) == Some(Role::Balancer) {
            // A NIC may reset its rings for a program that would not stay.
            "kept from an earlier start; to try native XDP again, run `xdp-lb unload` and start again".into()
        } else {
            match self.attach_xdp(interface, index, Flags::Native) {
                Ok(attached) => return Ok(attached),
                Err(error) => format!("{error:#}"),
            }
        };
        self.attach_tc(interface, index, Some(why_not))
    }

    fn attach_tc(&mut self, interface: &str, index: u32, note: Option<String>) -> Result<Attached> {
        self.attach_classifier(Role::Balancer, index).with_context(|| format!("on {interface}"))?;
        self.links.detach(index, self.pins.as_ref())?;
        Ok(Attached::new(index, Attach::Tc, note))
    }

    fn attach_xdp(&mut self, interface: &str, index: u32, mode: Flags) -> Result<Attached> {
        // From native to generic, or back, the load balancer is at TC ingress meanwhile.
        if self.links.mode(index).is_some_and(|present| present != mode) {
            self.attach_classifier(Role::Balancer, index)?;
        }
        let has_balancer = self.classifiers.role(index) == Some(Role::Balancer);
        let mut without_classifier = None;
        if !has_balancer {
            // Before the program that may mark packets for it.
            without_classifier = self.attach_classifier(Role::Neighbours, index).err();
        }
        if let Err(error) = self.put_xdp(interface, index, mode) {
            // Where an earlier program stays, its packets may need the classifier.
            if !has_balancer && self.links.mode(index).is_none() {
                self.detach_classifier(index)?;
            }
            return Err(error);
        }
        if has_balancer {
            without_classifier = self.attach_classifier(Role::Neighbours, index).err();
        }
        let mode = match mode {
            Flags::Native => Attach::Xdp,
            Flags::Generic => Attach::XdpGeneric,
        };
        let without_classifier = without_classifier.map(|error| format!("{error:#}"));
        Ok(Attached { without_classifier, ..Attached::new(index, mode, None) })
    }

    fn put_xdp(&mut self, interface: &str, index: u32, mode: Flags) -> Result<()> {
        let program: &mut Xdp = self.object.program_mut("xdp_lb").context("no program")?.try_into()?;
        let program = program.fd()?.as_fd();
        let pins = self.pins.as_ref();
        let replaced = self.links.replace(index, mode, program, pins);
        if replaced.with_context(|| format!("on {interface}"))? {
            return Ok(());
        }
        let attached = self.links.attach(index, mode, program, pins);
        attached.map_err(|error| explain(interface, index, mode, error))
    }

    /// Attaches this program at TC ingress, and has the datapath mark packets for it, or not.
    fn attach_classifier(&mut self, role: Role, index: u32) -> Result<()> {
        let program: &mut SchedClassifier =
            self.object.program_mut(role.name()).context("no program")?.try_into()?;
        let attached = self.classifiers.attach((role, program), index, self.pins.as_ref());
        self.set_handover()?;
        attached
    }

    fn detach_classifier(&mut self, index: u32) -> Result<()> {
        self.classifiers.detach(index, self.pins.as_ref())?;
        self.set_handover()
    }

    /// Has the datapath mark packets for the program at TC ingress, where that is on every interface.
    fn set_handover(&mut self) -> Result<()> {
        let handover = match self.settings.handover {
            _ if !self.classifiers.are_complete() => 0,
            0 => rand::random::<u64>() & !handover::CLEAR | handover::SET,
            present => present,
        };
        if handover != self.settings.handover {
            self.write_settings(Settings { handover, ..self.settings })?;
        }
        Ok(())
    }

    /// Looks whether the kernel has the program at TC ingress of the interface with this index, and attaches it again where it
    /// has not. Says why it had not; nothing where it had.
    ///
    /// # Errors
    /// Where it cannot be attached: packets to unresolved neighbours are lost.
    pub fn restore_classifier(&mut self, index: u32) -> Result<Option<String>> {
        let Err(why) = self.verify_classifier(index) else { return Ok(None) };
        let role = self.classifiers.role(index).unwrap_or(Role::Neighbours);
        self.attach_classifier(role, index)?;
        Ok(Some(why))
    }

    fn verify_classifier(&self, index: u32) -> Result<(), String> {
        self.classifiers.verify(index, |role| self.classifier_ids.id(role))
    }

    /// Detaches the load balancer from the interface with this index; one that it is not attached to is not an error.
    pub fn detach(&mut self, index: u32) -> Result<()> {
        self.links.detach(index, self.pins.as_ref())?;
        self.detach_classifier(index)
    }

    /// The indices of the interfaces that an earlier daemon attached to, or this one.
    pub fn attached_interfaces(&self) -> Vec<u32> {
        let mut indices = self.links.indices();
        indices.extend(self.classifiers.balancers());
        indices.sort_unstable();
        indices.dedup();
        indices
    }

    /// Looks whether the kernel has this load balancer on the interface with this index, and what its name is now.
    ///
    /// # Errors
    /// Why it has not, in words.
    pub fn verify_attached(&self, index: u32) -> Result<String, String> {
        if self.classifiers.role(index) == Some(Role::Balancer) {
            self.verify_classifier(index)?;
        } else {
            self.links.verify(index, self.id)?;
        }
        links::present_name(index).ok_or_else(|| "the interface has left this network namespace".into())
    }

    /// Detaches from every interface and removes the pins; says what was removed.
    pub fn unload(&mut self) -> Result<Vec<String>> {
        // Told of the links that are held: their pins may be gone.
        let of_xdp = |(index, held): (u32, &Held)| detached(index, held.mode.name());
        let mut removed: Vec<String> = self.links.iter().map(of_xdp).collect();
        removed.extend(self.classifiers.balancers().into_iter().map(|index| detached(index, "tc")));
        for index in self.attached_interfaces() {
            self.detach(index)?;
        }
        if let Some(pins) = &self.pins {
            removed.extend(unload::remove(pins)?);
        }
        Ok(removed)
    }
}

/// Why all that native XDP is here for does not work on an interface, in words; nothing where it may.
fn why_not_native(interface: &str, index: u32) -> Option<String> {
    let joins = offloads::offloads(interface).is_ok_and(|offloads| offloads.joins_segments);
    why_not(interface, kind::of(index).ok().flatten().as_deref(), joins)
}

/// The same of an interface of this kind (none: a NIC), which merges segments in hardware or not.
fn why_not(interface: &str, kind: Option<&str>, joins: bool) -> Option<String> {
    match kind {
        // A bond has native XDP where its ports do.
        None | Some("bond") => {}
        Some("veth") => {
            return Some(format!(
                "{interface} is a veth, whose other end may send joined segments and unfinished checksums"
            ));
        }
        Some(kind) => {
            return Some(format!(
                "{interface} is a {kind} device, which has no native XDP, or not for all packets"
            ));
        }
    }
    joins.then(|| {
        format!(
            "{interface} merges segments in hardware (LRO), which native XDP cannot forward: ethtool -K {interface} lro off"
        )
    })
}

/// Why an interface refused the program, and what to do.
pub(super) fn explain(interface: &str, index: u32, mode: Flags, error: io::Error) -> anyhow::Error {
    let words = mode.name();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => anyhow!(
            "another XDP program{} is attached to {interface} and is left alone: see `ip link show dev \
             {interface}`; detach it with `ip link set dev {interface} xdp off`, or stop the process that holds its link; if it is an earlier xdp-lb's, run `xdp-lb unload`",
            xdp::program(index).ok().flatten().map_or_else(String::new, |program| format!(" ({program})"))
        ),
        Some(libc::EOPNOTSUPP) => anyhow!("the driver of {interface} has no {words} XDP"),
        Some(libc::ERANGE) => anyhow!(
            "the driver of {interface} has no {words} XDP with frames as large as its MTU allows: lower it with `ip link set \
             dev {interface} mtu 1500` if the network does not need larger ones"
        ),
        _ => anyhow!(error).context(format!("cannot attach to {interface} ({words})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_xdp_fits_nics_and_bonds_that_join_no_segments() {
        assert_eq!(why_not("eth0", None, false), None);
        assert_eq!(why_not("bond0", Some("bond"), false), None);
        for kind in ["veth", "bridge", "tun", "macvlan", "vlan", "wireguard", "team"] {
            let why = why_not("eth0", Some(kind), false).unwrap();
            assert!(why.contains(kind), "{why}");
        }
        assert!(why_not("eth0", None, true).unwrap().ends_with("ethtool -K eth0 lro off"));
    }

    #[test]
    fn a_driver_says_what_it_lacks_and_what_to_do() {
        let said = |code| explain("eth0", 1, Flags::Native, io::Error::from_raw_os_error(code)).to_string();
        assert!(said(libc::ERANGE).contains("mtu 1500"), "{}", said(libc::ERANGE));
        assert!(said(libc::EOPNOTSUPP).contains("no native XDP"));
    }
}
