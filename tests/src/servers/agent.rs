//! The agent of a backend, in HAProxy's agent-check protocol.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

use crate::host::Host;

/// How long it waits for a connection before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Says its line to each connection and closes it. Stopped, and its port closed, when dropped.
pub struct Agent {
    line: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts it with a line, which is sent as it is: its end has to be in it.
    pub fn start(host: &Host, port: u16, line: &str) -> Result<Self> {
        let listener = host
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?
            .with_context(|| format!("cannot listen on TCP port {port} on {}", host.name()))?;
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
        let (line, stop) = (Arc::new(Mutex::new(line.to_owned())), Arc::<AtomicBool>::default());
        let (says, stopped) = (Arc::clone(&line), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        let line = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        // Who asked may have gone, which is their affair.
                        let _ = stream.write_all(line.as_bytes());
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { line, stop, thread: Some(thread) })
    }

    /// From now on it says this, and a line feed.
    pub fn say(&self, line: &str) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = format!("{line}\n");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
