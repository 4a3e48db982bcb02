//! `xdp-lb top` and `--watch`, in a real terminal.

use std::time::Duration;

use xdp_lb_tests::{Site, Terminal, paths, until, web, web_backend};

/// A usual terminal.
const SIZE: (u16, u16) = (80, 24);

#[test]
fn top_shows_traffic_failures_and_events_at_80_columns_and_drains_after_confirmation() {
    let mut site = Site::start("top", 2, &web("full-nat", &[1, 2])).unwrap();
    let program = format!("{} top --socket {}", paths::daemon().display(), site.daemon.socket().display());
    let top = Terminal::start(&site.network.lb, "top", SIZE, &program).unwrap();
    for text in
        ["1/1 services", "2/2 backends", "web 192.0.2.10:80", &web_backend(1), "EVENTS (UTC)", "q quit"]
    {
        top.see(text).unwrap();
    }
    let screen = top.screen().unwrap();
    assert!(
        screen.lines().all(|line| line.chars().count() <= 80) && screen.lines().count() <= 24,
        "{screen}"
    );

    let requests = site.requests(4);
    let is_busy = |line: &str| line.contains(&web_backend(1)) && line.contains("k/s") && line.contains("b/s");
    until("the traffic to be seen", Duration::from_secs(40), || Ok(top.screen()?.lines().any(is_busy)))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", top.screen().unwrap()));
    drop(requests);

    site.nginx[1].stop();
    top.see("1/2 backends").unwrap();
    top.see("up -> down").unwrap();
    site.nginx[1].restart().unwrap();
    top.see("2/2 backends").unwrap();

    // The first row is the service, the second its first backend.
    top.press(&["Down", "d"]).unwrap();
    top.see(&format!("Drain {} of web?", web_backend(1))).unwrap();
    top.press(&["n"]).unwrap();
    top.see("nothing was changed").unwrap();
    assert_eq!(site.daemon.backend_state("web", &web_backend(1)).unwrap(), "up");
    top.press(&["d"]).unwrap();
    top.see("y: do it").unwrap();
    top.press(&["y"]).unwrap();
    site.wait_for(1, "draining").unwrap();
    top.see("draining").unwrap();
    top.press(&["e"]).unwrap();
    top.see("y: do it").unwrap();
    top.press(&["y"]).unwrap();
    site.wait_for(1, "up").unwrap();

    // A restart of the daemon is survived, and said meanwhile.
    site.daemon.stop().unwrap();
    top.see("no daemon answers").unwrap();
    site.daemon.run().unwrap();
    top.see("2/2 backends").unwrap();
    top.press(&["q"]).unwrap();
    until("top to end", Duration::from_secs(20), || Ok(!top.is_running())).unwrap();
}

#[test]
fn a_list_is_watched_in_place_and_fits_the_terminal() {
    let site = Site::start("watched", 2, &web("full-nat", &[1, 2])).unwrap();
    let program = format!(
        "{} backend list --watch=1 --socket {}",
        paths::daemon().display(),
        site.daemon.socket().display()
    );
    let list = Terminal::start(&site.network.lb, "list", SIZE, &program).unwrap();
    list.see("SERVICE").unwrap();
    let screen = list.screen().unwrap();
    let heading = screen.lines().find(|line| line.starts_with("SERVICE")).unwrap();
    assert!(heading.contains("PPS") && !heading.contains("ORIGIN"), "{screen}");
    site.daemon.cli(&["backend", "drain", "web", &web_backend(2)]).unwrap();
    list.see("draining").unwrap();
    assert_eq!(list.screen().unwrap().matches("SERVICE").count(), 1, "in place");
    list.press(&["C-c"]).unwrap();
    until("the list to end", Duration::from_secs(20), || Ok(!list.is_running())).unwrap();
}
