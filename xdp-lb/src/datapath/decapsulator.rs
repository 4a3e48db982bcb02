//! A backend's decapsulation program, loaded into the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context, Result, anyhow};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use xdp_lb_common::decap::{Outcome, Settings};
use xdp_lb_common::net::Address;

use super::attach::explain;
use super::link::Flags;
use super::links::Links;
use super::load::OBJECT;
use super::plain::Plain;
use super::verifier;
use crate::model::XdpMode;

/// The program and its tables. They end when this is dropped.
pub struct Decapsulator {
    object: Ebpf,
    local: HashMap<MapData, Plain<Address>, u8>,
    counters: PerCpuArray<MapData, u64>,
    addresses: BTreeSet<IpAddr>,
    links: Links,
}

impl Decapsulator {
    /// Loads the program, which decapsulates nothing yet: see [`Decapsulator::set_local`]. `from`: the prefixes (address and
    /// length) from which packets are accepted; empty: from anywhere.
    ///
    /// # Errors
    /// Without the privilege, or if the kernel lacks a feature.
    pub fn load(gue_port: u16, accepts: u8, from: &[(IpAddr, u8)]) -> Result<Self> {
        let mut object = EbpfLoader::new().load(OBJECT).map_err(|error| {
            anyhow!(error).context(
                "cannot load the decapsulator into the kernel: this needs root (or CAP_BPF and CAP_NET_ADMIN) and a \
                 kernel of 5.15 or later with BPF and BTF",
            )
        })?;
        let program: &mut Xdp =
            object.program_mut("xdp_decap").context("the object has no decapsulator")?.try_into()?;
        verifier::load(|| program.load()).context("the kernel's verifier refused the decapsulator")?;
        let mut map =
            |name: &str| object.take_map(name).with_context(|| format!("the object has no map {name}"));
        let mut settings: Array<_, Plain<Settings>> = map("DECAP_SETTINGS")?.try_into()?;
        let checks_source = u8::from(!from.is_empty());
        settings.set(
            0,
            Plain(Settings { gue_port: xdp_lb_common::net::Port::new(gue_port), accepts, checks_source }),
            0,
        )?;
        let mut allowed: LpmTrie<_, Plain<Address>, u8> = map("DECAP_FROM")?.try_into()?;
        for (address, length) in from {
            // The tables have IPv4 addresses as IPv4-mapped ones.
            let length = u32::from(*length) + if address.is_ipv4() { 96 } else { 0 };
            allowed
                .insert(&Key::new(length, Plain((*address).into())), 1, 0)
                .with_context(|| format!("cannot allow {address}"))?;
        }
        Ok(Self {
            local: map("DECAP_LOCAL")?.try_into()?,
            counters: map("DECAP_COUNTERS")?.try_into()?,
            object,
            addresses: BTreeSet::new(),
            links: Links::default(),
        })
    }

    /// The loaded object, for tests that run its program on their own packets.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// Attaches it to an interface until this is dropped. Returns the mode, and why it is not native if `auto` fell back.
    ///
    /// # Errors
    /// If the interface does not exist, another program is attached, or the driver does not support the mode.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<(XdpMode, Option<String>)> {
        let index = if_nametoindex(interface).map_err(|_| anyhow!("interface {interface} does not exist"))?;
        let program: &mut Xdp = self.object.program_mut("xdp_decap").context("no program")?.try_into()?;
        let program = program.fd()?.as_fd();
        let links = &mut self.links;
        let mut attach_as = |mode| {
            let attached = links.attach(index, mode, program, None);
            attached.map_err(|error| explain(interface, index, mode, error))
        };
        let native = match mode {
            XdpMode::Generic => None,
            XdpMode::Native | XdpMode::Auto => match attach_as(Flags::Native) {
                Ok(()) => return Ok((XdpMode::Native, None)),
                Err(error) => Some(error),
            },
        };
        match native {
            Some(error) if mode == XdpMode::Native => Err(error),
            note => {
                attach_as(Flags::Generic)?;
                Ok((XdpMode::Generic, note.map(|error| format!("{error:#}"))))
            }
        }
    }

    /// Decapsulates packets to exactly these addresses. Returns whether they have changed.
    ///
    /// # Errors
    /// If there are more than fit.
    pub fn set_local(&mut self, addresses: BTreeSet<IpAddr>) -> Result<bool> {
        for address in addresses.difference(&self.addresses) {
            self.local
                .insert(Plain(Address::from(*address)), 1, 0)
                .with_context(|| format!("cannot add {address}"))?;
        }
        for address in self.addresses.difference(&addresses) {
            self.local
                .remove(&Plain(Address::from(*address)))
                .with_context(|| format!("cannot remove {address}"))?;
        }
        let has_changed = self.addresses != addresses;
        self.addresses = addresses;
        Ok(has_changed)
    }

    /// The number of packets per outcome, by its number.
    pub fn counters(&self) -> Result<Vec<u64>> {
        let count = |outcome: &Outcome| {
            let values = self.counters.get(&(*outcome as u32), 0).context("cannot read the counters")?;
            Ok(values.iter().sum())
        };
        Outcome::ALL.iter().map(count).collect()
    }
}
