//! `cargo xtask bench`: what a packet costs, what a change costs, and what others cost, as ratios within one run.

mod markdown;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use xdp_lb_tests::paths::target_dir;
use xdp_lb_tests::report::{REPORT_VARIABLE, Report};

use crate::workspace::{cargo, run};
use crate::{build, packages, plot, preflight, sandbox, say, toolchain};

/// What is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Only these parts.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer figures of fewer samples, in a minute: to see that all runs, not to quote.
    #[arg(long)]
    quick: bool,
    /// Of the datapath, only paths whose names contain this ("nat, IPv4 TCP, settled"); without the sweeps. Of the floods, only
    /// services ("full-nat").
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How long each flood takes.
    #[arg(long, value_name = "NUMBER")]
    seconds: Option<u32>,
}

/// A part of the benchmark, and the bench target of xdp-lb that measures it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Part {
    /// What a packet costs in the datapath, against the least that an XDP program can do.
    Datapath,
    /// What a change costs the control plane, what it moves, and the tables' memory.
    Control,
    /// What the daemon costs while it checks ten thousand backends, and is asked about them.
    Checks,
    /// What the daemon costs while it counts millions of flows, and what it then still does in time.
    Flows,
    /// What floods of packets in others' names do to live flows, to clients and to the control plane.
    Floods,
    /// HTTP, connections and packets a second against HAProxy, nginx, nftables and plain routing; time to fail over.
    Peers,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Datapath, Self::Control, Self::Checks, Self::Flows, Self::Floods, Self::Peers];

    fn name(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Control => "control",
            Self::Checks => "checks",
            Self::Flows => "flows",
            Self::Floods => "floods",
            Self::Peers => "peers",
        }
    }
}

impl Options {
    fn parts(&self) -> &[Part] {
        if self.parts.is_empty() { &Part::ALL } else { &self.parts }
    }

    /// As they are written on a command line.
    fn arguments(&self) -> impl Iterator<Item = String> {
        let parts = self.parts().iter().map(|part| part.name().to_owned());
        let only = self.only.iter().flat_map(|only| ["--only".to_owned(), only.clone()]);
        let seconds = self.seconds.iter().flat_map(|number| ["--seconds".to_owned(), number.to_string()]);
        parts.chain(self.quick.then(|| "--quick".to_owned())).chain(only).chain(seconds)
    }
}

/// Builds what is measured, then measures it in the sandbox.
pub fn run_all(options: &Options) -> Result<ExitCode> {
    preflight::check("bench")?;
    if options.parts().contains(&Part::Peers) {
        packages::offer_peers();
    }
    build::ebpf(&toolchain::find_or_install()?, false)?;
    if options
        .parts()
        .iter()
        .any(|part| matches!(part, Part::Checks | Part::Flows | Part::Floods | Part::Peers))
    {
        build::daemon()?;
    }
    say::step("Building the benchmark");
    for part in options.parts() {
        run(cargo().args(target(*part)).arg("--no-run"))?;
    }
    let inside: Vec<_> = ["bench".to_owned()].into_iter().chain(options.arguments()).collect();
    sandbox::run(&inside)
}

/// Measures, inside the sandbox. Tables go to stdout; all goes to target/bench.
pub fn run_inside(options: &Options) -> Result<()> {
    let directory = target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for part in options.parts() {
        say::step(format_args!("Measuring: {} (leave the machine alone meanwhile)", part.name()));
        let file = directory.join(part.name()).with_extension("json");
        let quick = options.quick.then_some("--quick");
        let only = options.only.iter().flat_map(|only| ["--only", only]);
        let mut command = cargo();
        command.args(target(*part)).args(["--offline", "--"]).args(quick).args(only);
        if let Some(seconds) = options.seconds {
            command.arg("--seconds").arg(seconds.to_string());
        }
        run(command.env(REPORT_VARIABLE, &file))?;
        show(&file, options.quick)?;
    }
    Ok(())
}

fn target(part: Part) -> [&'static str; 5] {
    ["bench", "-p", "xdp-lb", "--bench", part.name()]
}

/// Shows a report, and writes it as Markdown and its plots as SVG beside it.
fn show(file: &Path, quick: bool) -> Result<()> {
    let report = Report::read(file)?;
    let text = markdown::render(&report, quick);
    println!("{text}");
    let page = file.with_extension("md");
    fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
    say::note(file.display());
    say::note(page.display());
    for shown in &report.plots {
        let picture = file.with_file_name(&shown.file).with_extension("svg");
        let drawn = plot::draw(shown).with_context(|| format!("cannot draw {}", picture.display()))?;
        fs::write(&picture, drawn).with_context(|| format!("cannot write {}", picture.display()))?;
        say::note(picture.display());
    }
    Ok(())
}
