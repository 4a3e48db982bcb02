//! What each contender has for itself: a client, a host to balance on, and a host with the servers.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use xdp_lb_tests::{Host, Lab, connect};

use crate::device::mac;

/// The port of the service, and of the servers.
pub const PORT: u16 = 8080;
/// What clients connect to.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), PORT);
/// The servers' addresses: 198.51.100.11 to .13.
pub const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(198, 51, 100, 11), Ipv4Addr::new(198, 51, 100, 12), Ipv4Addr::new(198, 51, 100, 13)];

/// ```text
/// client eth0 ---- eth0 lb eth1 ---- eth0 servers
/// 192.0.2.100      192.0.2.1   198.51.100.2       198.51.100.11, .12, .13
/// ```
pub struct Bed {
    pub client: Host,
    pub lb: Host,
    pub servers: Host,
    _lab: Lab,
}

impl Bed {
    /// The same for every contender: to whom VIP belongs is theirs to say.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let bed = Self {
            client: lab.host("client")?,
            lb: lab.host("lb")?,
            servers: lab.host("servers")?,
            _lab: lab,
        };
        let Self { client, lb, servers, .. } = &bed;
        connect(client, "eth0", lb, "eth0")?;
        connect(lb, "eth1", servers, "eth0")?;
        client.run("ip addr add 192.0.2.100/24 dev eth0")?;
        lb.run("ip addr add 192.0.2.1/24 dev eth0")?;
        lb.run("ip addr add 198.51.100.2/24 dev eth1")?;
        for address in SERVERS {
            servers.run(&format!("ip addr add {address}/24 dev eth0"))?;
        }
        client.run("ip route add default via 192.0.2.1")?;
        servers.run("ip route add default via 198.51.100.2")?;
        lb.sysctl("net.ipv4.ip_forward", "1")?;
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        lb.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        // What XDP redirects into a veth device arrives where the other end polls, and all contenders get the same.
        for (host, device) in [(client, "eth0"), (lb, "eth0"), (lb, "eth1"), (servers, "eth0")] {
            host.run(&format!("ethtool -K {device} gro on"))?;
        }
        // Where a sink drops everything, nobody answers ARP.
        neighbour(lb, "eth0", Ipv4Addr::new(192, 0, 2, 100), client)?;
        neighbour(client, "eth0", Ipv4Addr::new(192, 0, 2, 1), lb)?;
        for address in SERVERS {
            neighbour(lb, "eth1", address, servers)?;
        }
        Ok(bed)
    }
}

/// Tells a host where its neighbour on this device, the other host's eth0, is.
fn neighbour(host: &Host, device: &str, address: Ipv4Addr, other: &Host) -> Result<()> {
    let mac = mac(other, "eth0")?;
    host.run(&format!("ip neigh replace {address} lladdr {mac} dev {device} nud permanent")).map(drop)
}
