//! `xdp-lb diff`, `xdp-lb reload --dry-run`, and SIGHUP.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xdp_lb_tests::{Daemon, Site, web, web_backend};

fn write(daemon: &Daemon, text: &str) {
    fs::write(daemon.config_file(), text).unwrap();
}

fn code(daemon: &Daemon, words: &[&str]) -> (i32, String) {
    let output = daemon.cli_output(words).unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), said)
}

/// Waits until the log, from here on, has a line with all of these.
fn wait_for_log(daemon: &Daemon, from: usize, parts: &[&str]) {
    xdp_lb_tests::until(&format!("{parts:?} in the log"), Duration::from_secs(30), || {
        Ok(daemon.log()[from..].lines().any(|line| parts.iter().all(|part| line.contains(part))))
    })
    .unwrap_or_else(|error| panic!("{error:#}:\n{}", &daemon.log()[from..]));
}

#[test]
fn a_reload_does_what_its_plan_says_and_moves_no_slot_of_unchanged_services() {
    let second = web("nat", &[3, 4]).replace("\"web\"", "\"second\"").replace(":80\"\nmode", ":81\"\nmode");
    let site = Site::start("plan", 4, &format!("{}{second}", web("full-nat", &[1, 2]))).unwrap();
    let daemon = &site.daemon;
    assert_eq!(code(daemon, &["diff"]), (0, "no differences\n".into()));

    // Those that moved as the backends came up, one after the other.
    let before = ["web", "second"].map(|service| daemon.unsettled_slots(service).unwrap());
    let old = daemon.config().unwrap();
    let first = format!("\"{}\"", web_backend(1));
    write(daemon, &old.replacen(&first, &format!("{first}\nweight = 300"), 1).replacen("500ms", "600ms", 1));
    let lines = format!(
        "service web: health_check.interval 500ms -> 600ms\nservice web: backend {} weight 100 -> 300\n",
        web_backend(1)
    );
    assert_eq!(code(daemon, &["diff"]), (1, lines.clone()));
    let diff = daemon.cli_output(&["diff", "--output", "json"]).unwrap();
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    let changed = json!({"key": "weight", "old": 100, "new": 300});
    assert_eq!(diff["services"][0]["backends"][0]["keys"], json!([changed]));
    let (ended, planned) = code(daemon, &["reload", "--dry-run"]);
    assert_eq!(ended, 0);
    let moving = diff["services"][0]["slots"]["moving"].as_u64().unwrap();
    let of = diff["services"][0]["slots"]["of"].as_u64().unwrap();
    // From half of the slots to three quarters of them.
    assert!(moving.abs_diff(of / 4) <= of / 50, "{moving} of {of}");
    assert!(planned.starts_with(&lines) && planned.ends_with("slots would move\n"), "{planned}");
    assert_eq!(daemon.unsettled_slots("web").unwrap(), before[0], "a plan moves none");

    assert_eq!(code(daemon, &["reload"]), (0, lines));
    assert!((moving..=before[0] + moving).contains(&daemon.unsettled_slots("web").unwrap()));
    assert_eq!(daemon.unsettled_slots("second").unwrap(), before[1]);
    assert_eq!(code(daemon, &["diff"]), (0, "no differences\n".into()));

    write(daemon, &format!("{old}wieght = 1\n"));
    let (ended, said) = code(daemon, &["diff"]);
    assert!(ended == 2 && said.contains("did you mean \"weight\"?"), "{ended}: {said}");
    assert_eq!(daemon.cli_json(&["service", "show", "web"]).unwrap()["backends"][0]["weight"], 300);
}

#[test]
fn sighup_logs_what_it_did_or_why_it_failed() {
    let site = Site::start("hangup", 2, &web("full-nat", &[1])).unwrap();
    let daemon = &site.daemon;
    let good = daemon.config().unwrap();
    let hang_up = || daemon.process().unwrap().signal(Signal::SIGHUP).unwrap();

    let from = daemon.log().len();
    write(daemon, &good.replace(&web_backend(1), &web_backend(2)));
    hang_up();
    wait_for_log(daemon, from, &["INFO", "service web: backend", &web_backend(2), "added"]);
    wait_for_log(daemon, from, &["INFO", "SIGHUP: reloaded"]);
    site.wait_for(2, "up").unwrap();

    let from = daemon.log().len();
    write(daemon, &format!("{good}\nnonsense = 1\n"));
    hang_up();
    wait_for_log(daemon, from, &["ERROR", "SIGHUP: ", "nothing was changed"]);
    wait_for_log(daemon, from, &["nonsense", "unknown key"]);
    assert_eq!(daemon.backend_state("web", &web_backend(2)).unwrap(), "up");
}
