//! One check of one backend: its addresses and its sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::failure::{Failure, Time, unbound};
use super::vip_checks::VipRoute;

/// One check of one backend: its destination, its source and its time.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// The name of the service.
    pub(super) service: &'a str,
    /// The address and port to check: the backend's own, or the VIP's.
    pub(super) backend: SocketAddr,
    /// The source address. `None`: selected by the routes.
    pub(super) source: Option<IpAddr>,
    /// The route to the backend, for a check of the VIP.
    pub(super) vip_route: Option<&'a VipRoute<'a>>,
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

    /// For a check of the VIP: a bound socket whose packets to the VIP go to the backend.
    async fn through_vip(self, kind: Type) -> Result<Option<Socket>, Failure> {
        let (Some(vip_route), Some(source)) = (self.vip_route, self.source) else { return Ok(None) };
        vip_route.socket(kind, source, self.backend.port()).await.map(Some)
    }

    /// A UDP socket connected to the backend: the kernel drops datagrams from other addresses and ports.
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

/// Dropping the connection resets it: with thousands of checks per second, closed ones would pile up in TIME_WAIT for a minute.
async fn connect_from(socket: TcpSocket, to: SocketAddr, time: Time) -> Result<TcpStream, Failure> {
    socket.set_zero_linger()?;
    Ok(time.limit("no answer", socket.connect(to)).await??)
}

/// Whether this host has a route to the address. An unanswered neighbour lookup or a router on the path causes the same errors as a
/// missing route; connecting a UDP socket sends nothing and consults only the routes.
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
