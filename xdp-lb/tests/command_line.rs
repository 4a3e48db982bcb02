//! The binary as a shell sees it: exit codes, and which stream says what.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

fn xdp_lb(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xdp-lb"));
    command.args(arguments).env_remove("XDP_LB_SOCKET").env_remove("XDP_LB_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = xdp_lb(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

const CONFIG: &str = "interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\n";

#[test]
fn without_a_daemon_every_command_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let words = format!(
        "error: no daemon answers on {}: start it with \"xdp-lb run --config FILE\", or name its socket with \
         --socket\n",
        socket.display()
    );
    for command in
        ["status", "counters", "reload", "service list", "backend list", "backend drain a 192.0.2.1:1 --wait"]
    {
        let mut line: Vec<_> = command.split(' ').collect();
        line.extend(["--socket", socket.to_str().unwrap()]);
        assert_eq!(run(&line), (1, String::new(), words.clone()), "{command}");
    }
    let named = xdp_lb(&["status"]).env("XDP_LB_SOCKET", &socket).output().unwrap();
    assert_eq!(String::from_utf8(named.stderr).unwrap(), words, "by the environment");
}

#[test]
fn usage_errors_end_with_2_and_say_so_on_stderr() {
    for line in [
        &["statsu"][..],
        &["backend", "add", "web", "192.0.2.1"],
        &["service", "add", "a", "192.0.2.1:80", "--check", "x"],
    ] {
        let (code, stdout, stderr) = run(line);
        assert_eq!((code, stdout.as_str()), (2, ""), "{line:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn a_config_is_checked_without_a_daemon() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(CONFIG.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let path = path.as_str();
    assert_eq!(
        run(&["check", path]),
        (0, format!("{path} is valid: 1 service, 0 backends\n"), String::new())
    );
    file.write_all(b"weigth = 3\nvpi = 4\n").unwrap();
    let (code, stdout, stderr) = run(&["check", path]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with(&format!("{path}:"))), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(CONFIG.as_bytes()).unwrap();
    for line in [&["check", file.path().to_str().unwrap()][..], &["--help"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = xdp_lb(line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(CONFIG.as_bytes()).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = xdp_lb(&["check", file.path().to_str().unwrap()]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: cannot write to stdout: "));
}

#[test]
fn a_wrong_log_filter_is_refused_in_words() {
    let output = xdp_lb(&["run", "--config", "/nowhere"]).env("XDP_LB_LOG", "a=b=c").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: XDP_LB_LOG is invalid"), "{stderr}");
}

#[test]
fn a_config_is_checked_against_the_changes_made_at_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("config.toml"), folder.path().join("state.json"));
    std::fs::write(&file, format!("state_file = {state:?}\n{CONFIG}")).unwrap();
    let check = || run(&["check", file.to_str().unwrap()]);
    let added = |vip: &str| {
        let document =
            format!(r#"{{"version":1,"overlay":{{"added_services":{{"x":{{"name":"x","vip":"{vip}"}}}}}}}}"#);
        std::fs::write(&state, document).unwrap();
    };
    added("192.0.2.11:80");
    assert_eq!(check().0, 0);
    added("192.0.2.10:80");
    let (code, stdout, stderr) = check();
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(state.to_str().unwrap()) && stderr.contains("is already the VIP of"), "{stderr}");
    std::fs::write(&state, "{").unwrap();
    let (code, stdout, _) = check();
    assert_eq!(code, 0);
    assert!(stdout.contains("warning: the state file"), "{stdout}");
    assert!(state.exists(), "a check changes nothing");
}
