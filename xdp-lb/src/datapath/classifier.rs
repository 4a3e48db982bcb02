//! The program at TC ingress of each interface: the load balancer itself, or, beside the XDP program, the one that sends what the
//! host's neighbour table is to send ([`xdp_lb_common::process::handover`]). The load balancer's does that, too.
//!
//! On kernel 6.6 and later it is a tcx link, held and pinned like that of the XDP program and known by the interface's index. On
//! older kernels it is a filter of the interface's clsact qdisc, which also outlives the daemon.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use tracing::debug;

use super::maps::STALE;
use super::pins::{self, Pins};
use super::{link, links};
use crate::net::filters::{self, Filter};

/// Which program it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The load balancer.
    Balancer,
    /// What sends for the XDP program.
    Neighbours,
}

impl Role {
    /// All.
    pub const ALL: [Self; 2] = [Self::Balancer, Self::Neighbours];

    /// The program's name in the object, and so that of its filter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balancer => "tc_lb",
            Self::Neighbours => "tc_neighbour",
        }
    }
}

/// The kernel's ids of the programs at TC ingress.
pub struct ClassifierIds {
    balancer: u32,
    neighbours: u32,
}

impl ClassifierIds {
    /// Those of this object, whose programs are loaded.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn of(object: &mut Ebpf) -> Result<Self> {
        let mut id = |role: Role| -> Result<u32> {
            let program: &mut SchedClassifier = object.program_mut(role.name()).context(STALE)?.try_into()?;
            let id = link::object_id(program.fd()?.as_fd());
            id.context("cannot ask the kernel about the program at TC ingress")
        };
        Ok(Self { balancer: id(Role::Balancer)?, neighbours: id(Role::Neighbours)? })
    }

    /// That of this program.
    pub const fn id(&self, role: Role) -> u32 {
        match role {
            Role::Balancer => self.balancer,
            Role::Neighbours => self.neighbours,
        }
    }
}

/// A program at an interface's TC ingress.
#[derive(Debug)]
struct Held {
    role: Role,
    how: How,
}

/// How it is attached.
#[derive(Debug)]
enum How {
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
    /// The links that an earlier daemon pinned: the load balancer's, but on interfaces that have the XDP program, which
    /// `has_xdp` tells by their index. Pins of links whose interface is gone are removed.
    ///
    /// # Errors
    /// Where the pins cannot be listed.
    pub fn adopt(pins: &Pins, has_xdp: impl Fn(u32) -> bool) -> Result<Self> {
        let mut held = BTreeMap::new();
        for path in pins.classifiers()? {
            if let Some((ifindex, link)) =
                links::adopt(&path, pins.is_staged(), |ifindex| pins.classifier(ifindex))?
            {
                let role = if has_xdp(ifindex) { Role::Neighbours } else { Role::Balancer };
                held.insert(ifindex, Held { role, how: How::Link(link) });
            }
        }
        for (ifindex, _) in pins.filters()? {
            held.insert(ifindex, Held { role: Role::Balancer, how: How::Filter });
        }
        Ok(Self { held })
    }

    /// The links, by the interface's index.
    pub fn links(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.held.iter().filter_map(|(ifindex, held)| match &held.how {
            How::Link(link) => Some((*ifindex, link.as_fd())),
            How::Filter | How::Missing(_) => None,
        })
    }

    /// The indices of the interfaces where it is the load balancer.
    pub fn balancers(&self) -> Vec<u32> {
        self.held
            .iter()
            .filter(|(_, held)| held.role == Role::Balancer)
            .map(|(ifindex, _)| *ifindex)
            .collect()
    }

    /// Which program is at TC ingress of this interface, or should be.
    pub fn role(&self, ifindex: u32) -> Option<Role> {
        self.held.get(&ifindex).map(|held| held.role)
    }

    /// Whether the program is at TC ingress of every interface where it should be.
    pub fn are_complete(&self) -> bool {
        !self.held.is_empty() && !self.held.values().any(|held| matches!(held.how, How::Missing(_)))
    }

    /// Attaches the program to an interface, or puts it in the place of an earlier one's at once.
    ///
    /// # Errors
    /// Where the kernel takes it neither as a link nor as a filter. It is noted as missing then.
    pub fn attach(
        &mut self,
        (role, program): (Role, &mut SchedClassifier),
        ifindex: u32,
        pins: Option<&Pins>,
    ) -> Result<()> {
        if let Some(Held { role: held, how: How::Link(link) }) = self.held.get_mut(&ifindex)
            && link::info(link.as_fd()).is_ok_and(|info| info.ifindex == ifindex)
            && link::update(link.as_fd(), program.fd()?.as_fd()).is_ok()
        {
            *held = role;
            return Ok(());
        }
        let (how, attached) = match attach(program, ifindex) {
            Ok(how) => (how, Ok(())),
            Err(error) => (How::Missing(format!("it could not be attached: {error:#}")), Err(error)),
        };
        if let Some(pins) = pins {
            match (&how, role) {
                (How::Link(link), _) => pins::pin(link.as_fd(), &pins.classifier(ifindex)),
                // By which whoever comes next knows that it is there.
                (How::Filter, Role::Balancer) => pins::pin(program.fd()?.as_fd(), &pins.filter(ifindex)),
                (How::Filter, Role::Neighbours) => pins::remove(&pins.filter(ifindex))?,
                (How::Missing(_), _) => {}
            }
        }
        self.held.insert(ifindex, Held { role, how });
        attached
    }

    /// Detaches the program from an interface; one where it is not attached is not an error.
    ///
    /// # Errors
    /// Where the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<()> {
        match self.held.remove(&ifindex).map(|held| held.how) {
            // It fails where the interface is gone, and the link with it.
            Some(How::Link(link)) => drop(link::detach(link.as_fd())),
            // An earlier daemon's filter is not known here.
            _ => remove_filters(ifindex),
        }
        let Some(pins) = pins else { return Ok(()) };
        pins::remove(&pins.classifier(ifindex))?;
        pins::remove(&pins.filter(ifindex))
    }

    /// Looks whether the kernel has the program, by its id, at an interface's TC ingress.
    ///
    /// # Errors
    /// Why it is not so, in words.
    pub fn verify(&self, ifindex: u32, id: impl Fn(Role) -> u32) -> Result<(), String> {
        let held = self.held.get(&ifindex).ok_or("it was never attached")?;
        let program = id(held.role);
        match &held.how {
            How::Link(link) => links::verify(link.as_fd(), ifindex, program),
            How::Filter => match filters::of(ifindex) {
                Ok(filters) if filters.iter().any(|filter| filter.program == program) => Ok(()),
                Ok(_) => Err("something else removed its filter".into()),
                Err(error) => {
                    debug!("cannot list the filters of {}: {error}", links::name(ifindex));
                    Ok(())
                }
            },
            How::Missing(why) => Err(why.clone()),
        }
    }
}

fn attach(program: &mut SchedClassifier, ifindex: u32) -> Result<How> {
    // First: whatever else looks at packets there would take those that are marked for broken ones.
    let error = match link::attach_at_tc_ingress(program.fd()?.as_fd(), ifindex) {
        Ok(link) => return Ok(How::Link(link)),
        Err(error) => error,
    };
    let interface = links::present_name(ifindex).context("the interface no longer exists")?;
    debug!("{interface}: no TCX link ({error}): using a TC filter instead");
    // One that is there is as good as added, and where it is not, attaching says so.
    let _ = tc::qdisc_add_clsact(&interface);
    let earlier = filters::of(ifindex).unwrap_or_default();
    let as_filter = TcAttachOptions::Netlink(NlOptions::default());
    let id = program
        .attach_with_options(&interface, TcAttachType::Ingress, as_filter)
        .with_context(|| format!("cannot attach to TC ingress of {interface}"))?;
    // To drop it would remove the filter.
    mem::forget(program.take_link(id)?);
    // What this one takes the place of goes only now: no packet meets neither.
    for filter in earlier.iter().filter(|filter| is_ours(filter)) {
        let link = SchedClassifierLink::attached(
            &interface,
            TcAttachType::Ingress,
            filter.priority,
            filter.handle.into(),
            None,
        );
        let _ = link.map(aya::programs::links::Link::detach);
    }
    Ok(How::Filter)
}

fn is_ours(filter: &Filter) -> bool {
    Role::ALL.iter().any(|role| filter.name.as_deref() == Some(role.name()))
}

/// Removes the filters from an interface, where there are any.
pub fn remove_filters(ifindex: u32) {
    if let Some(interface) = links::present_name(ifindex) {
        for role in Role::ALL {
            let _ = tc::qdisc_detach_program(&interface, TcAttachType::Ingress, role.name());
        }
    }
}
