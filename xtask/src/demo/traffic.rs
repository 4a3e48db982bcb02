//! What the client does: requests and queries, by programs that know nothing of a load balancer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use xdp_lb_tests::Host;

/// Who answered, how often.
#[derive(Default)]
pub struct Answers {
    by_name: BTreeMap<String, usize>,
    /// Requests that got no answer, and why.
    pub failures: Vec<String>,
}

impl Answers {
    fn add(&mut self, answer: Result<String>) {
        match answer {
            Ok(name) => *self.by_name.entry(name).or_default() += 1,
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    /// How often this host answered.
    pub fn of(&self, name: &str) -> usize {
        self.by_name.get(name).copied().unwrap_or(0)
    }

    /// How many answers there were.
    pub fn total(&self) -> usize {
        self.by_name.values().sum()
    }

    /// By name.
    pub fn rows(&self) -> Vec<(String, usize)> {
        self.by_name.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }
}

/// One HTTP request over a connection of its own; the name of the host that answered.
pub fn request(client: &Host, url: &str) -> Result<String> {
    Ok(client.run(&format!("curl -sSf --max-time 2 {url}"))?.trim().to_owned())
}

/// One DNS query; the name of the host that answered.
pub fn query(client: &Host, server: &str) -> Result<String> {
    let answer = client.run(&format!("dig +short +tries=1 +time=2 TXT whoami.example.test @{server}"))?;
    Ok(answer.trim().trim_matches('"').to_owned())
}

/// Many of them, one after the other.
pub fn repeat(times: usize, mut one: impl FnMut() -> Result<String>) -> Answers {
    let mut answers = Answers::default();
    for _ in 0..times {
        answers.add(one());
    }
    answers
}

/// A client that sends one request after the other in the background.
pub struct Visitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Visit>>,
}

/// One request of a [`Visitor`].
pub struct Visit {
    /// When it was sent.
    pub at: Instant,
    /// The name of the host that answered.
    pub answer: Result<String>,
}

impl Visitor {
    /// Starts to send requests.
    pub fn start(client: &Host, url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client, url) = (Arc::clone(&stop), client.clone(), url.to_owned());
        let thread = thread::spawn(move || {
            let mut visits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let at = Instant::now();
                visits.push(Visit { at, answer: request(&client, &url) });
                thread::sleep(Duration::from_millis(10));
            }
            visits
        });
        Self { stop, thread }
    }

    /// Stops, and returns what was sent.
    pub fn stop(self) -> Result<Vec<Visit>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the visitor's thread panicked"))
    }
}
