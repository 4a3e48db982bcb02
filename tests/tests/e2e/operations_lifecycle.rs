//! Starts that fail, the end of forwarding, and daemons beside each other.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::xdp_pass::XdpPass;
use xdp_lb_tests::{Daemon, Host, Network, Site, paths, request, until, web, web_backend};

/// Whether an XDP program is attached to a device.
fn has_program(host: &Host, device: &str) -> bool {
    let links: Value =
        serde_json::from_str(&host.run(&format!("ip -j link show dev {device}")).unwrap()).unwrap();
    links[0].get("xdp").is_some()
}

fn assert_unloaded(host: &Host, pins: &Path) {
    for device in ["eth0", "eth1"] {
        assert!(!has_program(host, device), "{device} still has an XDP program");
    }
    assert!(!pins.exists(), "{} is still there", pins.display());
}

#[test]
fn unload_ends_the_daemon_detaches_the_program_and_removes_the_pins() {
    let mut site = Site::start("unload", 1, &web("full-nat", &[1])).unwrap();
    let (host, pins) = (site.network.lb.clone(), site.daemon.pins().to_owned());
    assert!(has_program(&host, "eth0") && has_program(&host, "eth1") && pins.exists());
    request(&site.network.client, Site::vip()).unwrap();
    let said = site.daemon.cli(&["unload"]).unwrap();
    assert!(said.contains("eth0") && said.contains("eth1"), "{said}");
    assert_unloaded(&host, &pins);
    assert!(request(&site.network.client, Site::vip()).is_err());
    until("the daemon to end", Duration::from_secs(30), || Ok(!site.daemon.socket().exists())).unwrap();

    // From nothing again.
    site.daemon.run().unwrap();
    assert_eq!(site.daemon.cli_json(&["status"]).unwrap()["adopted"], false);
    site.wait_for(1, "up").unwrap();
    request(&site.network.client, Site::vip()).unwrap();
}

#[test]
fn unload_without_a_daemon_does_the_same() {
    let mut site = Site::start("unload", 1, &web("full-nat", &[1])).unwrap();
    let (host, pins) = (site.network.lb.clone(), site.daemon.pins().to_owned());
    site.daemon.kill().unwrap();
    request(&site.network.client, Site::vip()).unwrap();
    let by_config = |arguments: &[&str]| {
        let config = site.daemon.config_file();
        let mut command = host.command(paths::daemon());
        command.args(arguments).arg("--config").arg(config).output().unwrap()
    };
    let output = by_config(&["unload"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains("no daemon is running") && said.contains("eth0") && said.contains("eth1"),
        "{said}"
    );
    assert_unloaded(&host, &pins);
    let output = by_config(&["unload"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("nothing is pinned"),
        "twice is not an error: {output:?}"
    );
}

#[test]
fn two_daemons_in_two_namespaces_do_not_disturb_each_other() {
    let mut one = Site::start("one", 2, &web("full-nat", &[1, 2])).unwrap();
    let two = Site::start("two", 1, &web("nat", &[1])).unwrap();
    let (ones, twos) = (one.requests(1), two.requests(1));
    assert_eq!(ones.next_by_backend(40).unwrap().len(), 2);
    assert_eq!(twos.next_by_backend(20).unwrap().len(), 1);
    one.daemon.cli(&["backend", "drain", "web", &web_backend(1)]).unwrap();
    assert_eq!(ones.next_by_backend(20).unwrap().into_keys().collect::<Vec<_>>(), ["backend-2"]);
    one.daemon.kill().unwrap();
    one.daemon.run().unwrap();
    ones.next_by_backend(20).unwrap();
    one.daemon.cli(&["unload"]).unwrap();
    drop(ones);
    twos.next_by_backend(20).unwrap();
    assert_eq!(two.daemon.backend_state("web", &web_backend(1)).unwrap(), "up");
    xdp_lb_tests::by_backend(&twos.stop()).unwrap();
}

/// Runs the daemon with this config file until it ends by itself.
fn run(host: &Host, config: &Path) -> Output {
    let mut command = host.command(paths::daemon());
    command.arg("run").arg("--config").arg(config);
    output(command)
}

/// Runs a command that is expected to end soon.
fn output(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = nix::unistd::Pid::from_raw(child.id() as i32);
    let waiting = std::thread::spawn(move || child.wait_with_output().unwrap());
    let began = Instant::now();
    while !waiting.is_finished() {
        if began.elapsed() > Duration::from_secs(60) {
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).unwrap();
            panic!("it runs, and should have refused to: {:?}", waiting.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    waiting.join().unwrap()
}

/// Asserts that a start was refused with exit code 1 and says all of this on stderr.
fn assert_refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_second_daemon_with_the_same_socket_state_file_or_pins_is_refused_and_the_first_continues() {
    let site = Site::start("twice", 1, &web("full-nat", &[1])).unwrap();
    let requests = site.requests(1);
    let config = site.daemon.config().unwrap();
    let pid = site.daemon.cli_json(&["status"]).unwrap()["pid"].clone();

    let refused = |differs: &[(&str, &str)], parts: &[&str]| {
        let other = site.network.lb.dir().join("other.toml");
        let text = differs.iter().fold(config.clone(), |text, (from, to)| text.replace(from, to));
        fs::write(&other, format!("metrics.listen = \"off\"\n{text}")).unwrap();
        assert_refused(&run(&site.network.lb, &other), parts);
    };
    let first = format!("another daemon (pid {pid})");
    let pins = site.daemon.pins().display().to_string();
    let (socket, state, pin) =
        (("/api.sock", "/other.sock"), ("state.json", "other.json"), (&*pins, "/sys/fs/bpf/other"));
    refused(&[state, pin], &["api.sock", &first]);
    refused(&[socket, pin], &["state.json", &first, "use another state_file"]);
    refused(&[socket, state], &[&pins, "another"]);

    assert_eq!(site.daemon.cli_json(&["status"]).unwrap()["pid"], pid);
    requests.next_by_backend(20).unwrap();
    xdp_lb_tests::by_backend(&requests.stop()).unwrap();
}

/// A load balancer that was never started.
struct Fresh {
    network: Network,
    pins: PathBuf,
}

impl Fresh {
    fn new() -> Self {
        let network = Network::new("start", 1).unwrap();
        let pins = PathBuf::from(format!("/sys/fs/bpf/{}", network.lab.name()));
        Self { network, pins }
    }

    /// Writes a config file with these replacements made in one that is good.
    fn config(&self, replacements: &[(&str, &str)]) -> PathBuf {
        let dir = self.network.lb.dir();
        let mut text = format!(
            "interfaces = [\"eth0\", \"eth1\"]\nstate_file = {:?}\npin_path = {:?}\napi.socket = {:?}\n{}",
            dir.join("state.json"),
            self.pins,
            dir.join("api.sock"),
            web("full-nat", &[1])
        );
        for (from, to) in replacements {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text = text.replacen(from, to, 1);
        }
        let file = dir.join("xdp-lb.toml");
        fs::write(&file, text).unwrap();
        file
    }

    fn assert_refused(&self, config: &Path, parts: &[&str]) {
        assert_refused(&run(&self.network.lb, config), parts);
        self.assert_untouched();
    }

    fn assert_untouched(&self) {
        assert!(!has_program(&self.network.lb, "eth0"), "eth0 has an XDP program");
        assert!(!self.pins.exists(), "pins are left: {:?}", fs::read_dir(&self.pins).map(Iterator::count));
    }
}

#[test]
fn a_fifo_in_place_of_the_config_or_the_state_file_is_refused_at_once_and_changes_nothing() {
    let mut site = Site::start("fifo", 1, &web("full-nat", &[1])).unwrap();
    let (config, state) = (site.daemon.config_file(), site.daemon.host().dir().join("state.json"));
    let fifo = |path: &Path| {
        let _ = fs::remove_file(path);
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    let good = site.daemon.config().unwrap();
    fifo(&config);
    let began = Instant::now();
    let said = site.daemon.cli(&["reload"]).unwrap_err().to_string();
    assert!(said.contains("it is not a regular file"), "{said}");
    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), "50"]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    site.daemon.kill().unwrap();
    assert_refused(&run(&site.network.lb, &config), &["xdp-lb.toml", "it is not a regular file"]);
    fs::remove_file(&config).unwrap();
    fs::write(&config, good).unwrap();
    fifo(&state);
    assert_refused(&run(&site.network.lb, &config), &["state.json", "it is not a regular file"]);
}

#[test]
fn if_no_interface_exists_all_are_named_and_nothing_stays_attached() {
    let fresh = Fresh::new();
    let config = fresh.config(&[("\"eth0\", \"eth1\"", "\"nope0\", \"nope1\"")]);
    fresh.assert_refused(&config, &["none of the configured interfaces exists", "nope0, nope1"]);
}

#[test]
fn one_of_several_interfaces_may_be_missing_at_the_start_and_appear_later() {
    let network = Network::new("late", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1", "late0"], &web("full-nat", &[1])).unwrap();
    daemon.wait_until_up().unwrap();
    request(&network.client, Site::vip()).unwrap();
    let status = daemon.cli_json(&["status"]).unwrap();
    assert!(status["trouble"].as_str().unwrap().contains("interface late0 does not exist"), "{status}");
    assert_eq!(daemon.cli_output(&["status"]).unwrap().status.code(), Some(3));
    network.lb.run("ip link add late0 type veth peer name late1").unwrap();
    until("the program to be there", Duration::from_secs(40), || Ok(has_program(&network.lb, "late0")))
        .unwrap();
    until("no trouble", Duration::from_secs(40), || Ok(daemon.cli_json(&["status"])?["trouble"].is_null()))
        .unwrap();
}

#[test]
fn a_restart_that_fails_leaves_forwarding_as_it_was() {
    let mut site = Site::start("start", 2, &web("full-nat", &[1, 2])).unwrap();
    let requests = site.requests(1);
    site.daemon.kill().unwrap();
    let good = site.daemon.config().unwrap();
    let state_file = site.daemon.host().dir().join("state.json");
    let refused_and_forwarding = |part: &str| {
        assert_refused(&run(&site.network.lb, &site.daemon.config_file()), &[part]);
        assert!(has_program(&site.network.lb, "eth0") && has_program(&site.network.lb, "eth1"));
        assert_eq!(requests.next_by_backend(30).unwrap().len(), 2);
    };
    fs::write(&state_file, r#"{"version": 99}"#).unwrap();
    refused_and_forwarding("version 99");
    fs::remove_file(&state_file).unwrap();
    fs::write(site.daemon.config_file(), good.replace("vip =", "vpi =")).unwrap();
    refused_and_forwarding("did you mean \"vip\"");
    fs::write(site.daemon.config_file(), good).unwrap();
    site.daemon.run().unwrap();
    assert_eq!(site.daemon.cli_json(&["status"]).unwrap()["adopted"], true);
    xdp_lb_tests::by_backend(&requests.stop()).unwrap();
}

#[test]
fn another_xdp_program_is_left_alone_and_reported_with_a_fix() {
    let fresh = Fresh::new();
    let other = XdpPass::attach(&fresh.network.lb, "eth1").unwrap();
    fresh.assert_refused(&fresh.config(&[]), &["another XDP program", "is attached to eth1", "ip link"]);
    assert!(has_program(&fresh.network.lb, "eth1"), "the other program was detached");
    drop(other);
}

#[test]
fn a_pin_path_outside_of_a_bpffs_is_refused() {
    let fresh = Fresh::new();
    let wrong = fresh.network.lb.dir().join("pins");
    let config = fresh.config(&[(fresh.pins.to_str().unwrap(), wrong.to_str().unwrap())]);
    fresh.assert_refused(&config, &["is not on a BPF file system", "mount -t bpf"]);
    assert!(!wrong.exists(), "{} was made and left", wrong.display());
}

#[test]
fn a_metrics_port_in_use_is_reported_and_everything_else_works() {
    let network = Network::new("metrics", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    let address: SocketAddr = "127.0.0.1:9799".parse().unwrap();
    let taken = network.lb.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &web("full-nat", &[1])).unwrap();
    daemon.wait_until_up().unwrap();
    request(&network.client, Site::vip()).unwrap();
    let kinds = || -> anyhow::Result<Vec<Value>> {
        let status = daemon.cli_json(&["status"])?;
        Ok(status["troubles"].as_array().unwrap().iter().map(|trouble| trouble["kind"].clone()).collect())
    };
    until("the trouble to be told", Duration::from_secs(40), || Ok(kinds()? == ["metrics"])).unwrap();
    let trouble = daemon.cli_json(&["status"]).unwrap()["trouble"].clone();
    for part in ["127.0.0.1:9799", "metrics.listen", "in use"] {
        assert!(trouble.as_str().unwrap().contains(part), "{part:?} is not in {trouble}");
    }
    drop(taken);
    until("the metrics", Duration::from_secs(40), || Ok(daemon.metric("xdp_lb_tables_in_sync", &[]).is_ok()))
        .unwrap();
    until("no trouble", Duration::from_secs(40), || Ok(kinds()?.is_empty())).unwrap();
}

#[test]
fn a_config_file_that_is_missing_or_wrong_is_refused_before_anything_is_touched() {
    let fresh = Fresh::new();
    let missing = fresh.network.lb.dir().join("missing.toml");
    fresh.assert_refused(&missing, &["missing.toml", "No such file"]);
    fresh.assert_refused(
        &fresh.config(&[("vip =", "vpi =")]),
        &["xdp-lb.toml:8: ", "vpi", "did you mean \"vip\""],
    );
}

#[test]
fn a_driver_without_native_xdp_is_refused_if_xdp_is_named_and_otherwise_reported() {
    let fresh = Fresh::new();
    // A bridge has no native XDP.
    fresh.network.lb.run("ip link add bridge0 type bridge").unwrap();
    fresh.network.lb.run("ip link set bridge0 up").unwrap();
    let native = [("\"eth1\"", "\"bridge0\""), ("state_file", "xdp_mode = \"native\"\nstate_file")];
    fresh.assert_refused(&fresh.config(&native), &["bridge0", "native"]);

    let auto = format!("attach = \"auto\"\n{}", web("full-nat", &[1]));
    let daemon = Daemon::start(&fresh.network.lb, &["eth0", "bridge0"], &auto).unwrap();
    let status = daemon.cli_json(&["status"]).unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    let mode = |name| &interfaces.iter().find(|it| it["name"] == name).unwrap()["mode"];
    assert_eq!((mode("eth0"), mode("bridge0")), (&"tc".into(), &"tc".into()));
    for interface in interfaces {
        let note = interface["note"].as_str().unwrap_or_default();
        assert!(note.contains(if interface["name"] == "eth0" { "veth" } else { "native" }), "{interface}");
    }
}

#[test]
fn a_damaged_state_file_is_set_aside_and_reported_and_the_daemon_continues() {
    let mut site = Site::start("state", 2, &web("full-nat", &[1, 2])).unwrap();
    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "7"]).unwrap();
    site.daemon.kill().unwrap();
    let dir = site.network.lb.dir();
    let text = fs::read_to_string(dir.join("state.json")).unwrap();
    let damaged = &text[..text.len() / 2];
    fs::write(dir.join("state.json"), damaged).unwrap();
    site.daemon.run().unwrap();
    let aside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("state.json.corrupt-");
    let aside: Vec<_> = fs::read_dir(&dir).unwrap().flatten().filter(aside).collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read_to_string(aside[0].path()).unwrap(), damaged);
    let log = site.daemon.log();
    assert!(log.contains(aside[0].file_name().to_str().unwrap()), "{log}");
    assert_eq!(site.daemon.cli_json(&["backend", "list"]).unwrap()[1]["weight"], 100, "as the file has it");
    request(&site.network.client, Site::vip()).unwrap();
}

#[test]
fn an_edited_state_file_is_set_aside_unless_its_checksum_was_removed() {
    let mut site = Site::start("state", 2, &web("full-nat", &[1, 2])).unwrap();
    site.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "7"]).unwrap();
    site.daemon.kill().unwrap();
    let state = site.network.lb.dir().join("state.json");
    let changed = fs::read_to_string(&state).unwrap().replace("\"weight\": 7", "\"weight\": 9");
    let weight = |daemon: &Daemon| daemon.cli_json(&["backend", "list"]).unwrap()[1]["weight"].clone();
    fs::write(&state, &changed).unwrap();
    site.daemon.run().unwrap();
    assert_eq!(weight(&site.daemon), 100, "as the file has it");
    assert!(site.daemon.log().contains("remove its line \"checksum\""), "{}", site.daemon.log());
    site.daemon.kill().unwrap();
    let unsealed: String = changed
        .lines()
        .filter(|line| !line.contains("\"checksum\""))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&state, unsealed).unwrap();
    site.daemon.run().unwrap();
    assert_eq!(weight(&site.daemon), 9);
}

#[test]
fn a_change_that_cannot_be_saved_is_refused() {
    let site = Site::start("state", 2, &web("full-nat", &[1, 2])).unwrap();
    // A folder in its place cannot be replaced by a file.
    let state = site.network.lb.dir().join("state.json");
    fs::create_dir(&state).unwrap();
    let output = site.daemon.cli_output(&["backend", "set-weight", "web", &web_backend(2), "7"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("state.json") && said.contains("nothing was changed"), "{said}");
    assert_eq!(site.daemon.cli_json(&["backend", "list"]).unwrap()[1]["weight"], 100);
}

#[test]
fn without_root_the_daemon_and_the_cli_say_that_they_need_it() {
    let fresh = Fresh::new();
    // A place that everybody may read, wherever the workspace lies.
    let dir = std::env::temp_dir().join(fresh.network.lab.name());
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join("xdp-lb");
    fs::copy(paths::daemon(), &program).unwrap();
    let config = dir.join("xdp-lb.toml");
    let text = fs::read_to_string(fresh.config(&[])).unwrap();
    // It may write its own folder.
    let own = dir.join("nobody");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(65_534), Some(65_534)).unwrap();
    let lab = fresh.network.lb.dir();
    fs::write(&config, text.replace(lab.to_str().unwrap(), own.to_str().unwrap())).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = fresh.network.lb.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(arguments);
        output(command)
    };
    assert_refused(&as_nobody(&["run", "--config", config.to_str().unwrap()]), &["root"]);
    fresh.assert_untouched();

    let _nginx = Nginx::start(&fresh.network.backends[0], 8080).unwrap();
    let daemon = Daemon::start(&fresh.network.lb, &["eth0", "eth1"], &web("full-nat", &[1])).unwrap();
    // The socket refuses by its own mode, not by that of a folder above it.
    let mode = std::os::unix::fs::PermissionsExt::mode(&daemon.socket().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let status = as_nobody(&["status", "--socket", daemon.socket().to_str().unwrap()]);
    assert_refused(&status, &["permission", "root"]);
    fs::remove_dir_all(&dir).unwrap();
}
