//! The program at TC ingress, beside the XDP program of each interface: it sends what the host's neighbour table is to send
//! ([`xdp_lb_common::process::handover`]).
//!
//! On kernel 6.6 and later it is a tcx link, pinned like that of the XDP program. On older kernels it is a filter of the
//! interface's clsact qdisc, which also outlives the daemon.

use std::mem;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use tracing::debug;

use super::link;
use super::pins;

/// Its name in the object, and so that of the filter.
pub(super) const NAME: &str = "tc_neighbour";

/// Attaches the program to an interface, in the place of an earlier daemon's. Returns the link, unless it is pinned here or
/// there is none.
///
/// # Errors
/// Where the kernel takes it neither way.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    index: u32,
    pin: Option<&Path>,
) -> Result<Option<FdLink>> {
    if let Some(pin) = pin {
        if link::interface(pin).is_ok_and(|attached| attached == index) {
            let link = FdLink::from(PinnedLink::from_pin(pin)?);
            let link = SchedClassifierLink::try_from(link)
                .with_context(|| format!("{} is not a TC link", pin.display()))?;
            let id = program.attach_to_link(link).context("cannot replace the program at TC ingress")?;
            drop(program.take_link(id)?);
            return Ok(None);
        }
        pins::remove_link(pin)?;
    }
    let ingress = TcAttachType::Ingress;
    // First: whatever else looks at packets there would take those that are marked for broken ones.
    match program.attach_with_options(interface, ingress, TcAttachOptions::TcxOrder(LinkOrder::first())) {
        Ok(id) => {
            let link = FdLink::try_from(program.take_link(id)?)?;
            let Some(pin) = pin else { return Ok(Some(link)) };
            link.pin(pin).with_context(|| format!("cannot pin {}", pin.display()))?;
            Ok(None)
        }
        Err(error) => {
            debug!("{interface}: no tcx link ({error}): the program becomes a filter");
            // One that is there is as good as added, and where it is not, attaching says so.
            let _ = tc::qdisc_add_clsact(interface);
            remove_filter(interface);
            let id = program
                .attach_with_options(interface, ingress, TcAttachOptions::Netlink(NlOptions::default()))
                .with_context(|| format!("cannot attach to TC ingress of {interface}"))?;
            // To drop it would remove the filter.
            mem::forget(program.take_link(id)?);
            Ok(None)
        }
    }
}

/// Removes the filter from an interface, where there is one.
pub(super) fn remove_filter(interface: &str) {
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, NAME);
}
