//! Clients with large requests, or with none, do not delay others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
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

/// Gives this thread alone, not its process, the rights of `nobody` with the group `games`: the kernel keeps them by thread.
fn become_a_reader() {
    const NOBODY: libc::c_long = 65534;
    const GAMES: libc::gid_t = 60;
    let groups = [GAMES];
    // SAFETY: three system calls on numbers, and on a list that outlives them.
    let done = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 1 as libc::c_long, groups.as_ptr()),
            libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY),
            libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY),
        ]
    };
    assert_eq!(done, [0, 0, 0], "{}", std::io::Error::last_os_error());
}

/// What a reader does with its connections.
#[derive(Clone, Copy)]
enum Bother {
    /// Sends its request's head a byte at a time.
    Slow,
    /// Sends nothing.
    Silent,
    /// Sends nothing, and comes back at once.
    Again,
}

#[test]
fn readers_who_are_slow_or_silent_or_come_back_at_once_delay_no_administrator() {
    let config = format!("api.read_groups = [\"games\"]\n{}", web("full-nat", &[1]));
    let site = Site::start("readers", 1, &config).unwrap();
    let (is_over, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let crowd = [(80, Bother::Slow), (200, Bother::Silent), (400, Bother::Again)];
    let mut clients = Vec::new();
    for bother in crowd.into_iter().flat_map(|(count, bother)| std::iter::repeat_n(bother, count)) {
        let (is_over, came) = (Arc::clone(&is_over), Arc::clone(&came));
        let (host, socket) = (site.network.lb.clone(), site.daemon.socket());
        clients.push(std::thread::spawn(move || {
            let come = || {
                become_a_reader();
                let ended = Instant::now() + Duration::from_secs(60);
                while !is_over.load(Ordering::Relaxed) && Instant::now() < ended {
                    let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
                    came.fetch_add(1, Ordering::Relaxed);
                    match bother {
                        Bother::Slow => {
                            let head =
                                b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: and so on and on and on";
                            let mut bytes = head.iter();
                            while bytes.next().is_some_and(|byte| stream.write_all(&[*byte]).is_ok()) {
                                std::thread::sleep(Duration::from_millis(100));
                            }
                        }
                        Bother::Silent => {
                            stay_silent(&stream);
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        Bother::Again => stay_silent(&stream),
                    }
                }
            };
            host.enter(come).unwrap();
        }));
    }
    let began = Instant::now();
    while came.load(Ordering::Relaxed) < 3000 {
        assert!(began.elapsed() < Duration::from_secs(40), "{came:?} came: silent ones are let stay");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut times = Vec::new();
    for weight in 1..=15 {
        let began = Instant::now();
        site.daemon.cli(&["backend", "set-weight", "web", &web_backend(1), &weight.to_string()]).unwrap();
        times.push(began.elapsed());
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{median:?} at the median and {slowest:?} at most, beside 680 readers who came {came:?} times");
    // The crowd takes a part of the processors; its places and its requests are no administrator's.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_watcher_that_does_not_read_is_dropped_and_its_place_is_free() {
    let site = Site::start("watchers", 1, &web("full-nat", &[1])).unwrap();
    let host = site.network.lb.clone();
    let ask = || {
        let mut stream = UnixStream::connect(site.daemon.socket()).unwrap();
        stream.write_all(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream
    };
    let mut silent = host.enter(ask).unwrap();
    let mut reader = host.enter(ask).unwrap();
    let kept = std::thread::spawn(move || {
        let began = Instant::now();
        reader.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = [0; 4096];
        // A comment every 15 s is enough to stay.
        while began.elapsed() < Duration::from_secs(38) {
            assert_ne!(reader.read(&mut buffer).unwrap(), 0, "whoever reads is kept");
        }
    });
    std::thread::sleep(Duration::from_secs(36));
    // All that was ever sent to it, and then the end.
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut sent = Vec::new();
    silent.read_to_end(&mut sent).unwrap();
    kept.join().unwrap();
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
