//! The HTTP check: the response has an expected status, and an expected body. At most 16 KiB of the header are read, and at most 64
//! KiB of the body, if it is checked.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::tls::{self, Alpn, Configs};
use crate::health::attempt::Attempt;
use crate::health::failure::Failure;
use crate::model::{Body, Http, TlsVersion, bytes_in_words, print_statuses};

/// The longest header that is read, in bytes.
const MAX_HEADER: usize = 16 << 10;

/// How much of a body is checked, in bytes.
const MAX_BODY: usize = 64 << 10;

pub(super) const USER_AGENT: &str = concat!("xdp-lb/", env!("CARGO_PKG_VERSION"));

pub(super) async fn probe(attempt: Attempt<'_>, http: &Http, configs: &Configs) -> Result<(), Failure> {
    let request = request(attempt, http)
        .map_err(|error| Failure::Backend(format!("the check's request is not valid: {error}")))?;
    let stream = attempt.connect().await?;
    match &http.tls {
        None => ask(attempt, stream, request, http).await,
        Some(tls) => {
            let stream =
                tls::handshake(configs, attempt, stream, tls, http.host.as_deref(), Alpn::Http1).await?;
            ask(attempt, stream, request, http).await
        }
    }
}

fn request(attempt: Attempt<'_>, http: &Http) -> http::Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder().method(http.method.to_string().as_str()).uri(&http.path);
    let host = http.host.clone().unwrap_or_else(|| default_host(attempt.backend, http.tls.is_some()));
    request = request.header(header::HOST, host);
    let own = [(header::USER_AGENT, USER_AGENT), (header::ACCEPT, "*/*"), (header::CONNECTION, "close")];
    for (name, value) in own {
        let is_given = http.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name.as_str()));
        if !is_given {
            request = request.header(name, value);
        }
    }
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new())
}

/// RFC 9110 section 7.2: the scheme's default port is left out.
fn default_host(backend: SocketAddr, with_tls: bool) -> String {
    let own = if with_tls { 443 } else { 80 };
    match backend {
        SocketAddr::V4(v4) if v4.port() == own => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == own => format!("[{}]", v6.ip()),
        _ => backend.to_string(),
    }
}

async fn ask(
    attempt: Attempt<'_>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Empty<Bytes>>,
    http: &Http,
) -> Result<(), Failure> {
    let answer = attempt.time.limit("connected, but no HTTP response", async {
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEADER).handshake(TokioIo::new(stream)).await?;
        let mut answer = pin!(async {
            let answer = sender.send_request(request).await?;
            read(answer, http.body.is_some()).await
        });
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => answer.await.map_err(|error| ended.err().unwrap_or(error)),
        }
    });
    let (status, body) = answer.await?.map_err(failure)?;
    if !http.status.iter().any(|range| range.contains(status)) {
        let expected = print_statuses(&http.status);
        return Err(Failure::Backend(format!("HTTP {status}, expected {expected}")));
    }
    judge(&body, http.body.as_ref()).map_err(|why| Failure::Backend(format!("HTTP {status}, but {why}")))
}

/// The status, and the beginning of the body if it is checked.
async fn read(answer: Response<Incoming>, with_body: bool) -> hyper::Result<(u16, Vec<u8>)> {
    let status = answer.status().as_u16();
    let mut read = Vec::new();
    let mut body = answer.into_body();
    while with_body && read.len() < MAX_BODY {
        let Some(frame) = body.frame().await else { break };
        if let Some(data) = frame?.data_ref() {
            read.extend_from_slice(&data[..data.len().min(MAX_BODY - read.len())]);
        }
    }
    Ok((status, read))
}

fn judge(body: &[u8], wanted: Option<&Body>) -> Result<(), String> {
    let (is_good, what) = match wanted {
        None => return Ok(()),
        Some(Body::Contains(text)) => {
            let text = text.as_bytes();
            let is_there = body.windows(text.len()).any(|window| window == text);
            (is_there, format!("does not contain {}", bytes_in_words(text)))
        }
        Some(Body::Matches(pattern)) => (pattern.is_match(body), format!("does not match /{pattern}/")),
    };
    if is_good { Ok(()) } else { Err(format!("the body {} {what}", bytes_in_words(body))) }
}

fn failure(error: hyper::Error) -> Failure {
    if let Some(failure) = io_failure(&error) {
        return failure;
    }
    Failure::Backend(if error.is_parse_too_large() {
        format!("the HTTP header exceeds {MAX_HEADER} bytes or has too many lines")
    } else if error.is_parse() {
        "the response is not HTTP".to_owned()
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "the connection was closed without an HTTP response".to_owned()
    } else {
        error.to_string()
    })
}

/// The error of the underlying connection, if that failed.
pub(super) fn io_failure(error: &hyper::Error) -> Option<Failure> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    match error.raw_os_error() {
        Some(code) => Some(io::Error::from_raw_os_error(code).into()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Some(Failure::Backend("the response was truncated".to_owned()))
        }
        None => crate::tls::told(error, TlsVersion::default(), tls::CA).map(Failure::Backend),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::super::tests::check;
    use super::*;
    use crate::model::{Method, Probe, StatusRange};

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
        Probe::Http(Http::get(path))
    }

    const fn only(status: u16) -> StatusRange {
        StatusRange { low: status, high: status }
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
        let probe = Probe::Http(Http {
            host: Some("www.example.com".into()),
            status: vec![only(204)],
            ..Http::get("/healthz?deep=1")
        });
        assert_eq!(check(backend, probe).await, Ok(()));
        let request = request.await.expect("a request").to_lowercase();
        assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
        for header in ["host: www.example.com", "connection: close", &format!("user-agent: {USER_AGENT}")] {
            assert!(request.contains(&format!("\r\n{header}\r\n")), "no {header} in {request}");
        }
    }

    #[tokio::test]
    async fn the_host_defaults_to_the_backend() {
        let (backend, request) = server(async |_| ()).await;
        let _ = check(backend, get("/")).await;
        let request = request.await.expect("a request").to_lowercase();
        assert!(request.contains(&format!("\r\nhost: {backend}\r\n")), "{request}");
        assert_eq!(default_host("[2001:db8::1]:80".parse().expect("an address"), false), "[2001:db8::1]");
    }

    #[tokio::test]
    async fn the_method_and_the_headers_are_sent_as_they_are_written() {
        for method in [Method::Get, Method::Head, Method::Options] {
            let (backend, request) = server(async |mut connection| {
                connection
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
                    .await
                    .expect("it is read");
            })
            .await;
            let headers = [("X-Probe", "a: b"), ("User-Agent", "probe/1")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let probe = Probe::Http(Http { method, headers, ..Http::get("/") });
            assert_eq!(check(backend, probe).await, Ok(()));
            let request = request.await.expect("a request");
            assert!(request.starts_with(&format!("{method} / HTTP/1.1\r\n")), "{request}");
            let lines: Vec<_> = request.lines().map(str::to_lowercase).collect();
            assert!(lines.contains(&"x-probe: a: b".into()), "{request}");
            let agents: Vec<_> = lines.iter().filter(|line| line.starts_with("user-agent:")).collect();
            assert_eq!(agents, ["user-agent: probe/1"]);
        }
    }

    async fn body(answer: &'static str, wanted: Body) -> Result<(), String> {
        let (backend, request) = server(async |mut connection| {
            let _ = connection.write_all(answer.as_bytes()).await;
        })
        .await;
        let result = check(backend, Probe::Http(Http { body: Some(wanted), ..Http::get("/") })).await;
        request.await.expect("the server ends");
        result
    }

    #[tokio::test]
    async fn the_body_decides_if_it_is_checked() {
        let text = |text: &str| Body::Contains(text.into());
        let like = |pattern: &str| Body::Matches(pattern.parse().expect("a pattern"));
        let fixed = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nstate: up";
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nstate:\r\n3\r\n up\r\n0\r\n\r\n";
        let until_closed = "HTTP/1.0 200 OK\r\n\r\nstate: up";
        for answer in [fixed, chunked, until_closed] {
            for wanted in [text("state: up"), text("e: u"), like("^state: (up|ok)$")] {
                assert_eq!(body(answer, wanted).await, Ok(()), "{answer}");
            }
        }
        assert_eq!(
            body(fixed, text("down")).await,
            Err("HTTP 200, but the body \"state: up\" does not contain \"down\"".into())
        );
        assert_eq!(
            body(fixed, like("^up")).await,
            Err("HTTP 200, but the body \"state: up\" does not match /^up/".into())
        );
        let unwell = "HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nstate: up";
        assert_eq!(body(unwell, text("up")).await, Err("HTTP 503, expected 200-399".into()));
        let broken_off = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nstate: up";
        let words = "the response was truncated";
        assert_eq!(body(broken_off, text("up")).await, Err(words.into()));
    }

    #[tokio::test]
    async fn a_body_is_read_only_as_far_as_it_is_checked() {
        for (place, expected) in [(MAX_BODY - 4, Ok(())), (MAX_BODY - 3, Err(()))] {
            let (backend, written) = server(async move |mut connection| {
                let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                let _ = connection.write_all(&[head, vec![b'.'; place], b"here".to_vec()].concat()).await;
                // It never ends.
                while connection.write_all(&[b'.'; 4096]).await.is_ok() {}
            })
            .await;
            let probe = Probe::Http(Http { body: Some(Body::Contains("here".into())), ..Http::get("/") });
            assert_eq!(check(backend, probe).await.map_err(drop), expected);
            written.await.expect("the server is cut off");
        }
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
        let probe = Probe::Http(Http { status: vec![only(200)], ..Http::get("/") });
        assert_eq!(check(backend, probe).await, Err("HTTP 204, expected 200".into()));
        for (answer, expected) in [
            ("HTTP/1.1 401 No\r\n\r\n", Ok(())),
            ("HTTP/1.1 299 Yes\r\n\r\n", Ok(())),
            ("HTTP/1.1 302 Found\r\n\r\n", Err("HTTP 302, expected 200-299, 401".into())),
        ] {
            let (backend, _request) = server(async move |mut connection| {
                let _ = connection.write_all(answer.as_bytes()).await;
            })
            .await;
            let status = vec![StatusRange { low: 200, high: 299 }, only(401)];
            assert_eq!(check(backend, Probe::Http(Http { status, ..Http::get("/") })).await, expected);
        }
    }

    #[tokio::test]
    async fn a_server_that_closes_or_does_not_speak_http_is_reported() {
        let closed = "the connection was closed without an HTTP response";
        assert_eq!(answered("").await, Err(closed.into()));
        assert_eq!(answered("HTTP/1.1 20").await, Err(closed.into()));
        let garbage = "220 mail.example.com ESMTP\r\n";
        assert_eq!(answered(garbage).await, Err("the response is not HTTP".into()));
        assert_eq!(check_nothing_listens().await, Err("connection refused".into()));
    }

    async fn check_nothing_listens() -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        drop(listener);
        check(backend, get("/")).await
    }

    #[tokio::test]
    async fn a_silent_server_times_out() {
        let (backend, _request) = server(async |_connection| std::future::pending().await).await;
        let result = check(backend, get("/")).await;
        assert_eq!(result, Err("connected, but no HTTP response within 3s".into()));
    }

    #[tokio::test]
    async fn an_endless_header_is_given_up_after_a_bounded_read() {
        for (line, words) in [("x-long: ", "a"), ("", "x-many: 1\r\n")] {
            let (backend, written) = server(async move |mut connection| {
                let _ = connection.write_all(format!("HTTP/1.1 200 OK\r\n{line}").as_bytes()).await;
                while connection.write_all(words.repeat(100).as_bytes()).await.is_ok() {}
            })
            .await;
            let words = format!("the HTTP header exceeds {MAX_HEADER} bytes or has too many lines");
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
