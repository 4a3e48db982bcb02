//! A returning backend ramps up to its share of new flows.

use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::{Site, by_backend, until, web};

const SLOW_START: Duration = Duration::from_secs(10);

fn backend(site: &Site, number: usize) -> Value {
    site.daemon.backends(Some("web")).unwrap().swap_remove(number - 1)
}

#[test]
fn a_backend_that_was_down_gets_its_share_in_steps_and_no_request_fails() {
    let config = web("nat", &[1, 2, 3]).replacen("mode =", "slow_start = \"10s\"\nmode =", 1);
    let site = Site::start("slow", 3, &config).unwrap();
    for number in 1..=3 {
        let backend = backend(&site, number);
        assert_eq!(backend["portion"], 1.0, "a new service begins at once: {backend}");
    }
    let requests = site.requests(3);
    site.nginx[1].set_healthy(false).unwrap();
    site.wait_for(2, "down").unwrap();
    site.nginx[1].set_healthy(true).unwrap();
    site.wait_for(2, "up").unwrap();
    let came_back = Instant::now();
    let first = backend(&site, 2);
    let portion = first["portion"].as_f64().unwrap();
    assert!(portion <= 0.3, "{first}");
    assert!(first["reason"].as_str().unwrap().contains("slow start, "), "{first}");
    let share = first["share"].as_f64().unwrap();
    assert!((share - portion / 3.0).abs() < 0.02, "{first}");

    let mut portions = vec![portion];
    until("backend 2 to have its share", Duration::from_secs(60), || {
        let portion = backend(&site, 2)["portion"].as_f64().unwrap();
        if portions.last() != Some(&portion) {
            portions.push(portion);
        }
        Ok(portion == 1.0)
    })
    .unwrap();
    let took = came_back.elapsed();
    println!("{portions:?} in {took:?}");
    assert!(portions.is_sorted() && portions.len() >= 5, "{portions:?}");
    assert!(took > SLOW_START - Duration::from_secs(4), "{took:?}");
    let last = backend(&site, 2);
    assert!((last["share"].as_f64().unwrap() - 1.0 / 3.0).abs() < 0.02, "{last}");
    assert!(!last["reason"].as_str().unwrap().contains("slow start"), "{last}");

    // A fifth of the way it had had less than a fifth of a third of the requests, with room for chance.
    let early: Vec<_> = requests
        .since(came_back)
        .into_iter()
        .filter(|request| request.began < came_back + SLOW_START / 5)
        .collect();
    let answers = by_backend(&early).unwrap();
    let of_2 = answers.get("backend-2").copied().unwrap_or(0);
    assert!(early.len() > 100 && of_2 * 5 < early.len(), "{answers:?}");
    by_backend(&requests.stop()).unwrap();
}
