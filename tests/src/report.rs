//! What a benchmark found out: figures for programs, tables and plots for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::statistics::Spread;

/// What a benchmark found out.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// What it is about, in a few words.
    pub title: String,
    /// Where and of what.
    pub machine: Machine,
    /// For people.
    pub tables: Vec<Table>,
    /// For people who rather look.
    pub plots: Vec<Plot>,
    /// For programs.
    pub figures: Vec<Figure>,
}

/// The machine and the version that figures belong to.
#[derive(Clone, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, as it names itself.
    pub cpu: String,
    /// How many of them there are.
    pub cpus: usize,
    /// Memory, GiB.
    pub memory: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The commit that was measured.
    pub commit: String,
}

/// A table, ready to be shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Table {
    /// What is in it.
    pub title: String,
    /// How to read it; may be empty.
    pub note: String,
    /// The columns' heads.
    pub columns: Vec<String>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// Lines over a logarithmic axis.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plot {
    /// The file's name, without an ending.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// What goes to the right, logarithmically.
    pub x: String,
    /// What goes up.
    pub y: String,
    /// The lines' names and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// A measured value.
#[derive(Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What it was measured of, by kind.
    pub of: BTreeMap<String, String>,
    /// Its unit.
    pub unit: String,
    /// The median.
    pub value: f64,
    /// Half the width of the middle half of the samples, as a part of the median; nothing for what is not sampled.
    pub noise: Option<f64>,
}

impl Report {
    /// A report without figures.
    pub fn new(title: &str, commit: &str) -> Self {
        let (tables, plots, figures) = Default::default();
        Self { title: title.to_owned(), machine: Machine::here(commit), tables, plots, figures }
    }

    /// Adds a figure that was sampled.
    pub fn sampled(&mut self, of: &[(&str, &str)], unit: &str, spread: Spread) {
        self.add(of, unit, spread.median, Some(spread.noise));
    }

    /// Adds a figure that is what it is.
    pub fn exact(&mut self, of: &[(&str, &str)], unit: &str, value: f64) {
        self.add(of, unit, value, None);
    }

    fn add(&mut self, of: &[(&str, &str)], unit: &str, value: f64, noise: Option<f64>) {
        let of = of.iter().map(|(kind, what)| ((*kind).to_owned(), (*what).to_owned())).collect();
        self.figures.push(Figure { of, unit: unit.to_owned(), value, noise });
    }

    /// Writes it to the file that the environment variable [`REPORT_VARIABLE`] names.
    pub fn write(&self) -> Result<()> {
        let file = std::env::var_os(REPORT_VARIABLE)
            .context("run this benchmark by `cargo xtask bench`, which says where its report is to go")?;
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", Path::new(&file).display()))
    }

    /// Reads one.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not a report", file.display()))
    }
}

/// Where a benchmark is to write its report.
pub const REPORT_VARIABLE: &str = "XDP_LB_BENCH_REPORT";

impl Machine {
    /// This machine.
    pub fn here(commit: &str) -> Self {
        let cpus = read("/proc/cpuinfo");
        let models: Vec<_> = cpus
            .lines()
            .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
            .collect();
        let memory = read("/proc/meminfo");
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        Self {
            cpu: (*models.first().unwrap_or(&"unknown")).to_owned(),
            cpus: models.len(),
            memory: total.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit.to_owned(),
        }
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, note: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Self { title: title.to_owned(), note: note.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}
