//! One check of one backend: where it goes, where it comes from, and its sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::failure::{Failure, Time, unbound};
use super::vip_checks::Passage;

/// One check of one backend: what it is made at, where it comes from, and the time that it has.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// The name of the service that is checked.
    pub(super) service: &'a str,
    /// The address and the port that are checked: the backend's own, or the VIP's.
    pub(super) backend: SocketAddr,
    /// The address of this host that it comes from; `None`: as the routes say.
    pub(super) source: Option<IpAddr>,
    /// The way to the backend, where it goes to the VIP.
    pub(super) passage: Option<&'a Passage<'a>>,
    pub(super) time: Time,
}

impl Attempt<'_> {
    /// Connects over TCP.
    pub(super) async fn connect(self) -> Result<TcpStream, Failure> {
        let Some(socket) = self.through_vip(Type::STREAM).await? else {
            return connect(self.backend, self.source, self.time).await;
        };
        connect_from(TcpSocket::from_std_stream(socket.into()), self.backend, self.time).await
    }

    /// A bound socket whose packets go to the VIP through the backend, where this check's are to.
    async fn through_vip(self, kind: Type) -> Result<Option<Socket>, Failure> {
        let (Some(passage), Some(source)) = (self.passage, self.source) else { return Ok(None) };
        passage.socket(kind, source, self.backend.port()).await.map(Some)
    }

    /// A UDP socket that hears the backend alone: the kernel drops what comes from any other address or port.
    pub(super) async fn udp_socket(self) -> Result<UdpSocket, Failure> {
        if let Some(socket) = self.through_vip(Type::DGRAM).await? {
            let socket = UdpSocket::from_std(socket.into())?;
            socket.connect(self.backend).await?;
            return Ok(socket);
        }
        let source = self.source.unwrap_or(match self.backend {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        let socket =
            UdpSocket::bind(SocketAddr::new(source, 0)).await.map_err(|error| unbound(source, error))?;
        socket.connect(self.backend).await?;
        Ok(socket)
    }
}

/// Connects over TCP.
pub(super) async fn connect(
    to: SocketAddr,
    source: Option<IpAddr>,
    time: Time,
) -> Result<TcpStream, Failure> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| unbound(source, error))?;
    }
    connect_from(socket, to, time).await
}

/// When the connection is dropped it is reset, not closed: a balancer that checks thousands of backends each second would
/// otherwise keep a minute's worth of them in TIME_WAIT.
async fn connect_from(socket: TcpSocket, to: SocketAddr, time: Time) -> Result<TcpStream, Failure> {
    socket.set_zero_linger()?;
    Ok(time.limit("no answer", socket.connect(to)).await??)
}

/// Whether this host's routes lead to this address. A neighbour that does not answer, and a router on the way, report the
/// same errors as a route that is missing; connecting a UDP socket sends nothing and looks at the routes alone.
pub(super) fn has_route(to: SocketAddr, source: Option<IpAddr>) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&to.into())
    };
    let out_of_reach = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN];
    !connect().is_err_and(|error| error.raw_os_error().is_some_and(|errno| out_of_reach.contains(&errno)))
}
