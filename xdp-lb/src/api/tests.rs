//! The server and the client together, over a real Unix socket.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::client::{Client, Error};
use crate::api::server::{Server, document};
use crate::control::handle::Handle;
use crate::control::testing::{self, InMemory, WEB, write_config};
use crate::model::event::WatchEvent;
use crate::model::request::{AdminPatch, BackendPatch, FlowQuery};
use crate::model::state::{AdminState, VipState};
use crate::model::{self, Mode, Protocol};
use crate::net::Event;
use crate::net::vips::Standings;
use crate::report::documents::{ConfigQuery, ErrorView, RemovalQuery, ServiceView, StatusView};

struct Daemon {
    socket: PathBuf,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    _folder: TempDir,
}

fn daemon(handle: Handle) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let server = Server::bind(&model::Api { socket: socket.clone(), ..model::Api::default() }).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.serve(handle, async move { drop(stopped.await) }));
    let client = Client::new(&socket);
    Daemon { socket, client, stop: Some(stop), server, _folder: folder }
}

/// An owner task on tables in memory, and its server.
fn started() -> (testing::Daemon, Daemon) {
    let owner = testing::Daemon::start(WEB);
    let daemon = daemon(owner.handle.clone());
    (owner, daemon)
}

impl Daemon {
    /// Sends these bytes unchanged. Returns the answer's status and body.
    async fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer with a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let request = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        self.raw(request.as_bytes()).await
    }

    async fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, body) = self.send(method, path, body).await;
        let view: ErrorView =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("no error document: {body}"));
        (status, view.error)
    }
}

fn dns() -> model::Service {
    model::Service {
        protocol: Protocol::Udp,
        mode: Mode::Nat,
        backends: vec![model::Backend::new("198.51.100.53:53".parse().unwrap(), 7)],
        ..model::Service::new("dns", "192.0.2.53:53".parse().unwrap())
    }
}

#[tokio::test]
async fn every_document_arrives_as_the_owner_made_it() {
    let (owner, daemon) = started();
    let json = |status: &StatusView| serde_json::to_value(status).unwrap();
    let mut tries = 0;
    loop {
        let (given, arrived) = (owner.handle.status().await.unwrap(), daemon.client.status().await.unwrap());
        if json(&given) == json(&arrived) {
            break;
        }
        // The second may have changed in between.
        tries += 1;
        assert!(tries < 20, "{given:#?}\n{arrived:#?}");
    }
    assert_eq!(daemon.client.services().await.unwrap().len(), 2);
    let web = daemon.client.service("web").await.unwrap();
    assert_eq!((web.service.name.as_str(), web.backends.len()), ("web", 2));
    assert_eq!(daemon.client.backends(None).await.unwrap().len(), 3);
    assert_eq!(daemon.client.backends(Some("web6")).await.unwrap().len(), 1);
    let counters = daemon.client.counters().await.unwrap().counters;
    assert_eq!((counters[1].name.as_str(), counters[1].packets), ("not_tcp_or_udp", 1));
}

#[tokio::test]
async fn a_service_and_its_backends_are_added_changed_and_removed() {
    let (_owner, daemon) = started();
    let client = &daemon.client;
    assert!(client.add_service(&dns()).await.unwrap().changed);
    let shown = client.service("dns").await.unwrap();
    assert_eq!((shown.service.protocol, shown.service.mode), (Protocol::Udp, Mode::Nat));
    assert_eq!(shown.backends[0].weight, 7);

    let address = "198.51.100.54:53".parse().unwrap();
    client.add_backend("dns", &model::Backend::new(address, 9)).await.unwrap();
    assert_eq!(client.backend("dns", address).await.unwrap().weight, 9);
    let patch = BackendPatch { admin: Some(AdminState::Draining), ..BackendPatch::of("weight", 3) };
    client.patch_backend("dns", address, &patch).await.unwrap();
    let changed = client.backend("dns", address).await.unwrap();
    assert_eq!((changed.weight, changed.admin), (3, AdminState::Draining));
    client.remove_backend("dns", address, RemovalQuery { now: true }).await.unwrap();
    assert!(client.backend("dns", address).await.unwrap_err().is_not_found());

    client.remove_service("dns", RemovalQuery::default()).await.unwrap();
    let mut looks = 0;
    while client.service("dns").await.is_ok_and(|shown| shown.service.leaving) {
        looks += 1;
        assert!(looks < 1000, "it has no flows, and leaves all the same");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(client.service("dns").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_ipv6_backend_is_named_in_the_path() {
    let (_owner, daemon) = started();
    let address = "[2001:db8:1::11]:8080".parse().unwrap();
    let patch = BackendPatch::of("weight", 1);
    daemon.client.patch_backend("web6", address, &patch).await.unwrap();
    assert_eq!(daemon.client.backend("web6", address).await.unwrap().weight, 1);
    for path in ["%5B2001%3Adb8%3A1%3A%3A11%5D%3A8080", "[2001:db8:1::11]:8080"] {
        let (status, body) = daemon.send("GET", &format!("/v1/services/web6/backends/{path}"), "").await;
        assert_eq!(status, 200, "{path}: {body}");
    }
}

#[tokio::test]
async fn each_refusal_has_its_status_and_keeps_its_words() {
    let (owner, daemon) = started();
    let service = model::Service { name: "web".into(), ..dns() };
    let there = owner.handle.add_service(service.clone()).await.unwrap_err().to_string();
    let long = model::Service { name: "x".repeat(64), ..dns() };
    let too_long = owner.handle.add_service(long.clone()).await.unwrap_err().to_string();
    owner.kernel.lock().unmounted = true;
    let unmounted = owner.handle.upgrade().await.unwrap_err().to_string();
    let [service, long] = [service, long].map(|service| serde_json::to_string(&service).unwrap());
    for (method, path, body, status, words) in [
        ("GET", "/v1/services/wbe", "", 404, "service \"wbe\" does not exist; the services are: web, web6"),
        ("POST", "/v1/services", &service[..], 409, &there[..]),
        ("POST", "/v1/services", &long, 400, &too_long),
        ("POST", "/v1/upgrade", "", 500, &unmounted),
        (
            "GET",
            "/v1/services/web/backends/198.51.100.99:80",
            "",
            404,
            "service web has no backend 198.51.100.99:80; its backends are: 198.51.100.11:8080, 198.51.100.12:8080",
        ),
        (
            "PATCH",
            "/v1/services/web/backends/198.51.100.11:8080",
            "{}",
            400,
            "nothing to change: send options, `admin` or both",
        ),
    ] {
        assert_eq!(daemon.refused(method, path, body).await, (status, words.to_owned()), "{method} {path}");
    }
    assert!(
        there.starts_with("service web already exists, at ") && too_long.contains("63"),
        "{there} {too_long}"
    );
    let error = daemon.client.upgrade().await.unwrap_err().to_string();
    assert!(error == unmounted && error.contains("the pins are not on a BPF file system"), "{error}");
}

#[tokio::test]
async fn hostile_bodies_are_refused_in_words_and_change_nothing() {
    let (_owner, daemon) = started();
    let deep = "[".repeat(100_000);
    for (path, body, words) in [
        ("/v1/services", "", "EOF"),
        ("/v1/services", "name=x", "expected"),
        ("/v1/services", "[1,2,3]", "JSON document of this route"),
        ("/v1/services", deep.as_str(), "JSON document of this route"),
        ("/v1/services", "\u{0}\u{1}", "expected"),
        ("/v1/services", r#"{"name":"a","vip":"192.0.2.1:80","colour":"red"}"#, "colour"),
        ("/v1/services", r#"{"name":"a","vip":"192.0.2.1"}"#, "has no port"),
        ("/v1/services", r#"{"name":"a","name":"b"}"#, "the key \"name\" is given twice; give it once"),
        ("/v1/services", r#"{"name":"a","vip":"192.0.2.1:80","protocol":"sctp"}"#, "sctp"),
        ("/v1/services/web/backends", r#"{"address":"198.51.100.1:80","weight":65536}"#, "65536"),
        ("/v1/services/web/backends", r#"{"address":"198.51.100.1:80","weight":-1}"#, "-1"),
        ("/v1/services/web/backends", r#"{"address":"localhost:80"}"#, "not an IP address"),
        ("/v1/services/web/backends", r#"{"address":"198.51.100.1:80"} and more"#, "trailing"),
    ] {
        let (status, error) = daemon.refused("POST", path, body).await;
        assert_eq!(status, 400, "{body:.60}: {error}");
        assert!(error.contains(words), "{body:.60}: {error}");
    }
    let path = "/v1/services/web/backends/198.51.100.11:8080";
    for body in [r#"{"wieght":1}"#, r#"{"admin":"gone"}"#, r#"{"weight":"1"}"#, r#"{"weight":1,"weight":2}"#]
    {
        assert_eq!(daemon.refused("PATCH", path, body).await.0, 400, "{body}");
    }
    assert_eq!(daemon.client.services().await.unwrap().len(), 2);
    assert_eq!(daemon.client.backends(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_huge_body_is_refused_before_it_is_read() {
    let (_owner, daemon) = started();
    let (status, error) = daemon.refused("POST", "/v1/services", &" ".repeat(5 << 20)).await;
    assert_eq!((status, error.as_str()), (413, "the request body is larger than 4194304 bytes"));
    // The length is announced, but never sent: the answer does not wait for it.
    let claim = b"POST /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1099511627776\r\n\r\n";
    assert_eq!(daemon.raw(claim).await.0, 413);
}

#[tokio::test]
async fn a_client_that_does_not_speak_http_is_disconnected_and_the_next_one_served() {
    let (_owner, daemon) = started();
    let (status, _) = daemon.raw(b"\x16\x03\x01 hello?\r\n\r\n").await;
    assert_eq!(status, 400);
    daemon.client.status().await.unwrap();
}

#[tokio::test]
async fn hostile_paths_are_not_found() {
    let (_owner, daemon) = started();
    for name in ["..%2F..%2Fetc%2Fpasswd", "%00", "%F0%9F%92%A9", "web%20", "web%2Fbackends", ".."] {
        let (status, error) = daemon.refused("DELETE", &format!("/v1/services/{name}"), "").await;
        assert_eq!(status, 404, "{name}: {error}");
    }
    let (status, error) = daemon.refused("GET", "/v1/services/%FF", "").await;
    assert_eq!(status, 400, "{error}");
    for address in ["198.51.100.11", "198.51.100.11:99999", "2001:db8::1:80", "web:80", "%2e%2e"] {
        let (status, error) =
            daemon.refused("DELETE", &format!("/v1/services/web/backends/{address}"), "").await;
        assert_eq!(status, 400, "{address}: {error}");
        assert!(error.contains("write"), "{error}");
    }
    assert_eq!(daemon.client.backends(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_unknown_route_or_method_is_answered_with_the_known_ones() {
    let (_owner, daemon) = started();
    let (status, error) = daemon.refused("GET", "/v2/status", "").await;
    assert_eq!(status, 404);
    assert!(error.contains("no route /v2/status; the routes are GET /v1/status, "), "{error}");
    let (status, error) = daemon.refused("DELETE", "/v1/status", "").await;
    assert_eq!((status, error.as_str()), (405, "DELETE is not supported on /v1/status"));
}

/// Every operation of the OpenAPI document: method, path and name.
fn operations() -> Vec<(String, String, String)> {
    let paths = document()["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &serde_json::Value)| -> Vec<_> {
        let operations = item.as_object().unwrap().iter();
        let operations = operations.map(|(method, operation)| {
            let id = operation["operationId"].as_str().expect("each operation has a name");
            (method.to_uppercase(), path.clone(), id.to_owned())
        });
        operations.collect()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test]
async fn every_operation_of_the_openapi_document_exists_and_no_other_method() {
    for (method, path, _) in operations() {
        if path == "/v1/watch" {
            // Its answer never ends.
            continue;
        }
        let (_owner, daemon) = started();
        let path = path.replace("{name}", "web").replace("{address}", "198.51.100.11:8080");
        // No route accepts such a body: those that expect one refuse it, all others answer.
        let (status, body) = daemon.send(&method, &path, "[]").await;
        let takes_one = method == "PATCH"
            || method == "POST" && ["services", "explain", "trace"].iter().any(|it| path.contains(it));
        let expected = if takes_one { 400 } else { 200 };
        assert_eq!(status, expected, "{method} {path}: {body}");
    }
    let (_owner, daemon) = started();
    for (path, item) in document()["paths"].as_object().unwrap() {
        let filled = path.replace("{name}", "web").replace("{address}", "198.51.100.11:8080");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let is_documented = item.get(method.to_lowercase()).is_some();
            if !is_documented {
                assert_eq!(
                    daemon.send(method, &filled, "[]").await.0,
                    405,
                    "{method} {path} is not documented"
                );
            }
        }
    }
}

#[tokio::test]
async fn watchers_get_the_events_since_their_last_one_and_the_end_of_the_daemon() {
    let (owner, mut daemon) = started();
    let told = |up| WatchEvent::Interface { interface: "eth0".into(), up };
    let mut watch = daemon.client.watch(None).await.unwrap();
    for up in [true, false, true] {
        let event = Event::Interface { name: "eth0".into(), index: Some(1), up };
        owner.events.send(event).await.unwrap();
    }
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.event, told(true));
    drop(watch);
    let mut back = daemon.client.watch(Some(&first.id)).await.unwrap();
    assert_eq!(back.next().await.unwrap().unwrap().event, told(false));
    let mut stranger = daemon.client.watch(Some("1-1")).await.unwrap();
    assert_eq!(stranger.next().await.unwrap().unwrap().event, WatchEvent::Lost { events: None });
    let head = "GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut raw = UnixStream::connect(&daemon.socket).await.unwrap();
    raw.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = raw.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("content-type: text/event-stream"),
        "{answer}"
    );
    drop(daemon.stop.take());
}

#[tokio::test]
async fn the_number_of_watchers_is_limited_and_one_that_leaves_makes_room() {
    let (_owner, daemon) = started();
    let mut watching = Vec::new();
    let refused = loop {
        match daemon.client.watch(None).await {
            Ok(watch) => watching.push(watch),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(watching.len(), 64);
    assert!(refused.contains("64 clients are watching already"), "{refused}");
    daemon.client.status().await.unwrap();
    watching.pop();
    for _ in 0..500 {
        if daemon.client.watch(None).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place is never free again");
}

#[test]
fn every_route_is_in_the_openapi_document() {
    let server = include_str!("server.rs");
    for way in [".route(", ".route_service(", ".nest", ".merge("] {
        assert!(!server.contains(way), "{way} leaves a route out of the document: use api_route");
    }
}

#[test]
fn every_document_of_the_openapi_document_is_described() {
    let schemas = document()["components"]["schemas"].as_object().unwrap();
    for name in
        ["StatusView", "ServiceView", "BackendView", "Service", "Backend", "BackendPatch", "ReloadView"]
    {
        let schema = &schemas[name];
        assert!(schema["description"].is_string(), "{name}: {schema}");
        for (field, schema) in schema["properties"].as_object().unwrap() {
            let is_described = schema["description"].is_string() || schema.get("$ref").is_some();
            assert!(is_described, "{name}.{field}: {schema}");
        }
    }
    assert_eq!(schemas["Mode"]["enum"][0], "full-nat");
    assert_eq!(schemas["BackendPatch"]["additionalProperties"], false, "a typing mistake is refused");
    let patch = &schemas["ServicePatch"]["properties"];
    assert_eq!(
        patch["health_check"]["anyOf"][0],
        serde_json::json!({ "type": "object" }),
        "some keys of a table"
    );
    assert!(patch["max_flows"]["anyOf"].to_string().contains("integer"), "{patch}");
    assert!(
        patch.get("mode").is_none() && patch.get("admin").is_some(),
        "what cannot change is not asked for"
    );
    let text = document().to_string();
    let mut references = text.split("\"$ref\":\"#/components/schemas/").skip(1);
    assert!(references.all(|rest| schemas.contains_key(rest.split('"').next().unwrap())));
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let (_owner, daemon) = started();
    let (status, body) = daemon.send("GET", "/v1/openapi.json", "").await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), *document());
}

#[tokio::test]
async fn many_clients_are_answered_at_once() {
    let kernel = InMemory::new(100_000);
    kernel.lock().backends = 1000;
    let owner = testing::Daemon::start_with(tempfile::tempdir().unwrap(), kernel, WEB).unwrap();
    let daemon = daemon(owner.handle.clone());
    let requests = (0..200u16).map(|number| {
        let client = daemon.client.clone();
        tokio::spawn(async move {
            let address = format!("198.51.100.200:{}", 1000 + number).parse().unwrap();
            client.add_backend("web", &model::Backend::new(address, number)).await.unwrap();
            client.backend("web", address).await.unwrap().weight == number
        })
    });
    for request in requests.collect::<Vec<_>>() {
        assert!(request.await.unwrap());
    }
    assert_eq!(daemon.client.backends(Some("web")).await.unwrap().len(), 202);
}

#[tokio::test]
async fn a_connection_takes_one_request_after_the_other_and_is_closed_once_it_is_idle() {
    let (_owner, daemon) = started();
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"admin\":true"), "{answer}");
    }
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it is closed");
    assert!((4..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out_of_the_backlog() {
    let (_owner, daemon) = started();
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(UnixStream::connect(&daemon.socket).await.unwrap());
    }
    daemon.client.status().await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_daemon_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let words = format!(
        "no daemon answers on {}: start it with \"xdp-lb run --config FILE\", or name its socket with --socket",
        socket.display()
    );
    let error = Client::new(&socket).status().await.unwrap_err();
    assert!(matches!(error, Error::NoDaemon(_)));
    assert_eq!(error.to_string(), words);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(Client::new(&socket).status().await.unwrap_err().to_string(), words, "a stale socket");
}

#[tokio::test]
async fn a_client_of_another_server_reports_that_the_reply_is_not_understood() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    });
    let error = Client::new(&socket).status().await.unwrap_err().to_string();
    assert!(error.contains("invalid response"), "{error}");
}

#[tokio::test]
async fn a_request_to_a_stopped_owner_is_an_error_in_words() {
    let owner = testing::Daemon::start(WEB);
    let daemon = daemon(owner.handle.clone());
    daemon.client.status().await.unwrap();
    owner.task.abort();
    let _ = owner.task.await;
    for error in [daemon.client.status().await.map(drop), daemon.client.upgrade().await.map(drop)] {
        assert_eq!(error.unwrap_err().to_string(), "the daemon is stopping");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_hanging_owner_times_out() {
    let owner = testing::Daemon::start_hanging(WEB);
    let daemon = daemon(owner.handle.clone());
    let error = daemon.client.upgrade().await.unwrap_err().to_string();
    assert!(error.starts_with("the daemon did not answer within 30 s"), "{error}");
    daemon.client.status().await.expect("what is only read does not ask it");
    let query = FlowQuery { service: None, backend: None, client: None, limit: 1, cursor: None };
    daemon.client.flows(&query).await.expect("nor do flows");
    daemon.client.config(ConfigQuery::default()).await.expect("nor does the configuration");
    daemon.client.watch(None).await.expect("nor do those who watch");
}

#[tokio::test]
async fn the_daemon_removes_its_socket_when_it_stops() {
    let (_owner, mut daemon) = started();
    daemon.client.status().await.unwrap();
    daemon.stop.take().unwrap().send(()).unwrap();
    (&mut daemon.server).await.unwrap();
    assert!(!daemon.socket.exists());
    assert!(matches!(daemon.client.status().await, Err(Error::NoDaemon(_))));
}

#[tokio::test]
async fn the_daemon_stops_without_waiting_for_watchers_or_idle_clients() {
    let (owner, mut daemon) = started();
    let mut watch = daemon.client.watch(None).await.unwrap();
    let mut silent = UnixStream::connect(&daemon.socket).await.unwrap();
    daemon.client.status().await.expect("the silent one is accepted, too");
    owner.handle.patch_node(AdminState::Draining).await.unwrap();
    let began = Instant::now();
    daemon.stop.take().unwrap().send(()).unwrap();
    (&mut daemon.server).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    while watch.next().await.expect("its last answer is whole").is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_request_is_answered_while_the_daemon_stops() {
    let owner = testing::Daemon::start_apart(WEB);
    owner.all_up().await;
    let mut daemon = daemon(owner.handle.clone());
    write_config(&owner.config_file(), &WEB.replace("12:8080\"", "12:8080\"\nweight = 50"));
    owner.kernel.lock().takes = Duration::from_millis(500);
    let client = daemon.client.clone();
    let asked = tokio::spawn(async move { client.reload(RemovalQuery::default()).await });
    while !owner.kernel.lock().is_applying {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemon.stop.take().unwrap().send(()).unwrap();
    let view = asked.await.unwrap().unwrap();
    assert!(!view.changes.is_empty(), "{view:?}");
    (&mut daemon.server).await.unwrap();
}

#[tokio::test]
async fn a_node_drain_ends_when_a_vip_that_was_being_added_is_away_too() {
    let owner = testing::Daemon::start(&format!("vips.interface = \"lo\"\n{WEB}"));
    let daemon = daemon(owner.handle.clone());
    // As if a VIP were being added: whether it is present is not known yet.
    owner.vips.waits.store(true, Ordering::Relaxed);
    owner.vips.statuses.send_replace(Standings::new());
    let client = daemon.client.clone();
    let drain =
        tokio::spawn(async move { client.patch_node(&AdminPatch { admin: AdminState::Draining }).await });
    while owner.handle.status().await.unwrap().admin != AdminState::Draining {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!drain.is_finished(), "it was told to be drained while its VIPs were on their way");
    let vip = owner.handle.status().await.unwrap().vips.remove(0);
    assert_eq!((vip.state, vip.note.as_deref()), (VipState::Stays, Some("it is being withdrawn")));
    owner.vips.take_effect();
    drain.await.unwrap().unwrap();
}

#[tokio::test]
async fn documents_with_fields_of_a_later_version_are_understood() {
    let (owner, _daemon) = started();
    let mut document = serde_json::to_value(&owner.handle.services().await.unwrap()[0]).unwrap();
    document["added_later"] = serde_json::json!({"x": 1});
    serde_json::from_value::<ServiceView>(document).unwrap();
}

#[test]
fn every_route_is_documented() {
    let documentation = include_str!("../../../docs/api.md");
    for (method, path, _) in operations() {
        assert!(documentation.contains(&format!("| `{method} {path}` |")), "{method} {path}");
    }
}

#[test]
fn the_openapi_document_is_as_committed() {
    crate::committed::assert_committed("openapi.json", document());
}
