//! What a change costs the control plane, and what it moves.
//!
//! `cargo xtask bench control` runs it, as root and in a sandbox, on one processor: the very functions that the daemon
//! calls, and tables in the kernel.

#[path = "support/clock.rs"]
mod clock;
#[path = "support/cpu.rs"]
mod cpu;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use xdp_lb::datapath::{Datapath, Options, Policy};
use xdp_lb::model::{Limits, PortRange, Timeouts};
use xdp_lb::plan::planner::Planner;
use xdp_lb::plan::wanted::{Path, WantedBackend, WantedService};
use xdp_lb::ring;
use xdp_lb::tables::Tables;
use xdp_lb_common::net::{Endpoint, MacAddress, Protocol};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode};
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::statistics::{median, spread};

fn main() -> Result<()> {
    cpu::pin()?;
    let quick = cpu::is_quick();
    let mut report = Report::new("What a change costs the control plane", xdp_lb::COMMIT);
    let (counts, rounds): (&[u32], _) =
        if quick { (&[10, 1_000], 3) } else { (&[10, 100, 1_000, 10_000], 9) };
    changes(&mut report, counts, rounds)?;
    moves(&mut report, counts);
    memory(&mut report)?;
    report.write()
}

/// What the project wants: a ring for so many backends built and swapped in within milliseconds.
const TARGETS: [(u32, f64); 2] = [(1_000, 20.0), (10_000, 300.0)];

/// How long it takes until a change stands in the kernel's tables.
fn changes(report: &mut Report, counts: &[u32], rounds: usize) -> Result<()> {
    let mut table = Table::new(
        "A backend goes and comes back",
        "From the wanted backends to the last write, milliseconds of one processor: the ring and the transition are \
         built, the writes are derived, and done. \"Ring alone\" is the first part of that.",
        &["backends", "slots", "ring alone", "backend goes", "backend comes", "noise", "at most", "reached"],
    );
    for count in counts {
        let figures = Changes::measure(*count, rounds)?;
        let of = |change| [("change", change), ("backends", "")];
        let backends = count.to_string();
        let mut spreads = Vec::new();
        for (change, samples) in
            [("ring alone", figures.ring), ("backend goes", figures.goes), ("backend comes", figures.comes)]
        {
            let spread = spread(samples);
            let mut of = of(change);
            of[1].1 = &backends;
            report.sampled(&of, "ms", spread);
            spreads.push(spread);
        }
        let [ring, goes, comes] = spreads[..] else { unreachable!("there are three") };
        let target = TARGETS.iter().find(|(backends, _)| backends == count).map(|(_, most)| *most);
        let reached = target.map(|most| if goes.median.max(comes.median) < most { "yes" } else { "no" });
        table.row([
            backends.clone(),
            ring_len(*count).to_string(),
            format!("{:.2}", ring.median),
            format!("{:.2}", goes.median),
            format!("{:.2}", comes.median),
            format!("{:.0} %", 100.0 * ring.noise.max(goes.noise).max(comes.noise)),
            target.map_or(String::new(), |most| format!("{most:.0}")),
            reached.unwrap_or_default().to_owned(),
        ]);
        eprint!(".");
    }
    eprintln!();
    report.tables.push(table);
    Ok(())
}

/// Milliseconds.
#[derive(Default)]
struct Changes {
    ring: Vec<f64>,
    goes: Vec<f64>,
    comes: Vec<f64>,
}

impl Changes {
    fn measure(count: u32, rounds: usize) -> Result<Self> {
        let limits = Limits {
            services: 16,
            backends: count.max(16),
            // Room for a ring of the next length beside the present one.
            slots: 4 * ring_len(count),
            ..Limits::default()
        };
        let mut datapath = Datapath::load(&options(limits))?;
        let mut planner = Planner::new(Tables::default(), datapath.sizes());
        let all = wanted(count);
        let mut fewer = all.clone();
        fewer.backends.remove(count as usize / 2);
        let mut figures = Self::default();
        change(&mut datapath, &mut planner, &all)?;
        for _ in 0..rounds {
            let members = members(&all);
            let length = ring_len(count);
            let begin = clock::processor_time()?;
            let built = ring::build(&members, length);
            figures.ring.push(milliseconds(clock::processor_time()? - begin));
            drop(built);
            figures.goes.push(change(&mut datapath, &mut planner, &fewer)?);
            figures.comes.push(change(&mut datapath, &mut planner, &all)?);
        }
        Ok(figures)
    }
}

/// Makes the tables what is wanted; milliseconds.
fn change(datapath: &mut Datapath, planner: &mut Planner, wanted: &WantedService) -> Result<f64> {
    let wanted = std::slice::from_ref(wanted);
    let begin = clock::processor_time()?;
    let plan = planner.plan(wanted, 1)?;
    datapath.apply(&plan.writes)?;
    let took = milliseconds(clock::processor_time()? - begin);
    planner.commit(&plan);
    Ok(took)
}

/// How many slots change their owners, against the least that must.
fn moves(report: &mut Report, counts: &[u32]) {
    let mut table = Table::new(
        "Slots that move when one of the backends goes",
        "The least is what it owned; the same slots move back when it comes again. Medians over up to ten backends.",
        &["backends", "slots", "moved", "least", "moved against least", "of all slots"],
    );
    for count in counts {
        let all = members(&wanted(*count));
        let length = ring_len(*count);
        let before = ring::build(&all, length);
        let mut samples = Vec::new();
        for gone in (0..all.len()).step_by(all.len().div_ceil(10)) {
            let mut rest = all.clone();
            let gone = rest.remove(gone);
            let least = before.iter().filter(|owner| **owner == gone.index).count();
            let after = ring::build(&rest, length);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            samples.push((moved as f64, least as f64));
        }
        let moved = median(samples.iter().map(|(moved, _)| *moved));
        let least = median(samples.iter().map(|(_, least)| *least));
        let ratio = median(samples.iter().map(|(moved, least)| moved / least));
        let backends = count.to_string();
        report.exact(&[("change", "slots moved"), ("backends", &backends)], "slots", moved);
        report.exact(&[("change", "least to move"), ("backends", &backends)], "slots", least);
        table.row([
            backends,
            length.to_string(),
            format!("{moved:.0}"),
            format!("{least:.0}"),
            format!("{ratio:.2} x"),
            format!("{:.2} %", 100.0 * moved / f64::from(length)),
        ]);
    }
    report.tables.push(table);
}

/// What the kernel says that the tables take, with the limits that a config file has where it names none.
fn memory(report: &mut Report) -> Result<()> {
    let _datapath = Datapath::load(&options(Limits::default()))?;
    let mut table = Table::new(
        "Memory of the tables",
        "With the default limits, as the kernel accounts for it; tables of less than a tenth of a MiB left out.",
        &["table", "entries", "bytes an entry", "MiB"],
    );
    let names: BTreeMap<u32, String> = loaded_maps()
        .filter_map(Result::ok)
        .filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned())))
        .collect();
    for entry in fs::read_dir("/proc/self/fdinfo").context("cannot read /proc/self/fdinfo")? {
        // The directory's own descriptor is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let (Some(id), Some(bytes), Some(entries)) =
            (field("map_id"), field("memlock"), field("max_entries"))
        else {
            continue;
        };
        let Some(name) = u32::try_from(id).ok().and_then(|id| names.get(&id)) else { continue };
        if bytes * 10 < 1 << 20 {
            continue;
        }
        report.exact(&[("table", name)], "bytes an entry", bytes as f64 / entries as f64);
        table.row([
            name.clone(),
            entries.to_string(),
            format!("{:.0}", bytes as f64 / entries as f64),
            format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
        ]);
    }
    table.rows.sort();
    // The daemon maps these into its memory, and keeps no descriptor of them.
    let maps = fs::read_to_string("/proc/self/maps").context("cannot read /proc/self/maps")?;
    let mapped: u64 =
        maps.lines().filter(|line| line.ends_with("anon_inode:bpf-map")).filter_map(length).sum();
    let mib = mapped as f64 / f64::from(1 << 20);
    report.exact(&[("table", "mapped by the daemon")], "MiB", mib);
    let what = format!("memory-mapped: slots ({} bytes each), services, replies", size_of::<Slot>());
    table.row([what, String::new(), String::new(), format!("{mib:.1}")]);
    report.tables.push(table);
    Ok(())
}

/// How long a line's mapping is: `FIRST-END PERMISSIONS ...`, both hexadecimal.
fn length(line: &str) -> Option<u64> {
    let (first, end) = line.split_whitespace().next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    number(end)?.checked_sub(number(first)?)
}

fn options(limits: Limits) -> Options {
    let policy = Policy {
        asymmetric_replies: false,
        flow_hash_secret: Some([7; 32]),
        snat_ports: PortRange { first: 1024, last: 65_535 },
        timeouts: Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) },
    };
    Options { pin_path: None, limits, policy }
}

fn ring_len(backends: u32) -> u32 {
    ring::length(&vec![100; backends as usize])
}

fn wanted(count: u32) -> WantedService {
    let vip = Endpoint::from_socket(SocketAddr::from(([192, 0, 2, 10], 80)), Protocol::TCP);
    let path = Path {
        source: std::net::IpAddr::from([198, 51, 100, 2]).into(),
        ifindex: 1,
        vlan: 0,
        mtu: 1_500,
        neighbours: 96 + 24,
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 3]),
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 4]),
    };
    let backend = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        WantedBackend {
            address: SocketAddr::from(([198, 18, high, low], 8080)),
            weight: 100,
            state: BackendState::Up,
            portion: 100,
            server_id: None,
            max_flows: 0,
            path: Some(path),
        }
    };
    WantedService::new(vip, Mode::Nat, ring_len(count), (0..count).map(backend).collect())
}

fn members(wanted: &WantedService) -> Vec<ring::Member> {
    let member = |(number, backend): (u32, &WantedBackend)| ring::Member {
        index: BackendIndex(number),
        address: backend.address,
        weight: backend.weight,
        portion: backend.portion,
    };
    (1..).zip(&wanted.backends).map(member).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
