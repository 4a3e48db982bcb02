//! Clients that choose what a program of the shelf does not let choose: source ports, and options of their packets.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::Host;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A TCP socket on a host, bound to an address and port of its own; port 0 for any.
pub fn tcp_socket(host: &Host, source: SocketAddr) -> Result<Socket> {
    host.enter(|| bound(source))?.with_context(|| format!("cannot bind {source} on {}", host.name()))
}

/// A UDP socket on a host, bound to an address and port of its own, that waits some seconds for an answer.
pub fn udp_socket(host: &Host, source: SocketAddr) -> Result<UdpSocket> {
    let socket = host
        .enter(|| UdpSocket::bind(source))?
        .with_context(|| format!("cannot bind {source} on {}", host.name()))?;
    socket.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    Ok(socket)
}

fn bound(source: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.bind(&source.into())?;
    Ok(socket)
}

/// Gives a socket room for what comes while its reader has to wait for a processor, whatever the system allows others.
pub fn make_room(socket: &impl AsFd) -> Result<()> {
    const BYTES: libc::c_int = 8 << 20;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BYTES.to_ne_bytes())
        .context("cannot make a socket's receive buffer larger")
}

/// Sets a socket option that has no function of its own.
pub fn set_option(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let (data, length) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
    // SAFETY: the kernel reads `length` bytes from `data`, which `value` holds.
    match unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, data, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A connection to a [`TcpEcho`](crate::servers::TcpEcho), greeted.
pub struct Connection {
    /// What comes next from the server.
    pub stream: BufReader<TcpStream>,
    /// The name of the host that answered.
    pub name: String,
    /// The client's address and port as that host sees them.
    pub seen: SocketAddr,
}

impl Connection {
    /// Connects from an address and port of the host, port 0 for any, and reads the greeting.
    pub fn open(host: &Host, source: SocketAddr, server: SocketAddr) -> Result<Self> {
        Self::over(tcp_socket(host, source)?, server)
    }

    /// Connects a socket and reads the greeting.
    pub fn over(socket: Socket, server: SocketAddr) -> Result<Self> {
        let source = socket.local_addr().ok().and_then(|address| address.as_socket());
        let greeted = socket.connect_timeout(&server.into(), PATIENCE).and_then(|()| {
            let mut stream = BufReader::new(TcpStream::from(socket));
            let mut greeting = String::new();
            stream.read_line(&mut greeting)?;
            Ok((stream, greeting))
        });
        let (stream, greeting) = greeted.with_context(|| format!("no answer of {server} to {source:?}"))?;
        let (name, seen) = greeting
            .trim_end()
            .split_once(' ')
            .with_context(|| format!("{server} said {greeting:?} to {source:?}, which is not a greeting"))?;
        let seen = seen.parse().with_context(|| format!("{server} saw {seen:?}, which is not an address"))?;
        Ok(Self { stream, name: name.to_owned(), seen })
    }
}

/// How many clients of a crowd are at work at one time.
const AT_ONCE: u16 = 4;

/// Connects to a service of [`TcpEcho`](crate::servers::TcpEcho) once from each of `count` source ports, `first` and
/// those above it, and says how many connections each host answered. An error where one was not answered.
pub fn crowd(
    host: &Host,
    source: IpAddr,
    first: u16,
    count: u16,
    vip: SocketAddr,
) -> Result<BTreeMap<String, u64>> {
    let visit = |worker: u16| -> Result<BTreeMap<String, u64>> {
        let mut answers = BTreeMap::new();
        for port in (first..first + count).skip(worker.into()).step_by(AT_ONCE.into()) {
            let socket = bound(SocketAddr::new(source, port))
                .with_context(|| format!("cannot bind {source} port {port}"))?;
            *answers.entry(Connection::over(socket, vip)?.name).or_default() += 1;
        }
        Ok(answers)
    };
    let parts: Result<Vec<BTreeMap<_, _>>> = host.enter(|| {
        // A thread begins in its parent's namespace.
        thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|worker| scope.spawn(move || visit(worker))).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().map_err(|_| anyhow!("a client panicked"))?)
                .collect()
        })
    })?;
    let mut total = BTreeMap::new();
    for (name, answers) in parts?.into_iter().flatten() {
        *total.entry(name).or_default() += answers;
    }
    Ok(total)
}

/// Sends an ICMP echo request and waits for the answer.
pub fn ping(host: &Host, target: IpAddr) -> Result<()> {
    // Lets group 0 have sockets for which the kernel does the checksums and the matching (icmp(7)).
    host.sysctl("net.ipv4.ping_group_range", "0 0")?;
    // Type, code, checksum (the kernel's), identifier (the kernel's), sequence number, data.
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let request = [&[kind, 0, 0, 0, 0, 0, 0, 1], b"hello".as_slice()].concat();
    let answer = host.enter(|| {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&request, &SocketAddr::new(target, 0).into())?;
        let mut answer = vec![0; 64];
        let length = socket.read(&mut answer)?;
        answer.truncate(length);
        io::Result::Ok(answer)
    })?;
    let answer = answer.with_context(|| format!("{target} does not answer {}'s ping", host.name()))?;
    if answer.get(8..) != Some(b"hello") {
        bail!("{target} answered {}'s ping with {answer:?}", host.name());
    }
    Ok(())
}
