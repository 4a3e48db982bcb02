//! What the daemon costs while it counts millions of flows, and what it then still does in time.
//!
//! `cargo xtask bench flows` runs it, as root and in a sandbox: the real daemon, two servers, and a flow table that is filled
//! with records of their flows.

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/processor_time.rs"]
mod processor_time;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use processor_time::processor_time;
use xdp_lb::config;
use xdp_lb::datapath::{Options, Policy, Prepared, monotonic_seconds};
use xdp_lb_common::flow_table::life::Life;
use xdp_lb_common::flow_table::record::{Record, WayBack};
use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::tables::FlowKey;
use xdp_lb_common::tables::flow::{CONFIRMED, ESTABLISHED};
use xdp_lb_tests::report::{Report, Table};
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Daemon, Network, until};

/// What the project wants.
const MOST_PROCESSOR: f64 = 5.0;
const MOST_MILLISECONDS: f64 = 100.0;
/// `fall` times the interval, and the timeout: when a server that is silent has to be out.
const PROMISED: Duration = Duration::from_millis(2 * 200 + 200);

fn main() -> Result<()> {
    cpu::pin()?;
    let quick = cpu::is_quick();
    let (counts, seconds): (&[u32], u64) = if quick { (&[1 << 16], 12) } else { (&[1 << 20, 1 << 23], 40) };
    let mut report = Report::new("What the daemon costs while it counts flows", xdp_lb::COMMIT);
    let mut table = Table::new(
        "A full-nat service of two backends, with so many recorded flows",
        "Processor time of the daemon as a part of one processor, over 40 s. A command: `xdp-lb backend list` while a backend \
         drains, which asks for a new count, the slowest of 50. A failure: from a server's silence to its first packet less.",
        &[
            "flows",
            "processor",
            "at most",
            "a command, ms",
            "at most",
            "a failure, ms",
            "promised",
            "reached",
        ],
    );
    for count in counts {
        let row = measure(*count, Duration::from_secs(seconds))?;
        let of = [("flows", &*count.to_string())];
        report.exact(&of, "% of a processor", row.processor);
        report.exact(&of, "ms a command", row.command);
        report.exact(&of, "ms a failure", row.failure);
        let promised = 1e3 * PROMISED.as_secs_f64();
        let is_reached =
            row.processor < MOST_PROCESSOR && row.command < MOST_MILLISECONDS && row.failure < promised;
        table.row([
            count.to_string(),
            format!("{:.1} %", row.processor),
            format!("{MOST_PROCESSOR:.0} %"),
            format!("{:.0}", row.command),
            format!("{MOST_MILLISECONDS:.0}"),
            format!("{:.0}", row.failure),
            format!("{promised:.0}"),
            (if is_reached { "yes" } else { "no" }).to_owned(),
        ]);
        eprint!(".");
    }
    eprintln!();
    report.tables.push(table);
    report.write()
}

struct Row {
    processor: f64,
    command: f64,
    failure: f64,
}

fn measure(flows: u32, time: Duration) -> Result<Row> {
    let network = Network::new("bench-flows", 2)?;
    let servers: Vec<_> =
        network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<_>>()?;
    let text = format!(
        "limits = {{ flows = {flows} }}\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nmode = \"full-nat\"\n\
         health_check = {{ type = \"tcp\", interval = \"200ms\", timeout = \"200ms\", fall = 2 }}\n\
         backend = [{{ address = \"198.51.100.11:8080\" }}, {{ address = \"198.51.100.12:8080\" }}]\n"
    );
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &text)?;
    daemon.wait_until_up()?;
    fill(&daemon, flows)?;
    until("the flows to be counted", Duration::from_secs(60), || {
        let tables = daemon.cli_json(&["status"])?;
        let tables = tables["tables"].as_array().context("the status has no tables")?;
        let used =
            tables.iter().find(|table| table["name"] == "flows").and_then(|table| table["used"].as_u64());
        Ok(used.is_some_and(|used| used >= u64::from(flows - flows / 100)))
    })?;
    let (began, before) = (Instant::now(), processor_time(&daemon)?.0);
    std::thread::sleep(time);
    let processor = 100.0 * (processor_time(&daemon)?.0 - before) / began.elapsed().as_secs_f64();

    daemon.cli(&["backend", "drain", "web", "198.51.100.11:8080"])?;
    let mut command = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        daemon.cli(&["backend", "list"])?;
        command = command.max(began.elapsed());
    }
    daemon.cli(&["backend", "enable", "web", "198.51.100.11:8080"])?;
    daemon.wait_until_up()?;

    let began = Instant::now();
    network.backends[1].run("ip link set eth0 down")?;
    until("the backend to be out", Duration::from_secs(20), || {
        let backends = daemon.backends(Some("web"))?;
        Ok(backends[1]["share"].as_f64() == Some(0.0))
    })?;
    let failure = began.elapsed();
    drop(servers);
    Ok(Row { processor, command: 1e3 * command.as_secs_f64(), failure: 1e3 * failure.as_secs_f64() })
}

/// Writes records of flows to both backends into the daemon's table.
fn fill(daemon: &Daemon, flows: u32) -> Result<()> {
    let config = config::load(&daemon.config_file()).map_err(|errors| anyhow!("{errors}"))?;
    let options = Options {
        pin_path: Some(config.pin_path.clone()),
        limits: config.limits,
        policy: Policy::of(&config),
    };
    let prepared = Prepared::load(&options)?;
    let vip: SocketAddr = "192.0.2.10:80".parse()?;
    let source: SocketAddr = "198.51.100.2:1024".parse()?;
    let now = monotonic_seconds()?;
    let backends: Vec<_> = prepared.tables().backends.iter().collect();
    let end = |address| Endpoint::from_socket(address, Protocol::TCP);
    let record = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        let client = SocketAddr::new(IpAddr::from([10, a, b, c]), 1024 + u16::from(d));
        let (index, backend) = backends[number as usize % backends.len()];
        let key = FlowKey::new(end(client), end(vip));
        let mut record = Record::default();
        record.set(&key, &end(source), *index, &backend.endpoint(Protocol::TCP), &WayBack::default());
        record.words[0] = Life::default().taken().begun(now, ESTABLISHED | CONFIRMED).to_bits();
        record
    };
    let lost = prepared.put_flows((0..flows).map(record), now)?;
    ensure!(lost <= flows / 1000, "{lost} of {flows} records found no room");
    Ok(())
}
