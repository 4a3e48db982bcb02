//! An HTTP server that calls itself healthy and resets its clients when told to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

use crate::host::Host;

/// How long it waits for a connection before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// How long it waits for a request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers `GET /healthz` in any case, and every other request with the host's name, or, while it is unruly, with a reset.
/// Stopped when dropped.
pub struct Unruly {
    is_unruly: Arc<AtomicBool>,
    /// Milliseconds that it thinks about a health check.
    delay: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Unruly {
    /// Starts it, well-behaved.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = host
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("cannot listen on TCP port {port} on {}", host.name()))?;
        SockRef::from(&listener).set_read_timeout(Some(LOOK))?;
        let (is_unruly, stop) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let delay = Arc::<AtomicU64>::default();
        let thinks = Arc::clone(&delay);
        let (unruly, stopped, name) = (Arc::clone(&is_unruly), Arc::clone(&stop), host.name().to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    // A client that went away is its own affair.
                    let delay = Duration::from_millis(thinks.load(Ordering::Relaxed));
                    let _ = serve(stream, &name, unruly.load(Ordering::Relaxed), delay);
                }
            }
        });
        Ok(Self { is_unruly, delay, stop, thread: Some(thread) })
    }

    /// From now on it takes so long to answer a health check. Clients wait meanwhile: it serves one after the other.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// From now on it resets its clients, or answers them.
    pub fn set_unruly(&self, is_unruly: bool) {
        self.is_unruly.store(is_unruly, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, name: &str, is_unruly: bool, delay: Duration) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    // What is left unread when a connection is closed makes a reset, too.
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let is_check = request.starts_with(b"GET /healthz ");
    if is_check {
        thread::sleep(delay);
    }
    if is_unruly && !is_check {
        // Closed at once, which says so with a reset.
        return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    let length = name.len() + 1;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}\n")
}

impl Drop for Unruly {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
