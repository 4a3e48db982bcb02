//! The ICMP check: an echo request is answered (RFC 792, RFC 4443 section 4).

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::datagram::{Words, ask};
use crate::health::attempt::Attempt;
use crate::health::failure::{Failure, unbound};

/// Distinguishes the replies to each check, even from those of an attacker who does not see the request.
const TOKEN: usize = 16;

pub(super) async fn probe(attempt: Attempt<'_>) -> Result<(), Failure> {
    let backend = attempt.backend.ip();
    let socket = open(backend)?;
    let bound = attempt.source.map_or(Ok(()), |source| {
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|error| unbound(source, error))
    });
    bound?;
    // A connected socket receives nothing from other hosts, and gets ICMP errors.
    socket.connect(&SocketAddr::new(backend, 0).into())?;
    socket.set_nonblocking(true)?;
    // tokio's UDP socket works for any connected datagram socket.
    let socket = UdpSocket::from_std(socket.into())?;
    let token: [u8; TOKEN] = rand::random();
    let request = request(backend, rand::random(), token);
    // A raw socket also gets the answers to other checks of the same host.
    let words = Words { missing: "no reply to ping", unrelated: None };
    ask(&socket, &request, attempt.time, words, |answer| is_reply(backend, answer, token).then_some(())).await
}

/// An unprivileged ping socket if `net.ipv4.ping_group_range` allows it, else a raw socket, which needs CAP_NET_RAW.
fn open(backend: IpAddr) -> Result<Socket, Failure> {
    let (domain, protocol) = match backend {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let open = |r#type| Socket::new(domain, r#type, Some(protocol));
    let is_refused = |error: &io::Error| {
        [Errno::EACCES as i32, Errno::EPERM as i32].contains(&error.raw_os_error().unwrap_or_default())
    };
    match open(Type::DGRAM) {
        Err(error) if is_refused(&error) => open(Type::RAW).map_err(|error| match is_refused(&error) {
            true => Failure::here(
                "the daemon may not send pings; give it CAP_NET_RAW, or add its group to net.ipv4.ping_group_range",
            ),
            false => error.into(),
        }),
        opened => Ok(opened?),
    }
}

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

fn request(backend: IpAddr, identifier: u16, token: [u8; TOKEN]) -> Vec<u8> {
    let kind = if backend.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    let [high, low] = identifier.to_be_bytes();
    // Type, code, checksum, identifier, sequence number.
    let mut request = vec![kind, 0, 0, 0, high, low, 0, 1];
    request.extend(token);
    if backend.is_ipv4() {
        // ICMPv6's also covers addresses, so the kernel fills it in (RFC 3542 section 3.1).
        let checksum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&checksum);
    }
    request
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Whether a received packet is the reply to the request with this token.
fn is_reply(backend: IpAddr, bytes: &[u8], token: [u8; TOKEN]) -> bool {
    // A raw IPv4 socket also returns the IP header, a ping socket does not. An echo reply starts with 0.
    let header = match (backend, bytes.first()) {
        (IpAddr::V4(_), Some(first)) if first >> 4 == 4 => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let expected = if backend.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    let Some(message) = bytes.get(header..) else { return false };
    message.first() == Some(&expected) && message.get(1) == Some(&0) && message.get(8..) == Some(&token[..])
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::model::Probe;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[tokio::test]
    async fn this_host_replies_whatever_the_port() {
        for address in [V4, V6] {
            assert_eq!(check(SocketAddr::new(address, 1), Probe::Icmp).await, Ok(()), "{address}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let request = request(V4, 0xabcd, [0xff; TOKEN]);
        assert_eq!(checksum(&request), 0, "over itself");
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2,
            "RFC 1071 section 3"
        );
    }

    #[test]
    fn only_the_reply_with_the_token_is_one() {
        let token = [7; TOKEN];
        let mut reply = request(V4, 1, token);
        assert!(!is_reply(V4, &reply, token), "the request itself, as a raw socket on the loopback sees it");
        reply[0] = ECHO_REPLY;
        assert!(is_reply(V4, &reply, token));
        let header = [0x46; 24];
        assert!(is_reply(V4, &[&header[..], &reply].concat(), token), "behind an IP header with options");
        assert!(!is_reply(V4, &reply, [8; TOKEN]));
        assert!(!is_reply(V6, &reply, token));
        let mut reply = request(V6, 1, token);
        reply[0] = ECHO_REPLY_V6;
        assert!(is_reply(V6, &reply, token));
        reply.pop();
        assert!(!is_reply(V6, &reply, token));
        for short in [&[][..], &[0x4f], &[0x45; 20], &[ECHO_REPLY], &[ECHO_REPLY, 0, 0, 0]] {
            assert!(!is_reply(V4, short, token), "{short:?}");
        }
    }
}
