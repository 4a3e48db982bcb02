//! `cargo xtask screenshots`: the pictures of the web page and of `top` in the docs, of a real load balancer at work.

mod terminal;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use serde_json::json;
use xdp_lb_tests::servers::{Dnsmasq, Nginx};
use xdp_lb_tests::{Browser, Daemon, Host, Network, Process, Terminal, paths, request, until_some};

use crate::{browser, build, preflight, sandbox, say};

/// How it is taken.
#[derive(clap::Args)]
pub struct Options {
    /// How long there is traffic before the pictures are taken.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=60))]
    minutes: u64,
}

/// Sets up, builds, and takes them in a sandbox.
pub fn run(options: &Options) -> Result<ExitCode> {
    preflight::check("screenshots")?;
    browser::ensure()?;
    build::everything(false)?;
    sandbox::run(&["screenshots".to_owned(), format!("--minutes={}", options.minutes)])
}

/// Each service has something to show: one is whole, one has lost a backend, one is drained.
const SERVICES: &str = r#"
metrics.listen = "off"

[[service]]
name = "web"
vip = "192.0.2.10:80"
description = "Webshop"
health_check = { type = "http", path = "/healthz", interval = "1s", timeout = "500ms" }
backend = [
    { address = "198.51.100.11:8080" },
    { address = "198.51.100.12:8080" },
    { address = "198.51.100.13:8080", weight = 200 },
    { address = "198.51.100.14:8080" },
]

[[service]]
name = "web6"
vip = "[2001:db8:1::10]:80"
mode = "nat"
health_check = { type = "http", path = "/healthz", interval = "1s", timeout = "500ms" }
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
health_check = { type = "dns", name = "www.example.test", interval = "1s", timeout = "500ms" }
backend = [{ address = "198.51.100.11:53" }, { address = "198.51.100.12:53" }]

[[service]]
name = "staging"
vip = "192.0.2.10:8443"
mode = "dsr"
health_check = { type = "none" }
backend = [{ address = "198.51.100.14:8443" }]
"#;

/// All of it, inside the sandbox.
pub fn run_inside(options: &Options) -> Result<ExitCode> {
    // A name for the pictures, of this sandbox alone.
    unshare(CloneFlags::CLONE_NEWUTS).context("cannot get a host name of its own")?;
    sethostname("lb-1").context("cannot set the sandbox's host name")?;
    let network = Network::new("pictures", 4)?;
    let mut nginx =
        network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<Vec<_>>>()?;
    let _dns =
        network.backends[..2].iter().map(|host| Dnsmasq::start(host, 53)).collect::<Result<Vec<_>>>()?;
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], SERVICES)?;
    // Those of `web` at least: what is shown is as it is.
    daemon.wait_for_state("web", "198.51.100.14:8080", "up", Duration::from_secs(60))?;
    say::step(format_args!("Sending traffic for {} minutes", options.minutes));
    let visitors = Visitors::start(&network.client);
    thread::sleep(Duration::from_secs(options.minutes * 60));
    // What happens shortly before the pictures.
    daemon.cli(&["service", "drain", "staging"])?;
    nginx[1].stop();
    daemon.wait_for_state("web", "198.51.100.12:8080", "down", Duration::from_secs(30))?;
    daemon.cli(&["backend", "drain", "web", "198.51.100.14:8080"])?;
    thread::sleep(Duration::from_secs(12));

    let pictures = paths::workspace().join("docs/pictures");
    take_top(&network.lb, &daemon, &pictures.join("top.svg"))?;
    take_page(&network.lb, &daemon, &pictures)?;
    drop(visitors);
    Ok(ExitCode::SUCCESS)
}

/// Clients that come more and less often.
struct Visitors {
    is_over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Visitors {
    fn start(client: &Host) -> Self {
        const TARGETS: [&str; 4] = ["192.0.2.10:80", "192.0.2.10:80", "192.0.2.10:80", "[2001:db8:1::10]:80"];
        let is_over = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let thread = |target: &str| {
            let (client, is_over) = (client.clone(), Arc::clone(&is_over));
            let target: SocketAddr = target.parse().expect("an address");
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // A request may fail: a backend is stopped meanwhile.
                    let _ = request(&client, target);
                    // A slow wave with a faster one on it.
                    let seconds = began.elapsed().as_secs_f64();
                    let wave = 1.3 + (seconds / 75.0).sin() * 0.7 + (seconds / 11.0).sin() * 0.25;
                    thread::sleep(Duration::from_secs_f64(0.035 / wave.max(0.25)));
                }
            })
        };
        let threads = TARGETS.into_iter().map(thread).collect();
        Self { is_over, threads }
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// `xdp-lb top`, as it is in a terminal.
fn take_top(lb: &Host, daemon: &Daemon, file: &PathBuf) -> Result<()> {
    let program = format!("{} top --socket {}", paths::daemon().display(), daemon.socket().display());
    let top = Terminal::start(lb, "top", (112, 30), &program)?;
    top.see("q quit")?;
    thread::sleep(Duration::from_secs(40));
    fs::write(file, terminal::svg(&top.coloured_screen()?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    say::note(format_args!("{}", file.display()));
    Ok(())
}

/// `xdp-lb ui`, which ends with its handle, and its link.
fn ui(lb: &Host, daemon: &Daemon, name: &str) -> Result<(Process, String)> {
    let ui = lb.spawn(
        name,
        &paths::daemon().display().to_string(),
        &["ui", "--socket", &daemon.socket().display().to_string()],
    )?;
    let link = until_some("a link", Duration::from_secs(20), || {
        Ok(ui.log().lines().find(|line| line.starts_with("http://")).map(str::to_owned))
    })?;
    Ok((ui, link))
}

fn take_page(lb: &Host, daemon: &Daemon, pictures: &std::path::Path) -> Result<()> {
    let mut browser = Browser::start(lb)?.context("there is no browser")?;
    for (name, hash, size, dark) in [
        ("page-overview", "#/", (1280, 640), false),
        ("page-service", "#/services/web", (1280, 900), false),
        ("page-drops", "#/drops", (1280, 800), true),
        ("page-phone", "#/", (390, 844), true),
    ] {
        let (_ui, link) = ui(lb, daemon, name)?;
        let options = json!({ "url": link, "width": size.0, "height": size.1, "dark": dark });
        browser.ask("open", options)?;
        browser.see("live")?;
        browser.go(hash)?;
        thread::sleep(Duration::from_secs(4));
        let file = pictures.join(format!("{name}.png"));
        File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        browser.screenshot(&file)?;
        say::note(format_args!("{}", file.display()));
    }
    Ok(())
}
