//! The daemon's log: for people, as JSON, and in systemd's journal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::{Process, Site, paths, until, until_some, web, web_backend};

const LONG: Duration = Duration::from_secs(40);
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The daemon of a site, started again with a log of this format.
fn start_again(site: &mut Site, format: &str) -> Process {
    site.daemon.stop().unwrap();
    let mut command = site.network.lb.command(paths::daemon());
    command.args(["run", "--log-format", format, "--config"]).arg(site.daemon.config_file());
    let process = site.network.lb.spawn_command(format, command).unwrap();
    until("the daemon to answer", LONG, || Ok(site.daemon.cli(&["status"]).is_ok())).unwrap();
    process
}

/// Has the first backend go down and come back.
fn fail(site: &mut Site) {
    site.nginx[0].stop();
    site.wait_for(1, "down").unwrap();
    site.nginx[0].restart().unwrap();
    site.wait_for(1, "up").unwrap();
}

#[test]
fn the_log_is_for_people_or_json_with_what_events_are_of_as_fields() {
    let mut site = Site::start("log", 1, &web("full-nat", &[1])).unwrap();
    let text = until_some("the daemon to be ready", LONG, || {
        let log = site.daemon.log();
        Ok(log.contains("ready; made new tables").then_some(log))
    })
    .unwrap();
    let banner = text.lines().next().unwrap();
    for part in ["xdp-lb 0.", "(commit ", " on Linux ", "services 1, backends 1, interfaces eth0, eth1"] {
        assert!(banner.contains(part), "{part:?} in {banner}");
    }
    let up = text.lines().find(|line| line.contains("-> up: ")).unwrap();
    assert!(!up.contains("service=") && !up.ends_with(' '), "said once: {up:?}");

    let json = start_again(&mut site, "json");
    fail(&mut site);
    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), "50"]).unwrap();
    let log = json.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(lines.iter().any(|line| {
        line["message"].as_str().is_some_and(|it| it.starts_with("ready; took over the tables and flows"))
    }));
    let down = lines.iter().find(|line| line["event"] == "backend" && line["state"] == "down").unwrap();
    assert_eq!((&down["service"], &down["backend"]), (&"web".into(), &web_backend(1).into()), "{down}");
    assert_eq!((&down["before"], &down["level"]), (&"up".into(), &"INFO".into()), "{down}");
    assert!(down["reason"].as_str().unwrap().contains("health check"), "{down}");
    assert!(down["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{down}");
    let audit = lines.iter().find(|line| line["caller"].is_string()).unwrap();
    assert!(audit["request"].as_str().unwrap().starts_with("PATCH /v1/services/web/backends/"), "{audit}");
    assert_eq!(audit["status"], 200, "{audit}");
}

/// The fields of an entry in the journal's own protocol: `NAME=VALUE`, or `NAME`, the length in 8 bytes and the value; a line
/// end after each.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let line = &entry[..end];
        entry = &entry[end + 1..];
        if let Some(place) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..place]), text(&line[place + 1..]));
            continue;
        }
        let (length, rest) = entry.split_first_chunk::<8>().expect("a length");
        let length = u64::from_le_bytes(*length) as usize;
        fields.insert(text(line), text(&rest[..length]));
        entry = rest.get(length + 1..).unwrap_or_default();
    }
    fields
}

#[test]
fn systemds_journal_gets_each_field_of_an_event() {
    let mut site = Site::start("journal", 1, &web("full-nat", &[1])).unwrap();
    // Where journald listens. The sandbox has a /run of its own, without one.
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind(JOURNAL).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let _daemon = start_again(&mut site, "journald");
    fail(&mut site);
    let began = Instant::now();
    let entry = loop {
        assert!(began.elapsed() < LONG, "no entry says that the backend is down");
        let mut entry = vec![0; 65536];
        let Ok(length) = journal.recv(&mut entry) else { continue };
        let entry = fields(&entry[..length]);
        if entry.get("XDP_LB_STATE").is_some_and(|state| state == "down") {
            break entry;
        }
    };
    let of = |name: &str| entry.get(name).map_or("", String::as_str);
    assert_eq!((of("XDP_LB_SERVICE"), of("XDP_LB_BACKEND")), ("web", web_backend(1).as_str()), "{entry:?}");
    assert_eq!((of("XDP_LB_BEFORE"), of("SYSLOG_IDENTIFIER")), ("up", "xdp-lb"), "{entry:?}");
    assert!(
        of("XDP_LB_REASON").contains("health check") && of("MESSAGE").contains("up -> down"),
        "{entry:?}"
    );
    fs::remove_file(JOURNAL).unwrap();
}
