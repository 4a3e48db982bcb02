//! The network that most tests and the demo use: a client, a load balancer, and backends behind it.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::host::Host;
use crate::lab::Lab;
use crate::link::connect;
use crate::way::Family;
use crate::xdp_pass::XdpPass;

/// ```text
/// client eth0 ---- eth0 lb eth1 ---- switch ---- eth0 backend-1, backend-2, ...
/// 192.0.2.100/24   192.0.2.1    198.51.100.2/24     198.51.100.11, .12, ...
/// 2001:db8:1::100  2001:db8:1::1  2001:db8:2::2     2001:db8:2::11, ::12, ...
/// ```
///
/// The VIPs 192.0.2.10 and 2001:db8:1::10 are addresses of the load balancer's eth0. Backends route to the client
/// through the load balancer, which forwards.
pub struct Network {
    /// The lab that the hosts belong to.
    pub lab: Lab,
    /// The client.
    pub client: Host,
    /// The load balancer.
    pub lb: Host,
    /// The backends, `backend-1` first.
    pub backends: Vec<Host>,
    /// The bridge between the load balancer and the backends; port `lb` to the former, `backend-N` to the latter.
    pub switch: Host,
    peers: Vec<XdpPass>,
}

impl Network {
    /// The IPv4 VIP.
    pub const VIP: &str = "192.0.2.10";
    /// The IPv6 VIP.
    pub const VIP6: &str = "2001:db8:1::10";

    /// Makes the hosts and connects them. At most 80 backends.
    pub fn new(name: &str, backends: usize) -> Result<Self> {
        assert!(backends <= 80, "198.51.100.11 to .90");
        let lab = Lab::new(name)?;
        let client = lab.host("client")?;
        let lb = lab.host("lb")?;
        let switch = lab.host("switch")?;

        connect(&client, "eth0", &lb, "eth0")?;
        address(&client, "eth0", "192.0.2.100/24", "2001:db8:1::100/64")?;
        address(&lb, "eth0", "192.0.2.1/24", "2001:db8:1::1/64")?;
        address(&lb, "eth0", "192.0.2.10/32", "2001:db8:1::10/128")?;
        default_route(&client, "192.0.2.1", "2001:db8:1::1")?;

        switch.run("ip link add bridge type bridge")?;
        switch.run("ip link set bridge up")?;
        plug(&switch, "lb", &lb, "eth1")?;
        address(&lb, "eth1", "198.51.100.2/24", "2001:db8:2::2/64")?;
        lb.sysctl("net.ipv4.ip_forward", "1")?;
        lb.sysctl("net.ipv6.conf.all.forwarding", "1")?;

        // What the load balancer's program sends arrives only at a device that has a program, too.
        let peers = vec![XdpPass::attach(&client, "eth0")?, XdpPass::attach(&switch, "lb")?];

        let mut network = Self { lab, client, lb, switch, backends: Vec::new(), peers };
        for _ in 0..backends {
            network.add_backend()?;
        }
        Ok(network)
    }

    /// Adds one more backend to the network and returns it.
    pub fn add_backend(&mut self) -> Result<Host> {
        let number = self.backends.len() + 1;
        let name = format!("backend-{number}");
        let host = self.lab.host(&name)?;
        plug(&self.switch, &name, &host, "eth0")?;
        address(
            &host,
            "eth0",
            &format!("{}/24", Self::backend(number)),
            &format!("{}/64", Self::backend6(number)),
        )?;
        default_route(&host, "198.51.100.2", "2001:db8:2::2")?;
        self.backends.push(host.clone());
        Ok(host)
    }

    /// Adds a host to the backends' network, which routes through the load balancer like they do. Addresses are those
    /// of 198.51.100.0/24 and 2001:db8:2::/64 that end so; backends have 11 to 90.
    pub fn add_neighbour(&self, name: &str, number: u8) -> Result<Host> {
        let host = self.lab.host(name)?;
        plug(&self.switch, name, &host, "eth0")?;
        address(&host, "eth0", &format!("198.51.100.{number}/24"), &format!("2001:db8:2::{number}/64"))?;
        default_route(&host, "198.51.100.2", "2001:db8:2::2")?;
        Ok(host)
    }

    /// Adds a host on a network of its own behind another device of the load balancer, which has the addresses
    /// `gateway` there: v4 and v6, with prefix lengths, like the host's own.
    pub fn add_network(
        &mut self,
        device: &str,
        gateway: [&str; 2],
        name: &str,
        addresses: [&str; 2],
    ) -> Result<Host> {
        let host = self.lab.host(name)?;
        connect(&host, "eth0", &self.lb, device)?;
        address(&self.lb, device, gateway[0], gateway[1])?;
        address(&host, "eth0", addresses[0], addresses[1])?;
        let [v4, v6] =
            gateway.map(|address| address.split('/').next().expect("split gives one part at least"));
        default_route(&host, v4, v6)?;
        self.peers.push(XdpPass::attach(&host, "eth0")?);
        Ok(host)
    }

    /// The IPv4 address of backend `number`, counted from 1.
    pub fn backend(number: usize) -> String {
        format!("198.51.100.{}", number + 10)
    }

    /// The IPv6 address of backend `number`, counted from 1; its last group reads like the IPv4 address's last byte.
    pub fn backend6(number: usize) -> String {
        format!("2001:db8:2::{}", number + 10)
    }

    /// The VIP.
    pub fn vip(family: Family) -> IpAddr {
        parse(match family {
            Family::V4 => Self::VIP,
            Family::V6 => Self::VIP6,
        })
    }

    /// The client's address.
    pub fn client_address(family: Family) -> IpAddr {
        parse(match family {
            Family::V4 => "192.0.2.100",
            Family::V6 => "2001:db8:1::100",
        })
    }

    /// The load balancer's own address towards the client.
    pub fn front(family: Family) -> IpAddr {
        parse(match family {
            Family::V4 => "192.0.2.1",
            Family::V6 => "2001:db8:1::1",
        })
    }

    /// The load balancer's own address towards the backends.
    pub fn back(family: Family) -> IpAddr {
        parse(match family {
            Family::V4 => "198.51.100.2",
            Family::V6 => "2001:db8:2::2",
        })
    }

    /// A port of backend `number`, counted from 1.
    pub fn endpoint(family: Family, number: usize, port: u16) -> SocketAddr {
        let address = match family {
            Family::V4 => Self::backend(number),
            Family::V6 => Self::backend6(number),
        };
        SocketAddr::new(parse(&address), port)
    }

    /// A port of each of the backends there are.
    pub fn endpoints(&self, family: Family, port: u16) -> impl Iterator<Item = SocketAddr> {
        (1..=self.backends.len()).map(move |number| Self::endpoint(family, number, port))
    }
}

fn parse(address: &str) -> IpAddr {
    address.parse().expect("it is written as an address")
}

pub(crate) fn address(host: &Host, device: &str, v4: &str, v6: &str) -> Result<()> {
    host.run(&format!("ip addr add {v4} dev {device}"))?;
    // Without duplicate address detection it can be used at once.
    host.run(&format!("ip addr add {v6} dev {device} nodad")).map(drop)
}

pub(crate) fn default_route(host: &Host, v4: &str, v6: &str) -> Result<()> {
    host.run(&format!("ip route add default via {v4}"))?;
    host.run(&format!("ip -6 route add default via {v6}")).map(drop)
}

pub(crate) fn plug(switch: &Host, port: &str, host: &Host, device: &str) -> Result<()> {
    connect(switch, port, host, device)?;
    switch.run(&format!("ip link set {port} master bridge")).map(drop)
}
