//! A snapshot of this host's interfaces.

use anyhow::Result;

use super::kernel::connect;

/// An interface of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Bytes of IP.
    pub mtu: u32,
    /// The index of its parent, if it is a VLAN device of this network namespace.
    pub vlan_parent: Option<u32>,
    /// Whether an XDP program is attached to it.
    pub has_xdp: bool,
}

/// The interfaces of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// By index.
    pub interfaces: Vec<Interface>,
}

impl Network {
    /// Reads the interfaces of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn look() -> Result<Self> {
        let (kernel, _connection) = connect()?;
        let with_xdp = kernel.links_with_xdp().await?;
        let links = kernel.links().await?.into_iter();
        let interface = |link: super::kernel::Link| Interface {
            up: link.up,
            carrier: link.carrier,
            mtu: link.mtu,
            vlan_parent: link.lower.filter(|_| link.vlan.is_some()),
            has_xdp: with_xdp.contains(&link.index),
            index: link.index,
            name: link.name,
        };
        Ok(Self { interfaces: links.map(interface).collect() })
    }

    /// The interface with this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// All names, for people.
    pub fn names(&self) -> String {
        self.interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
