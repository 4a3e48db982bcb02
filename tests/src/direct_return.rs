//! What backends need that answer clients themselves, in the VIP's name, and by another way than the clients' packets come.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::network::{Network, address, plug};
use crate::process::Process;
use crate::way::Family;
use crate::{paths, wait};

/// Gives the VIPs to a network's backends, as docs/configuration.md says.
pub fn give_vips(network: &Network) -> Result<()> {
    for backend in &network.backends {
        backend.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
        backend.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
        take_from_anywhere(backend, &["all", "eth0"])?;
        for family in Family::ALL {
            set_vip(backend, family, true)?;
        }
    }
    Ok(())
}

/// Gives a family's VIP to a backend, or takes it away.
pub fn set_vip(backend: &Host, family: Family, is_there: bool) -> Result<()> {
    let verb = if is_there { "add" } else { "del" };
    let rest = match family {
        Family::V4 => "/32 dev lo",
        Family::V6 => "/128 dev lo nodad",
    };
    backend.run(&format!("ip addr {verb} {}{rest}", Network::vip(family))).map(drop)
}

/// Makes a way from a network's backends straight to its client, past the load balancer.
pub fn connect_with_client(network: &Network) -> Result<()> {
    connect_with(network, &network.client, ["192.0.2.100", "2001:db8:1::100"])
}

/// Makes a way from a network's backends straight to a host with these addresses, v4 and v6, past the load balancer.
pub fn connect_with(network: &Network, client: &Host, [v4, v6]: [&str; 2]) -> Result<()> {
    plug(&network.switch, "client", client, "eth1")?;
    address(client, "eth1", "198.51.100.100/24", "2001:db8:2::100/64")?;
    take_from_anywhere(client, &["all", "eth0", "eth1"])?;
    for backend in &network.backends {
        backend.run(&format!("ip route add {v4} via 198.51.100.100"))?;
        backend.run(&format!("ip -6 route add {v6} via 2001:db8:2::100"))?;
    }
    Ok(())
}

/// Has a host take packets whose sender it would answer by another interface.
fn take_from_anywhere(host: &Host, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
    }
    Ok(())
}

/// Starts `xdp-lb decap` on a backend's interface, with these options, and waits until it is attached.
pub fn decapsulator(backend: &Host, options: &[&str]) -> Result<Process> {
    let program = paths::daemon();
    let program = program.to_str().context("the daemon's path is not text")?;
    let arguments = [&["decap", "--interface", "eth0"], options].concat();
    let process = backend.spawn("decap", program, &arguments)?;
    wait::until("the decapsulator", Duration::from_secs(60), || {
        Ok(process.log().contains("attached to eth0"))
    })
    .with_context(|| process.log())?;
    Ok(process)
}
