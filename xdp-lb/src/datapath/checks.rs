//! The datapath's part in health checks through VIPs: the program that sends their packets to the backend, and the table of their
//! backends.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use xdp_lb_common::tables::{Check, FlowKey};

use super::link;
use super::plain::Plain;

/// The program and the table.
#[derive(Debug)]
pub struct Checks {
    program: OwnedFd,
    map: HashMap<MapData, Plain<FlowKey>, Plain<Check>>,
}

impl Checks {
    pub(super) fn new(program: BorrowedFd<'_>, map: Map) -> Result<Self> {
        Ok(Self { program: program.try_clone_to_owned()?, map: map.try_into()? })
    }

    /// Attaches the program to the host's end of the checks' veth pair, as long as the result is held. Generic XDP: it sends
    /// through any interface, even if the driver does not accept packets from another driver's native program.
    ///
    /// # Errors
    /// If the interface does not exist.
    pub fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        link::attach(self.program.as_fd(), ifindex, link::Flags::Generic)
    }

    /// Adds a check: packets with these addresses and ports are its own, and their replies go back to it.
    ///
    /// # Errors
    /// If the table is full.
    pub fn put(&mut self, key: &FlowKey, check: Check) -> Result<()> {
        self.map.insert(Plain(*key), Plain(check), 0).context("cannot write a health check's path")
    }

    /// Removes a check. It is not an error if it does not exist.
    pub fn remove(&mut self, key: &FlowKey) {
        let _ = self.map.remove(&Plain(*key));
    }
}
