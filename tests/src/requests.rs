//! Clients that ask again and again, each time over a new connection.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::wait;

/// How long it may take to connect: that is between two kernels, so a lost packet is sent again just once.
const CONNECTED: Duration = Duration::from_secs(2);

/// How long an answer may take, which a busy server gives when it has the time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it began to connect.
    pub began: Instant,
    /// The name of the backend that answered, or what went wrong.
    pub outcome: Result<String, String>,
}

/// Clients that ask an [`Nginx`](crate::servers::Nginx) for its name, each request over a new connection, until
/// dropped.
pub struct Requests {
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Requests {
    /// Starts this many clients on a host.
    pub fn start(client: &Host, server: SocketAddr, clients: usize) -> Self {
        let (log, stop) = <(Arc<Mutex<Vec<Request>>>, Arc<AtomicBool>)>::default();
        let run = |_| {
            let (client, log, stop) = (client.clone(), Arc::clone(&log), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let outcome = request(&client, server).map_err(|error| format!("{error:#}"));
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(Request { began, outcome });
                    thread::sleep(PAUSE);
                }
            })
        };
        let threads = (0..clients).map(run).collect();
        Self { log, stop, threads }
    }

    /// The requests that have ended so far, and began at this time or later.
    pub fn since(&self, instant: Instant) -> Vec<Request> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|request| request.began >= instant).cloned().collect()
    }

    /// Waits until this many more requests have begun and ended, and returns them.
    pub fn next(&self, count: usize) -> Result<Vec<Request>> {
        let now = Instant::now();
        wait::until_some(&format!("{count} more requests to end"), Duration::from_secs(60), || {
            Ok(Some(self.since(now)).filter(|requests| requests.len() >= count))
        })
    }

    /// Waits until this many more requests have begun and ended, of which none may fail; returns how many each
    /// backend answered.
    pub fn next_by_backend(&self, count: usize) -> Result<BTreeMap<String, usize>> {
        by_backend(&self.next(count)?)
    }

    /// Waits until a backend answers a request.
    pub fn wait_for(&self, backend: &str, deadline: Duration) -> Result<Duration> {
        let now = Instant::now();
        wait::until(&format!("{backend} to answer a request"), deadline, || {
            Ok(self.since(now).iter().any(|request| request.outcome.as_deref() == Ok(backend)))
        })
    }

    /// Ends the clients, and returns every request.
    pub fn stop(mut self) -> Vec<Request> {
        self.end();
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many requests each backend answered. An error where one failed.
pub fn by_backend(requests: &[Request]) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for Request { outcome, .. } in requests {
        match outcome {
            Ok(backend) => *counts.entry(backend.clone()).or_default() += 1,
            Err(why) => {
                let failed = requests.iter().filter(|request| request.outcome.is_err()).count();
                anyhow::bail!("{failed} of {} requests failed, the first one thus: {why}", requests.len());
            }
        }
    }
    Ok(counts)
}

/// Asks an [`Nginx`](crate::servers::Nginx) for its name.
pub fn request(client: &Host, server: SocketAddr) -> Result<String> {
    client.enter(|| request_here(server))?
}

fn request_here(server: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, CONNECTED).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").context("cannot ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "refused: {head}");
    Ok(body.trim_end().to_owned())
}
