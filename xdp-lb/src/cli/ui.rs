//! `xdp-lb ui`: the daemon's web page for a browser on this host, with the rights of whoever runs the command.

use std::collections::VecDeque;
use std::future::ready;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use clap::Args;
use http_body_util::BodyExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::print;
use crate::api::client::{Client, Error};
use crate::api::ui;
use crate::http::{self, Deadline, User};

/// Serve the web page of the daemon to a browser on this host, until Ctrl-C
///
/// It listens on 127.0.0.1 alone, and prints a link that works once: with it, the page may do what you may. Press Enter for
/// another link, such as after the page was reloaded. From your own computer: ssh -L 9898:127.0.0.1:9898 HOST xdp-lb ui --port
/// 9898, or with --api the page of a daemon elsewhere.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Ui {
    /// The port to listen on [default: one that is free]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// The header with the token of a link, which the page exchanges for that of a session.
const LINK: HeaderName = HeaderName::from_static("x-xdp-lb-link");
/// The header with the token of a session. Other pages cannot send it, and other users do not know it.
const SESSION: HeaderName = HeaderName::from_static("x-xdp-lb-session");
/// Where a browser says from which site a request comes.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How long the daemon may send nothing of an answer that goes on.
const SILENCE: Duration = Duration::from_secs(60);
/// Maximum number of sessions; the oldest ends for another.
const SESSIONS: usize = 8;

impl Ui {
    pub(super) async fn execute(self, client: &Client) -> anyhow::Result<()> {
        // A daemon that cannot be asked is an error here, and not only on the page.
        client.whoami().await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
            .await
            .with_context(|| format!("cannot listen on port {}: choose another --port", self.port))?;
        let address = listener.local_addr().context("cannot tell the port")?;
        let page = Page { client: client.clone(), address, tokens: Arc::default() };
        let router = Router::new()
            .route("/session", post(begin_session))
            .fallback(forward)
            .layer(axum::middleware::from_fn_with_state(page.clone(), guard))
            .with_state(page.clone());
        let who = |stream: &TcpStream| {
            let address = stream.peer_addr().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip());
            (User::at(address), false)
        };
        let serve =
            http::serve(listener, who, move |stream, _| ready(Some((stream, router.clone()))), async {
                drop(tokio::signal::ctrl_c().await)
            });
        tokio::select! {
            () = serve => Ok(()),
            printed = page.print_links() => printed,
        }
    }
}

/// The page as it is served here.
#[derive(Clone)]
struct Page {
    client: Client,
    address: SocketAddr,
    tokens: Arc<Mutex<Tokens>>,
}

/// The tokens that are valid, as digests: comparing those takes no time that tells anything.
#[derive(Default)]
struct Tokens {
    link: Option<[u8; 32]>,
    sessions: VecDeque<[u8; 32]>,
}

impl Tokens {
    /// A link in place of the one before.
    fn new_link(&mut self) -> String {
        let token = new_token();
        self.link = Some(digest(&token));
        token
    }

    /// A session for the link, which works once.
    fn begin(&mut self, link: &str) -> Option<String> {
        self.link.take_if(|valid| *valid == digest(link))?;
        let token = new_token();
        self.sessions.push_back(digest(&token));
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
        }
        Some(token)
    }

    fn is_session(&self, token: &str) -> bool {
        self.sessions.contains(&digest(token))
    }
}

/// 256 random bits.
fn new_token() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Page {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a link, and another one for each line on the terminal.
    async fn print_links(&self) -> anyhow::Result<()> {
        // A thread of its own: the runtime would wait for a read that has begun.
        let (send, mut lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            io::stdin().lines().map_while(Result::ok).try_for_each(|_| send.blocking_send(()))
        });
        loop {
            let token = self.tokens().new_link();
            // Behind the #, where browsers keep it to themselves.
            if !print(&format!("http://{}{}#{token}\n", self.address, ui::PATH))? {
                return Ok(());
            }
            if io::stdin().is_terminal() {
                // A closed stderr is not an error.
                let _ = writeln!(io::stderr(), "The link works once. Enter: another one. Ctrl-C: end.");
            }
            if lines.recv().await.is_none() {
                // Nobody will ask for another one.
                return std::future::pending().await;
            }
        }
    }
}

/// Refuses requests by another name, which a site's own name server can give this address, and requests of other pages.
async fn guard(State(page): State<Page>, request: Request, next: Next) -> Response {
    let opens_page = request.method() == Method::GET && request.uri().path() == ui::PATH;
    if !is_own(request.headers(), page.address.port(), opens_page) {
        return refused(StatusCode::FORBIDDEN, "the request comes from another site, or is for another host");
    }
    next.run(request).await
}

/// Whether a request is for this host and of a page of its own. A link to the page may be anywhere.
fn is_own(headers: &HeaderMap, port: u16, opens_page: bool) -> bool {
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let is_own_host = header(&HOST).is_some_and(|host| hosts.iter().any(|own| own == host));
    let is_own_origin = header(&ORIGIN).is_none_or(|origin| {
        origin.strip_prefix("http://").is_some_and(|origin| header(&HOST) == Some(origin))
    });
    let is_own_site = matches!(header(&SITE), None | Some("same-origin" | "none")) || opens_page;
    is_own_host && is_own_origin && is_own_site
}

async fn begin_session(State(page): State<Page>, request: Request) -> Response {
    let link = request.headers().get(LINK).and_then(|token| token.to_str().ok()).unwrap_or("");
    match page.tokens().begin(link) {
        Some(token) => Json(json!({ "session": token })).into_response(),
        None => refused(StatusCode::UNAUTHORIZED, "the link has been used, or a later one was printed"),
    }
}

/// Hands a request on to the daemon: the files of the page for anybody, all else for who has a session.
async fn forward(
    State(page): State<Page>,
    Extension(deadline): Extension<Deadline>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    let is_file = path == ui::PATH || path.starts_with("/ui/");
    let session = request.headers().get(SESSION).and_then(|token| token.to_str().ok());
    if !is_file && !session.is_some_and(|token| page.tokens().is_session(token)) {
        return refused(
            StatusCode::UNAUTHORIZED,
            "this page needs a new link: press Enter where `xdp-lb ui` runs, and open the link that it prints",
        );
    }
    match page.client.forward(request).await {
        // An answer without an end has its time for as long as the daemon sends something, which it does every 15 s.
        Ok(answer) if is_stream(&answer) => answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                deadline.extend(SILENCE);
                frame
            }))
        }),
        Ok(answer) => answer,
        Err(error @ Error::Refused { .. }) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error) => refused(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

fn is_stream(answer: &Response) -> bool {
    answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_by_another_name_or_of_another_site_is_refused() {
        let is_own = |pairs: &[(&'static str, &'static str)], opens_page| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            is_own(&pairs.iter().map(header).collect(), 9898, opens_page)
        };
        let host = ("host", "127.0.0.1:9898");
        assert!(is_own(&[host], false) && is_own(&[("host", "localhost:9898")], false));
        assert!(is_own(
            &[host, ("origin", "http://127.0.0.1:9898"), ("sec-fetch-site", "same-origin")],
            false
        ));
        for foreign in [
            &[][..],
            &[("host", "127.0.0.1")],
            &[("host", "evil.example.com:9898")],
            &[host, ("origin", "http://evil.example.com")],
            &[host, ("origin", "http://localhost:9898")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_own(foreign, false), "{foreign:?}");
        }
        assert!(is_own(&[host, ("sec-fetch-site", "cross-site")], true), "a link leads to the page");
    }

    #[test]
    fn a_link_works_once_and_only_until_the_next_one_and_sessions_are_bounded() {
        let mut tokens = Tokens::default();
        assert!(tokens.begin("").is_none() && !tokens.is_session(""));
        let (first, second) = (tokens.new_link(), tokens.new_link());
        assert!(tokens.begin(&first).is_none(), "a later one was printed");
        let session = tokens.begin(&second).expect("a session");
        assert!(tokens.begin(&second).is_none(), "it was used");
        assert!(tokens.is_session(&session) && !tokens.is_session(&second));
        for _ in 0..SESSIONS {
            let link = tokens.new_link();
            tokens.begin(&link).expect("a session");
        }
        assert!(!tokens.is_session(&session), "the oldest has ended");
    }
}
