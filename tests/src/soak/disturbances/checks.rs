//! Checks that fail while the backend is well, and backends that are not.

use std::time::Duration;

use anyhow::Result;

use super::Chance;
use crate::soak::bed::{Bed, LISTED};
use crate::soak::kind::Kind;
use crate::wait;

/// How long it may take to find out.
const FOUND: Duration = Duration::from_secs(30);

/// Checks fail for longer than `fall` asks for; the flows of tunnels and `dsr` stay for `down_timeout`, 30 s.
pub fn fail(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let backend = chance.one(&LISTED.collect::<Vec<_>>());
    bed.shared.tally.note(format!("checks of backend-{backend} fail"));
    let server = &bed.checks[backend - 1];
    server.set_healthy(false)?;
    let found = wait_until_no_new_flows(bed, backend);
    // Longer than `down_grace`.
    chance.sleep(2.5..6.0);
    server.set_healthy(true)?;
    found
}

/// A host vanishes without a word, and starts again once that was found. Its flows may break.
pub fn host_dies(bed: &mut Bed, chance: &mut Chance) -> Result<()> {
    let backend = chance.one(&LISTED.collect::<Vec<_>>());
    bed.shared.tally.note(format!("backend-{backend} dies"));
    bed.shared.standing.dies(backend);
    let port = |verb: &str| bed.network.switch.run(&format!("ip link set backend-{backend} {verb}"));
    port("down")?;
    let found = wait_until_no_new_flows(bed, backend);
    chance.sleep(0.5..4.0);
    bed.shared.standing.starts(backend);
    port("up")?;
    found
}

/// Waits until a backend takes new flows in no service.
fn wait_until_no_new_flows(bed: &Bed, backend: usize) -> Result<()> {
    let addresses: Vec<_> = Kind::all().map(|kind| kind.backend(backend).to_string()).collect();
    wait::until(&format!("backend-{backend} to get no new flows"), FOUND, || {
        let listed = bed.balancer.daemon().backends(None)?;
        let is_one = |address: Option<&str>| addresses.iter().any(|it| Some(it.as_str()) == address);
        Ok(listed.iter().all(|it| !is_one(it["address"].as_str()) || it["state"] != "up"))
    })
    .map(drop)
}
