//! The links that hold the program on interfaces. The daemon holds each one beside its pin, so that whoever removes the
//! pins does not end forwarding; and it knows them by the interface's index, which stays the same when the interface is
//! renamed.

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
    /// The links that an earlier daemon pinned. Pins of links whose interface is gone are removed.
    ///
    /// # Errors
    /// Where the pins cannot be listed.
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

    /// Where the program is, or should be: by the interface's index.
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
    /// Where the kernel refuses the program.
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
    /// Where the kernel refuses; a link that cannot be pinned is held all the same.
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

    /// Detaches the program from an interface; one that has none is not an error.
    ///
    /// # Errors
    /// Where the pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32, pins: Option<&Pins>) -> Result<()> {
        let Some(held) = self.held.remove(&ifindex) else { return Ok(()) };
        // It fails where the interface is gone, and the link with it.
        let _ = link::detach(held.link.as_fd());
        pins.map_or(Ok(()), |pins| pins::remove(&pins.link(ifindex, held.mode)))
    }

    /// Looks whether the kernel has this program on an interface, by this link.
    ///
    /// # Errors
    /// Why it is not so, in words.
    pub fn verify(&self, ifindex: u32, program: u32) -> Result<(), String> {
        let held = self.held.get(&ifindex).ok_or("the program was never attached")?;
        verify(held.link.as_fd(), ifindex, program)
    }
}

/// Opens the pin of an earlier daemon's link, and has it pinned where this daemon pins the one of the same interface. Returns
/// the interface's index and the link; nothing where the interface is gone, and the pin is removed. The earlier pin may be one that
/// `stays`.
///
/// # Errors
/// Where a pin cannot be removed.
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

/// Looks whether the kernel has this program on an interface, by this link.
///
/// # Errors
/// Why it is not so, in words.
pub fn verify(link: BorrowedFd<'_>, ifindex: u32, program: u32) -> Result<(), String> {
    let info = link::info(link).map_err(|error| format!("cannot read its link: {error}"))?;
    match info {
        link::Info { ifindex: 0, .. } => Err("something else detached the program".into()),
        link::Info { ifindex: other, .. } if other != ifindex => {
            Err(format!("its link is on the interface with index {other}"))
        }
        link::Info { program: other, .. } if other != program => {
            Err(format!("something else put another program (id {other}) into its link"))
        }
        _ => Ok(()),
    }
}

/// The name that the interface with this index has now, in the calling thread's network namespace.
pub fn present_name(ifindex: u32) -> Option<String> {
    Some(if_indextoname(ifindex).ok()?.to_string_lossy().into_owned())
}

/// The same, or `interface N` where that does not exist.
pub fn name(ifindex: u32) -> String {
    present_name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"))
}

/// That it is detached from an interface, in words.
pub fn detached(index: u32, mode: &str) -> String {
    format!("detached from {} ({mode})", name(index))
}
