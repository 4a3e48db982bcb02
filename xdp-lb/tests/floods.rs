//! Floods of packets in others' names, for a second each: the short form of `cargo xtask bench floods`.
//!
//! Needs root, and the daemon as built. `cargo xtask test` runs it in a sandbox.

#[path = "../benches/floods/bed.rs"]
mod bed;
#[path = "../benches/support/cpu.rs"]
#[expect(dead_code, reason = "the benchmarks use more of it")]
mod cpu;
#[path = "../benches/support/device.rs"]
mod device;
#[path = "../benches/floods/flood.rs"]
mod flood;
#[path = "../benches/support/live_frames.rs"]
mod live_frames;
#[path = "../benches/support/plain.rs"]
mod plain;
#[path = "../benches/floods/services.rs"]
mod services;

use std::time::Duration;

use bed::Bed;
use flood::{Flood, Sender};
use services::SERVICES;

/// Of the services, those that have most to lose: records and ports of their own.
fn chosen() -> Vec<services::Service> {
    let is_chosen = |service: &services::Service| {
        matches!(
            (service.mode, service.with),
            ("full-nat", "" | "a rate") | ("nat" | "dsr", "always recorded")
        )
    };
    SERVICES.into_iter().filter(is_chosen).collect()
}

#[test]
fn floods_break_no_live_flow_and_refuse_no_client() {
    // The generator has the last processor.
    cpu::leave_the_last().unwrap();
    let services = chosen();
    let bed = Bed::start(&services).unwrap();
    let mut sender = Sender::new().unwrap();
    for service in services {
        let mut live = [false, true].map(|is_udp| bed.open(service, is_udp).unwrap());
        for flood in Flood::ALL {
            let name = format!("{} {}, {}", service.mode, service.with, flood.name());
            let live = &mut live[usize::from(flood.is_udp())];
            let outcome = bed.flood(&mut sender, service, live, flood, Duration::from_secs(1)).unwrap();
            println!(
                "{name}: {:.0} packets/s, {} broken, {} retried and {} refused of {} clients, slowest {:?} and of commands {:?}",
                outcome.rate,
                outcome.broken,
                outcome.retried,
                outcome.refused,
                outcome.clients,
                outcome.slowest_client,
                outcome.slowest_command
            );
            assert_eq!(outcome.broken, 0, "{name}: {}", bed.counters().unwrap());
            assert_eq!(outcome.refused, 0, "{name}: {:?}: {}", outcome.why, bed.counters().unwrap());
            // At several hundred thousand packets a second, backends do not get every packet.
            assert!(
                outcome.clients > 0 && 3 * outcome.retried <= outcome.clients,
                "{name}: {} of {} clients had to try again: {:?}: {}",
                outcome.retried,
                outcome.clients,
                outcome.why,
                bed.counters().unwrap()
            );
        }
    }
}
