//! A client behind a link that is narrower than its ends know.

use std::net::SocketAddr;

use anyhow::Result;

use crate::host::Host;
use crate::link::connect;
use crate::network::{Network, address, default_route};

/// The networks behind the link.
const NETWORKS: [&str; 2] = ["203.0.113.0/24", "2001:db8:9::/64"];

/// A client behind a link whose MTU neither it nor the backends know: the router before it, which is the network's
/// client and has this free device for it, has to tell. Those in `direct` route to it past the load balancer, by way
/// of these addresses.
pub fn behind_a_narrow_link(network: &Network, device: &str, direct: &[(&Host, [&str; 2])]) -> Result<Host> {
    let far = network.lab.host("far")?;
    let router = &network.client;
    connect(&far, "eth0", router, device)?;
    address(&far, "eth0", "203.0.113.5/24", "2001:db8:9::5/64")?;
    address(router, device, "203.0.113.1/24", "2001:db8:9::1/64")?;
    default_route(&far, "203.0.113.1", "2001:db8:9::1")?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for (host, ways) in [(&network.lb, ["192.0.2.100", "2001:db8:1::100"])].iter().chain(direct) {
        for (network, way) in NETWORKS.iter().zip(ways) {
            host.run(&format!("ip route add {network} via {way}"))?;
        }
    }
    // In this direction alone: the far end still offers segments for 1500 bytes.
    router.run(&format!("ip link set {device} mtu 1280"))?;
    Ok(far)
}

/// Downloads some megabytes; whether all came within so many seconds.
pub fn downloads(client: &Host, vip: SocketAddr, seconds: u32) -> bool {
    let range = format!("--range 0-2999999 --max-time {seconds}");
    let length =
        client.run(&format!("curl -sgf -o /dev/null -w %{{size_download}} {range} http://{vip}/big"));
    length.is_ok_and(|length| length == "3000000")
}
