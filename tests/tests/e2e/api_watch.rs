//! `xdp-lb watch`: what happens, as it happens.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use xdp_lb_tests::{Process, Site, paths, web, web_backend};

/// The printed lines, without an incomplete last one.
fn events(watching: &Process) -> Vec<Value> {
    watching.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The first event that fits, once it has been printed.
fn event(watching: &Process, fits: impl Fn(&Value) -> bool) -> Value {
    xdp_lb_tests::until_some("an event", Duration::from_secs(30), || {
        Ok(events(watching).into_iter().find(|event| fits(event)))
    })
    .unwrap_or_else(|error| panic!("{error:#}:\n{}", watching.log()))
}

#[test]
fn a_watch_reports_backends_services_interfaces_and_reloads_and_continues_after_a_restart() {
    let mut site = Site::start("watch", 2, &web("full-nat", &[1, 2])).unwrap();
    let mut command = site.network.lb.command(paths::daemon());
    command.args(["watch", "--output", "json", "--socket"]).arg(site.daemon.socket());
    let watching = site.network.lb.spawn_command("watch", command).unwrap();
    let is_backend = |number: usize, state: &'static str| {
        move |event: &Value| {
            event["event"] == "backend" && event["address"] == web_backend(number) && event["state"] == state
        }
    };
    // Drained and enabled until the watch has begun: it may begin between the two, and with a backend that is checked anew.
    xdp_lb_tests::until("the watch to begin", Duration::from_secs(30), || {
        site.daemon.wait_until_up()?;
        site.daemon.cli(&["backend", "drain", "web", &web_backend(2)])?;
        site.daemon.cli(&["backend", "enable", "web", &web_backend(2)])?;
        Ok(events(&watching).iter().any(is_backend(2, "draining")))
    })
    .unwrap();
    let drained = event(&watching, is_backend(2, "draining"));
    assert_eq!(drained["before"], "up");

    site.nginx.remove(0);
    let down = event(&watching, is_backend(1, "down"));
    assert!(down["reason"].as_str().unwrap().contains("health check"), "{down}");

    let config = site.daemon.config().unwrap();
    fs::write(site.daemon.config_file(), config.replacen("500ms", "600ms", 1)).unwrap();
    site.daemon.cli(&["reload"]).unwrap();
    let service = event(&watching, |event| {
        event["event"] == "service"
            && event["kind"] == "changed"
            && event["changes"].to_string().contains("health_check.interval")
    });
    assert_eq!(service["service"], "web");
    event(&watching, |event| event["event"] == "reload" && event["changes"] == 1);
    site.daemon.cli(&["service", "add", "more", "192.0.2.11:80", "--check", "none"]).unwrap();
    event(&watching, |event| {
        event["event"] == "service" && event["kind"] == "added" && event["service"] == "more"
    });

    site.network.lb.run("ip link set eth0 down").unwrap();
    event(&watching, |event| {
        event["event"] == "interface" && event["interface"] == "eth0" && event["up"] == false
    });
    site.network.lb.run("ip link set eth0 up").unwrap();
    event(&watching, |event| {
        event["event"] == "interface" && event["interface"] == "eth0" && event["up"] == true
    });

    site.daemon.stop().unwrap();
    site.daemon.run().unwrap();
    event(&watching, |event| event["event"] == "lost" && event["events"].is_null());
    site.daemon.cli(&["service", "remove", "more"]).unwrap();
    event(&watching, |event| event["event"] == "service" && event["kind"] == "removed");
    assert_told_once(&events(&watching));
}

/// No event repeats the previous one about the same thing.
#[track_caller]
fn assert_told_once(events: &[Value]) {
    let said = |event: &Value| {
        let mut event = event.clone();
        for field in ["id", "time"] {
            event.as_object_mut().unwrap().remove(field);
        }
        event
    };
    let is_of = |event: &Value, other: &Value| {
        ["event", "service", "address", "interface"].into_iter().all(|field| event[field] == other[field])
    };
    for (place, event) in events.iter().enumerate().filter(|(_, event)| event["event"] != "reload") {
        let before = events[..place].iter().rfind(|before| is_of(before, event));
        assert!(
            before.is_none_or(|before| said(before) != said(event)),
            "told twice: {event} in {events:#?}"
        );
    }
}
