//! The gRPC check: the server's health service answers SERVING (`grpc.health.v1.Health/Check`, of the gRPC project's
//! health checking protocol), over HTTP/2 with or without TLS.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper::{HeaderMap, Request, Response, Version, header};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use super::http::{self, USER_AGENT};
use super::tls::{self, Alpn, Configs};
use crate::health::attempt::Attempt;
use crate::health::failure::Failure;
use crate::model::Tls;

/// The longest header and the longest message that are read, in bytes.
const MAX_ANSWER: u32 = 16 << 10;

/// The messages of grpc/health/v1/health.proto.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

pub(super) async fn probe(
    attempt: Attempt<'_>,
    service: &str,
    host: Option<&str>,
    tls: Option<&Tls>,
    configs: &Configs,
) -> Result<(), Failure> {
    let authority = host.map_or_else(|| attempt.backend.to_string(), str::to_owned);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let milliseconds = attempt.time.all.as_millis();
    let request = Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .header("grpc-timeout", format!("{milliseconds}m"))
        .body(Full::new(frame(&HealthCheckRequest { service: service.to_owned() })))
        .map_err(|error| Failure::Backend(format!("the check's host is not valid: {error}")))?;
    let stream = attempt.connect().await?;
    match tls {
        None => ask(attempt, stream, request).await,
        Some(tls) => {
            ask(attempt, tls::handshake(configs, attempt, stream, tls, host, Alpn::Http2).await?, request)
                .await
        }
    }
}

async fn ask(
    attempt: Attempt<'_>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(), Failure> {
    let answer = attempt.time.limit("connected, but no gRPC response", async {
        let tasks = Tasks::default();
        let (mut sender, connection) = http2::Builder::new(tasks.executor())
            .max_header_list_size(MAX_ANSWER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failure)?;
        tasks.executor().execute(async { drop(connection.await) });
        let answer = sender.send_request(request).await.map_err(failure)?;
        read(answer).await
    });
    answer.await?
}

/// The meaning of the response.
async fn read(answer: Response<Incoming>) -> Result<(), Failure> {
    let (head, body) = answer.into_parts();
    if head.status != 200 {
        return Err(Failure::Backend(format!("HTTP {}, expected a gRPC response", head.status.as_u16())));
    }
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/grpc") {
        return Err(Failure::Backend("the response is not gRPC".to_owned()));
    }
    let body = Limited::new(body, MAX_ANSWER as usize).collect().await.map_err(|error| {
        Failure::Backend(match error.downcast_ref::<hyper::Error>() {
            Some(error) => format!("the gRPC response was truncated: {error}"),
            None => format!("the gRPC response is larger than {MAX_ANSWER} bytes"),
        })
    })?;
    // A response without a message has its status in the header (gRPC over HTTP/2, "Trailers-Only").
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    status(&trailers)?;
    let serving = message(&body.to_bytes()).and_then(|answer| ServingStatus::try_from(answer.status).ok());
    match serving {
        Some(ServingStatus::Serving) => Ok(()),
        Some(ServingStatus::NotServing) => Err(Failure::Backend("gRPC health NOT_SERVING".to_owned())),
        Some(ServingStatus::ServiceUnknown) => {
            Err(Failure::Backend("gRPC health SERVICE_UNKNOWN".to_owned()))
        }
        Some(ServingStatus::Unknown) => Err(Failure::Backend("gRPC health UNKNOWN".to_owned())),
        None => Err(Failure::Backend("the gRPC response is not a HealthCheckResponse".to_owned())),
    }
}

/// The call's own status.
fn status(trailers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let words = match text("grpc-status") {
        Some("0") => return Ok(()),
        None => "the gRPC response has no status".to_owned(),
        Some("5") => "gRPC NOT_FOUND: the server does not know this service".to_owned(),
        Some("12") => "gRPC UNIMPLEMENTED: the server has no grpc.health.v1.Health".to_owned(),
        Some(code) => {
            let name = code.parse().ok().and_then(|code: usize| CODES.get(code)).copied().unwrap_or(code);
            let told = percent_decode_str(text("grpc-message").unwrap_or_default()).decode_utf8_lossy();
            let told: String = told.chars().filter(|c| !c.is_control()).take(200).collect();
            if told.is_empty() { format!("gRPC {name}") } else { format!("gRPC {name}: {told}") }
        }
    };
    Err(Failure::Backend(words))
}

/// The names of gRPC's status codes, in their order.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A message in gRPC's framing: the compressed flag, the length, and the message.
fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + encoded.len());
    framed.put_u8(0);
    // A request is a name of at most 255 bytes.
    framed.put_u32(encoded.len() as u32);
    framed.put_slice(&encoded);
    framed.freeze()
}

/// The message of a response, if it is complete and not compressed.
fn message(framed: &[u8]) -> Option<HealthCheckResponse> {
    let (&[0, a, b, c, d], encoded) = framed.split_first_chunk::<5>()? else { return None };
    (encoded.len() == u32::from_be_bytes([a, b, c, d]) as usize)
        .then(|| HealthCheckResponse::decode(encoded).ok())
        .flatten()
}

fn failure(error: hyper::Error) -> Failure {
    match http::io_failure(&error) {
        Some(failure) => failure,
        None if error.is_closed() || error.is_incomplete_message() || error.is_canceled() => {
            Failure::Backend("the connection was closed without a gRPC response".to_owned())
        }
        None => Failure::Backend("the response is not HTTP/2".to_owned()),
    }
}

/// A connection's tasks, which end with the check.
#[derive(Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl Tasks {
    fn executor(&self) -> TaskExecutor {
        TaskExecutor(Arc::clone(&self.0))
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct TaskExecutor(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for TaskExecutor {
    fn execute(&self, future: F) {
        let task = tokio::spawn(future).abort_handle();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::server::conn;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;

    use super::super::tests::check;
    use super::*;
    use crate::model::Probe;

    type Parts = (u16, &'static str, Vec<u8>, Option<(&'static str, &'static str)>);

    /// A server whose responses have this status, content type, body, and trailers (the call's status and message).
    async fn server(
        answer: impl Fn(Request<()>, Bytes) -> Parts + Clone + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            let (connection, _) = listener.accept().await.expect("a connection");
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.expect("a request").to_bytes();
                    let (status, kind, data, trailers) = answer(Request::from_parts(head, ()), body);
                    let mut frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from(data)))];
                    if let Some((code, message)) = trailers {
                        let mut map = HeaderMap::new();
                        map.insert("grpc-status", code.parse().expect("a value"));
                        map.insert("grpc-message", message.parse().expect("a value"));
                        frames.push(Ok(Frame::trailers(map)));
                    }
                    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
                    answer.body(StreamBody::new(stream::iter(frames)))
                }
            });
            let _ = conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
        backend
    }

    fn grpc(service: &str) -> Probe {
        Probe::Grpc { service: service.into(), host: None, tls: None }
    }

    fn says(status: ServingStatus) -> Vec<u8> {
        frame(&HealthCheckResponse { status: status.into() }).to_vec()
    }

    async fn told(parts: Parts) -> Result<(), String> {
        check(server(move |_, _| parts.clone()).await, grpc("")).await
    }

    #[tokio::test]
    async fn the_call_follows_the_protocol() {
        let backend = server(|request, body| {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.method(), "POST");
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["grpc-timeout"], "3000m");
            // Not compressed; 6 bytes; field 1, of 4 bytes.
            assert_eq!(&body[..], b"\0\0\0\0\x06\x0a\x04shop");
            (200, "application/grpc+proto", says(ServingStatus::Serving), Some(("0", "")))
        })
        .await;
        assert_eq!(check(backend, grpc("shop")).await, Ok(()));
    }

    #[tokio::test]
    async fn the_servers_own_status_decides() {
        for (status, expected) in [
            (ServingStatus::Serving, Ok(())),
            (ServingStatus::NotServing, Err("gRPC health NOT_SERVING".into())),
            (ServingStatus::ServiceUnknown, Err("gRPC health SERVICE_UNKNOWN".into())),
            (ServingStatus::Unknown, Err("gRPC health UNKNOWN".into())),
        ] {
            assert_eq!(told((200, "application/grpc", says(status), Some(("0", "")))).await, expected);
        }
    }

    #[tokio::test]
    async fn a_failed_call_is_reported_with_the_grpc_status() {
        for (code, message, words) in [
            ("5", "unknown service", "gRPC NOT_FOUND: the server does not know this service"),
            ("12", "", "gRPC UNIMPLEMENTED: the server has no grpc.health.v1.Health"),
            ("14", "come%20back%0Alater", "gRPC UNAVAILABLE: come backlater"),
            ("16", "", "gRPC UNAUTHENTICATED"),
            ("99", "", "gRPC 99"),
        ] {
            assert_eq!(
                told((200, "application/grpc", vec![], Some((code, message)))).await,
                Err(words.into())
            );
        }
    }

    #[tokio::test]
    async fn a_response_that_is_not_grpc_is_reported() {
        let serving = || says(ServingStatus::Serving);
        for (parts, words) in [
            ((404, "text/plain", vec![], None), "HTTP 404, expected a gRPC response"),
            ((200, "text/html", b"<p>".to_vec(), None), "the response is not gRPC"),
            ((200, "application/grpc", serving(), None), "the gRPC response has no status"),
            (
                (200, "application/grpc", serving()[..6].to_vec(), Some(("0", ""))),
                "the gRPC response is not a HealthCheckResponse",
            ),
            (
                (200, "application/grpc", [serving(), serving()].concat(), Some(("0", ""))),
                "the gRPC response is not a HealthCheckResponse",
            ),
            (
                (200, "application/grpc", vec![0; 20_000], Some(("0", ""))),
                "the gRPC response is larger than 16384 bytes",
            ),
        ] {
            assert_eq!(told(parts).await, Err(words.into()));
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_http_1_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let _ = connection.read(&mut [0; 4096]).await;
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
            let _ = connection.read(&mut [0; 4096]).await;
        });
        assert_eq!(check(backend, grpc("")).await, Err("the response is not HTTP/2".into()));
    }

    #[tokio::test]
    async fn a_silent_server_times_out_and_its_connection_is_closed() {
        use tokio::io::AsyncReadExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        let ended = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            while let Ok(1..) = connection.read(&mut [0; 4096]).await {}
        });
        assert_eq!(check(backend, grpc("")).await, Err("connected, but no gRPC response within 3s".into()));
        tokio::time::timeout(std::time::Duration::from_secs(5), ended).await.expect("closed").expect("read");
    }
}
