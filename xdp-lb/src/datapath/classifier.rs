//! The program at TC ingress, beside the XDP program of each interface: it sends what the host's neighbour table is to send
//! ([`xdp_lb_common::process::handover`]).
//!
//! On kernel 6.6 and later it is a tcx link, held and pinned like that of the XDP program and known by the interface's index. On
//! older kernels it is a filter of the interface's clsact qdisc, which also outlives the daemon.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use tracing::debug;

use super::pins::{self, Pins};
use super::{link, links};
use crate::net::filters;

/// Its name in the object, and so that of the filter.
pub const NAME: &str = "tc_neighbour";

/// How the program is at an interface's TC ingress.
#[derive(Debug)]
enum Held {
    Link(OwnedFd),
    Filter,
    /// It is not there, for this reason.
    Missing(String),
}

/// The interfaces at whose TC ingress the program is, or should be, by their indices.
#[derive(Debug, Default)]
pub struct Classifiers {
    held: BTreeMap<u32, Held>,
}

impl Classifiers {
    /// The links that an earlier daemon pinned. Pins of links whose interface is gone are removed.
    ///
    /// # Errors
    /// Where the pins cannot be listed.
    pub fn adopt(pins: &Pins) -> Result<Self> {
        let mut held = BTreeMap::new();
        for path in pins.classifiers()? {
            if let Some((ifindex, link)) =
                links::adopt(&path, pins.is_staged(), |ifindex| pins.classifier(ifindex))?
            {
                held.insert(ifindex, Held::Link(link));
            }
        }
        Ok(Self { held })
    }

    /// The links, by the interface's index.
    pub fn links(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.held.iter().filter_map(|(ifindex, held)| match held {
            Held::Link(link) => Some((*ifindex, link.as_fd())),
            Held::Filter | Held::Missing(_) => None,
        })
    }

    /// Whether the program is at TC ingress of every interface where it should be.
    pub fn are_complete(&self) -> bool {
        !self.held.is_empty() && !self.held.values().any(|held| matches!(held, Held::Missing(_)))
    }

    /// Attaches the program to an interface, or puts it in the place of an earlier one's at once.
    ///
    /// # Errors
    /// Where the kernel takes it neither as a link nor as a filter. It is noted as missing then.
    pub fn attach(&mut self, program: &mut SchedClassifier, ifindex: u32, pins: Option<&Pins>) -> Result<()> {
        if let Some(Held::Link(link)) = self.held.get(&ifindex)
            && link::info(link.as_fd()).is_ok_and(|info| info.ifindex == ifindex)
            && link::update(link.as_fd(), program.fd()?.as_fd()).is_ok()
        {
            return Ok(());
        }
        let (held, attached) = match attach(program, ifindex) {
            Ok(held) => (held, Ok(())),
            Err(error) => (Held::Missing(format!("it could not be attached: {error:#}")), Err(error)),
        };
        if let (Held::Link(link), Some(pins)) = (&held, pins) {
            pins::pin(link.as_fd(), &pins.classifier(ifindex));
        }
        self.held.insert(ifindex, held);
        attached
    }

    /// Detaches the program from an interface; one where it is not attached is not an error.
    ///
    /// # Errors
    /// Where the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<()> {
        match self.held.remove(&ifindex) {
            // It fails where the interface is gone, and the link with it.
            Some(Held::Link(link)) => drop(link::detach(link.as_fd())),
            // An earlier daemon's filter is not known here.
            _ => remove_filter(ifindex),
        }
        pins.map_or(Ok(()), |pins| pins::remove(&pins.classifier(ifindex)))
    }

    /// Looks whether the kernel has this program at an interface's TC ingress.
    ///
    /// # Errors
    /// Why it is not so, in words.
    pub fn verify(&self, ifindex: u32, program: u32) -> Result<(), String> {
        match self.held.get(&ifindex).ok_or("it was never attached")? {
            Held::Link(link) => links::verify(link.as_fd(), ifindex, program),
            Held::Filter => match filters::programs(ifindex) {
                Ok(programs) if programs.contains(&program) => Ok(()),
                Ok(_) => Err("something else removed its filter".into()),
                Err(error) => {
                    debug!("cannot list the filters of {}: {error}", links::name(ifindex));
                    Ok(())
                }
            },
            Held::Missing(why) => Err(why.clone()),
        }
    }
}

fn attach(program: &mut SchedClassifier, ifindex: u32) -> Result<Held> {
    // First: whatever else looks at packets there would take those that are marked for broken ones.
    let error = match link::attach_at_tc_ingress(program.fd()?.as_fd(), ifindex) {
        Ok(link) => return Ok(Held::Link(link)),
        Err(error) => error,
    };
    let interface = links::present_name(ifindex).context("the interface no longer exists")?;
    debug!("{interface}: no TCX link ({error}): using a TC filter instead");
    // One that is there is as good as added, and where it is not, attaching says so.
    let _ = tc::qdisc_add_clsact(&interface);
    remove_filter(ifindex);
    let as_filter = TcAttachOptions::Netlink(NlOptions::default());
    let id = program
        .attach_with_options(&interface, TcAttachType::Ingress, as_filter)
        .with_context(|| format!("cannot attach to TC ingress of {interface}"))?;
    // To drop it would remove the filter.
    mem::forget(program.take_link(id)?);
    Ok(Held::Filter)
}

/// Removes the filter from an interface, where there is one.
pub fn remove_filter(ifindex: u32) {
    if let Some(interface) = links::present_name(ifindex) {
        let _ = tc::qdisc_detach_program(&interface, TcAttachType::Ingress, NAME);
    }
}
