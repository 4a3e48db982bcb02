//! Links between hosts.

use anyhow::Result;

use crate::host::Host;

/// Connects two hosts by a pair of virtual Ethernet devices of these names, and sets both up.
///
/// What hosts send carries whole checksums and is not larger than the MTU: an XDP program would see the partial
/// checksums and oversized packets that the kernel otherwise passes along such a link.
pub fn connect(host: &Host, device: &str, peer: &Host, peer_device: &str) -> Result<()> {
    host.run(&format!(
        "ip link add {device} type veth peer name {peer_device} netns {}",
        peer.namespace_path()
    ))?;
    for (end, name) in [(host, device), (peer, peer_device)] {
        end.run(&format!("ethtool -K {name} tx off"))?;
        end.run(&format!("ip link set {name} up"))?;
    }
    Ok(())
}
