//! Devices of a lab's hosts.

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use xdp_lb_common::net::MacAddress;
use xdp_lb_tests::Host;

/// A device's Ethernet address.
pub fn mac(host: &Host, device: &str) -> Result<MacAddress> {
    let shown = host.run(&format!("ip -oneline link show dev {device}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    let text = words.nth(1).with_context(|| format!("{device} has no Ethernet address: {shown}"))?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    Ok(MacAddress::new(bytes.try_into().ok().context("an Ethernet address has six bytes")?))
}

/// A device's index on its host.
pub fn index(host: &Host, device: &str) -> Result<u32> {
    host.enter(|| if_nametoindex(device))?.with_context(|| format!("there is no {device} on {}", host.name()))
}
