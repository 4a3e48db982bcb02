//! The TCP check: a connection is accepted.

use crate::health::attempt::Attempt;
use crate::health::failure::Failure;

pub(super) async fn probe(attempt: Attempt<'_>) -> Result<(), Failure> {
    attempt.connect().await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::super::tests::check;
    use crate::model::Probe;

    #[tokio::test]
    async fn an_accepted_connection_is_a_success_and_is_reset_rather_than_left_in_time_wait() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.expect("a listener");
            let backend = listener.local_addr().expect("its address");
            assert_eq!(check(backend, Probe::Tcp).await, Ok(()));
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let end = connection.read(&mut [0]).await.expect_err("it is reset");
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_reported_as_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        drop(listener);
        assert_eq!(check(backend, Probe::Tcp).await, Err("connection refused".into()));
    }

    #[tokio::test]
    async fn a_full_backlog_is_reported_as_no_answer() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let listener = socket.listen(0).expect("a listener");
        let backend = listener.local_addr().expect("its address");
        let mut waiting = Vec::new();
        // The kernel drops SYNs while the backlog is full.
        for _ in 0..2 {
            waiting.push(tokio::spawn(tokio::net::TcpStream::connect(backend)));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(check(backend, Probe::Tcp).await, Err("no answer within 3s".into()));
    }
}
