//! Another binary takes over from a running daemon, or the daemon continues, without losing a packet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xdp_lb_tests::servers::{Nginx, UdpEcho};
use xdp_lb_tests::{
    Daemon, Download, Network, Requests, Site, UdpStream, by_backend, other_build, paths, request, until,
    until_some, web, web_backend,
};

/// A slot no longer names whom it had before once it has moved for this time.
const SHORT: &str = "timeouts = { tcp_idle = \"5s\" }\n";

struct Bed {
    network: Network,
    daemon: Daemon,
    program: PathBuf,
    nginx: Vec<Nginx>,
    _echo: UdpEcho,
}

impl Bed {
    /// A daemon whose binary can be replaced.
    fn new(more: &str) -> Self {
        Self::in_mode("full-nat", more)
    }

    fn in_mode(mode: &str, more: &str) -> Self {
        Self::of(&paths::daemon(), "", mode, more)
    }

    /// With this build of the daemon.
    fn of(build: &Path, general: &str, mode: &str, more: &str) -> Self {
        let network = Network::new("upgrade", 2).unwrap();
        let nginx = network.backends.iter().map(|host| Nginx::start(host, 8080).unwrap()).collect();
        let echo = UdpEcho::start(&network.backends[0], 7).unwrap();
        let program = network.lb.dir().join("xdp-lb");
        fs::copy(build, &program).unwrap();
        let config = format!(
            "{general}{}[[service]]\nname = \"echo\"\nvip = \"192.0.2.10:7\"\nprotocol = \"udp\"\nbackend = [{{ address = \
             \"198.51.100.11:7\" }}]\n{more}",
            web(mode, &[1, 2])
        );
        let daemon = Daemon::start_program(program.clone(), &network.lb, &["eth0", "eth1"], &config).unwrap();
        for backend in [1, 2] {
            daemon.wait_for_state("web", &web_backend(backend), "up", Duration::from_secs(40)).unwrap();
        }
        Self { network, daemon, program, nginx, _echo: echo }
    }

    fn status(&self) -> Value {
        self.daemon.cli_json(&["status"]).unwrap()
    }

    fn pid(&self) -> i32 {
        self.status()["pid"].as_i64().unwrap() as i32
    }

    /// The ids and the tags of the programs on both interfaces.
    fn programs(&self) -> [(u64, String); 2] {
        ["eth0", "eth1"].map(|device| {
            let links = self.network.lb.run(&format!("ip -j link show dev {device}")).unwrap();
            let links: Value = serde_json::from_str(&links).unwrap();
            let program = &links[0]["xdp"]["prog"];
            (program["id"].as_u64().unwrap(), program["tag"].as_str().unwrap().to_owned())
        })
    }

    fn tags(&self) -> [String; 2] {
        self.programs().map(|(_, tag)| tag)
    }

    /// A daemon with the same state file, and nothing else in common, is refused on behalf of this one.
    fn assert_state_is_locked_by(&self, pid: i32) {
        let other = self.network.lb.dir().join("other.toml");
        let text = self.daemon.config().unwrap().replace("/api.sock", "/other.sock");
        let text = text.replace(self.daemon.pins().to_str().unwrap(), "/sys/fs/bpf/other");
        fs::write(&other, format!("metrics.listen = \"off\"\n{text}")).unwrap();
        let mut command = self.network.lb.command("timeout");
        let output = command.arg("60").arg(paths::daemon()).args(["run", "--config"]).arg(&other).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("another daemon (pid {pid}) uses the state file")), "{said}");
    }

    /// Puts a script in the place of the daemon's binary.
    fn put_script(&self, text: &str) {
        let new = self.program.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &self.program).unwrap();
    }
}

/// A script that says these lines to the daemon, notes its process id at this path, and hangs.
fn hangs(lines: &[&str], pid: &Path) -> String {
    let says: String = lines.iter().map(|line| format!("echo {line} >&0\n")).collect();
    format!("#!/bin/sh\n{says}echo $$ > {0}.new\nmv {0}.new {0}\nexec sleep 300\n", pid.display())
}

fn read_pid(path: &Path) -> Pid {
    let pid = || Ok(fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()));
    Pid::from_raw(until_some("the script to run", Duration::from_secs(30), pid).unwrap())
}

/// Traffic of all kinds, which must not notice anything.
struct Traffic {
    stream: UdpStream,
    requests: Requests,
    downloads: Vec<Download>,
}

impl Traffic {
    fn start(network: &Network) -> Self {
        let client = &network.client;
        let downloads = ["backend-1", "backend-2"]
            .map(|backend| Download::start_at(client, Site::vip(), backend).unwrap());
        Self {
            stream: UdpStream::start(client, "192.0.2.10:7".parse().unwrap()).unwrap(),
            requests: Requests::start(client, Site::vip(), 2),
            downloads: downloads.into(),
        }
    }

    fn end(self) {
        // However fast the upgrade was, a good part of the stream comes after it.
        let by_now = self.stream.sent();
        until("the stream to go on", Duration::from_secs(30), || Ok(self.stream.sent() > by_now + 250))
            .unwrap();
        let streamed = self.stream.stop().unwrap();
        assert!(streamed.lost.is_empty(), "{streamed:?}");
        for download in self.downloads {
            download.wait_for_progress().unwrap();
            download.finish().unwrap();
        }
        by_backend(&self.requests.stop()).unwrap();
    }
}

#[test]
fn another_build_takes_over_under_traffic_without_losing_a_packet() {
    let bed = Bed::new("");
    bed.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "50"]).unwrap();
    let (pid, tags) = (bed.pid(), bed.tags());
    let traffic = Traffic::start(&bed.network);
    other_build::write(&bed.program).unwrap();
    let said = bed.daemon.cli(&["upgrade"]).unwrap();
    let new = bed.pid();
    assert!(said.contains(&format!("process {pid} -> {new}")) && new != pid, "{said}");
    let status = bed.status();
    assert_eq!((&status["adopted"], &status["upgrade"]["state"]), (&true.into(), &"done".into()));
    assert!(bed.tags().iter().zip(&tags).all(|(now, before)| now != before), "the program is the old one");
    // It answers for the new one before it ends.
    until("the old daemon to end", Duration::from_secs(30), || {
        Ok(!Path::new("/proc").join(pid.to_string()).join("fd/0").exists())
    })
    .unwrap();
    assert_eq!(bed.daemon.backends(Some("web")).unwrap()[1]["weight"], 50);
    bed.assert_state_is_locked_by(new);
    traffic.end();

    // And on, from the daemon that was started by one.
    fs::copy(paths::daemon(), bed.program.with_extension("new")).unwrap();
    fs::rename(bed.program.with_extension("new"), &bed.program).unwrap();
    bed.daemon.cli(&["upgrade"]).unwrap();
    assert_eq!(bed.tags(), tags);
    request(&bed.network.client, Site::vip()).unwrap();
    kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_build_that_dies_after_taking_over_is_rolled_back_without_losing_a_packet() {
    // A backend that nobody answers for: it takes five seconds until a daemon is ready without it.
    let bed = Bed::new(
        "[[service]]\nname = \"none\"\nvip = \"192.0.2.10:9\"\nbackend = [{ address = \"198.51.100.200:9\" }]\n",
    );
    let (pid, before) = (bed.pid(), bed.programs());
    let traffic = Traffic::start(&bed.network);
    let other = bed.network.lb.dir().join("other");
    other_build::write(&other).unwrap();
    // It dies once its program is on both interfaces.
    bed.put_script(&format!(
        "#!/bin/sh\ntags() {{ ip link show; }}\nexec 3<&0\n{} \"$@\" <&3 3<&- &\nwhile ip link show | grep -q 'id {} ' || \
         ip link show | grep -q 'id {} '; do sleep 0.05; done\nsleep 0.3\nip link show > {}\nkill -9 $!\n",
        other.display(),
        before[0].0,
        before[1].0,
        bed.network.lb.dir().join("seen").display(),
    ));
    let output = bed.daemon.cli_output(&["upgrade"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not stay up") && said.contains("took everything back"), "{said}");
    let seen = fs::read_to_string(bed.network.lb.dir().join("seen")).unwrap();
    assert!(!seen.contains(&before[0].1) && seen.contains("xdp"), "the other program never ran: {seen}");
    assert_eq!((bed.pid(), bed.tags()), (pid, before.map(|(_, tag)| tag)));
    assert_eq!(bed.status()["upgrade"]["state"], "failed");
    bed.assert_state_is_locked_by(pid);
    traffic.end();

    // It goes on as if nothing had happened: changes, checks, and the next upgrade.
    bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    assert_eq!(bed.daemon.backend_state("web", &web_backend(2)).unwrap(), "draining");
    fs::rename(&other, &bed.program).unwrap();
    bed.daemon.cli(&["upgrade"]).unwrap();
    assert_ne!(bed.pid(), pid);
    assert_eq!(bed.daemon.backend_state("web", &web_backend(2)).unwrap(), "draining");
    kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
}

#[test]
fn while_a_new_build_hangs_the_old_daemon_works_and_takes_a_dead_backend_down_in_time() {
    let mut bed = Bed::new("");
    let (pid, programs) = (bed.pid(), bed.programs());
    let script = bed.network.lb.dir().join("pid");
    bed.put_script(&hangs(&["checked"], &script));
    let requests = Requests::start(&bed.network.client, Site::vip(), 2);
    std::thread::scope(|threads| {
        let upgrade = threads.spawn(|| bed.daemon.cli_output(&["upgrade"]).unwrap());
        let hung = read_pid(&script);
        assert_eq!(bed.status()["upgrade"]["state"], "under-way");
        bed.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "50"]).unwrap();
        let refused = bed.daemon.cli_output(&["upgrade"]).unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("in progress"), "{refused:?}");
        drop(bed.nginx.remove(0));
        bed.daemon.wait_for_state("web", &web_backend(1), "down", Duration::from_secs(20)).unwrap();
        requests.next_by_backend(50).unwrap();
        kill(hung, Signal::SIGKILL).unwrap();
        let output = upgrade.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
    });
    assert_eq!((bed.pid(), bed.programs()), (pid, programs), "nothing was let go of");
    assert_eq!(bed.daemon.backends(Some("web")).unwrap()[1]["weight"], 50);
}

#[test]
fn a_build_that_hangs_while_taking_over_is_rolled_back_in_time() {
    let bed = Bed::new("");
    let (pid, tags) = (bed.pid(), bed.tags());
    let script = bed.network.lb.dir().join("pid");
    bed.put_script(&hangs(&["checked", "ready"], &script));
    let traffic = Traffic::start(&bed.network);
    let began = Instant::now();
    let output = bed.daemon.cli_output(&["upgrade"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not take over") && said.contains("took everything back"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!((bed.pid(), bed.tags()), (pid, tags));
    let hung = Path::new("/proc").join(read_pid(&script).to_string());
    assert!(!hung.join("fd/0").exists(), "it was killed");
    bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    traffic.end();
}

#[test]
fn a_build_that_hangs_after_taking_over_is_rolled_back() {
    let bed = Bed::new("");
    let (pid, before) = (bed.pid(), bed.programs());
    let other = bed.network.lb.dir().join("other");
    other_build::write(&other).unwrap();
    bed.put_script(&format!(
        "#!/bin/sh\n(until {} status --socket {} --output json | grep -q has.taken.over; do sleep 0.1; done; kill -STOP $$) \
         &\nexec {} \"$@\"\n",
        paths::daemon().display(),
        bed.daemon.socket().display(),
        other.display(),
    ));
    let traffic = Traffic::start(&bed.network);
    let output = bed.daemon.cli_output(&["upgrade"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not stay up") && said.contains("took everything back"), "{said}");
    assert_eq!((bed.pid(), bed.tags()), (pid, before.map(|(_, tag)| tag)));
    bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    traffic.end();
}

#[test]
fn changes_made_while_a_slow_build_starts_are_in_effect_after_it_has_taken_over() {
    let bed = Bed::new("");
    let pid = bed.pid();
    let other = bed.network.lb.dir().join("other");
    other_build::write(&other).unwrap();
    let started = bed.network.lb.dir().join("started");
    bed.put_script(&format!(
        "#!/bin/sh\ntouch {}\nsleep 6\nexec {} \"$@\"\n",
        started.display(),
        other.display()
    ));
    let traffic = Traffic::start(&bed.network);
    std::thread::scope(|threads| {
        let upgrade = threads.spawn(|| bed.daemon.cli(&["upgrade"]));
        until("the script to run", Duration::from_secs(30), || Ok(started.exists())).unwrap();
        bed.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), "7"]).unwrap();
        bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
        assert_eq!(bed.pid(), pid);
        upgrade.join().unwrap().unwrap();
    });
    assert_ne!(bed.pid(), pid);
    let backends = bed.daemon.backends(Some("web")).unwrap();
    assert_eq!((&backends[0]["weight"], &backends[1]["state"]), (&7.into(), &"draining".into()));
    traffic.end();
    kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_build_that_cannot_take_over_is_refused_before_anything_changes() {
    let bed = Bed::new("");
    let (pid, programs) = (bed.pid(), bed.programs());
    let traffic = Traffic::start(&bed.network);
    let refused = |words: &[&str]| {
        let output = bed.daemon.cli_output(&["upgrade"]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        assert_eq!((bed.pid(), bed.programs()), (pid, programs.clone()));
        assert!(said.contains("nothing was changed"), "{said}");
    };
    bed.put_script("#!/bin/sh\nexit 0\n");
    refused(&["it exited before it reported"]);
    bed.put_script("#!/bin/sh\necho hello >&0\nsleep 5\n");
    refused(&["is it xdp-lb?"]);
    fs::write(&bed.program, "no binary").unwrap();
    refused(&["cannot start"]);
    // A binary that has no fault, and a config that has one; and tables that another layout made.
    other_build::write(&bed.program).unwrap();
    let config = bed.daemon.config().unwrap();
    fs::write(bed.daemon.config_file(), config.replace("vip", "vpi")).unwrap();
    refused(&["did you mean \"vip\""]);
    fs::write(bed.daemon.config_file(), config).unwrap();
    fs::create_dir(bed.daemon.pins().join("layout-9999")).unwrap();
    refused(&["layout-9999", "from another version"]);
    fs::remove_dir(bed.daemon.pins().join("layout-9999")).unwrap();
    traffic.end();
    bed.daemon.cli(&["upgrade"]).unwrap();
    assert_ne!(bed.pid(), pid);
    kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_build_of_another_layout_takes_over_under_traffic_and_not_one_flow_breaks() {
    let bed = Bed::new("");
    bed.daemon.cli(&["backend", "set-weight", "web", &web_backend(2), "50"]).unwrap();
    let (pid, layout) = (bed.pid(), layouts(&bed.daemon));
    let traffic = Traffic::start(&bed.network);
    traffic.requests.next_by_backend(50).unwrap();
    let carried = || bed.daemon.backends(Some("web")).unwrap()[0]["traffic"]["packets_in"].as_u64().unwrap();
    let before = carried();
    other_build::write_of_another_layout(&bed.program).unwrap();
    bed.daemon.cli(&["upgrade"]).unwrap();
    assert_ne!(bed.pid(), pid);
    wait_for_another_layout(&bed.daemon, &layout);
    assert!(carried() >= before, "{} packets, and {before} before", carried());
    assert_eq!(bed.daemon.backends(Some("web")).unwrap()[1]["weight"], 50);
    assert_eq!(bed.status()["trouble"], Value::Null);
    traffic.end();

    // A build that knows nothing of these tables is refused, and changes nothing.
    let pid = bed.pid();
    put_this(&bed.program);
    let refused = bed.daemon.cli(&["upgrade"]).unwrap_err().to_string();
    assert!(refused.contains("cannot take over from"), "{refused}");
    assert_eq!(bed.pid(), pid);
    request(&bed.network.client, Site::vip()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_restart_with_a_build_of_another_layout_keeps_the_flows_of_a_backend_that_drains_in_full_nat() {
    restart_with_another_layout("full-nat", Daemon::kill);
}

#[test]
fn a_restart_with_a_build_of_another_layout_keeps_the_flows_of_a_backend_that_drains_in_nat() {
    restart_with_another_layout("nat", Daemon::stop);
}

fn restart_with_another_layout(mode: &str, end: fn(&mut Daemon) -> anyhow::Result<()>) {
    let bed = Bed::of(&paths::daemon(), SHORT, mode, "");
    restart(bed, |program| other_build::write_of_another_layout(program).unwrap(), end);
}

/// Waits until the tables of this layout are gone, and others alone are there.
fn wait_for_another_layout(daemon: &Daemon, layout: &[String]) {
    until("the earlier tables to go", Duration::from_secs(20), || {
        let present = layouts(daemon);
        Ok(present.len() == 1 && present != layout)
    })
    .unwrap();
}

/// The daemon of an earlier release.
fn earlier() -> PathBuf {
    PathBuf::from(
        std::env::var_os("XDP_LB_EARLIER").expect("XDP_LB_EARLIER names a daemon of an earlier release"),
    )
}

/// What [`Daemon::start`] would write, in the words of earlier releases.
const NATIVE: &str = "xdp_mode = \"native\"\n";

/// Puts this release's daemon to this path.
fn put_this(program: &Path) {
    let new = program.with_extension("new");
    fs::copy(paths::daemon(), &new).unwrap();
    fs::rename(&new, program).unwrap();
}

#[test]
#[ignore = "needs the daemon of an earlier release, whose path is in XDP_LB_EARLIER"]
fn a_restart_of_an_earlier_release_with_this_one_keeps_the_flows_of_a_backend_that_drains() {
    for mode in ["full-nat", "nat"] {
        restart(Bed::of(&earlier(), &format!("{NATIVE}{SHORT}"), mode, ""), put_this, Daemon::stop);
    }
}

#[test]
#[ignore = "needs the daemon of an earlier release, whose path is in XDP_LB_EARLIER"]
fn this_release_takes_over_from_an_earlier_one_under_traffic_and_not_one_flow_breaks() {
    for mode in ["full-nat", "nat"] {
        let bed = Bed::of(&earlier(), NATIVE, mode, "");
        let (pid, layout) = (bed.pid(), layouts(&bed.daemon));
        let traffic = Traffic::start(&bed.network);
        bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
        traffic.requests.next_by_backend(50).unwrap();
        put_this(&bed.program);
        bed.daemon.cli(&["upgrade"]).unwrap();
        assert_ne!(bed.pid(), pid);
        wait_for_another_layout(&bed.daemon, &layout);
        traffic.end();
        kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
    }
}

fn restart(mut bed: Bed, put_build: impl Fn(&Path), end: fn(&mut Daemon) -> anyhow::Result<()>) {
    let layout = layouts(&bed.daemon);
    let traffic = Traffic::start(&bed.network);
    bed.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    // Its flows are known by their records alone once its slots no longer name it.
    until("its slots to forget it", Duration::from_secs(40), || {
        let shown = bed.daemon.cli_json(&["service", "show", "web"])?;
        let moving = &shown["service"]["moving"];
        Ok(moving["moving_slots"] == 0 && moving["recorded_slots"].as_u64().is_some_and(|slots| slots > 0))
    })
    .unwrap();
    traffic.requests.next_by_backend(50).unwrap();
    traffic.downloads.iter().for_each(|download| download.wait_for_progress().unwrap());
    put_build(&bed.program);
    end(&mut bed.daemon).unwrap();
    traffic.requests.next_by_backend(50).unwrap();
    bed.daemon.run().unwrap();
    let present = layouts(&bed.daemon);
    assert!(present.len() == 1 && present != layout, "{present:?}, and {layout:?} before");
    let answers = traffic.requests.next_by_backend(50).unwrap();
    assert!(!answers.contains_key("backend-2"), "{answers:?}");
    let backends = bed.daemon.backends(Some("web")).unwrap();
    assert_eq!(backends[1]["state"], "draining");
    traffic.end();
}

#[test]
fn a_build_of_another_layout_that_takes_over_and_dies_is_undone_and_the_next_one_takes_over() {
    let bed = Bed::new("");
    let (pid, before, layout) = (bed.pid(), bed.programs(), layouts(&bed.daemon));
    let stream = UdpStream::start(&bed.network.client, "192.0.2.10:7".parse().unwrap()).unwrap();
    let download = Download::start_at(&bed.network.client, Site::vip(), "backend-2").unwrap();
    let other = bed.network.lb.dir().join("other");
    other_build::write_of_another_layout(&other).unwrap();
    bed.put_script(&format!(
        "#!/bin/sh\nexec 3<&0\n{} \"$@\" <&3 3<&- &\nwhile ip link show | grep -q 'id {} ' || ip link show | grep -q 'id {} '; do \
         sleep 0.05; done\nsleep 0.3\nkill -9 $!\n",
        other.display(),
        before[0].0,
        before[1].0,
    ));
    let output = bed.daemon.cli_output(&["upgrade"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("did not stay up") && said.contains("took everything back"), "{said}");
    assert_eq!(bed.pid(), pid);
    let (tags, tags_before) = (bed.tags(), before.map(|(_, tag)| tag));
    assert_eq!(tags, tags_before);

    fs::rename(&other, &bed.program).unwrap();
    bed.daemon.cli(&["upgrade"]).unwrap();
    assert_ne!(bed.pid(), pid);
    wait_for_another_layout(&bed.daemon, &layout);
    let streamed = stream.stop().unwrap();
    assert!(streamed.lost.is_empty(), "{streamed:?}");
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    kill(Pid::from_raw(bed.pid()), Signal::SIGKILL).unwrap();
}

#[test]
fn where_a_build_of_another_layout_is_killed_with_the_daemon_before_it_the_next_one_goes_on() {
    let mut bed = Bed::new("");
    let (pid, before, layout) = (bed.pid(), bed.programs(), layouts(&bed.daemon));
    let traffic = Traffic::start(&bed.network);
    let other = bed.network.lb.dir().join("other");
    other_build::write_of_another_layout(&other).unwrap();
    bed.put_script(&format!(
        "#!/bin/sh\nexec 3<&0\n{} \"$@\" <&3 3<&- &\nwhile ip link show | grep -q 'id {} ' || ip link show | grep -q 'id {} '; do \
         sleep 0.05; done\nsleep 0.3\nkill -9 {pid} $!\n",
        other.display(),
        before[0].0,
        before[1].0,
    ));
    assert!(!bed.daemon.cli_output(&["upgrade", "--timeout", "10s"]).unwrap().status.success());
    let present = layouts(&bed.daemon);
    assert!(present.len() == 2 && present.contains(&layout[0]), "{present:?}, and {layout:?} before");
    let _ = bed.daemon.kill();
    // Flows that begin now are known by the later tables alone.
    let download = Download::start_at(&bed.network.client, Site::vip(), "backend-1").unwrap();
    fs::rename(&other, &bed.program).unwrap();
    bed.daemon.run().unwrap();
    let present = layouts(&bed.daemon);
    assert!(present.len() == 1 && present != layout, "{present:?}, and {layout:?} before");
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    traffic.end();
}

/// The folders of pins.
fn layouts(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(daemon.pins()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
