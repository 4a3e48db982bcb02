//! The datapath's part in health checks that go to the VIP: the program that sends their packets to the backend, and the
//! table that says which backend that is.

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

    /// Attaches the program to the host's end of the checks' veth pair, for as long as what it returns is held. Generic XDP:
    /// it sends through any interface, also one whose driver takes no packets from another's native program.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        link::attach(self.program.as_fd(), ifindex, link::Flags::Generic)
    }

    /// Sends packets with these addresses and ports as this check's, and what answers them back.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn put(&mut self, key: &FlowKey, check: Check) -> Result<()> {
        self.map.insert(Plain(*key), Plain(check), 0).context("cannot write a health check's path")
    }

    /// Forgets a check; one that is gone already is not an error.
    pub fn remove(&mut self, key: &FlowKey) {
        let _ = self.map.remove(&Plain(*key));
    }
}
