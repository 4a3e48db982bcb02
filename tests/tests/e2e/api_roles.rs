//! Who may use the control socket, and the log of who did.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Output;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use xdp_lb_tests::{Daemon, Site, paths, web, web_backend};

// Users and groups that Debian's base-passwd has on every system.
const NOBODY: u32 = 65534;
const OPERATOR: u32 = 37;
const GAMES: u32 = 60;
const USERS: u32 = 100;

/// Runs the CLI as the user `nobody`, with these supplementary groups.
fn as_nobody(daemon: &Daemon, groups: &[u32], words: &[&str]) -> Output {
    let mut command = daemon.host().command(paths::daemon());
    command.args(words).arg("--socket").arg(daemon.socket());
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    // SAFETY: between fork and exec the closure makes three system calls, on what it owns.
    unsafe {
        command.pre_exec(move || {
            setgroups(&groups)?;
            setgid(Gid::from_raw(NOBODY))?;
            Ok(setuid(Uid::from_raw(NOBODY))?)
        });
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn groups_have_the_access_that_the_config_gives_and_changes_are_logged_with_the_user() {
    let config = format!(
        "api.admin_groups = [\"operator\"]\napi.read_groups = [\"games\", \"users\"]\n{}",
        web("full-nat", &[1, 2])
    );
    let site = Site::start("roles", 2, &config).unwrap();
    let daemon = &site.daemon;
    let first = web_backend(1);
    let drain = ["backend", "drain", "web", first.as_str()];

    for outsider in [&[][..], &[0], &[27]] {
        let refused = as_nobody(daemon, outsider, &["status"]);
        assert_eq!(refused.status.code(), Some(1), "{outsider:?}: {}", said(&refused));
        assert!(said(&refused).contains("no permission to use"), "{}", said(&refused));
    }
    for group in [GAMES, USERS] {
        for words in [&["status"][..], &["backend", "list"], &["flows"], &["reload", "--dry-run"]] {
            let shown = as_nobody(daemon, &[27, group], words);
            assert!(shown.status.success(), "{words:?}: {}", said(&shown));
        }
        let refused = as_nobody(daemon, &[27, group], &drain);
        assert_eq!(refused.status.code(), Some(1));
        let words = said(&refused);
        assert!(
            words.contains("nobody (uid 65534, pid ") && words.contains("has read access only"),
            "{words}"
        );
        assert!(words.contains("admin_groups"), "{words}");
    }
    assert_eq!(daemon.backend_state("web", &first).unwrap(), "up");
    // It answers for the secret hash.
    let asked = as_nobody(daemon, &[27, USERS], &["explain", "192.0.2.2:1234", "192.0.2.10:80"]);
    assert!(!asked.status.success() && said(&asked).contains("has read access only"), "{}", said(&asked));

    let done = as_nobody(daemon, &[OPERATOR], &drain);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(daemon.backend_state("web", &first).unwrap(), "draining");
    daemon.cli(&["backend", "enable", "web", &first]).unwrap();
    assert!(daemon.cli_output(&["service", "remove", "wbe"]).is_ok_and(|output| !output.status.success()));

    let log = daemon.log();
    let audited: Vec<&str> = log.lines().filter(|line| line.contains("audit: ")).collect();
    let path = format!("/v1/services/web/backends/{}", first.replace(':', "%3A"));
    for (who, what, ended) in [
        ("WARN audit: nobody (uid 65534, pid ", format!("PATCH {path}: 403: "), "has read access only"),
        ("INFO audit: nobody (uid 65534, pid ", format!("PATCH {path}: 200: "), "is draining"),
        ("INFO audit: root (uid 0, pid ", format!("PATCH {path}: 200: "), "enabled"),
        ("WARN audit: root (uid 0, pid ", "DELETE /v1/services/wbe: 404: ".into(), "web"),
    ] {
        let is_it = |line: &&str| line.contains(who) && line.contains(&what) && line.contains(ended);
        assert!(audited.iter().any(is_it), "{who}...{what}...{ended}: {audited:#?}");
    }
    assert_eq!(audited.len(), 6, "what looks is not logged: {audited:#?}");
}

#[test]
fn the_socket_is_for_root_alone_unless_the_config_names_groups() {
    let mut site = Site::start("roles", 1, &web("full-nat", &[1])).unwrap();
    let socket = site.daemon.socket();
    let stands = || {
        let metadata = socket.metadata().unwrap();
        (metadata.permissions().mode() & 0o777, metadata.gid())
    };
    assert_eq!(stands(), (0o600, 0));
    assert_eq!(as_nobody(&site.daemon, &[0, OPERATOR], &["status"]).status.code(), Some(1));

    let config = site.daemon.config().unwrap();
    let grouped =
        |keys: &str| std::fs::write(site.daemon.config_file(), format!("{keys}\n{config}")).unwrap();
    grouped("api.read_groups = [\"operator\"]");
    let needs = site.daemon.cli_json(&["reload"]).unwrap()["needs_restart"].clone();
    assert_eq!(needs, serde_json::json!(["api.read_groups"]));
    site.daemon.stop().unwrap();
    site.daemon.run().unwrap();
    assert_eq!(stands(), (0o660, OPERATOR));
    assert!(as_nobody(&site.daemon, &[OPERATOR], &["status"]).status.success());

    let config = site.daemon.config().unwrap();
    std::fs::write(site.daemon.config_file(), config.replace("operator", "no-such-group")).unwrap();
    site.daemon.stop().unwrap();
    let refused = format!("{:#}", site.daemon.run().unwrap_err());
    assert!(refused.contains("api.read_groups: this host has no group \"no-such-group\""), "{refused}");
}
