//! Requests of browsers, which other sites can make in their user's name: a browser presents the user's certificate to any page
//! that requests it. So requests from another origin are refused, and so are host names that are not this daemon's.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use crate::api::error::Error;
use crate::api::ui;

/// The origin of a request (W3C, Fetch Metadata Request Headers). Pages cannot set or remove it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The mode of a request. `navigate` opens a page.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The certificate that this daemon has presented on a connection.
#[derive(Clone, Debug)]
pub(super) struct Shown(pub(super) CertificateDer<'static>);

/// Refuses requests that a browser sends for another site.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let shown = request.extensions().get::<Shown>();
    let opens_page = request.method().is_safe() && request.uri().path() == ui::PATH;
    match refusal(request.headers(), opens_page, shown) {
        Some(why) => Error::new(StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    }
}

/// Why a browser's request is refused. `opens_page`: it changes nothing and reveals no secrets.
fn refusal(headers: &HeaderMap, opens_page: bool, shown: Option<&Shown>) -> Option<String> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let (site, origin) = (text(&SITE), text(&ORIGIN));
    if site.is_none() && origin.is_none() {
        // Not from a browser.
        return None;
    }
    let host = text(&HOST).unwrap_or("");
    if let Some(Shown(certificate)) = shown
        && !is_of(certificate, host)
    {
        return Some(format!(
            "the daemon's certificate is not for the host {host:?}: use a name that it is for"
        ));
    }
    let is_navigation = text(&MODE) == Some("navigate");
    let is_own_site = match site {
        None | Some("same-origin" | "none") => true,
        Some(_) => opens_page && is_navigation,
    };
    // A request by a link to the page has no origin.
    let is_own_origin = origin.is_none_or(|origin| {
        let named = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
        named.is_some_and(|named| named.eq_ignore_ascii_case(host))
    });
    match is_own_site && is_own_origin {
        true => None,
        false => Some("the request comes from a page of another site, which may not use this daemon".into()),
    }
}

/// Whether a certificate is valid for a host, `NAME:PORT`.
fn is_of(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let (Ok(name), Ok(certificate)) = (ServerName::try_from(name), ParsedCertificate::try_from(certificate))
    else {
        return false;
    };
    verify_server_name(&certificate, &name).is_ok()
}

#[cfg(test)]
mod tests {
    use xdp_lb_tests::{Authority, Validity};

    use super::*;

    fn shown() -> Shown {
        let authority = Authority::new("Lab").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let issued = authority.issue(&["192.0.2.1", "lb.example.com"], Validity::Now).unwrap();
        let (certificate, _) = issued.write(folder.path(), "server").unwrap();
        Shown(crate::tls::certificates(&certificate).unwrap().remove(0))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().expect("a header's value"))
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn only_the_daemons_own_page_at_its_own_name_may_ask() {
        let shown = shown();
        let asks = |pairs: &[(&'static str, &str)], opens_page| {
            refusal(&headers(pairs), opens_page, Some(&shown)).is_none()
        };
        let host = ("host", "lb.example.com:7443");
        for (pairs, may) in [
            (&[host][..], true),
            (&[("host", "elsewhere.example.com")], true),
            (&[host, ("sec-fetch-site", "same-origin")], true),
            (&[host, ("sec-fetch-site", "same-origin"), ("origin", "https://lb.example.com:7443")], true),
            (&[("host", "192.0.2.1:7443"), ("origin", "https://192.0.2.1:7443")], true),
            (&[host, ("sec-fetch-site", "none")], true),
            (&[host, ("sec-fetch-site", "cross-site")], false),
            (&[host, ("sec-fetch-site", "same-site")], false),
            (&[host, ("origin", "https://evil.example.com")], false),
            (&[host, ("origin", "https://lb.example.com:7444")], false),
            (&[host, ("origin", "null")], false),
            (&[("host", "evil.example.com"), ("origin", "https://evil.example.com")], false),
            (&[("host", "evil.example.com:7443"), ("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "same-origin")], false),
        ] {
            assert_eq!(asks(pairs, false), may, "{pairs:?}");
        }
        let link = [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(asks(&link, true) && !asks(&link, false), "a link leads to the page, and to nothing else");
        assert!(!asks(&[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], true));
    }
}
