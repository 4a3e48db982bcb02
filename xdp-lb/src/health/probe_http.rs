//! The HTTP check: `GET` is answered with a status in the range. Only the header is read, and no more
//! than 16 KiB of it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;

use super::probe::{Attempt, Failure};

/// The longest header that is read, bytes.
const MAX_HEADER: usize = 16 << 10;

const USER_AGENT: &str = concat!("xdp-lb/", env!("CARGO_PKG_VERSION"));

pub(super) async fn probe(
    attempt: Attempt,
    path: &str,
    host: Option<&str>,
    (lowest, highest): (u16, u16),
) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(header::HOST, host.map_or_else(|| default_host(attempt.backend), str::to_owned))
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Backend(format!("the check's path or host is not valid: {error}")))?;
    let stream = attempt.connect().await?;
    let status = attempt.time.limit("connected, but no HTTP answer", async {
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEADER).handshake(TokioIo::new(stream)).await?;
        let mut answer = pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut answer => answer,
            ended = connection => answer.await.map_err(|error| ended.err().unwrap_or(error)),
        };
        Ok(answer?.status().as_u16())
    });
    match status.await?.map_err(failure)? {
        status if (lowest..=highest).contains(&status) => Ok(()),
        status if lowest == highest => Err(Failure::Backend(format!("HTTP {status}, expected {lowest}"))),
        status => Err(Failure::Backend(format!("HTTP {status}, expected {lowest}-{highest}"))),
    }
}

/// RFC 9110 section 7.2: the port is left out where it is the scheme's own.
fn default_host(backend: SocketAddr) -> String {
    match backend {
        SocketAddr::V4(v4) if v4.port() == 80 => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == 80 => format!("[{}]", v6.ip()),
        _ => backend.to_string(),
    }
}

fn failure(error: hyper::Error) -> Failure {
    let io = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    if let Some(code) = io {
        return io::Error::from_raw_os_error(code).into();
    }
    Failure::Backend(if error.is_parse_too_large() {
        format!("an HTTP header of more than {MAX_HEADER} bytes, or of too many lines")
    } else if error.is_parse() {
        "an answer that is not HTTP".to_owned()
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "the connection was closed without an HTTP answer".to_owned()
    } else {
        error.to_string()
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::super::probe::tests::check;
    use super::*;
    use crate::config::Probe;

    /// A server that reads one request, answers with `serve`, and returns the request.
    async fn server<F: Future<Output = ()> + Send>(
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        let request = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.expect("a request"));
            }
            serve(connection).await;
            String::from_utf8(request).expect("text")
        });
        (backend, request)
    }

    fn get(path: &str) -> Probe {
        Probe::Http { path: path.into(), host: None, status: (200, 399) }
    }

    async fn answered(answer: &'static str) -> Result<(), String> {
        let (backend, request) = server(async |mut connection| {
            let _ = connection.write_all(answer.as_bytes()).await;
        })
        .await;
        let result = check(backend, get("/")).await;
        request.await.expect("the server ends");
        result
    }

    #[tokio::test]
    async fn the_request_asks_for_the_path_of_the_host_and_closes() {
        let (backend, request) = server(async |mut connection| {
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is read");
        })
        .await;
        let probe = Probe::Http {
            path: "/healthz?deep=1".into(),
            host: Some("www.example.com".into()),
            status: (204, 204),
        };
        assert_eq!(check(backend, probe).await, Ok(()));
        let request = request.await.expect("a request").to_lowercase();
        assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
        for header in ["host: www.example.com", "connection: close", &format!("user-agent: {USER_AGENT}")] {
            assert!(request.contains(&format!("\r\n{header}\r\n")), "no {header} in {request}");
        }
    }

    #[tokio::test]
    async fn the_host_is_the_backend_where_none_is_named() {
        let (backend, request) = server(async |_| ()).await;
        let _ = check(backend, get("/")).await;
        let request = request.await.expect("a request").to_lowercase();
        assert!(request.contains(&format!("\r\nhost: {backend}\r\n")), "{request}");
        assert_eq!(default_host("[2001:db8::1]:80".parse().expect("an address")), "[2001:db8::1]");
    }

    #[tokio::test]
    async fn the_status_decides() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await, Ok(()));
        assert_eq!(answered("HTTP/1.0 302 Found\r\n\r\n").await, Ok(()));
        let failed = answered("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(failed, Err("HTTP 503, expected 200-399".into()));
        let (backend, _request) = server(async |mut connection| {
            let _ = connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        })
        .await;
        let probe = Probe::Http { path: "/".into(), host: None, status: (200, 200) };
        assert_eq!(check(backend, probe).await, Err("HTTP 204, expected 200".into()));
    }

    #[tokio::test]
    async fn a_server_that_closes_or_speaks_something_else_is_told_so() {
        let closed = "the connection was closed without an HTTP answer";
        assert_eq!(answered("").await, Err(closed.into()));
        assert_eq!(answered("HTTP/1.1 20").await, Err(closed.into()));
        let garbage = "220 mail.example.com ESMTP\r\n";
        assert_eq!(answered(garbage).await, Err("an answer that is not HTTP".into()));
        assert_eq!(check_nothing_listens().await, Err("connection refused".into()));
    }

    async fn check_nothing_listens() -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        drop(listener);
        check(backend, get("/")).await
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up_at_the_timeout() {
        let (backend, _request) = server(async |_connection| std::future::pending().await).await;
        let result = check(backend, get("/")).await;
        assert_eq!(result, Err("connected, but no HTTP answer within 300ms".into()));
    }

    #[tokio::test]
    async fn an_endless_header_is_given_up_after_a_bounded_read() {
        for (line, words) in [("x-long: ", "a"), ("", "x-many: 1\r\n")] {
            let (backend, written) = server(async move |mut connection| {
                let _ = connection.write_all(format!("HTTP/1.1 200 OK\r\n{line}").as_bytes()).await;
                while connection.write_all(words.repeat(100).as_bytes()).await.is_ok() {}
            })
            .await;
            let words = format!("an HTTP header of more than {MAX_HEADER} bytes, or of too many lines");
            assert_eq!(check(backend, get("/")).await, Err(words));
            written.await.expect("the server is cut off");
        }
    }

    #[tokio::test]
    async fn an_endless_body_is_not_read() {
        let (backend, cut_off) = server(async |mut connection| {
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while connection.write_all(&[b'a'; 4096]).await.is_ok() {}
        })
        .await;
        assert_eq!(check(backend, get("/")).await, Ok(()));
        cut_off.await.expect("the server is cut off");
    }
}
