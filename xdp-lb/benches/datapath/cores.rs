//! Two processors at once, over one table: how many times as many packets they take as one.

use anyhow::Result;
use xdp_lb::model::Limits;
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::statistics::{median, paired_ratio};

use crate::paths::{self, Path};
use crate::rig::{Rig, Traffic};
use crate::{Extent, cpu, progress, thousands};

/// Packets in a slice of each processor's: enough that beginning and end do not count.
const SLICE: u32 = 100_000;

/// What two processors have to take of what one takes.
const LEAST: f64 = 1.8;

/// Measures them, where there are two processors: every flow's packets come to both.
pub fn run(extent: &Extent, report: &mut Report) -> Result<()> {
    if cpu::count()? < 2 {
        eprintln!("Two processors at once: skipped, since there is one");
        return Ok(());
    }
    let mut table = Table::new(
        "Two processors at once",
        "Packets of the same flows, in the same order, on both. Rates relative to one processor alone; the floor's beside it \
         in the same slices, which no table slows down; and the path's against twice the floor's half.",
        &[
            "path",
            "flows",
            "one, ns",
            "both, ns",
            "rate",
            "floor's rate",
            "of the floor's 2 x",
            "noise",
            "at least",
            "reached",
        ],
    );
    for path in paths::of_two_processors() {
        for flows in [1, 1 << 10, 1 << 16, 1 << 20] {
            let row = measure(extent, &path, flows)?;
            progress();
            let of = [("processors", "2"), ("path", path.name.as_str()), ("flows", &*flows.to_string())];
            report.exact(&of, "x one", row.rate);
            report.exact(&of, "x one, floor", row.floor);
            report.exact(&of, "x one, calibrated", row.calibrated);
            table.row([
                path.name.clone(),
                thousands(flows),
                format!("{:.0}", row.one),
                format!("{:.0}", row.both),
                format!("{:.2} x", row.rate),
                format!("{:.2} x", row.floor),
                format!("{:.2} x", row.calibrated),
                format!("{:.0} %", 100.0 * row.noise),
                format!("{LEAST} x"),
                (if row.calibrated >= LEAST { "yes" } else { "no" }).to_owned(),
            ]);
        }
    }
    report.tables.push(table);
    Ok(())
}

struct Row {
    /// Nanoseconds a packet, on one processor alone, and on each of both at once.
    one: f64,
    both: f64,
    rate: f64,
    floor: f64,
    calibrated: f64,
    noise: f64,
}

fn measure(extent: &Extent, path: &Path, flows: u32) -> Result<Row> {
    let limits =
        Limits { services: 16, backends: 4_096, slots: 1 << 20, flows: 1 << 22, ..Limits::default() };
    let mut rig = Rig::new(limits)?;
    let traffic = Traffic { flows, ..path.prepare(&mut rig)? };
    rig.begin(&traffic)?;
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    let (mut rates, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..extent.slices {
        let [floor, own] = ["xdp_floor", "xdp_lb"].map(|program| pair(&mut rig, program));
        let ((floor_alone, floor_both), (own_alone, own_both)) = (floor?, own?);
        floors.push(2.0 * floor_alone / floor_both);
        rates.push(2.0 * own_alone / own_both);
        alone.push(own_alone);
        together.push(own_both);
    }
    let calibrated = paired_ratio(&rates, &floors);
    Ok(Row {
        one: median(alone),
        both: median(together),
        rate: median(rates),
        floor: median(floors),
        calibrated: 2.0 * calibrated.median,
        noise: calibrated.noise,
    })
}

/// What a packet takes on either processor alone and with both at work: the means of the two, nanoseconds.
fn pair(rig: &mut Rig, program: &str) -> Result<(f64, f64)> {
    let last = cpu::count()? - 1;
    let cpus = [last - 1, last];
    rig.aim(program)?;
    let alone: Vec<_> =
        cpus.into_iter().map(|cpu| Ok(rig.run_on(&[cpu], SLICE)?[0])).collect::<Result<_>>()?;
    let both = rig.run_on(&cpus, SLICE)?;
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    Ok((mean(&alone), mean(&both)))
}
