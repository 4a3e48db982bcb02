//! The daemon has the capabilities that it needs, and no more.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xdp_lb_tests::servers::Nginx;
use xdp_lb_tests::{Network, Site, output, paths, request, until, web, web_backend};

/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON and CAP_BPF, by their numbers in linux/capability.h.
const NEEDED: &str = "000000c000003000";

/// A line of a task's status (proc_pid_status(5)).
fn line(status: &Path, key: &str) -> String {
    let text = fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
    line.unwrap_or_else(|| panic!("{} has no {key}", status.display())).trim().to_owned()
}

/// Asserts that no thread of the process has more than it needs, or can gain more.
fn assert_confined(process: u64) {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten().collect();
    assert!(tasks.len() > 1, "the daemon has threads");
    for task in tasks {
        let status = task.path().join("status");
        for key in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(line(&status, key), NEEDED, "{key} of {}", status.display());
        }
        assert_eq!(line(&status, "NoNewPrivs"), "1");
    }
}

#[test]
fn a_daemon_of_root_keeps_four_capabilities_and_can_still_attach_and_change() {
    let site =
        Site::start("privilege", 2, &format!("vips.interface = \"lo\"\n{}", web("full-nat", &[1]))).unwrap();
    assert_confined(site.daemon.cli_json(&["status"]).unwrap()["pid"].as_u64().unwrap());
    request(&site.network.client, Site::vip()).unwrap();
    // An interface that comes later, a backend, and a VIP.
    let lb = &site.network.lb;
    lb.run("ip link add late type veth peer name other").unwrap();
    lb.run("ip link set late up").unwrap();
    let config = site.daemon.config().unwrap().replace("\"eth1\"]", "\"eth1\", \"late\"]");
    let more = "[[service]]\nname = \"more\"\nvip = \"203.0.113.10:80\"\n";
    fs::write(site.daemon.config_file(), format!("{config}\n{more}")).unwrap();
    site.daemon.cli(&["reload"]).unwrap();
    site.daemon.cli(&["backend", "add", "web", &web_backend(2)]).unwrap();
    site.wait_for(2, "up").unwrap();
    until("the VIP", Duration::from_secs(30), || {
        Ok(lb.run("ip address show dev lo")?.contains("203.0.113.10/32"))
    })
    .unwrap();
    until("the program on it", Duration::from_secs(30), || {
        Ok(lb.run("ip link show dev late")?.contains("xdp"))
    })
    .unwrap();
}

/// As a service manager starts it: a user of its own, with `AmbientCapabilities=`.
#[test]
fn a_daemon_of_an_ordinary_user_with_those_capabilities_works() {
    const NOBODY: u32 = 65_534;
    let network = Network::new("privilege", 1).unwrap();
    let _nginx = Nginx::start(&network.backends[0], 8080).unwrap();
    // What a service manager would provide: folders of its own, and the binary where it may be read.
    let dir = std::env::temp_dir().join(network.lab.name());
    fs::create_dir_all(&dir).unwrap();
    let pins = format!("/sys/fs/bpf/{}-lb", network.lab.name());
    for folder in [dir.as_path(), Path::new(&pins)] {
        fs::create_dir_all(folder).unwrap();
        chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let program = dir.join("xdp-lb");
    fs::copy(paths::daemon(), &program).unwrap();
    let socket = dir.join("api.sock");
    let config = dir.join("config.toml");
    let text = format!(
        "interfaces = [\"eth0\", \"eth1\"]\npin_path = {pins:?}\nstate_file = {:?}\napi.socket = {socket:?}\n{}",
        dir.join("state.json"),
        web("full-nat", &[1])
    );
    fs::write(&config, text).unwrap();
    let mut command = network.lb.command("setpriv");
    let capabilities = "-all,+cap_12,+cap_13,+cap_38,+cap_39";
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([
        "--inh-caps",
        capabilities,
        "--ambient-caps",
        capabilities,
        "--bounding-set",
        capabilities,
    ]);
    command.arg("--no-new-privs").arg(&program).args(["run", "--config"]).arg(&config);
    let process = network.lb.spawn_command("xdp-lb", command).unwrap();
    let cli = |arguments: &[&str]| {
        let mut command = network.lb.command(&program);
        command.args(arguments).arg("--socket").arg(&socket).output().unwrap()
    };
    until("the backend to be up", Duration::from_secs(60), || {
        Ok(String::from_utf8_lossy(&cli(&["backend", "list"]).stdout).contains(" up "))
    })
    .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
    request(&network.client, Site::vip()).unwrap();
    assert_confined(process.id().into());
    let unloaded = cli(&["unload"]);
    assert!(unloaded.status.success(), "{unloaded:?}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_systemd_unit_has_a_good_security_score() {
    if paths::program("systemd-analyze").is_none() {
        println!("there is no systemd-analyze: the unit is not examined");
        return;
    }
    let unit = paths::workspace().join("examples/xdp-lb.service");
    let mut command = Command::new("systemd-analyze");
    // In tenths: 3 at most; what is above 5 is called medium (systemd-analyze(1)).
    command.args(["security", "--offline=true", "--no-pager", "--threshold=30"]).arg(unit);
    let said = output(&mut command).unwrap();
    println!("{}", said.lines().last().unwrap_or_default());
}
