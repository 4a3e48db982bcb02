//! The UDP check: a datagram is answered, with the expected content.

use super::datagram::{Words, ask};
use crate::health::attempt::Attempt;
use crate::health::failure::Failure;
use crate::model::bytes_in_words;

pub(super) async fn probe(attempt: Attempt<'_>, send: &[u8], expect: Option<&[u8]>) -> Result<(), Failure> {
    let socket = attempt.udp_socket().await?;
    let words = Words { missing: "no UDP response", unrelated: None };
    // Only this backend's datagrams arrive, so any datagram is its response.
    let answer = ask(&socket, send, attempt.time, words, |answer| Some(answer.to_vec())).await?;
    match expect {
        Some(expect) if !contains(&answer, expect) => Err(Failure::Backend(format!(
            "the UDP response {} does not contain {}",
            bytes_in_words(&answer),
            bytes_in_words(expect)
        ))),
        _ => Ok(()),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::UdpSocket;

    use super::super::tests::check;
    use crate::model::Probe;

    /// A server that answers each datagram with `answer(number of earlier datagrams, datagram)`.
    async fn server(answer: impl Fn(usize, &[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let backend = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            for count in 0.. {
                let (length, client) = socket.recv_from(&mut buffer).await.expect("a datagram");
                if let Some(answer) = answer(count, &buffer[..length]) {
                    socket.send_to(&answer, client).await.expect("it is sent");
                }
            }
        });
        backend
    }

    fn udp(send: &[u8], expect: Option<&[u8]>) -> Probe {
        Probe::Udp { send: send.into(), expect: expect.map(Into::into) }
    }

    #[tokio::test]
    async fn a_response_with_the_expected_content_is_a_success() {
        let backend = server(|_, asked| Some([b"<", asked, b">\xff"].concat())).await;
        assert_eq!(check(backend, udp(b"ping", None)).await, Ok(()));
        assert_eq!(check(backend, udp(b"ping", Some(b"<ping"))).await, Ok(()));
        assert_eq!(check(backend, udp(b"\x00\xfe", Some(b"\xfe>\xff"))).await, Ok(()));
        assert_eq!(check(backend, udp(b"", Some(b"<>"))).await, Ok(()));
    }

    #[tokio::test]
    async fn another_response_is_reported_as_received() {
        let backend = server(|_, asked| Some(asked.into())).await;
        assert_eq!(
            check(backend, udp(b"ping", Some(b"pong"))).await,
            Err("the UDP response \"ping\" does not contain \"pong\"".into())
        );
        assert_eq!(
            check(backend, udp(b"\x01\x80", Some(b"\x01\x81"))).await,
            Err("the UDP response 0x0180 does not contain 0x0181".into())
        );
        let empty = server(|_, _| Some(Vec::new())).await;
        assert_eq!(
            check(empty, udp(b"ping", Some(b"pong"))).await,
            Err("the UDP response \"\" does not contain \"pong\"".into())
        );
    }

    #[tokio::test]
    async fn a_lost_datagram_is_sent_again_and_silence_is_reported() {
        let backend = server(|count, _| (count > 0).then(|| b"late".to_vec())).await;
        assert_eq!(check(backend, udp(b"ping", None)).await, Ok(()));
        let backend = server(|_, _| None).await;
        assert_eq!(check(backend, udp(b"ping", None)).await, Err("no UDP response within 3s".into()));
    }

    #[tokio::test]
    async fn a_closed_port_is_reported() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let backend = socket.local_addr().expect("its address");
        drop(socket);
        assert_eq!(check(backend, udp(b"ping", None)).await, Err("port unreachable".into()));
    }
}
