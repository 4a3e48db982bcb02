//! A TCP server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::host::Host;

/// How long it waits for a connection before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// How long a connection's thread waits: seldom, since thousands of them that look are all that a machine does.
const LOOK_WHILE_OPEN: Duration = Duration::from_secs(1);

/// Greets each connection with a line, `NAME PEER` (the host's name; the client's address and port as the host sees
/// them), then sends back whatever it gets. On all of a host's addresses. Stopped when dropped.
pub struct TcpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Starts it.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = host
            .enter(|| listen(port))?
            .with_context(|| format!("cannot listen on TCP port {port} on {}", host.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), host.name().to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, peer)) = listener.accept() else { continue };
                let (stopped, name) = (Arc::clone(&stopped), name.clone());
                // Ends with its connection.
                thread::spawn(move || serve(stream, peer, &name, &stopped));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// For all addresses, v4 too, with room for a crowd.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn serve(mut stream: TcpStream, peer: SocketAddr, name: &str, stop: &AtomicBool) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut data = vec![0; 65_536];
    let greeted = SockRef::from(&stream)
        .set_read_timeout(Some(LOOK_WHILE_OPEN))
        .and_then(|()| stream.set_nodelay(true))
        .and_then(|()| stream.write_all(format!("{name} {peer}\n").as_bytes()));
    if greeted.is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut data) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&data[..length]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
