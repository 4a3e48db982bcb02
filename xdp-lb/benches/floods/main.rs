//! What a flood of packets in others' names does to flows that live, to clients that come, and to the control plane.
//!
//! `cargo xtask bench floods` runs it, as root and in a sandbox: the real daemon with services of every mode, real servers
//! and clients, and the kernel's own packet generator on a processor of its own. `--seconds N` floods each service so long in
//! each way, `--only TEXT` those whose mode and options contain it.

mod bed;
#[path = "../support/cpu.rs"]
mod cpu;
#[path = "../support/device.rs"]
mod device;
mod flood;
#[path = "../support/live_frames.rs"]
mod live_frames;
#[path = "../support/plain.rs"]
mod plain;
mod services;

use std::time::Duration;

use anyhow::{Context, Result};
use xdp_lb_tests::report::{Report, Table};

use bed::{Bed, LIVE};
use flood::{Flood, Sender};
use services::SERVICES;

/// What the project wants of every command.
const MOST: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let seconds = match argument("--seconds") {
        Some(text) => text.parse().with_context(|| format!("--seconds {text} is not a number"))?,
        None if cpu::is_quick() => 1.0,
        None => 5.0,
    };
    let only = argument("--only").unwrap_or_default();
    let time = Duration::from_secs_f64(seconds);
    // The generator has the last one.
    cpu::leave_the_last()?;
    let bed = Bed::start(&SERVICES)?;
    let mut report = Report::new("Floods", xdp_lb::COMMIT);
    let mut table = Table::new(
        "Floods of packets in others' names",
        &format!(
            "{seconds} s each, with {LIVE} live flows and one client after the other, at the generator's highest rate."
        ),
        &[
            "service",
            "flood",
            "packets/s",
            "broken",
            "clients",
            "retried",
            "refused",
            "slowest",
            "a command",
            "as wanted",
        ],
    );
    let mut sender = Sender::new()?;
    for service in SERVICES {
        let name = [service.mode, service.with].map(str::to_owned).join(", ");
        let name = name.trim_end_matches(", ");
        if !name.contains(&only) {
            continue;
        }
        for is_udp in [false, true] {
            let mut live = bed.open(service, is_udp).with_context(|| name.to_owned())?;
            for flood in Flood::ALL.into_iter().filter(|flood| flood.is_udp() == is_udp) {
                let outcome = bed.flood(&mut sender, service, &mut live, flood, time)?;
                if outcome.broken + outcome.retried > 0 {
                    eprintln!("{name}, {}: {:?}\n{}", flood.name(), outcome.why, bed.counters()?);
                }
                add(&mut report, &mut table, name, flood, &outcome);
                eprint!(".");
            }
        }
    }
    eprintln!();
    report.tables.push(table);
    report.write()
}

fn add(report: &mut Report, table: &mut Table, service: &str, flood: Flood, outcome: &bed::Outcome) {
    let of = [("service", service), ("flood", flood.name())];
    report.exact(&of, "packets/s", outcome.rate);
    report.exact(&of, "live flows broken", outcome.broken as f64);
    report.exact(&of, "clients", outcome.clients as f64);
    report.exact(&of, "clients that tried again", outcome.retried as f64);
    report.exact(&of, "clients refused", outcome.refused as f64);
    report.exact(&of, "s, slowest client", outcome.slowest_client.as_secs_f64());
    report.exact(&of, "s, slowest command", outcome.slowest_command.as_secs_f64());
    let is_reached = outcome.broken == 0 && outcome.refused == 0 && outcome.slowest_command < MOST;
    table.row([
        service.to_owned(),
        flood.name().to_owned(),
        format!("{:.0}", outcome.rate),
        outcome.broken.to_string(),
        outcome.clients.to_string(),
        outcome.retried.to_string(),
        outcome.refused.to_string(),
        format!("{:.0} ms", 1e3 * outcome.slowest_client.as_secs_f64()),
        format!("{:.0} ms", 1e3 * outcome.slowest_command.as_secs_f64()),
        (if is_reached { "yes" } else { "no" }).to_owned(),
    ]);
}

/// The word behind this one on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
