//! The backends' servers, all in one thread: they say who they are, and send back what they get.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::kind::{Forwarding, Kind, Protocol};
use crate::client::make_room;
use crate::host::Host;

/// Servers on all backends. Stopped when dropped.
///
/// Over TCP a connection is greeted with the backend's number (8 bytes), then gets back whatever it sends. A datagram
/// comes back with the number before it.
pub struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a server listens with, and the number of its backend.
enum Listener {
    Tcp(std::net::TcpListener, u64),
    Udp(std::net::UdpSocket, u64),
}

impl Servers {
    /// Starts them: `backends` in the order of their numbers.
    pub fn start(backends: &[Host]) -> Result<Self> {
        let mut listeners = Vec::new();
        for (number, host) in (1..).zip(backends) {
            let here = host.enter(|| listen(number))?;
            listeners.extend(here.with_context(|| format!("cannot listen on {}", host.name()))?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("servers".to_owned()).spawn(move || {
            runtime.block_on(async {
                for listener in listeners {
                    // One that cannot be polled cannot be at all: nothing was limited.
                    tokio::spawn(async { serve(listener).await.expect("a socket can be polled") });
                }
                let _ = stopped.await;
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic in it was told when it came.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Opens the sockets of a backend, in its namespace.
fn listen(number: u64) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for mode in Forwarding::ALL {
        listeners.push(Listener::Tcp(listen_tcp(mode.port())?, number));
    }
    for kind in Kind::all().filter(|kind| kind.protocol == Protocol::Udp) {
        // It answers from the address that it is bound to, which is the VIP where nobody rewrites it on the way.
        let backend = kind.backend(usize::try_from(number)?);
        let address = if kind.mode.is_direct() { kind.vip() } else { backend };
        let socket = std::net::UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        make_room(&socket)?;
        socket.set_nonblocking(true)?;
        listeners.push(Listener::Udp(socket, number));
    }
    Ok(listeners)
}

/// For all addresses, v4 too, with room for a crowd.
fn listen_tcp(port: u16) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Transport::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

async fn serve(listener: Listener) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener, number) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                // One that has gone before it was taken is not a failure.
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(echo(stream, number));
                }
            }
        }
        Listener::Udp(socket, number) => answer(&UdpSocket::from_std(socket)?, number).await,
    }
}

/// Ends with its connection, however that ends: the client says whether it should have.
async fn echo(mut stream: TcpStream, number: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&number.to_be_bytes()).await?;
    let mut data = vec![0; 16_384];
    loop {
        let length = stream.read(&mut data).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&data[..length]).await?;
    }
}

async fn answer(socket: &UdpSocket, number: u64) -> io::Result<()> {
    let mut datagram = vec![0; 65_536];
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    loop {
        // An error is an ICMP error about an earlier answer; what cannot be sent is lost, as UDP is.
        if let Ok((length, sender)) = socket.recv_from(&mut datagram[8..]).await {
            let _ = socket.send_to(&datagram[..8 + length], sender).await;
        }
    }
}
