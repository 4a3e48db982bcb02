//! The web page in a real browser: `xdp-lb ui`, and `/ui` of the listener for other hosts.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use serde_json::{Value, json};
use xdp_lb_tests::{
    Authority, Browser, Daemon, Host, Site, Validity, paths, until, until_some, web, web_backend,
};

// Users and groups that Debian's base-passwd has on every system.
const NOBODY: u32 = 65534;
const GAMES: u32 = 60;

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
const LONG: Duration = Duration::from_secs(40);

/// `xdp-lb ui`; it ends when this is dropped.
struct Ui {
    command: Child,
    log: PathBuf,
}

impl Ui {
    /// Runs it, as `nobody` with this group where one is given.
    fn start(daemon: &Daemon, name: &str, group: Option<u32>) -> Self {
        let log = daemon.host().dir().join(format!("{name}.log"));
        let mut command = daemon.host().command(paths::daemon());
        command.arg("ui").arg("--socket").arg(daemon.socket());
        if let Some(group) = group {
            // SAFETY: between fork and exec the closure makes three system calls.
            unsafe {
                command.pre_exec(move || {
                    setgroups(&[Gid::from_raw(group)])?;
                    setgid(Gid::from_raw(NOBODY))?;
                    Ok(setuid(Uid::from_raw(NOBODY))?)
                });
            }
        }
        let file = File::create(&log).unwrap();
        let command = command.stdin(Stdio::piped()).stdout(file).stderr(Stdio::null()).spawn().unwrap();
        Self { command, log }
    }

    /// The last link that it has printed, once it has printed so many.
    fn link(&self, count: usize) -> String {
        until_some("a link", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&self.log)?;
            let links: Vec<&str> =
                text.lines().filter(|line| line.starts_with("http://127.0.0.1:")).collect();
            Ok((links.len() >= count).then(|| links[count - 1].to_owned()))
        })
        .unwrap()
    }

    /// Presses Enter.
    fn press_enter(&mut self) {
        self.command.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

/// The browser; where there is none, says so.
fn browser(host: &Host) -> Option<Browser> {
    let browser = Browser::start(host).unwrap();
    if browser.is_none() {
        // Not by println, which libtest keeps to itself where a test passes.
        let words = "SKIPPED: the web page is not tested in a browser, since there is none; `cargo xtask setup` installs it, \
                     and says why it cannot";
        std::io::stderr().write_all(format!("{words}\n").as_bytes()).unwrap();
    }
    browser
}

/// Nothing is on the browser's console, axe-core finds nothing, and nothing is wider than the window.
#[track_caller]
fn assert_fine(browser: &mut Browser) {
    let found = browser.inaccessible().unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let problems = browser.problems().unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let script = "document.documentElement.scrollWidth - window.innerWidth";
    let wider = browser.ask("evaluate", json!({ "script": script })).unwrap();
    assert!(wider.as_i64().unwrap() <= 0, "{wider} pixels too wide");
}

/// What the daemon answers to curl.
fn status_of(host: &Host, arguments: &str) -> String {
    host.run(&format!("curl -sk -o /dev/null -w %{{http_code}} {arguments}")).unwrap()
}

#[test]
fn the_page_shows_traffic_failures_and_events_and_drains_for_an_administrator_alone() {
    let config = format!("api.read_groups = [\"games\"]\n{}", web("full-nat", &[1, 2]));
    let mut site = Site::start("page", 2, &config).unwrap();
    let lb = site.network.lb.clone();
    let Some(mut browser) = browser(&lb) else { return };
    let mut ui = Ui::start(&site.daemon, "ui", None);
    let link = ui.link(1);
    browser.open(&link, DESKTOP, false).unwrap();
    for text in ["Traffic of all services", "2 of 2", "live", "eth0", "root (uid 0"] {
        browser.see(text).unwrap();
    }
    assert_fine(&mut browser);

    // What is sent is in the plot.
    let requests = site.requests(4);
    requests.next_by_backend(400).unwrap();
    let sent = requests.stop().len() as f64;
    let counted = until_some("the history to have all connections", LONG, || {
        let history = lb.run(&format!(
            "curl -sSf --unix-socket {} http://localhost/v1/history?service=web",
            site.daemon.socket().display()
        ))?;
        let history: Value = serde_json::from_str(&history)?;
        let points = history["new_flows_per_second"].as_array().unwrap();
        let sum: f64 = points.iter().filter_map(Value::as_f64).sum();
        Ok((sum >= sent * 0.95).then_some(sum))
    })
    .unwrap();
    println!("{sent} connections were made, and the history has {counted}");
    assert!(counted <= sent * 1.3, "{counted} of {sent}");
    let plot = browser.attribute("main .plot svg", "aria-label").unwrap();
    assert!(plot.starts_with("Bits, last 10 minutes: now ") && !plot.contains("highest 0"), "{plot}");

    // A backend fails and comes back, while the page is open.
    browser.go("#/services/web").unwrap();
    browser.see(&web_backend(1)).unwrap();
    assert_fine(&mut browser);
    site.nginx[0].stop();
    browser.see_in("main table", "down").unwrap();
    browser.see("1 of 2 backends take new flows").unwrap();
    site.nginx[0].restart().unwrap();
    browser.see("2 of 2 backends take new flows").unwrap();

    // A drain says first what it will do.
    browser.click("button", &format!("Drain {}", web_backend(1))).unwrap();
    browser.see("gets no new flows").unwrap();
    browser.see("goes to the 1 other backend").unwrap();
    assert_fine(&mut browser);
    browser.click("button", "Cancel").unwrap();
    browser.ask("gone", json!({ "css": "dialog" })).unwrap();
    assert_eq!(site.daemon.backend_state("web", &web_backend(1)).unwrap(), "up", "nothing was confirmed");
    browser.click("button", &format!("Drain {}", web_backend(1))).unwrap();
    browser.click("button", "Drain").unwrap();
    site.wait_for(1, "draining").unwrap();
    browser.see_in("main table", "draining").unwrap();
    browser.click("button", &format!("Enable {}", web_backend(1))).unwrap();
    browser.click("button", "Enable").unwrap();
    site.wait_for(1, "up").unwrap();
    browser.click("button", &format!("Weight of {}", web_backend(2))).unwrap();
    browser.fill("Weight, relative to the other backends", "300").unwrap();
    browser.see("about 75 % of new flows").unwrap();
    browser.click("button", "Change the weight").unwrap();
    until("the weight to change", LONG, || {
        let backends = site.daemon.backends(Some("web"))?;
        Ok(backends.iter().any(|it| it["address"] == web_backend(2) && it["weight"] == 300))
    })
    .unwrap();
    browser.go("#/events").unwrap();
    browser.see("draining").unwrap();
    assert_fine(&mut browser);
    for part in ["#/services", "#/drops", "#/flows"] {
        browser.go(part).unwrap();
        browser
            .see_in(
                "main",
                match part {
                    "#/services" => "192.0.2.10:80",
                    "#/drops" => "Passed to the host",
                    _ => "Find a flow",
                },
            )
            .unwrap();
        assert_fine(&mut browser);
    }
    browser.fill("Client and port", "192.0.2.100:31337").unwrap();
    browser.fill("VIP and port", "192.0.2.10:80").unwrap();
    browser.click("button", "Explain").unwrap();
    browser.see_in("main", "192.0.2.100:31337 -> 192.0.2.10:80: web sends it to 198.51.100.1").unwrap();
    assert_fine(&mut browser);
    browser.fill("Service", "web").unwrap();
    browser.click("button", "Find").unwrap();
    browser.see_in("main", "match").unwrap();
    browser
        .see_in("main table", "established")
        .unwrap_or_else(|_| browser.see_in("main table", "closing").unwrap());
    assert_fine(&mut browser);
    assert!(site.daemon.log().contains("audit: root (uid 0"), "changes by the page are in the log");

    // The link worked once; Enter prints another one. A phone, and in the dark.
    browser.open(&link, PHONE, true).unwrap();
    browser.see("This page cannot ask the daemon").unwrap();
    browser.problems().unwrap();
    ui.press_enter();
    browser.open(&ui.link(2), PHONE, true).unwrap();
    browser.see("Traffic of all services").unwrap();
    assert_fine(&mut browser);
    for part in ["#/services", "#/services/web", "#/drops", "#/events", "#/flows"] {
        browser.go(part).unwrap();
        browser.ask("evaluate", json!({ "script": "new Promise((done) => setTimeout(done, 700))" })).unwrap();
        assert_fine(&mut browser);
    }
    // By the keyboard: the first is the way to the content.
    browser.go("#/").unwrap();
    browser.ask("press", json!({ "key": "Tab" })).unwrap();
    assert_eq!(browser.ask("focused", json!({})).unwrap(), "Skip to the content");

    // A reader sees all, and has no button.
    let reader = Ui::start(&site.daemon, "ui-reader", Some(GAMES));
    browser.open(&reader.link(1), DESKTOP, true).unwrap();
    browser.see("may look only").unwrap();
    browser.go("#/services/web").unwrap();
    browser.see(&web_backend(1)).unwrap();
    assert_eq!(browser.count("button", &format!("Drain {}", web_backend(1))).unwrap(), 0);
    assert_eq!(browser.count("button", "Drain the service").unwrap(), 0);
    assert_fine(&mut browser);

    // Without the token, by another name, and for another site, there is no answer.
    let (origin, _) = link.split_once("/ui").unwrap();
    assert_eq!(status_of(&lb, &format!("{origin}/v1/status")), "401");
    assert_eq!(status_of(&lb, &format!("{origin}/ui")), "200");
    assert_eq!(status_of(&lb, &format!("-H Host:evil.example.com {origin}/ui")), "403");
    assert_eq!(status_of(&lb, &format!("-H Origin:http://evil.example.com {origin}/ui/main.js")), "403");
    assert_eq!(status_of(&lb, &format!("-X POST -H x-xdp-lb-link:0000 {origin}/session")), "401");
}

#[test]
fn another_host_opens_the_page_with_its_certificate_and_no_other_site_does_for_it() {
    let authority = Authority::new("Lab").unwrap();
    let network = xdp_lb_tests::Network::new("page", 1).unwrap();
    let dir = network.lb.dir();
    let ca = authority.write(&dir).unwrap();
    let (certificate, key) =
        authority.issue(&["192.0.2.1"], Validity::Now).unwrap().write(&dir, "server").unwrap();
    let identity =
        |name: &str| authority.issue_client(name, &[], Validity::Now).unwrap().write(&dir, name).unwrap();
    let (alice, alices_key) = identity("alice");
    let config = format!(
        "api.listen = \"192.0.2.1:7443\"\napi.certificate = {certificate:?}\napi.key = {key:?}\napi.client_ca = {ca:?}\n\
         api.admin_certificates = [\"alice\"]\n{}",
        web("full-nat", &[1])
    );
    let _nginx = xdp_lb_tests::servers::Nginx::start(&network.backends[0], 8080).unwrap();
    let _daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();

    let with = format!("--cert {} --key {}", alice.display(), alices_key.display());
    let api = "https://192.0.2.1:7443";
    let status = |arguments: &str| status_of(&network.client, &format!("{with} {arguments}"));
    assert_eq!(status(&format!("{api}/ui")), "200");
    assert_eq!(status(&format!("-X POST {api}/v1/reload")), "200", "curl is not a browser");
    for foreign in [
        "-H Origin:https://evil.example.com",
        "-H Sec-Fetch-Site:cross-site",
        "-H Sec-Fetch-Site:same-site",
        "-H Sec-Fetch-Site:same-origin -H Host:evil.example.com",
    ] {
        assert_eq!(status(&format!("-X POST {foreign} {api}/v1/reload")), "403", "{foreign}");
        assert_eq!(status(&format!("{foreign} {api}/v1/status")), "403", "{foreign}");
    }
    let own = "-H Origin:https://192.0.2.1:7443 -H Sec-Fetch-Site:same-origin";
    assert_eq!(status(&format!("-X POST {own} {api}/v1/reload")), "200");

    let Some(mut browser) = browser(&network.client) else { return };
    let options = json!({ "url": format!("{api}/ui"), "certPath": alice, "keyPath": alices_key });
    browser.ask("open", options).unwrap();
    browser.see("certificate \"alice\"").unwrap();
    browser.go("#/services/web").unwrap();
    browser.see(&web_backend(1)).unwrap();
    assert_fine(&mut browser);
}
