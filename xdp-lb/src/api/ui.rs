//! The web page, whose files are part of this binary. They contain no secrets and need no build step. Their data is from the API.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// The path of the page.
pub const PATH: &str = "/ui";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($name:literal: $kind:ident,)*) => {
        &[$(File { name: $name, kind: $kind, text: include_str!(concat!("ui/", $name)) }),*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const FILES: &[File] = files![
    "index.html": HTML,
    "style.css": STYLE,
    "icon.svg": SVG,
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "plot.js": SCRIPT,
    "change.js": SCRIPT,
    "overview.js": SCRIPT,
    "services.js": SCRIPT,
    "service.js": SCRIPT,
    "drops.js": SCRIPT,
    "events.js": SCRIPT,
    "flows.js": SCRIPT,
];

/// What the page may load and do: its own files, and requests to its own origin. Only code from files is run, and the page cannot
/// be framed, which prevents clickjacking.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Adds the page and its files, which are not part of the API, to a router.
pub(super) fn add_to<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let page = FILES.iter().find(|file| file.name == "index.html").expect("the page is a file");
    let router = router.route(PATH, get(async || answer(page)));
    FILES.iter().fold(router, |router, file| {
        router.route(&format!("{PATH}/{}", file.name), get(async move || answer(file)))
    })
}

fn answer(file: &File) -> Response {
    const SAME_ORIGIN: &str = "same-origin";
    let headers: [(HeaderName, &str); 7] = [
        (CONTENT_TYPE, file.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), SAME_ORIGIN),
        (HeaderName::from_static("cross-origin-resource-policy"), SAME_ORIGIN),
    ];
    (headers, file.text).into_response()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The page should load at once, even over a slow link.
    const LARGEST: usize = 150_000;

    #[test]
    fn the_page_is_small_and_whole_and_asks_nobody_else() {
        let size: usize = FILES.iter().map(|file| file.text.len()).sum();
        println!("the page has {size} bytes");
        assert!(size < LARGEST, "{size} bytes");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/ui");
        for entry in fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(FILES.iter().any(|file| file.name == name), "{name} is not served");
        }
        for file in FILES {
            // A name, not an address that is fetched.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in ["http://", "https://", "innerHTML", "eval(", " style=", " onclick="] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", file.name);
            }
        }
    }
}
