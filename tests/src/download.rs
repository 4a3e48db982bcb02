//! A long download, slow until it is told to finish.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Socket, Type};

use crate::files::{BIG_FILE_BYTES, big_file};
use crate::host::Host;
use crate::wait;

/// How long the connection may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Some 800 KB a second: what a download takes in at a time while it is slow, and how long it rests then.
const SIP: usize = 32 * 1024;
const REST: Duration = Duration::from_millis(40);

/// What may have been sent ahead to the client: its receive buffer, of which the kernel makes twice what was asked for
/// (socket(7)).
const AHEAD: usize = 400_000;

/// A download of [`big_file`] from an [`Nginx`](crate::servers::Nginx) over one connection, compared byte by byte as
/// it arrives. It takes its time (some two minutes) until [`Download::finish`], so that things can happen meanwhile.
pub struct Download {
    backend: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    received: AtomicU64,
    is_urgent: AtomicBool,
    is_dropped: AtomicBool,
}

impl Download {
    /// Starts one, and returns when its first bytes have come.
    pub fn start(client: &Host, server: SocketAddr) -> Result<Self> {
        let (backend, stream) = client.enter(|| ask(server))?.context("cannot start a download")?;
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive(stream, &shared)
        });
        let download = Self { backend, shared, thread: Some(thread) };
        wait::until("a download's first bytes", PATIENCE, || Ok(download.received() > 0))?;
        Ok(download)
    }

    /// Starts as many as it takes until one goes to this backend, which is returned; the others end.
    pub fn start_at(client: &Host, server: SocketAddr, backend: &str) -> Result<Self> {
        for _ in 0..200 {
            let download = Self::start(client, server)?;
            if download.backend == backend {
                return Ok(download);
            }
        }
        Err(anyhow!("none of 200 downloads went to {backend}"))
    }

    /// The name of the host that it comes from.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Waits until more bytes come: half a megabyte more than what had been sent ahead to the client by now.
    pub fn wait_for_progress(&self) -> Result<()> {
        // What is in the client's buffer is not progress.
        let goal = (self.received() + AHEAD as u64 + 500_000).min(BIG_FILE_BYTES);
        wait::until("a download to go on", PATIENCE, || {
            ensure!(!self.is_over(), "the download from {} has ended early", self.backend);
            Ok(self.received() >= goal)
        })
        .map(drop)
    }

    /// Whether it has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Receives the rest as fast as it comes. An error where it breaks off, or differs from the file.
    pub fn finish(mut self) -> Result<()> {
        self.shared.is_urgent.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was finished already")?;
        let backend = &self.backend;
        let ended = thread.join().map_err(|_| anyhow!("the download's thread panicked"))?;
        ended.with_context(|| format!("the download from {backend} broke after {} bytes", self.received()))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.shared.is_dropped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks for the file and reads the answer's head; returns the header `X-Backend`.
fn ask(server: SocketAddr) -> Result<(String, TcpStream)> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_recv_buffer_size(AHEAD / 2)?;
    socket.connect_timeout(&server.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /big HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 200 "), "refused: {head}");
    let backend = head.lines().find_map(|line| line.strip_prefix("X-Backend: "));
    Ok((backend.context("the answer names no backend")?.to_owned(), stream))
}

fn receive(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    let file = File::open(big_file()?)?;
    let (mut got, mut want) = (vec![0; SIP], vec![0; SIP]);
    let mut received = 0;
    while !shared.is_dropped.load(Ordering::Relaxed) {
        let length = stream.read(&mut got)?;
        if length == 0 {
            ensure!(received == BIG_FILE_BYTES, "the server has closed the connection");
            return Ok(());
        }
        file.read_exact_at(&mut want[..length], received).context("more came than the file has")?;
        ensure!(got[..length] == want[..length], "other bytes came than the file has");
        received += length as u64;
        shared.received.store(received, Ordering::Relaxed);
        if !shared.is_urgent.load(Ordering::Relaxed) {
            thread::sleep(REST.mul_f64(length as f64 / SIP as f64));
        }
    }
    Ok(())
}
