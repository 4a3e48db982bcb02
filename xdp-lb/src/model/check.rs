//! Health checks: what is tried, how often, and what follows.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use super::choices::words;
use super::text;

/// How backends are checked. Written flat, in TOML as in JSON:
/// `{type = "http", path = "/healthz", interval = "1s"}`; all but `type` has a default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// The time between the starts of two checks. 100 ms to 1 h, default 1 s.
    pub interval: Duration,
    /// The same while the health is changing: fewer than `rise` or `fall` checks in a row have spoken against it. 100 ms
    /// up to the interval; default: the interval.
    pub fast_interval: Option<Duration>,
    /// How much of an interval, at most, a check may come sooner, at random; in percent. 0 to 50, default 10.
    pub jitter: u8,
    /// How long one check may take. 10 ms up to the interval; default 500 ms, or the interval where
    /// that is shorter.
    pub timeout: Duration,
    /// How many successes in a row make a backend that is down come up. 1 to 100, default 2.
    pub rise: u16,
    /// How many failures in a row make a backend that is up go down. 1 to 100, default 3.
    pub fall: u16,
    /// The address of this host that checks come from, of the backends' family. Default: as the routes say.
    pub source: Option<IpAddr>,
    /// The port that is checked. Default: the backend's.
    pub port: Option<u16>,
    /// Which address checks go to. Default: the backend's own.
    pub via: Via,
}

/// Which address checks go to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Via {
    /// The backend's own.
    #[default]
    Backend,
    /// The VIP, through the backend, as clients' packets go to it. Only in modes that keep the VIP as packets' destination
    /// (`dsr`, `ipip`, `gue`).
    Vip,
}

pub(crate) const RISE_FALL: RangeInclusive<u16> = 1..=100;
pub(crate) const JITTER: RangeInclusive<u8> = 0..=50;
pub(crate) const PORT: RangeInclusive<u16> = 1..=u16::MAX;

/// The jitter of a health check that names none, percent.
pub(crate) const DEFAULT_JITTER: u8 = 10;

impl HealthCheck {
    /// This probe, with the defaults of everything else.
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(1),
            fast_interval: None,
            jitter: DEFAULT_JITTER,
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            source: None,
            port: None,
            via: Via::Backend,
        }
    }

    /// As it is shown: headers have their names, and no values, which may be secrets.
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        if let Probe::Http(http) = &mut shown.probe {
            http.headers.iter_mut().for_each(|(_, value)| HIDDEN.clone_into(value));
        }
        shown
    }
}

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "(secret)";

/// What a health check tries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing: the backend counts as up.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// A request is answered as it should be, over HTTP or HTTPS.
    Http(Http),
    /// A DNS query over UDP is answered with NOERROR, or with NXDOMAIN, which a live server may say.
    Dns {
        /// The name that is asked for. Default `.`, whose NS every resolver knows; a server that
        /// only answers for its own zones needs one of their names here.
        name: String,
        /// The record type that is asked for: `A`, `AAAA`, `NS`, ... Default `NS` for the name `.`,
        /// else `A`.
        record: String,
    },
    /// A UDP datagram is answered.
    Udp {
        /// What the datagram carries, up to 1,400 bytes.
        send: Vec<u8>,
        /// What the answer has to have in it, 1 to 1,400 bytes; `None`: anything is an answer.
        expect: Option<Vec<u8>>,
    },
    /// An ICMP echo request is answered.
    Icmp,
    /// The server says of itself that it is serving (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service that is asked for. Default: empty, the server as a whole.
        service: String,
        /// The `:authority` of the request. Default: the backend's address.
        host: Option<String>,
        /// How TLS is spoken; `None`: it is not (h2c).
        tls: Option<Tls>,
    },
    /// A program of this host ends with exit code 0. Only where the config file has `allow_exec_checks = true`.
    Exec {
        /// The program's absolute path, and its arguments.
        command: Vec<String>,
        /// Whom it runs as. Default `nobody`.
        user: String,
    },
}

impl Probe {
    /// Its `type`, as it is written.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http(Http { tls: None, .. }) => "http",
            Self::Http(Http { tls: Some(_), .. }) => "https",
            Self::Dns { .. } => "dns",
            Self::Udp { .. } => "udp",
            Self::Icmp => "icmp",
            Self::Grpc { .. } => "grpc",
            Self::Exec { .. } => "exec",
        }
    }
}

/// An HTTP request, and the answers that count as healthy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// How TLS is spoken; `None`: it is not.
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
    /// What the answer's body has to be like. Default: it is not read.
    pub body: Option<Body>,
}

impl Http {
    /// `GET path` over plain HTTP, with the defaults of everything else.
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
    /// `HEAD`: the answer has no body.
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
    /// Whether this status is one of the range.
    pub const fn contains(self, status: u16) -> bool {
        self.low <= status && status <= self.high
    }
}

/// What a body has to be like. Its first 64 KiB are looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// This text is in it.
    Contains(String),
    /// This pattern matches somewhere in it.
    Matches(Pattern),
}

/// A regular expression over bytes, in the syntax of the `regex` crate: linear in time, without look-around and
/// back-references.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Whether it matches somewhere in these bytes.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

/// Two patterns are the same where they are written the same.
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
        /// What a compiled expression may take, bytes.
        const LARGEST: usize = 256 << 10;
        let built = RegexBuilder::new(text).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
        built.map(Self).map_err(|error| {
            // The crate draws an arrow under the fault, over several lines; the last says what it is.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("{} is not a regular expression that can be used ({why})", text::quoted(text))
        })
    }
}

/// How TLS is spoken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tls {
    /// The name that the server is asked for (SNI) and its certificate has to be for. Default: the host of the check's
    /// `host`, else the backend's address, which the certificate has to be for, too, and no SNI.
    pub server_name: Option<String>,
    /// Whether the certificate has to be valid. Default: it has to.
    pub verify: bool,
    /// A file of the CAs that may sign it, PEM. Default: those that this host trusts.
    pub ca_file: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

impl Default for Tls {
    fn default() -> Self {
        Self { server_name: None, verify: true, ca_file: None, min_version: TlsVersion::default() }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

words!(Via: "backend" => Backend, "vip" => Vip);
words!(Method: "GET" => Get, "HEAD" => Head, "OPTIONS" => Options);
words!(TlsVersion: "1.2" => V1_2, "1.3" => V1_3);

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

/// Ranges of statuses as they are written: `200-299, 401`.
pub(crate) fn print_statuses(ranges: &[StatusRange]) -> String {
    ranges.iter().map(StatusRange::to_string).collect::<Vec<_>>().join(", ")
}

/// In words: `http GET /healthz, status 200-399, every 1s, timeout 500ms, rise 2, fall 3`.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.probe)?;
        if self.probe == Probe::None {
            return Ok(());
        }
        if self.via == Via::Vip {
            f.write_str(", to the VIP")?;
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        if let Some(source) = self.source {
            write!(f, ", from {source}")?;
        }
        write!(f, ", every {}", text::print_duration(self.interval))?;
        if let Some(fast) = self.fast_interval {
            write!(f, " ({} while changing)", text::print_duration(fast))?;
        }
        if self.jitter != DEFAULT_JITTER {
            write!(f, ", jitter {} %", self.jitter)?;
        }
        let timeout = text::print_duration(self.timeout);
        write!(f, ", timeout {timeout}, rise {}, fall {}", self.rise, self.fall)
    }
}

/// In words: `https GET /healthz of www.example.com, status 200-399, TLS 1.3 or later`.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::None | Self::Tcp | Self::Icmp => Ok(()),
            Self::Http(http) => write!(f, " {http}"),
            Self::Dns { name, record } => write!(f, " {name} {record}"),
            Self::Udp { send, expect } => {
                write!(f, " {}", bytes_in_words(send))?;
                match expect {
                    Some(expect) => write!(f, ", expects {}", bytes_in_words(expect)),
                    None => Ok(()),
                }
            }
            Self::Grpc { service, host, tls } => {
                if !service.is_empty() {
                    write!(f, " {service}")?;
                }
                if let Some(host) = host {
                    write!(f, " of {host}")?;
                }
                tls.as_ref().map_or(Ok(()), |tls| write!(f, ", {tls}"))
            }
            Self::Exec { command, user } => write!(f, " {} as {user}", command.join(" ")),
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

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS {}", self.min_version)?;
        if self.min_version != TlsVersion::V1_3 {
            f.write_str(" or later")?;
        }
        if let Some(name) = &self.server_name {
            write!(f, " with {name}")?;
        }
        match (&self.ca_file, self.verify) {
            (_, false) => f.write_str(", certificate not verified"),
            (Some(file), true) => write!(f, ", signed by {}", file.display()),
            (None, true) => Ok(()),
        }
    }
}

/// Bytes as text where they are, else in hex; clipped.
pub(crate) fn bytes_in_words(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    match str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) => {
            text::clipped(text, MOST)
        }
        _ if bytes.len() > MOST => format!("0x{}...", hex::encode(&bytes[..MOST])),
        _ => format!("0x{}", hex::encode(bytes)),
    }
}
