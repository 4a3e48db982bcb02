//! Options of services and backends change while flows run.

use std::fs;

use xdp_lb_tests::{Download, Site, by_backend, request, web, web_backend};

/// The words of a command that is refused.
fn refused(site: &Site, arguments: &[&str]) -> String {
    let output = site.daemon.cli_output(arguments).unwrap();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn options_change_at_runtime_without_breaking_a_flow_and_survive_a_restart() {
    let mut site = Site::start("options", 3, &web("full-nat", &[1, 2, 3])).unwrap();
    let client = site.network.client.clone();
    let requests = site.requests(2);
    let downloads: Vec<Download> = (1..=3)
        .map(|number| Download::start_at(&client, Site::vip(), &format!("backend-{number}")).unwrap())
        .collect();
    assert_eq!(requests.next_by_backend(90).unwrap().len(), 3);

    let set = [
        "service",
        "set",
        "web",
        "affinity=source",
        "max_flows=100000",
        "on_down=keep",
        "health_check.rise=1",
    ];
    let said = site.daemon.cli(&set).unwrap();
    for part in [
        "affinity none -> source",
        "max_flows 0 -> 100000",
        "on_down auto -> keep",
        "health_check.rise 2 -> 1",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    // All of one client's new flows go to one backend.
    assert_eq!(requests.next_by_backend(90).unwrap().len(), 1);
    assert!(site.daemon.cli(&["service", "set", "web", "affinity=source"]).unwrap().contains("already"));
    let backend = web_backend(1);
    let said = site.daemon.cli(&["backend", "set", "web", &backend, "weight=50", "max_flows=1000"]).unwrap();
    assert!(said.contains("max_flows 0 -> 1000") && said.contains("weight 100 -> 50"), "{said}");

    for (arguments, words) in [
        (&["service", "set", "web", "mode=nat"][..], "established flows would break"),
        (&["service", "set", "web", "affinity=sorce"], "write \"none\", \"source\""),
        (&["service", "set", "web", "max_flows=5", "down_grace=2s"], "requires on_down = \"auto\""),
        (&["backend", "set", "web", &backend, "wieght=1"], "did you mean \"weight\"?"),
        (
            &["backend", "set", "web", &backend, "server_id=0a"],
            "requires quic; remove it, or add quic to the service",
        ),
    ] {
        let said = refused(&site, arguments);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    let shown = site.daemon.cli_json(&["service", "show", "web"]).unwrap();
    assert_eq!(shown["service"]["affinity"], "source");
    assert_eq!(shown["service"]["max_flows"], 100_000, "what was refused changed nothing");
    assert_eq!(
        (&shown["backends"][0]["weight"], &shown["backends"][0]["max_flows"]),
        (&50.into(), &1000.into())
    );

    site.daemon.cli(&["service", "set", "web", "affinity=default", "max_flows=default"]).unwrap();
    let shown = site.daemon.cli_json(&["service", "show", "web"]).unwrap();
    assert_eq!((&shown["service"]["affinity"], &shown["service"]["max_flows"]), (&"none".into(), &0.into()));
    assert_eq!(requests.next_by_backend(90).unwrap().len(), 3);
    for download in downloads {
        download.wait_for_progress().unwrap();
        download.finish().unwrap();
    }
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn a_change_that_would_move_unrecorded_flows_is_refused_until_they_are_recorded() {
    let site = Site::start("options", 2, &web("nat", &[1, 2])).unwrap();
    let download = Download::start(&site.network.client, Site::vip()).unwrap();
    let said = refused(&site, &["service", "set", "web", "affinity=source"]);
    assert!(said.contains("Set flow_tracking = \"always\""), "{said}");
    site.daemon.cli(&["service", "set", "web", "flow_tracking=always"]).unwrap();
    let said = refused(&site, &["service", "set", "web", "affinity=source"]);
    assert!(said.contains("cannot change yet") && said.contains("(timeouts.tcp_idle)"), "{said}");
    request(&site.network.client, Site::vip()).unwrap();
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
}

#[test]
fn runtime_changes_are_saved_into_the_config_file_which_keeps_its_comments_and_no_flow_breaks() {
    let mut site = Site::start("options", 3, &web("full-nat", &[1, 2])).unwrap();
    let requests = site.requests(2);
    let download = Download::start(&site.network.client, Site::vip()).unwrap();
    let file = site.daemon.config_file().to_owned();
    let before = format!("# What this host does.\n{}", site.daemon.config().unwrap());
    fs::write(&file, &before).unwrap();
    assert!(site.daemon.cli(&["config", "save"]).unwrap().contains("no runtime changes to save"));
    assert!(site.daemon.cli(&["diff", "--runtime"]).unwrap().contains("no runtime changes"));

    site.daemon.cli(&["service", "set", "web", "max_flows=100000"]).unwrap();
    site.daemon.cli(&["backend", "set", "web", &web_backend(1), "weight=300"]).unwrap();
    site.daemon.cli(&["backend", "add", "web", &web_backend(3), "--weight", "7"]).unwrap();
    site.wait_for(3, "up").unwrap();
    let differs = site.daemon.cli_output(&["diff", "--runtime"]).unwrap();
    let said = String::from_utf8_lossy(&differs.stdout).into_owned();
    assert_eq!(differs.status.code(), Some(1), "{said}");
    assert!(said.contains("weight 100 -> 300") && said.contains("max_flows 0 -> 100000"), "{said}");
    let shown = site.daemon.cli(&["config", "show"]).unwrap();
    assert!(
        shown.contains("max_flows = 100000  # runtime") && shown.contains("weight = 300  # runtime"),
        "{shown}"
    );

    // What is in the file and not in effect is the operator's, and not this command's to apply.
    fs::write(&file, before.replace("name = \"web\"", "name = \"web\"\nslow_start = \"5s\"")).unwrap();
    let said = refused(&site, &["config", "save"]);
    assert!(said.contains("has changes that are not in effect") && said.contains("slow_start"), "{said}");
    fs::write(&file, &before).unwrap();

    let said = site.daemon.cli(&["config", "save"]).unwrap();
    assert!(said.contains("weight 100 -> 300") && said.contains("written to"), "{said}");
    let saved = site.daemon.config().unwrap();
    assert!(saved.starts_with("# What this host does.\n") && saved.contains("max_flows = 100000"), "{saved}");
    assert!(saved.contains(&web_backend(3)) && saved.contains("weight = 300"), "{saved}");
    assert!(site.daemon.cli(&["diff", "--runtime"]).unwrap().contains("no runtime changes"));
    assert!(site.daemon.cli(&["diff"]).unwrap().contains("no differences"));
    site.daemon.kill().unwrap();
    site.daemon.run().unwrap();
    let shown = site.daemon.cli_json(&["service", "show", "web"]).unwrap();
    assert_eq!(
        (&shown["service"]["max_flows"], &shown["backends"][0]["weight"]),
        (&100_000.into(), &300.into())
    );
    download.wait_for_progress().unwrap();
    download.finish().unwrap();
    by_backend(&requests.stop()).unwrap();
}
