//! `cargo xtask demo`: a load balancer at work, from the first request to the last backend.

mod screen;
mod traffic;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use xdp_lb_tests::servers::{Dnsmasq, Nginx};
use xdp_lb_tests::{Daemon, Download, Family, Host, Network, has_big_file, remove_big_file};

use crate::{build, preflight, sandbox, say};
use screen::{Summary, bars, chapter, quote, tell, typed};
use traffic::{Answers, Visitor, query, repeat, request};

/// Sets up, builds, and plays the demo in a sandbox.
pub fn run() -> Result<ExitCode> {
    preflight::check("demo")?;
    build::everything(false)?;
    sandbox::run(&["demo".to_owned()])
}

/// The demo itself, inside the sandbox.
pub fn run_inside() -> Result<ExitCode> {
    let start = Instant::now();
    let mut summary = Summary::default();
    // The tests keep it for the next time; nobody expects 100 MB of a demo.
    let is_kept = has_big_file();
    let played = play(&mut summary);
    if !is_kept && has_big_file() {
        remove_big_file()?;
    }
    summary.print();
    if let Err(error) = &played {
        say::error(error);
    }
    let passed = played.is_ok() && summary.passed();
    let verdict =
        if passed { "Everything worked as described" } else { "Not everything worked as described" };
    println!(
        "\n{verdict}, in {:.0} s. The network and all that ran in it are gone.",
        start.elapsed().as_secs_f64()
    );
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const WEB: &str = "http://192.0.2.10/";
const WEB6: &str = "http://[2001:db8:1::10]/";

/// The config's services. The third backend is the strongest: twice the weight.
const SERVICES: &str = r#"
[[service]]
name = "web"
vip = "192.0.2.10:80"
mode = "full-nat"
health_check = { type = "http", path = "/healthz", interval = "200ms", timeout = "200ms", rise = 2, fall = 3 }
backend = [
    { address = "198.51.100.11:8080", weight = 100 },
    { address = "198.51.100.12:8080", weight = 100 },
    { address = "198.51.100.13:8080", weight = 200 },
]

[[service]]
name = "web6"
vip = "[2001:db8:1::10]:80"
mode = "nat"
health_check = { type = "http", path = "/healthz", interval = "200ms", timeout = "200ms", rise = 2, fall = 3 }
backend = [
    { address = "[2001:db8:2::11]:8080" },
    { address = "[2001:db8:2::12]:8080" },
    { address = "[2001:db8:2::13]:8080" },
]

[[service]]
name = "dns"
vip = "192.0.2.10:53"
protocol = "udp"
mode = "nat"
health_check = { type = "dns", name = "www.example.test", record = "A", interval = "200ms", timeout = "200ms", rise = 2, fall = 3 }
backend = [
    { address = "198.51.100.11:53" },
    { address = "198.51.100.12:53" },
    { address = "198.51.100.13:53" },
]
"#;

const UP_WITHIN: Duration = Duration::from_secs(10);
/// When the config promises that a dead backend stops receiving new flows: fall x interval + timeout.
const DETECTED_WITHIN: Duration = Duration::from_millis(3 * 200 + 200);

/// The backends of the service `web`.
const BACKEND_2: &str = "198.51.100.12:8080";
const BACKEND_3: &str = "198.51.100.13:8080";

fn play(summary: &mut Summary) -> Result<()> {
    chapter(1, "A network");
    tell("Five hosts, each a network namespace of its own:");
    quote(
        "                                       +-- backend-1  198.51.100.11\n\
         client ---------- load balancer -------+-- backend-2  198.51.100.12\n\
         192.0.2.100       VIP 192.0.2.10       +-- backend-3  198.51.100.13",
    );
    tell("Each backend runs nginx and dnsmasq, which say who they are. Clients know the VIP alone.");
    let network = Network::new("demo", 3)?;
    let mut web = Vec::new();
    let mut dns = Vec::new();
    for backend in &network.backends {
        web.push(Nginx::start(backend, 8080)?);
        dns.push(Dnsmasq::start(backend, 53)?);
    }

    let mut daemon = begin(&network)?;
    share(summary, &network.client);
    let [_, web, ..] = web.as_mut_slice() else { bail!("the network has no second backend") };
    lose_a_backend(summary, &network.client, &daemon, web)?;
    drain(summary, &network, &daemon)?;
    lose_the_daemon(summary, &network.client, &mut daemon)
}

fn begin(network: &Network) -> Result<Daemon> {
    chapter(2, "The load balancer starts");
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], SERVICES)?;
    typed("cat xdp-lb.toml");
    quote(&daemon.config()?);
    typed("xdp-lb run --config xdp-lb.toml &");
    for (service, port, addresses) in [("web", 8080, 4), ("web6", 8080, 6), ("dns", 53, 4)] {
        for number in 1..=network.backends.len() {
            let address = match addresses {
                4 => format!("{}:{port}", Network::backend(number)),
                _ => format!("[{}]:{port}", Network::backend6(number)),
            };
            daemon.wait_for_state(service, &address, "up", UP_WITHIN)?;
        }
    }
    tell("Its XDP program is attached, and every backend passes its health check:");
    show(&daemon, &["status"])?;
    Ok(daemon)
}

fn share(summary: &mut Summary, client: &Host) {
    chapter(3, "Clients come, and share the backends by weight");
    spread(summary, "HTTP over IPv4, full-nat, weights 1:1:2", &[25, 25, 50], || request(client, WEB));
    spread(summary, "HTTP over IPv6, nat, equal weights", &[33, 33, 33], || request(client, WEB6));
    spread(summary, "DNS over UDP, nat, equal weights", &[33, 33, 33], || query(client, Network::VIP));
}

fn lose_a_backend(summary: &mut Summary, client: &Host, daemon: &Daemon, web: &mut Nginx) -> Result<()> {
    chapter(4, "A backend dies");
    tell("A visitor sends one request after the other. The web server of backend-2 is killed.");
    let visitor = Visitor::start(client, WEB);
    std::thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    web.stop();
    daemon.wait_for_state("web", BACKEND_2, "down", UP_WITHIN)?;
    let detected = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    let visits = visitor.stop()?;
    show(daemon, &["backend", "list", "web"])?;
    let failed = |since: Instant, until: Instant| {
        visits.iter().filter(|visit| visit.answer.is_err() && (since..until).contains(&visit.at)).count()
    };
    let (before, after) = (failed(killed, detected), failed(detected, Instant::now()));
    let afterwards = visits.iter().filter(|visit| visit.at >= detected).count();
    tell(format_args!("{before} requests reached the dead server before the health check saw it."));
    let took = detected - killed;
    // The looks at its state come every few hundredths of a second.
    let in_time = took < DETECTED_WITHIN + Duration::from_millis(200);
    summary.check(
        "Dead backend taken out by its health check",
        format_args!("after {} ms", took.as_millis()),
        in_time,
    );
    let went_on = format!("{after} of {afterwards} requests failed");
    summary.check("Requests go on without it", went_on, after == 0 && afterwards > 0);

    tell("It is started again, and comes back by itself.");
    web.restart()?;
    let took = daemon.wait_for_state("web", BACKEND_2, "up", UP_WITHIN)?;
    let answers = repeat(60, || request(client, WEB));
    let back = format!("after {} ms, {} of 60 requests", took.as_millis(), answers.of("backend-2"));
    summary.check("Backend comes back", back, answers.of("backend-2") > 0 && answers.failures.is_empty());
    Ok(())
}

fn drain(summary: &mut Summary, network: &Network, daemon: &Daemon) -> Result<()> {
    chapter(5, "A backend is drained for maintenance");
    let client = &network.client;
    tell("A download of 100 MB runs from backend-3, when the operator drains it:");
    let download = Download::start_at(client, web_address(), "backend-3")?;
    typed(&format!("xdp-lb backend drain web {BACKEND_3} --wait &"));
    let mut drain = {
        let mut command = network.lb.command(xdp_lb_tests::paths::daemon());
        command.args(["backend", "drain", "web", BACKEND_3, "--wait", "--timeout", "60s", "--socket"]);
        command.arg(daemon.socket());
        network.lb.spawn_command("drain", command)?
    };
    daemon.wait_for_state("web", BACKEND_3, "draining", UP_WITHIN)?;
    let answers = repeat(60, || request(client, WEB));
    bars(&answers.rows());
    let new = format!("{} of 60 requests, {} failed", answers.of("backend-3"), answers.failures.len());
    let none_new = answers.of("backend-3") == 0 && answers.total() == 60 && !download.is_over();
    summary.check("Draining backend gets nothing new", new, none_new);
    tell(format_args!("The download goes on: {} MB have arrived.", download.received() / 1_000_000));
    let waits = drain.exited()?.is_none();
    finish(summary, "Its download runs to the end", download, true);
    let drained = drain.wait(Duration::from_secs(60))?.success();
    quote(&drain.log());
    let seen =
        if waits && drained { "when the last flow had gone" } else { "not when the last flow had gone" };
    summary.check("drain --wait returns", seen, waits && drained);
    show(daemon, &["backend", "enable", "web", BACKEND_3])
}

fn lose_the_daemon(summary: &mut Summary, client: &Host, daemon: &mut Daemon) -> Result<()> {
    chapter(6, "The daemon itself is killed");
    tell("During another download, kill -9. The kernel goes on forwarding without it:");
    let download = Download::start(client, web_address())?;
    daemon.kill()?;
    let answers = repeat(60, || request(client, WEB));
    let went_on = format!("{} of 60 requests failed", answers.failures.len());
    summary.check(
        "Traffic goes on without the daemon",
        went_on,
        answers.total() == 60 && !download.is_over(),
    );
    tell("It is started again, and adopts what it finds:");
    daemon.run()?;
    let adopted = daemon.cli_json(&["status"])?["adopted"] == true;
    summary.check(
        "Restarted daemon adopts the tables",
        if adopted { "adopted" } else { "not adopted" },
        adopted,
    );
    let still = !download.is_over();
    finish(summary, "The download outlives kill -9 and restart", download, still);
    show(daemon, &["status"])
}

/// Lets a download end, and checks that it has all bytes; and that it ran for as long as it was to.
fn finish(summary: &mut Summary, what: &str, download: Download, still_ran: bool) {
    let seen = match download.finish() {
        Ok(()) if still_ran => Ok("100 MB, every byte the same".to_owned()),
        Ok(()) => Err("it was over before".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    summary.check(what, seen.as_ref().unwrap_or_else(|why| why), seen.is_ok());
}

fn web_address() -> SocketAddr {
    SocketAddr::new(Network::vip(Family::V4), 80)
}

/// Sends requests, and checks that the backends' parts are within 15 points of what is expected (in percent): at
/// 200 requests that is more than four standard deviations.
fn spread(summary: &mut Summary, what: &str, expected: &[usize], one: impl FnMut() -> Result<String>) {
    const TIMES: usize = 200;
    tell(format_args!("{TIMES} times {what}:"));
    let answers = repeat(TIMES, one);
    bars(&answers.rows());
    if let Some(failure) = answers.failures.first() {
        tell(format_args!("the first failure: {failure}"));
    }
    let percent = |number: usize| 100 * answers.of(&format!("backend-{number}")) / TIMES;
    let fair = (1..).zip(expected).all(|(number, expected)| percent(number).abs_diff(*expected) <= 15);
    summary.check(what, shares(&answers), answers.total() == TIMES && fair);
}

fn shares(answers: &Answers) -> String {
    let counts: Vec<_> = answers.rows().iter().map(|(_, count)| count.to_string()).collect();
    match answers.failures.len() {
        0 => counts.join(" : "),
        failures => format!("{}, {failures} failed", counts.join(" : ")),
    }
}

/// Types a command of the CLI, and shows what it says.
fn show(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    typed(&format!("xdp-lb {}", arguments.join(" ")));
    quote(&daemon.cli(arguments)?);
    Ok(())
}
