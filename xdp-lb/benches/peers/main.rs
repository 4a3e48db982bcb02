//! xdp-lb against what a user would pick instead, side by side in one run.
//!
//! `cargo xtask bench peers` runs it, as root and in a sandbox. Each contender has three network namespaces of its own,
//! all alike; short slices of each alternate, and the median of the ratios against plain routing in the same round is
//! what counts. Everything runs on one processor, so a rate is the inverse of what a request costs all of them together.

mod bed;
mod contenders;
#[path = "../support/cpu.rs"]
mod cpu;
#[path = "../support/device.rs"]
mod device;
mod failover;
mod http;
#[path = "../support/live_frames.rs"]
mod live_frames;
#[path = "../support/plain.rs"]
mod plain;
mod udp;

use std::time::Duration;

use anyhow::{Context, Result};
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::statistics::{median, paired_ratio, spread};

use contenders::{Contender, Ready};
use http::Manner;
use udp::{Bare, Generator};

/// HTTP and connections; plain routing, which all are compared with, first.
const TCP: [Contender; 7] = [
    Contender::Routing,
    Contender::XdpLb("dsr"),
    Contender::XdpLb("nat"),
    Contender::XdpLb("full-nat"),
    Contender::Nftables,
    Contender::Haproxy,
    Contender::NginxStream,
];
/// Packets.
const UDP: [Contender; 8] = [
    Contender::Routing,
    Contender::XdpLb("dsr"),
    Contender::XdpLb("ipip"),
    Contender::XdpLb("gue"),
    Contender::XdpLb("nat"),
    Contender::XdpLb("full-nat"),
    Contender::Nftables,
    Contender::Bare,
];
const FLOWS: [u32; 2] = [512, 32_768];
/// Packets in a slice.
const PACKETS: u32 = 2_000_000;

fn main() -> Result<()> {
    cpu::pin()?;
    let quick = cpu::is_quick();
    let rounds = if quick { 3 } else { 11 };
    let slice = Duration::from_millis(if quick { 150 } else { 400 });
    let mut report = Report::new("Against what a user would pick instead", xdp_lb::COMMIT);
    packets(&mut report, rounds)?;
    requests(&mut report, rounds, slice)?;
    failover::measure(&mut report, if quick { 2 } else { 7 })?;
    report.write()
}

/// Sets up those that are installed; says which are not.
fn ready(contenders: &[Contender], protocol: &str) -> Result<Vec<Ready>> {
    let mut ready = Vec::new();
    for contender in contenders {
        match contender.missing() {
            Some(package) => {
                eprintln!("{}: skipped, since Debian's package {package} is not installed", contender.name());
            }
            None => ready.push(contender.start(protocol)?),
        }
    }
    Ok(ready)
}

fn packets(report: &mut Report, rounds: usize) -> Result<()> {
    let ready = ready(&UDP, "udp")?;
    let mut generator = Generator::new()?;
    let mut bare = Vec::new();
    for Ready { contender, bed, .. } in &ready {
        generator.sink(bed)?;
        if *contender == Contender::Bare {
            bare.push(Bare::attach(bed)?);
        }
    }
    generator.calibrate(&ready[0].bed)?;
    for flows in FLOWS {
        // Every flow has come before anything is measured.
        for Ready { contender, bed, .. } in &ready {
            let warm = generator.flood(bed, flows, 2 * flows).with_context(|| contender.name())?;
            anyhow::ensure!(warm.lost < 0.5, "{}: {:.0} % lost", contender.name(), 100.0 * warm.lost);
        }
        let mut rates = vec![Vec::new(); ready.len()];
        let mut losses = vec![Vec::new(); ready.len()];
        for _ in 0..rounds {
            for (place, Ready { bed, .. }) in ready.iter().enumerate() {
                let flood = generator.flood(bed, flows, PACKETS)?;
                rates[place].push(flood.rate);
                losses[place].push(flood.lost);
            }
            eprint!(".");
        }
        let mut table = Table::new(
            &format!("UDP packets, {flows} flows"),
            "From the kernel's generator through the balancer to a sink that counts in XDP, on one processor.",
            &[
                "balancer",
                "packets/s",
                "ns a packet",
                "against routing",
                "noise",
                "lost",
                "at least",
                "reached",
            ],
        );
        for (place, Ready { contender, .. }) in ready.iter().enumerate() {
            let (rate, ratio) = (spread(rates[place].clone()), paired_ratio(&rates[place], &rates[0]));
            let name = contender.name();
            let flows = flows.to_string();
            let of = [("balancer", name.as_str()), ("flows", &flows), ("traffic", "UDP")];
            report.sampled(&of, "packets/s", rate);
            report.sampled(&of, "x plain routing", ratio);
            let target = matches!(contender, Contender::XdpLb(_)).then_some(4.0);
            let reached = target.map(|least| if ratio.median >= least { "yes" } else { "no" });
            table.row([
                name,
                format!("{:.0}", rate.median),
                format!("{:.0}", 1e9 / rate.median),
                format!("{:.2} x", ratio.median),
                format!("{:.0} %", 100.0 * ratio.noise),
                format!("{:.1} %", 100.0 * median(losses[place].clone())),
                target.map(|least| format!("{least} x")).unwrap_or_default(),
                reached.unwrap_or_default().to_owned(),
            ]);
        }
        report.tables.push(table);
    }
    eprintln!();
    Ok(())
}

fn requests(report: &mut Report, rounds: usize, slice: Duration) -> Result<()> {
    let ready = ready(&TCP, "tcp")?;
    for (manner, title, unit) in [
        (Manner::KeepAlive, "HTTP requests, over 32 connections", "requests/s"),
        (Manner::NewConnections, "New connections, a request each", "connections/s"),
    ] {
        let mut rates = vec![Vec::new(); ready.len()];
        for _ in 0..rounds {
            for (place, Ready { contender, bed, .. }) in ready.iter().enumerate() {
                let rate = http::rate(&bed.client, bed::VIP, manner, slice);
                rates[place].push(rate.with_context(|| format!("{title}: {}", contender.name()))?);
            }
            eprint!(".");
        }
        let mut table = Table::new(
            title,
            "Clients, balancer and servers (nginx, answers of 1 kB) share one processor.",
            &["balancer", unit, "against routing", "noise", "at least", "reached"],
        );
        let ratio_of = |place: usize| paired_ratio(&rates[place], &rates[0]);
        let nftables = ready.iter().position(|ready| ready.contender == Contender::Nftables);
        for (place, Ready { contender, .. }) in ready.iter().enumerate() {
            let (rate, ratio) = (spread(rates[place].clone()), ratio_of(place));
            let name = contender.name();
            let of = [("balancer", name.as_str()), ("traffic", title)];
            report.sampled(&of, unit, rate);
            report.sampled(&of, "x plain routing", ratio);
            let target = match (contender, manner, nftables) {
                (Contender::XdpLb(_), Manner::KeepAlive, _) => Some(0.95),
                // Ahead of nftables.
                (Contender::XdpLb(_), Manner::NewConnections, Some(other)) => Some(ratio_of(other).median),
                _ => None,
            };
            let reached = target.map(|least| if ratio.median >= least { "yes" } else { "no" });
            table.row([
                name,
                format!("{:.0}", rate.median),
                format!("{:.2} x", ratio.median),
                format!("{:.0} %", 100.0 * ratio.noise),
                target.map(|least| format!("{least:.2} x")).unwrap_or_default(),
                reached.unwrap_or_default().to_owned(),
            ]);
        }
        report.tables.push(table);
    }
    eprintln!();
    Ok(())
}
