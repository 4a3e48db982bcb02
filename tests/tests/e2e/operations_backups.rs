//! If too few backends are up, backups are used, and then backends that are down.

use std::collections::BTreeSet;
use std::time::Duration;

use xdp_lb_tests::{Requests, Site, by_backend, until, web, web_backend};

const PATIENCE: Duration = Duration::from_secs(30);

/// Who answers the next requests, of which none may fail.
fn answering(requests: &Requests) -> BTreeSet<String> {
    requests.next_by_backend(60).unwrap().into_keys().collect()
}

fn names(numbers: &[usize]) -> BTreeSet<String> {
    numbers.iter().map(|number| format!("backend-{number}")).collect()
}

#[test]
fn a_backup_takes_over_when_the_last_other_fails_and_stands_by_when_one_is_back() {
    let site = Site::start("backups", 3, &(web("full-nat", &[1, 2, 3]) + "backup = true\n")).unwrap();
    site.wait_for(1, "up").unwrap();
    site.wait_for(3, "standby").unwrap();
    let requests = site.requests(2);
    assert_eq!(answering(&requests), names(&[1, 2]));

    site.nginx[0].set_healthy(false).unwrap();
    site.wait_for(1, "down").unwrap();
    assert_eq!(answering(&requests), names(&[2]), "the backup waits for the last to fail");
    site.nginx[1].set_healthy(false).unwrap();
    site.wait_for(3, "up").unwrap();
    assert_eq!(answering(&requests), names(&[3]));

    site.nginx[0].set_healthy(true).unwrap();
    site.wait_for(3, "standby").unwrap();
    assert_eq!(answering(&requests), names(&[1]));
    // Their servers answered all the time, whatever they said of their health.
    by_backend(&requests.stop()).unwrap();
}

#[test]
fn if_too_few_are_up_all_are_used_and_the_status_says_why() {
    let config = web("nat", &[1, 2, 3]).replacen("mode =", "panic_threshold = 60\nmode =", 1);
    let site = Site::start("panic", 3, &config).unwrap();
    let requests = site.requests(2);
    site.nginx[0].set_healthy(false).unwrap();
    site.wait_for(1, "down").unwrap();
    assert_eq!(answering(&requests), names(&[2, 3]), "two of three are enough");

    site.nginx[1].set_healthy(false).unwrap();
    site.wait_for(2, "panic").unwrap();
    assert_eq!(site.daemon.backend_state("web", &web_backend(1)).unwrap(), "panic");
    assert_eq!(answering(&requests), names(&[1, 2, 3]));
    let status = site.daemon.cli(&["status"]).unwrap();
    assert!(status.contains("PANIC") && status.contains("1 of 3 backends are up"), "{status}");
    assert_eq!(site.daemon.metric("xdp_lb_service_panic", &[("service", "web")]).unwrap(), 1.0);

    site.nginx[1].set_healthy(true).unwrap();
    until("the panic to end", PATIENCE, || Ok(site.daemon.backend_state("web", &web_backend(1))? == "down"))
        .unwrap();
    assert_eq!(answering(&requests), names(&[2, 3]));
    by_backend(&requests.stop()).unwrap();
}
