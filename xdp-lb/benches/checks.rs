//! What the daemon costs while it checks many backends.
//!
//! `cargo xtask bench checks` runs it, as root and in a sandbox, on one processor: the real daemon, and nginx behind as
//! many addresses as there are backends.

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/processor_time.rs"]
mod processor_time;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use processor_time::processor_time;
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Host, Lab, connect, until};

/// Backends of each service.
const EACH: usize = 10;
/// The time between two checks of a backend.
const INTERVAL: Duration = Duration::from_secs(5);
/// What the project wants: at most so much of a processor, and so much memory, for 10,000 backends.
const MOST_PROCESSOR: f64 = 25.0;
const MOST_MEMORY: f64 = 200.0;
/// Where all backends but the fickle ones listen.
const PORT: u16 = 8080;
/// Where the first backend of every tenth service listens.
const FICKLE_PORT: u16 = 8081;
/// Of how many services one has a fickle backend.
const FICKLE: usize = 10;

fn main() -> Result<()> {
    cpu::pin()?;
    let quick = cpu::is_quick();
    let (services, seconds) = if quick { (50, 10) } else { (1_000, 30) };
    let mut report = Report::new("What the daemon costs while it checks backends", xdp_lb::COMMIT);
    let bed = Bed::new()?;
    let mut steady = Table::new(
        &format!("{} backends in {services} services, checked every {INTERVAL:?}", services * EACH),
        "Processor time of the daemon, as a part of one processor; a check's is what it costs over none. Memory is \
         what the daemon holds of its own, and all that is resident, with what it maps of the kernel's tables.",
        &[
            "check",
            "processor",
            "of it kernel",
            "a check, µs",
            "memory, MiB",
            "resident, MiB",
            "at most",
            "reached",
        ],
    );
    let mut idle = 0.0;
    for check in ["none", "tcp", "http"] {
        let daemon = bed.start(check, services)?;
        let used = Used::over(&daemon, Duration::from_secs(seconds))?;
        let memory = memory(&daemon)?;
        let share = 100.0 * used.processor;
        if check == "none" {
            idle = used.processor;
        }
        let a_second = (services * EACH) as f64 / INTERVAL.as_secs_f64();
        let each = (check != "none").then(|| 1e6 * (used.processor - idle) / a_second);
        let of = [("check", check)];
        report.exact(&of, "% of a processor", share);
        report.exact(&of, "MiB", memory.own);
        let is_reached = share < MOST_PROCESSOR && memory.resident < MOST_MEMORY;
        steady.row([
            check.to_owned(),
            format!("{share:.1} %"),
            format!("{:.1} %", 100.0 * used.kernel),
            each.map(|each| format!("{each:.0}")).unwrap_or_default(),
            format!("{:.0}", memory.own),
            format!("{:.0}", memory.resident),
            format!("{MOST_PROCESSOR:.0} %, {MOST_MEMORY:.0} MiB"),
            (if is_reached { "yes" } else { "no" }).to_owned(),
        ]);
        eprint!(".");
        if check == "tcp" {
            let asked = questions(&mut report, &daemon, &bed.lb, if quick { 3 } else { 10 })?;
            let changed = changes(&mut report, &bed, &daemon, services)?;
            report.tables.extend([asked, changed]);
        }
        // The kernel frees its tables in its own time.
        drop(daemon);
        thread::sleep(Duration::from_secs(2));
    }
    eprintln!();
    report.tables.insert(0, steady);
    report.write()
}

/// ```text
/// lb eth1 ---- eth0 servers: every address of 2001:db8:2::/64
/// 2001:db8:1::1  2001:db8:1::2
/// ```
struct Bed {
    lb: Host,
    servers: Host,
    _steady: Nginx,
    _lab: Lab,
}

impl Bed {
    fn new() -> Result<Self> {
        let lab = Lab::new("bench-checks")?;
        let (lb, servers) = (lab.host("lb")?, lab.host("servers")?);
        connect(&lb, "eth1", &servers, "eth0")?;
        lb.run("ip addr add 2001:db8:1::1/64 dev eth1 nodad")?;
        servers.run("ip addr add 2001:db8:1::2/64 dev eth0 nodad")?;
        lb.run("ip route add 2001:db8:2::/64 via 2001:db8:1::2")?;
        servers.run("ip -6 route add local 2001:db8:2::/64 dev lo")?;
        lb.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let steady = Nginx::start(&servers, PORT)?;
        Ok(Self { lb, servers, _steady: steady, _lab: lab })
    }

    /// Starts the daemon, and waits until it has no work but the checks.
    fn start(&self, check: &str, services: usize) -> Result<Daemon> {
        let fickle = Nginx::start(&self.servers, FICKLE_PORT)?;
        let daemon = Daemon::start(&self.lb, &["eth1"], &config(check, services))?;
        until("every backend to be up", Duration::from_secs(120), || {
            thread::sleep(Duration::from_secs(1));
            Ok(serving(&daemon)? == services * EACH)
        })?;
        drop(fickle);
        // Those of the server that has just ended go down.
        let fickle = if check == "none" { 0 } else { services.div_ceil(FICKLE) };
        until("the fickle backends to be down", Duration::from_secs(60), || {
            thread::sleep(Duration::from_secs(1));
            Ok(serving(&daemon)? == services * EACH - fickle)
        })?;
        thread::sleep(Duration::from_secs(2));
        Ok(daemon)
    }
}

fn config(check: &str, services: usize) -> String {
    let check = match check {
        "none" => "{ type = \"none\" }".to_owned(),
        "http" => format!("{{ type = \"http\", path = \"/healthz\", interval = \"{INTERVAL:?}\" }}"),
        other => format!("{{ type = \"{other}\", interval = \"{INTERVAL:?}\" }}"),
    };
    let mut config = String::new();
    for service in 0..services {
        config += &format!(
            "[[service]]\nname = \"service-{service}\"\nvip = \"[2001:db8:9::10]:{}\"\nmode = \"nat\"\n\
             health_check = {check}\nbackend = [",
            1 + service
        );
        for backend in 0..EACH {
            let is_fickle = backend == 0 && service % FICKLE == 0;
            let port = if is_fickle { FICKLE_PORT } else { PORT };
            config +=
                &format!("{{ address = \"[2001:db8:2::{:x}:{:x}]:{port}\" }},", 1 + service, 1 + backend);
        }
        config += "]\n";
    }
    config
}

/// How many backends take new flows.
fn serving(daemon: &Daemon) -> Result<usize> {
    let services = daemon.cli_json(&["service", "list"])?;
    let of = services.as_array().context("it is a list")?;
    Ok(of.iter().filter_map(|service| service["backends_serving"].as_u64()).sum::<u64>() as usize)
}

/// Processor time, seconds a second.
struct Used {
    processor: f64,
    kernel: f64,
}

impl Used {
    fn over(daemon: &Daemon, time: Duration) -> Result<Self> {
        let (began, before) = (Instant::now(), processor_time(daemon)?);
        thread::sleep(time);
        let (after, took) = (processor_time(daemon)?, began.elapsed().as_secs_f64());
        Ok(Self { processor: (after.0 - before.0) / took, kernel: (after.1 - before.1) / took })
    }
}

/// MiB.
struct Memory {
    own: f64,
    resident: f64,
}

fn memory(daemon: &Daemon) -> Result<Memory> {
    let id = daemon.process().context("the daemon runs")?.id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("the daemon has ended")?;
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).with_context(|| format!("no {key} in {status}"))
    };
    Ok(Memory { own: mib("RssAnon")?, resident: mib("VmRSS")? })
}

/// What it costs to be asked.
fn questions(report: &mut Report, daemon: &Daemon, lb: &Host, rounds: u32) -> Result<Table> {
    let mut table = Table::new(
        "What a question costs",
        "Time until the answer has been read and shown, the daemon's processor time for it, and the answer's size. \
         The checks go on meanwhile, and are in it.",
        &["question", "ms", "of the daemon, ms", "lines", "KiB"],
    );
    let ask = |question: &str| match question {
        "/metrics" => lb.run("curl -sSf http://127.0.0.1:9799/metrics"),
        words => daemon.cli(&words.split(' ').collect::<Vec<_>>()),
    };
    for question in ["status", "service list", "backend list", "/metrics"] {
        let (began, before) = (Instant::now(), processor_time(daemon)?.0);
        let mut answer = String::new();
        for _ in 0..rounds {
            answer = ask(question)?;
        }
        let each = |seconds: f64| 1e3 * seconds / f64::from(rounds);
        let (took, used) = (each(began.elapsed().as_secs_f64()), each(processor_time(daemon)?.0 - before));
        report.exact(&[("question", question)], "ms", took);
        table.row([
            question.to_owned(),
            format!("{took:.0}"),
            format!("{used:.0}"),
            answer.lines().count().to_string(),
            format!("{}", answer.len() / 1024),
        ]);
    }
    Ok(table)
}

/// What it costs when backends change their health, and when the operator changes something.
fn changes(report: &mut Report, bed: &Bed, daemon: &Daemon, services: usize) -> Result<Table> {
    let mut table = Table::new(
        "What a change costs",
        "Processor time of the daemon for each change, over what the checks take. Those of health come from many backends \
         that come up and go down within some checks of each other.",
        &["change", "changes", "of the daemon, ms"],
    );
    let fickle = services.div_ceil(FICKLE);
    let quiet = Used::over(daemon, 2 * INTERVAL)?.processor;
    let (began, before) = (Instant::now(), processor_time(daemon)?.0);
    let server = Nginx::start(&bed.servers, FICKLE_PORT)?;
    // Twice well to be up, three times not to be down.
    thread::sleep(3 * INTERVAL);
    drop(server);
    thread::sleep(4 * INTERVAL);
    anyhow::ensure!(serving(daemon)? == services * EACH - fickle, "the fickle backends are not down again");
    let used = processor_time(daemon)?.0 - before - quiet * began.elapsed().as_secs_f64();
    let changed = 2 * fickle;
    let mut row = |name: &str, changes: usize, used: f64| {
        let each = 1e3 * used / changes as f64;
        report.exact(&[("change", name)], "ms", each);
        table.row([name.to_owned(), changes.to_string(), format!("{each:.1}")]);
    };
    row("of a backend's health", changed, used);

    const ROUNDS: usize = 5;
    let (began, before) = (Instant::now(), processor_time(daemon)?.0);
    for _ in 0..ROUNDS {
        for change in ["drain", "enable"] {
            daemon.cli(&["backend", change, "service-1", &format!("[2001:db8:2::2:2]:{PORT}")])?;
        }
    }
    let used = processor_time(daemon)?.0 - before - quiet * began.elapsed().as_secs_f64();
    row("by `xdp-lb backend drain` and `enable`", 2 * ROUNDS, used);
    Ok(table)
}
