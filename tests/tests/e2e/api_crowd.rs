//! Clients with large requests, or with none, do not delay others.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use xdp_lb_tests::{Site, web, web_backend};

const SILENT: usize = 300;
const METRICS: &str = "127.0.0.1:9799";

/// Reads until the other end closes the connection.
fn stay_silent(mut stream: impl Read) {
    let _ = stream.read(&mut [0; 64]);
}

#[test]
fn hundreds_of_silent_clients_that_reconnect_at_once_delay_no_change_and_no_scrape() {
    let site = Site::start("crowd", 1, &web("full-nat", &[1])).unwrap();
    let (is_over, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let metrics: SocketAddr = METRICS.parse().unwrap();
    let mut clients = Vec::new();
    for number in 0..SILENT {
        let (is_over, cut) = (Arc::clone(&is_over), Arc::clone(&cut));
        let (host, socket) = (site.network.lb.clone(), site.daemon.socket());
        clients.push(std::thread::spawn(move || {
            let come = || {
                let ended = Instant::now() + Duration::from_secs(60);
                while !is_over.load(Ordering::Relaxed) && Instant::now() < ended {
                    match number % 2 {
                        0 => UnixStream::connect(&socket).into_iter().for_each(stay_silent),
                        _ => TcpStream::connect(metrics).into_iter().for_each(stay_silent),
                    }
                    cut.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            host.enter(come).unwrap();
        }));
    }
    // All of them have connected, and some have reconnected.
    let began = Instant::now();
    while cut.load(Ordering::Relaxed) < 2 * SILENT as u32 {
        assert!(began.elapsed() < Duration::from_secs(30), "{cut:?} were cut: a silent client is let stay");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut slowest = Duration::ZERO;
    for weight in 1..=20 {
        let began = Instant::now();
        site.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), &weight.to_string()]).unwrap();
        site.daemon.metric("xdp_lb_backend_weight", &[("service", "web")]).unwrap();
        slowest = slowest.max(began.elapsed());
    }
    println!("a change and a scrape take {slowest:?} at most, beside {cut:?} silent connections");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn flows_are_listed_a_page_at_a_time_and_a_limit_has_a_limit() {
    let site = Site::start("crowd", 2, &web("full-nat", &[1, 2])).unwrap();
    let requests = site.requests(4);
    requests.next_by_backend(60).unwrap();
    let stopped = requests.stop();
    assert!(stopped.len() >= 60);
    let get = |query: &str| -> Value {
        let socket = site.daemon.socket();
        let url = format!("curl -sSf --unix-socket {} http://localhost/v1/flows?{query}", socket.display());
        serde_json::from_str(&site.network.lb.run(&url).unwrap()).unwrap()
    };
    let whole = get("limit=100000000");
    let all: BTreeSet<String> = whole["flows"].as_array().unwrap().iter().map(key).collect();
    assert!(all.len() >= 30 && whole["next"].is_null(), "{} flows: {}", all.len(), whole["next"]);
    let (mut seen, mut pages, mut cursor) = (BTreeSet::new(), 0, String::new());
    loop {
        let page = get(&format!("limit=7{cursor}"));
        let flows: Vec<String> = page["flows"].as_array().unwrap().iter().map(key).collect();
        assert!(flows.len() <= 7);
        let before = seen.len();
        seen.extend(flows.iter().cloned());
        assert_eq!(seen.len() - before, flows.len(), "no flow comes twice");
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    // Some may have ended meanwhile, and none has begun.
    assert!(seen.is_subset(&all) && pages >= 3, "{pages} pages");
    let refused = site.network.lb.run(&format!(
        "curl -sS --unix-socket {} http://localhost/v1/flows?cursor=nonsense",
        site.daemon.socket().display()
    ));
    assert!(refused.unwrap().contains("invalid cursor"));
}

fn key(flow: &Value) -> String {
    format!("{} {} {}", flow["service"], flow["backend"], flow["client"])
}
