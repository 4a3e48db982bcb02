//! What a packet costs in the datapath, against the least that an XDP program can do.
//!
//! `cargo xtask bench datapath` runs it, as root and in a sandbox. Each path is run through a wrapper that makes
//! the next packet (`xdp-lb-ebpf/src/bench.rs`). Slices of the floor alone, of the floor behind the wrapper and of the
//! path behind it alternate, so that what else the machine does meets all three, and the median of the ratios of those
//! that belong together is what counts. docs/performance.md says how to read the figures.

#[path = "../support/clock.rs"]
mod clock;
mod cores;
#[path = "../support/cpu.rs"]
mod cpu;
#[path = "../../tests/datapath/packets.rs"]
#[expect(dead_code, reason = "the fixtures use more of it")]
mod packets;
mod paths;
#[path = "../support/plain.rs"]
mod plain;
mod rig;
mod sweeps;

use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use xdp_lb::model::Limits;
use xdp_lb_tests::report::{Plot, Report, Table};
use xdp_lb_tests::statistics::median;

use paths::{FLOWS, Group, Path};
use rig::{Rig, Samples, Traffic};

/// How much is measured.
pub struct Extent {
    /// Slices of each figure.
    slices: usize,
    quick: bool,
    /// The most flow records that there is memory for.
    records: u32,
}

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "run as root: `cargo xtask bench`");
    let quick = cpu::is_quick();
    let extent = Extent { slices: if quick { 3 } else { 15 }, quick, records: affordable_records()? };
    cpu::pin()?;
    rig::network()?;
    let mut report = Report::new("What a packet costs", xdp_lb::COMMIT);
    let only = only();
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only));
    let mut rows = Vec::new();
    for mut group in paths::groups() {
        group.paths.retain(|path| is_wanted(&path.name));
        if !group.paths.is_empty() {
            measure_group(&extent, &group, &mut rows)?;
        }
    }
    if !rows.is_empty() {
        tabulate(&mut report, &rows);
        draw(&mut report, &rows);
    }
    for sweep in sweeps::ALL.into_iter().filter(|sweep| is_wanted(sweep.kind)) {
        sweep.run(&extent, &mut report)?;
    }
    if is_wanted("processors") {
        cores::run(&extent, &mut report)?;
    }
    ensure!(!report.tables.is_empty(), "nothing's name contains what --only says");
    eprintln!();
    report.write()
}

/// What the names contain of what is measured: `--only TEXT`.
fn only() -> Option<String> {
    std::env::args().skip_while(|argument| argument != "--only").nth(1)
}

/// A path's figures.
struct Row {
    path: String,
    cells: Vec<(u32, Samples)>,
}

fn measure_group(extent: &Extent, group: &Group, rows: &mut Vec<Row>) -> Result<()> {
    let records = group.records.min(extent.records);
    let limits =
        Limits { services: 64, backends: 4_096, slots: 1 << 20, flows: records, ..Limits::default() };
    let mut rig = Rig::new(limits)?;
    for path in &group.paths {
        let traffic = path.prepare(&mut rig).with_context(|| path.name.clone())?;
        let mut cells = Vec::new();
        for flows in extent.flows(path) {
            let samples = rig
                .measure(&Traffic { flows, ..traffic.clone() }, extent.slices)
                .with_context(|| path.name.clone())?;
            cells.push((flows, samples));
            progress();
        }
        if !cells.is_empty() {
            rows.push(Row { path: path.name.clone(), cells });
        }
    }
    Ok(())
}

impl Extent {
    /// With how many flows a path is measured.
    fn flows(&self, path: &Path) -> impl Iterator<Item = u32> {
        let most = if self.quick { 1 << 16 } else { self.records / 2 };
        let few = self.quick.then_some([1, 1 << 16]);
        let wanted = move |flows: &u32| *flows <= most && few.is_none_or(|few| few.contains(flows));
        path.flows.iter().copied().filter(wanted)
    }
}

/// One dot a figure: a run takes minutes.
pub fn progress() {
    eprint!(".");
    let _ = std::io::stderr().flush();
}

/// 16 million, of some 200 bytes each, where a third of the free memory is enough for them; else two million.
fn affordable_records() -> Result<u32> {
    let memory = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let free = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok())
        .context("/proc/meminfo does not say how much memory is free")?;
    Ok(if free > 10 << 20 { 1 << 24 } else { 1 << 21 })
}

fn tabulate(report: &mut Report, rows: &[Row]) {
    let floors = |pick: fn((f64, f64)) -> f64| {
        median(rows.iter().flat_map(|row| &row.cells).map(|(_, samples)| pick(samples.floors())))
    };
    let (floor, wrapped) = (floors(|(floor, _)| floor), floors(|(_, wrapped)| wrapped));
    report.exact(&[("path", "floor")], "ns", floor);
    report.exact(&[("path", "wrapper and floor")], "ns", wrapped);
    let (mut gross, mut net) = empty_tables(floor, wrapped);
    for Row { path, cells } in rows {
        let mut gross_row = vec![path.clone()];
        let mut net_row = vec![path.clone()];
        for flows in FLOWS {
            let Some((_, samples)) = cells.iter().find(|(with, _)| *with == flows) else {
                gross_row.push(String::new());
                net_row.push(String::new());
                continue;
            };
            let label = flows.to_string();
            for (row, way, cost, ratio) in [
                (&mut gross_row, "gross", samples.gross(), samples.gross_ratio()),
                (&mut net_row, "net", samples.net(), samples.net_ratio()),
            ] {
                row.push(format!("{:.0} ns, {:.2} x", cost.median, ratio.median));
                let of = [("path", path.as_str()), ("flows", label.as_str()), ("figure", way)];
                report.sampled(&of, "ns", cost);
                report.sampled(&of, "x floor", ratio);
            }
        }
        let noise =
            |of: fn(&Samples) -> f64| cells.iter().map(|(_, samples)| of(samples)).fold(0.0, f64::max);
        gross_row.push(format!("{:.0} %", 100.0 * noise(|samples| samples.gross_ratio().noise)));
        net_row.push(format!("{:.0} %", 100.0 * noise(|samples| samples.net_ratio().noise)));
        gross.row(gross_row);
        net.row(net_row);
    }
    report.tables.push(targets(rows));
    report.tables.push(gross);
    report.tables.push(net);
}

/// The tables of all paths, gross and net.
fn empty_tables(floor: f64, wrapped: f64) -> (Table, Table) {
    let columns: Vec<_> = ["path".to_owned()]
        .into_iter()
        .chain(FLOWS.iter().map(|flows| format!("{} flows", thousands(*flows))))
        .chain(["noise".to_owned()])
        .collect();
    let columns: Vec<_> = columns.iter().map(|column| column.replace("1 flows", "1 flow")).collect();
    let columns: Vec<_> = columns.iter().map(String::as_str).collect();
    let gross = Table::new(
        "Gross: with entry and return",
        &format!("Wrapper and path together, against wrapper and floor together ({wrapped:.1} ns)."),
        &columns,
    );
    let net = Table::new(
        "Net: the datapath alone",
        &format!("The wrapper taken off, against the floor alone ({floor:.1} ns)."),
        &columns,
    );
    (gross, net)
}

/// What the project wants to reach, and what is reached.
fn targets(rows: &[Row]) -> Table {
    let mut table = Table::new(
        "Targets",
        "Each figure in three ways: as the kernel counts (its own work for each packet of a run is in both sides of the \
         ratio), gross and net (see below).",
        &["figure", "at most", "kernel's", "gross", "net", "reached"],
    );
    let find = |path: &str, flows: u32| {
        let row = rows.iter().find(|row| row.path == path)?;
        row.cells.iter().find(|(with, _)| *with == flows).map(|(_, samples)| samples)
    };
    let mut add = |what: String, most: f64, ratios: [f64; 3]| {
        let ways = ["kernel's", "gross", "net"];
        let reached: Vec<_> =
            ways.into_iter().zip(ratios).filter(|(_, ratio)| *ratio <= most).map(|(way, _)| way).collect();
        let reached = match reached.len() {
            0 => "no".to_owned(),
            3 => "yes".to_owned(),
            _ => reached.join(", "),
        };
        let [kernel, gross, net] = ratios.map(|ratio| format!("{ratio:.2} x"));
        table.row([what, format!("{most} x"), kernel, gross, net, reached]);
    };
    for row in rows {
        let Some((_, one)) = row.cells.iter().find(|(flows, _)| *flows == 1) else { continue };
        let floor = [one.kernel_ratio(), one.gross_ratio(), one.net_ratio()].map(|ratio| ratio.median);
        if row.path.starts_with("not ours") {
            add(format!("{}, against the floor", row.path), 1.3, floor);
        }
        if row.path.ends_with("TCP, settled") {
            add(format!("{}, 1 flow, against the floor", row.path), 3.0, floor);
            if let Some(many) = find(&row.path, 1 << 23) {
                add(format!("{}, 8,388,608 flows against 1", row.path), 1.25, against(many, one));
            }
        }
        if let Some(always) = row.path.strip_suffix("moving").map(|path| format!("{path}always recorded"))
            && let (Some(moving), Some(always)) = (find(&row.path, 1 << 20), find(&always, 1 << 20))
        {
            let what = format!("{}, 1,048,576 flows, against always recorded", row.path);
            add(what, 1.0, against(moving, always));
        }
    }
    table
}

/// One path's cost against another's: as the kernel counts, gross, net.
fn against(one: &Samples, other: &Samples) -> [f64; 3] {
    [Samples::by_kernel, Samples::gross, Samples::net].map(|cost| cost(one).median / cost(other).median)
}

fn draw(report: &mut Report, rows: &[Row]) {
    let lines = rows
        .iter()
        .filter(|row| row.cells.len() >= 4 || row.cells.len() == 2)
        .filter(|row| row.path.contains("IPv4 TCP") && !row.path.starts_with("gue"))
        // Records cost every mode alike.
        .filter(|row| {
            row.path.starts_with("nat") || !(row.path.contains("moving") || row.path.contains("always"))
        })
        .map(|row| {
            let points = row.cells.iter().map(|(flows, samples)| (f64::from(*flows), samples.net().median));
            (row.path.clone(), points.collect())
        });
    report.plots.push(Plot {
        file: "datapath".to_owned(),
        title: "Cost of a packet in the datapath (IPv4 TCP, net)".to_owned(),
        x: "flows".to_owned(),
        y: "nanoseconds".to_owned(),
        lines: lines.collect(),
    });
}

/// A number with commas between its thousands.
pub fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
