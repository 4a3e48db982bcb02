//! Checks by HTTP and HTTPS.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, header};
use regex::bytes::{Regex, RegexBuilder};

use super::tls::Tls;
use super::{WrittenCheck, too_long};
use crate::model::choices::words;
use crate::model::place::{Place, Problems};
use crate::model::table::TableErrors;
use crate::model::text::{self, quoted};

const LONGEST_PATH: usize = 2048;
const LONGEST_HOST: usize = 255;
const MOST_HEADERS: usize = 32;
const LONGEST_HEADER: usize = 1024;
const MOST_STATUSES: usize = 32;
const LONGEST_BODY: usize = 1024;

/// An HTTP request, and the responses that count as healthy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// The TLS settings; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// The request's method. Default `GET`.
    pub method: Method,
    /// The request's path, beginning with `/`. Default `/`.
    pub path: String,
    /// The `Host` header. Default: the backend's address.
    pub host: Option<String>,
    /// More headers: names and values. The values may be secrets: see [`HealthCheck::shown`].
    pub headers: Vec<(String, String)>,
    /// The statuses that count as healthy. Default 200 to 399.
    pub status: Vec<StatusRange>,
    /// What the body must be like. Default: it is not read.
    pub body: Option<Body>,
}

impl Http {
    /// `GET path` over plain HTTP, with defaults for everything else.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            tls: None,
            method: Method::Get,
            path: path.into(),
            host: None,
            headers: Vec::new(),
            status: vec![StatusRange { low: 200, high: 399 }],
            body: None,
        }
    }
}

/// The method of an HTTP check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// `GET`.
    #[default]
    Get,
    /// `HEAD`: the response has no body.
    Head,
    /// `OPTIONS`.
    Options,
}

/// A range of HTTP statuses, both ends included. 100 to 599.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRange {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
}

impl StatusRange {
    /// Whether this status is in the range.
    pub const fn contains(self, status: u16) -> bool {
        self.low <= status && status <= self.high
    }
}

/// What a body must be like. Its first 64 KiB are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// It contains this text.
    Contains(String),
    /// It contains a match of this pattern.
    Matches(Pattern),
}

/// A regular expression over bytes, in the syntax of the `regex` crate: linear in time, without look-around and
/// back-references.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Whether these bytes contain a match.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

/// Patterns are compared by their text.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// The maximum size of a compiled expression, in bytes.
        const LARGEST: usize = 256 << 10;
        let built = RegexBuilder::new(text).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
        built.map(Self).map_err(|error| {
            // The crate's message has several lines with an arrow; the last one names the error.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("{} is not a regular expression that can be used ({why})", quoted(text))
        })
    }
}

words!(Method: "GET" => Get, "HEAD" => Head, "OPTIONS" => Options);

impl Http {
    /// Reads its keys.
    pub(super) fn read(written: WrittenCheck, tls: Option<Tls>, errors: &mut TableErrors) -> Self {
        let default = Self::get("/");
        let body = errors.read("body_regex", written.body_regex, str::parse).map(Body::Matches);
        if body.is_some() && written.body.is_some() {
            errors.all.push(("body_regex", "conflicts with \"body\"; remove one of them".into()));
        }
        Self {
            tls,
            method: errors.read("method", written.method, str::parse).unwrap_or_default(),
            path: written.path.unwrap_or(default.path),
            host: written.host,
            headers: written
                .headers
                .into_iter()
                .flatten()
                .filter_map(|header| errors.take("headers", split_header(&header)))
                .collect(),
            status: errors.read("status", written.status, statuses).unwrap_or(default.status),
            body: body.or(written.body.map(Body::Contains)),
        }
    }

    /// Writes its keys.
    pub(super) fn write(self, written: WrittenCheck) -> WrittenCheck {
        let (body, body_regex) = match self.body {
            Some(Body::Contains(text)) => (Some(text), None),
            Some(Body::Matches(pattern)) => (None, Some(pattern.to_string())),
            None => (None, None),
        };
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        WrittenCheck {
            path: Some(self.path),
            host: self.host,
            method: (self.method != Method::default()).then(|| self.method.to_string()),
            headers: (!self.headers.is_empty()).then(|| headers.collect()),
            status: Some(print_statuses(&self.status)),
            body,
            body_regex,
            ..Tls::write(self.tls, written)
        }
    }

    pub(super) fn validate(&self, place: &Place, problems: &mut Problems) {
        problems.take(&place.key("path"), http_path(&self.path));
        if let Some(host) = &self.host {
            problems.take(&place.key("host"), http_host(host));
        }
        let headers = place.key("headers");
        if self.headers.len() > MOST_HEADERS {
            problems.add(
                &headers,
                format!("{} headers are too many; write at most {MOST_HEADERS}", self.headers.len()),
            );
        }
        let mut seen = HashSet::new();
        for (name, value) in &self.headers {
            problems.take(&headers, http_header(name, value));
            if !seen.insert(name.to_ascii_lowercase()) {
                problems.add(&headers, format!("{} is listed twice; remove one of them", quoted(name)));
            }
        }
        if self.status.is_empty() || self.status.len() > MOST_STATUSES {
            problems.add(
                &place.key("status"),
                format!("{} ranges; write 1 to {MOST_STATUSES}", self.status.len()),
            );
        }
        for range in &self.status {
            problems.take(&place.key("status"), http_status(*range));
        }
        let (key, written) = match &self.body {
            Some(Body::Contains(text)) => ("body", text.clone()),
            Some(Body::Matches(pattern)) => ("body_regex", pattern.to_string()),
            None => ("body", String::new()),
        };
        if self.body.is_some() && written.is_empty() {
            problems
                .add(&place.key(key), "is empty, which every body contains; write some text, or remove it");
        }
        if written.len() > LONGEST_BODY {
            problems.add(&place.key(key), too_long(written.len(), LONGEST_BODY));
        }
        if self.body.is_some() && self.method == Method::Head {
            problems
                .add(&place.key(key), "a response to HEAD has no body; write method = \"GET\", or remove it");
        }
        if let Some(tls) = &self.tls {
            tls.validate(place, problems);
        }
    }
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if let Some(host) = &self.host {
            write!(f, " of {host}")?;
        }
        for (name, value) in &self.headers {
            write!(f, ", {name}: {value}")?;
        }
        write!(f, ", status {}", print_statuses(&self.status))?;
        match &self.body {
            Some(Body::Contains(text)) => write!(f, ", body with {text:?}")?,
            Some(Body::Matches(pattern)) => write!(f, ", body matching /{pattern}/")?,
            None => {}
        }
        self.tls.as_ref().map_or(Ok(()), |tls| write!(f, ", {tls}"))
    }
}

/// `204`, `200-399`.
impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

/// Ranges of statuses as text: `200-299, 401`.
pub(crate) fn print_statuses(ranges: &[StatusRange]) -> String {
    ranges.iter().map(StatusRange::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads `200`, `200-399` or `200-299, 401`.
fn statuses(text: &str) -> Result<Vec<StatusRange>, String> {
    let one = |text: &str| {
        let range = text::range(text).or_else(|| text.parse().ok().map(|one| (one, one)));
        range.map(|(low, high)| StatusRange { low, high }).ok_or_else(|| {
            let said = quoted(text);
            format!(
                "{said} is not a status or a range of them; write \"200\", \"200-399\" or \"200-299, 401\""
            )
        })
    };
    text.split(',').map(|range| one(range.trim())).collect()
}

/// Reads `Name: value`.
fn split_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{} is not a header; write it as it is sent, \"X-Probe: 1\"", quoted(text)))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn http_path(path: &str) -> Result<(), String> {
    let good = path.starts_with('/')
        && path.len() <= LONGEST_PATH
        && PathAndQuery::try_from(path).is_ok_and(|parsed| parsed.as_str() == path)
        && path.bytes().all(|byte| byte.is_ascii_graphic());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not the path of a request; write it from its \"/\" on, with spaces and the like as %20, \
         at most {LONGEST_PATH} characters",
        quoted(path)
    ))
}

pub(super) fn http_host(host: &str) -> Result<(), String> {
    let good = host.len() <= LONGEST_HOST
        && !host.contains('@')
        && Authority::try_from(host).is_ok_and(|parsed| !parsed.host().is_empty());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not the value of a Host header; write \"example.com\" or \"example.com:8080\"",
        quoted(host)
    ))
}

fn http_header(name: &str, value: &str) -> Result<(), String> {
    let Ok(parsed) = HeaderName::try_from(name) else {
        return Err(format!("{} is not the name of a header; write \"X-Probe: 1\"", quoted(name)));
    };
    if value.len() > LONGEST_HEADER || HeaderValue::try_from(value).is_err() {
        return Err(format!(
            "{} is not the value of a header; write printable characters, at most {LONGEST_HEADER}",
            quoted(value)
        ));
    }
    if parsed == header::HOST {
        return Err("\"Host\" has its own key; write host = \"www.example.com\"".into());
    }
    let own =
        [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];
    if own.contains(&parsed) {
        return Err(format!("{} is set by the connection itself; remove it", quoted(name)));
    }
    Ok(())
}

fn http_status(StatusRange { low, high }: StatusRange) -> Result<(), String> {
    if 100 <= low && low <= high && high <= 599 {
        return Ok(());
    }
    Err(format!("{low}-{high} is not a range of statuses from 100 to 599; write \"200-399\""))
}
