//! The links that attach the program to interfaces. The daemon holds each one in addition to its pin, so that removing the pins
//! does not end forwarding. They are identified by the interface's index, which does not change when the interface is renamed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use nix::net::if_::if_indextoname;

use super::link::{self, Flags};
use super::pins::{self, Pins};

/// A link, and how it was attached.
#[derive(Debug)]
pub struct Held {
    pub link: OwnedFd,
    pub mode: Flags,
}

/// The links, by the interface's index.
#[derive(Debug, Default)]
pub struct Links {
    held: BTreeMap<u32, Held>,
}

impl Links {
    /// The links that an earlier daemon pinned. Removes the pins of links whose interface is gone.
    ///
    /// # Errors
    /// If the pins cannot be listed.
    pub fn adopt(pins: &Pins) -> Result<Self> {
        let mut links = Self::default();
        for (path, mode) in pins.links()? {
            if let Some((ifindex, link)) = adopt(&path, pins.is_staged(), |ifindex| pins.link(ifindex, mode))?
            {
                links.held.insert(ifindex, Held { link, mode });
            }
        }
        Ok(links)
    }

    /// The interfaces where the program is or should be attached, by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Held)> {
        self.held.iter().map(|(ifindex, held)| (*ifindex, held))
    }

    /// The indices of their interfaces.
    pub fn indices(&self) -> Vec<u32> {
        self.held.keys().copied().collect()
    }

    /// How the program is, or should be, on this interface.
    pub fn mode(&self, ifindex: u32) -> Option<Flags> {
        self.held.get(&ifindex).map(|held| held.mode)
    }

    /// Puts the program into an interface's link, and says whether that is so: not where there is no link of this mode that is
    /// attached; another one is given up.
    ///
    /// # Errors
    /// If the kernel refuses the program.
    pub fn replace(
        &mut self,
        ifindex: u32,
        mode: Flags,
        program: BorrowedFd<'_>,
        pins: Option<&Pins>,
    ) -> Result<bool> {
        let Some(held) = self.held.get(&ifindex) else { return Ok(false) };
        let is_attached = link::info(held.link.as_fd()).is_ok_and(|info| info.ifindex == ifindex);
        if !is_attached || mode != held.mode {
            self.detach(ifindex, pins)?;
            return Ok(false);
        }
        link::update(held.link.as_fd(), program)
            .map_err(|error| anyhow!(error).context("cannot replace the program"))?;
        Ok(true)
    }

    /// Attaches the program to an interface that has no link.
    ///
    /// # Errors
    /// If the kernel refuses. A link that cannot be pinned is held all the same.
    pub fn attach(
        &mut self,
        ifindex: u32,
        mode: Flags,
        program: BorrowedFd<'_>,
        pins: Option<&Pins>,
    ) -> io::Result<()> {
        let link = link::attach(program, ifindex, mode)?;
        if let Some(pins) = pins {
            pins::pin(link.as_fd(), &pins.link(ifindex, mode));
        }
        self.held.insert(ifindex, Held { link, mode });
        Ok(())
    }

    /// Detaches the program from an interface. It is not an error if it has none.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<()> {
        let Some(held) = self.held.remove(&ifindex) else { return Ok(()) };
        // This fails if the interface is gone, and the link with it.
        let _ = link::detach(held.link.as_fd());
        pins.map_or(Ok(()), |pins| pins::remove(&pins.link(ifindex, held.mode)))
    }

    /// Looks whether the kernel has a program on an interface, by this link, whose id `is_ours`.
    ///
    /// # Errors
    /// The reason if it is not.
    pub fn verify(&self, ifindex: u32, is_ours: impl Fn(u32) -> bool) -> Result<(), String> {
        let held = self.held.get(&ifindex).ok_or("the program was never attached")?;
        verify(held.link.as_fd(), ifindex, is_ours)
    }
}

/// Opens the pin of an earlier daemon's link, and pins the link at this daemon's path for the same interface. Returns the
/// interface's index and the link. `None` if the interface is gone; the pin is removed. The earlier pin may be one that `stays`.
///
/// # Errors
/// If a pin cannot be removed.
pub fn adopt(path: &Path, stays: bool, own: impl Fn(u32) -> PathBuf) -> Result<Option<(u32, OwnedFd)>> {
    let held = link::open(path).and_then(|link| Ok((link::info(link.as_fd())?.ifindex, link)));
    let Some((ifindex, link)) = held.ok().filter(|(ifindex, _)| *ifindex != 0) else {
        pins::remove(path)?;
        return Ok(None);
    };
    let own = own(ifindex);
    if own != path && link::pin(link.as_fd(), &own).is_ok() && !stays {
        pins::remove(path)?;
    }
    Ok(Some((ifindex, link)))
}

/// Looks whether the kernel has a program on an interface, by this link, whose id `is_ours`.
///
/// # Errors
/// The reason if it is not.
pub fn verify(link: BorrowedFd<'_>, ifindex: u32, is_ours: impl Fn(u32) -> bool) -> Result<(), String> {
    let info = link::info(link).map_err(|error| format!("cannot read its link: {error}"))?;
    match info {
        link::Info { ifindex: 0, .. } => Err("something else detached the program".into()),
        link::Info { ifindex: other, .. } if other != ifindex => {
            Err(format!("its link is on the interface with index {other}"))
        }
        link::Info { program: other, .. } if !is_ours(other) => {
            Err(format!("something else put another program (id {other}) into its link"))
        }
        _ => Ok(()),
    }
}

/// The current name of the interface with this index, in the calling thread's network namespace.
pub fn present_name(ifindex: u32) -> Option<String> {
    Some(if_indextoname(ifindex).ok()?.to_string_lossy().into_owned())
}

/// The same, or `interface N` if it does not exist.
pub fn name(ifindex: u32) -> String {
    present_name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"))
}

/// That it is detached from an interface, in words.
pub fn detached(index: u32, mode: &str) -> String {
    format!("detached from {} ({mode})", name(index))
}
