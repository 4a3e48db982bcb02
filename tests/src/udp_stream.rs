//! A stream of numbered datagrams, of which none may be lost.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::client::make_room;
use crate::host::Host;

/// Between two datagrams.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream of numbered datagrams to a [`UdpEcho`](crate::servers::UdpEcho), a thousand a second.
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

/// What became of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streamed {
    /// How many datagrams were sent.
    pub sent: u64,
    /// The numbers of those that were not answered.
    pub lost: Vec<u64>,
}

impl UdpStream {
    /// Starts one, and returns when the first datagrams have been answered.
    pub fn start(client: &Host, server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = client.enter(|| UdpSocket::bind((any, 0)))?.context("cannot make a socket")?;
        socket.connect(server)?;
        make_room(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        // The first finds the neighbours on the way, and may be lost with what waits for them.
        let mut answer = [0; 256];
        let answered = (0..50).any(|_| socket.send(b"first").is_ok() && socket.recv(&mut answer).is_ok());
        answered.then_some(()).with_context(|| format!("{server} does not answer"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let (socket, stop, sent) = (socket.try_clone()?, Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send(number.to_string().as_bytes());
                    thread::sleep(PAUSE);
                }
            }
        });
        let receiver = thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || receive(&socket, &stop, &sent)
        });
        Ok(Self { stop, sent, sender, receiver })
    }

    /// How many have been sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; says what became of it.
    pub fn stop(self) -> Result<Streamed> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let sent = self.sent.load(Ordering::Relaxed);
        Ok(Streamed { sent, lost: (0..sent).filter(|number| !received.contains(number)).collect() })
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, sent: &AtomicU64) -> BTreeSet<u64> {
    let mut received = BTreeSet::new();
    let mut answer = [0; 256];
    let mut waited = Duration::ZERO;
    while !stop.load(Ordering::Relaxed)
        || (received.len() as u64) < sent.load(Ordering::Relaxed) && waited < PATIENCE
    {
        match socket.recv(&mut answer) {
            Ok(length) => {
                let number = std::str::from_utf8(&answer[..length]).ok();
                received.extend(number.and_then(|answer| answer.rsplit(' ').next()?.parse::<u64>().ok()));
            }
            Err(_) => waited += Duration::from_millis(100),
        }
    }
    received
}
