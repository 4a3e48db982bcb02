//! A UDP server.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::make_room;
use crate::host::Host;

/// Answers each datagram, on all of a host's addresses. Stopped when dropped.
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts one that answers with `NAME ` (the host's) and what the datagram carried.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        Self::greet(host, port, &format!("{} ", host.name()))
    }

    /// Starts one that answers with what the datagram carried and nothing more.
    pub fn start_nameless(host: &Host, port: u16) -> Result<Self> {
        Self::greet(host, port, "")
    }

    /// The same on one address alone, from which it answers.
    pub fn start_at(host: &Host, address: SocketAddr) -> Result<Self> {
        Self::bind(host, address, "")
    }

    /// Starts one on one address alone, which answers as that of [`UdpEcho::start`] does.
    pub fn start_named_at(host: &Host, address: SocketAddr) -> Result<Self> {
        Self::bind(host, address, &format!("{} ", host.name()))
    }

    fn greet(host: &Host, port: u16, greeting: &str) -> Result<Self> {
        // A socket for all IPv6 addresses takes IPv4, too (net.ipv6.bindv6only is 0 in a new namespace).
        Self::bind(host, (Ipv6Addr::UNSPECIFIED, port).into(), greeting)
    }

    fn bind(host: &Host, address: SocketAddr, greeting: &str) -> Result<Self> {
        let socket = host
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("cannot bind UDP {address} on {}", host.name()))?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).context("cannot set a timeout")?;
        make_room(&socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, greeting) = (Arc::clone(&stop), greeting.as_bytes().to_vec());
        let thread = thread::spawn(move || answer(&socket, &greeting, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn answer(socket: &UdpSocket, greeting: &[u8], stop: &AtomicBool) {
    let mut datagram = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // An error is a timeout, or an ICMP error about an earlier answer.
        if let Ok((length, sender)) = socket.recv_from(&mut datagram) {
            // What cannot be sent (a client that has gone, an answer that is too long) is lost, as UDP is.
            let _ = socket.send_to(&[greeting, &datagram[..length]].concat(), sender);
        }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
