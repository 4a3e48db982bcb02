//! Cost against how many services and backends there are.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use xdp_lb::model::Limits;
use xdp_lb::ring;
use xdp_lb_common::bench::{SERVICE_PORT, SERVICES_PER_VIP};
use xdp_lb_common::net::Protocol;
use xdp_lb_common::tables::Mode;
use xdp_lb_tests::report::{Report, Table};

use crate::packets::ACK;
use crate::paths::client_frame;
use crate::rig::{Farm, Memory, Rig, Samples, Traffic, Varies, XDP_TX};
use crate::{Extent, progress, thousands};

const STEPS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const QUICK: [u32; 2] = [1, 1_000];

/// A sweep: `nat` over IPv4 TCP in settled slots.
pub struct Sweep {
    /// What there are more and more of.
    pub kind: &'static str,
    title: &'static str,
    note: &'static str,
    flows: [u32; 2],
    prepare: fn(u32) -> Result<(Rig, Traffic)>,
}

/// Both.
pub const ALL: [Sweep; 2] = [
    Sweep {
        kind: "services",
        title: "Services",
        note: "One backend each; packets go to all of them in turn.",
        flows: [1, 1 << 16],
        prepare: services,
    },
    Sweep {
        kind: "backends",
        title: "Backends",
        note: "One service; packets go to as many of them as there are flows.",
        flows: [1 << 16, 1 << 20],
        prepare: backends,
    },
];

impl Sweep {
    /// Measures it.
    pub fn run(&self, extent: &Extent, report: &mut Report) -> Result<()> {
        let Self { kind, title, note, flows, prepare } = *self;
        let steps: &[u32] = if extent.quick { &QUICK } else { &STEPS };
        let mut table =
            Table::new(title, note, &[kind, "flows", "gross", "against 1", "net", "against 1", "noise"]);
        let mut first: Vec<Samples> = Vec::new();
        for step in steps {
            let (mut rig, traffic) = prepare(*step).with_context(|| format!("{step} {kind}"))?;
            for (place, flows) in flows.iter().enumerate() {
                let samples = rig.measure(&Traffic { flows: *flows, ..traffic.clone() }, extent.slices)?;
                progress();
                let of = [(kind, &*step.to_string()), ("flows", &*flows.to_string())];
                report.sampled(&[&of[..], &[("figure", "gross")]].concat(), "ns", samples.gross());
                report.sampled(&[&of[..], &[("figure", "net")]].concat(), "ns", samples.net());
                let one = first.get(place).unwrap_or(&samples);
                table.row([
                    thousands(*step),
                    thousands(*flows),
                    format!("{:.0} ns", samples.gross().median),
                    format!("{:.2} x", samples.gross().median / one.gross().median),
                    format!("{:.0} ns", samples.net().median),
                    format!("{:.2} x", samples.net().median / one.net().median),
                    format!("{:.0} %", 100.0 * samples.net().noise),
                ]);
                if first.len() == place {
                    first.push(samples);
                }
            }
        }
        report.tables.push(table);
        Ok(())
    }
}

fn services(count: u32) -> Result<(Rig, Traffic)> {
    let slots = count * ring::length(&[100]);
    let mut rig =
        Rig::new(Limits { services: count.max(16), backends: count.max(16), slots, ..Limits::default() })?;
    let farm = |number: u32| {
        let vip = u32::from(Ipv4Addr::new(198, 19, 0, 0)) + number / SERVICES_PER_VIP;
        let port = SERVICE_PORT + (number % SERVICES_PER_VIP) as u16;
        farm(SocketAddr::new(Ipv4Addr::from_bits(vip).into(), port), 1)
    };
    for number in 0..count {
        rig.add(&farm(number))?;
    }
    Ok((rig, Traffic { services: count, ..traffic(&farm(0)) }))
}

fn backends(count: u32) -> Result<(Rig, Traffic)> {
    let slots = ring::length(&vec![100; count as usize]);
    let mut rig = Rig::new(Limits { services: 16, backends: count.max(16), slots, ..Limits::default() })?;
    let farm = farm(SocketAddr::from(([192, 0, 2, 10], 80)), count);
    rig.add(&farm)?;
    Ok((rig, traffic(&farm)))
}

fn farm(vip: SocketAddr, backends: u32) -> Farm {
    Farm { vip, protocol: Protocol::TCP, mode: Mode::Nat, memory: Memory::Settled, backends }
}

fn traffic(farm: &Farm) -> Traffic {
    let frame = client_frame(farm, ACK);
    Traffic { frame, varies: Varies::Sender, flows: 1, services: 0, action: XDP_TX }
}
