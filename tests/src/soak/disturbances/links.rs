//! Links that are down for a moment, and neighbours that are forgotten.

use std::ops::Range;

use anyhow::Result;

use super::Chance;
use crate::host::Host;
use crate::soak::bed::{BACKENDS, Bed, INTERFACES};

/// How long a link is down, in seconds: shorter than it takes to find a backend dead.
const DOWN: Range<f64> = 0.4..1.5;

/// The switch's port to a backend: the backend loses its carrier, the load balancer sees nothing.
pub fn backend(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let backend = chance.rng.usize(1..=BACKENDS);
    bed.shared.tally.note(format!("the link of backend-{backend} flaps"));
    flap(&bed.network.switch, &format!("backend-{backend}"), chance)
}

/// An interface of the load balancer: set down there, or without a carrier since the other end is down.
pub fn own(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let interface = chance.one(&INTERFACES);
    if interface == "eth1" && chance.rng.bool() {
        bed.shared.tally.note("eth1 has no carrier");
        return flap(&bed.network.switch, "lb", chance);
    }
    bed.shared.tally.note(format!("{interface} is down"));
    flap(&bed.network.lb, interface, chance)
}

/// A client's interface. Its routes go with it, and come back as whoever configures its network sets them again.
pub fn client(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let is_direct = chance.rng.bool();
    let host = bed.client(is_direct);
    bed.shared.tally.note(format!("the link of {} flaps", host.name()));
    flap(host, "eth0", chance)?;
    let (v4, v6) = if is_direct { ("203.0.113.1", "2001:db8:3::1") } else { ("192.0.2.1", "2001:db8:1::1") };
    host.run(&format!("ip route replace default via {v4}"))?;
    host.run(&format!("ip -6 route replace default via {v6}")).map(drop)
}

fn flap(host: &Host, interface: &str, chance: &mut Chance) -> Result<()> {
    host.run(&format!("ip link set {interface} down"))?;
    chance.sleep(DOWN);
    host.run(&format!("ip link set {interface} up")).map(drop)
}

/// All hosts' kernels forget their neighbours, several times.
pub fn forget_neighbours(bed: &mut Bed) -> Result<()> {
    let network = &bed.network;
    for _ in 0..3 {
        forget_neighbours_of(&network.lb)?;
        for host in network.backends.iter().chain([&network.client, &bed.far]) {
            forget_neighbours_of(host)?;
        }
    }
    Ok(())
}

/// A host's kernel forgets its neighbours.
pub fn forget_neighbours_of(host: &Host) -> Result<()> {
    for family in ["-4", "-6"] {
        host.run(&format!("ip {family} neigh flush all"))?;
    }
    Ok(())
}
