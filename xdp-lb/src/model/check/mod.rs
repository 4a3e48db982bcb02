//! Health checks: all keys, and what the types have in common. Each type has its own file.

mod dns;
mod exec;
mod grpc;
mod http;
mod tls;
mod udp;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

pub(crate) use self::dns::dns_name;
pub(crate) use self::http::print_statuses;
pub use self::http::{Body, Http, Method, Pattern, StatusRange};
pub use self::tls::{Tls, TlsVersion};
pub(crate) use self::udp::bytes_in_words;
use super::choices::{Protocol, words};
use super::place::{Place, Problems};
use super::state::Origin;
use super::table::{TableErrors, table};
use super::text::{self, print_duration, quoted};
use super::values::{unicast, within};

table! {
    /// The keys of a health check.
    WrittenCheck of HealthCheck at "health_check",
    type: "tcp" => "tcp, http, https, dns, udp, icmp, grpc, exec (a program on the daemon's host, if its config file allows that) or none [default: tcp for a TCP service on one port, else none]";
    path: String, of "http" | "https" => "the path to request [default: /]";
    host: String, of "http" | "https" | "grpc" => "the Host header, or gRPC's authority [default: the address that is checked]";
    method: String, of "http" | "https" => "GET, HEAD or OPTIONS [default: GET]";
    headers: Vec<String>, of "http" | "https" => "an additional header, NAME: VALUE";
    status: String, of "http" | "https" => "the status codes that count as healthy, such as 200-299,401 [default: 200-399]";
    body: String, of "http" | "https" => "text that the response body must contain";
    body_regex: String, of "http" | "https" => "a regular expression that the response body must match";
    tls: bool, of "grpc" => "use TLS";
    server_name: String, of "https" | "grpc" => "the name that is sent as SNI and that the certificate must be valid for";
    verify: bool = true, of "https" | "grpc" => "accept any certificate";
    ca_file: String, of "https" | "grpc" => "a PEM file on the daemon's host with the trusted CAs [default: the CAs that host trusts]";
    min_tls: String, of "https" | "grpc" => "the oldest accepted TLS version, 1.2 or 1.3 [default: 1.2]";
    service: String, of "grpc" => "the service to ask about [default: the server as a whole]";
    name: String, of "dns" => "the name to query [default: .]";
    record: String, of "dns" => "the record type to query [default: NS for \".\", else A]";
    send: String, of "udp" => "the payload to send";
    send_hex: String, of "udp" => "the same, in hex";
    expect: String, of "udp" => "text that the answer must contain [default: any answer is accepted]";
    expect_hex: String, of "udp" => "the same, in hex";
    command: Vec<String>, of "exec" => "the program, and its arguments";
    user: String, of "exec";
    interval: String => "The time between two checks [default: 1s]";
    fast_interval: String => "The time between two checks while the backend's health is changing [default: the normal interval]";
    jitter: u8 as JITTER => "How much earlier a check may start, at random, in percent of the interval [default: 10]";
    timeout: String => "How long one check may take [default: 500ms]";
    rise: u16 as RISE_FALL => "How many successes in a row bring a backend up [default: 2]";
    fall: u16 as RISE_FALL => "How many failures in a row take a backend down [default: 3]";
    source: String => "The source address of checks [default: chosen by the routes]";
    port: u16 as PORT, of "tcp" | "http" | "https" | "dns" | "udp" | "grpc" | "exec" => "The port to check [default: the backend's]";
    via: String, of "tcp" | "http" | "https" | "dns" | "udp" | "grpc" => "Which address to check: \"backend\", or in modes dsr, ipip and gue \"vip\", through the backend [default: backend]";
}

const TYPES: [&str; 9] = ["tcp", "http", "https", "dns", "udp", "icmp", "grpc", "exec", "none"];

/// How backends are checked. Written flat, in TOML as in JSON:
/// `{type = "http", path = "/healthz", interval = "1s"}`; all but `type` has a default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// The type of check.
    pub probe: Probe,
    /// The time between the starts of two checks. 100 ms to 1 h, default 1 s.
    pub interval: Duration,
    /// The same while the health is changing, with fewer than `rise` or `fall` contradicting checks in a row. 100 ms up to the
    /// interval; default: the interval.
    pub fast_interval: Option<Duration>,
    /// How much earlier a check may start, at random, in percent of the interval. 0 to 50, default 10.
    pub jitter: u8,
    /// How long one check may take. 10 ms up to the interval; default 500 ms, or the interval if that is shorter.
    pub timeout: Duration,
    /// How many successes in a row bring a backend up. 1 to 100, default 2.
    pub rise: u16,
    /// How many failures in a row take a backend down. 1 to 100, default 3.
    pub fall: u16,
    /// The source address of checks, of the backends' family. Default: chosen by the routes.
    pub source: Option<IpAddr>,
    /// The port to check. Default: the backend's.
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
    /// The VIP, on the backend, in the same way as clients' packets. Only in modes that keep the VIP as the destination (`dsr`,
    /// `ipip`, `gue`).
    Vip,
}

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const RISE_FALL: RangeInclusive<u16> = 1..=100;
const JITTER: RangeInclusive<u8> = 0..=50;
const PORT: RangeInclusive<u16> = 1..=u16::MAX;

/// The default jitter, in percent.
const DEFAULT_JITTER: u8 = 10;

impl HealthCheck {
    /// This probe, with defaults for everything else.
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

    /// For display: without the values of headers, which may be secrets.
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        if let Probe::Http(http) = &mut shown.probe {
            http.headers.iter_mut().for_each(|(_, value)| HIDDEN.clone_into(value));
        }
        shown
    }
}

/// What is shown instead of a secret.
pub const HIDDEN: &str = "(secret)";

words!(Via: "backend" => Backend, "vip" => Vip);

/// What a health check tries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing: the backend counts as up.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// A request over HTTP or HTTPS gets the expected response.
    Http(Http),
    /// A DNS query over UDP is answered with NOERROR, or with NXDOMAIN, which also shows a live server.
    Dns {
        /// The name to query. Default `.`, whose NS every resolver knows; a server that answers only for its own zones needs
        /// one of their names.
        name: String,
        /// The record type to query: `A`, `AAAA`, `NS`, ... Default `NS` for the name `.`, else `A`.
        record: String,
    },
    /// A UDP datagram is answered.
    Udp {
        /// The payload, up to 1,400 bytes.
        send: Vec<u8>,
        /// What the response must contain, 1 to 1,400 bytes; `None`: any response is accepted.
        expect: Option<Vec<u8>>,
    },
    /// An ICMP echo request is answered.
    Icmp,
    /// The server's health service answers SERVING (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service to ask about. Default: empty, the server as a whole.
        service: String,
        /// The `:authority` of the request. Default: the backend's address.
        host: Option<String>,
        /// The TLS settings; `None`: no TLS (h2c).
        tls: Option<Tls>,
    },
    /// A program on this host ends with exit code 0. Only if the config file has `allow_exec_checks = true`.
    Exec {
        /// The program's absolute path, and its arguments.
        command: Vec<String>,
        /// The user it runs as. Default `nobody`.
        user: String,
    },
}

impl Probe {
    /// Its `type`.
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
    /// The transport protocol of its packets; `None`: it has no ports.
    pub const fn transport(&self) -> Option<Protocol> {
        match self {
            Self::None | Self::Icmp | Self::Exec { .. } => None,
            Self::Dns { .. } | Self::Udp { .. } => Some(Protocol::Udp),
            Self::Tcp | Self::Http(_) | Self::Grpc { .. } => Some(Protocol::Tcp),
        }
    }

    /// Reads the keys of this type.
    fn read(kind: &str, mut written: WrittenCheck, errors: &mut TableErrors) -> Self {
        match kind {
            "none" => Self::None,
            "tcp" => Self::Tcp,
            "icmp" => Self::Icmp,
            "http" => Self::Http(Http::read(written, None, errors)),
            "https" => {
                let tls = Tls::read(&mut written, errors);
                Self::Http(Http::read(written, Some(tls), errors))
            }
            "dns" => dns::read(written),
            "udp" => udp::read(written, errors),
            "grpc" => grpc::read(written, errors),
            "exec" => exec::read(written, errors),
            _ => {
                errors.all.push(("type", text::unknown_word(kind, &TYPES)));
                Self::None
            }
        }
    }

    /// Writes its keys.
    fn write(self, written: WrittenCheck) -> WrittenCheck {
        match self {
            Self::None | Self::Tcp | Self::Icmp => written,
            Self::Http(http) => http.write(written),
            Self::Dns { name, record } => dns::write(name, record, written),
            Self::Udp { send, expect } => udp::write(send, expect, written),
            Self::Grpc { service, host, tls } => grpc::write(service, host, tls, written),
            Self::Exec { command, user } => exec::write(command, user, written),
        }
    }

    fn validate(&self, place: &Place, problems: &mut Problems) {
        match self {
            Self::None | Self::Tcp | Self::Icmp => {}
            Self::Http(http) => http.validate(place, problems),
            Self::Dns { name, record } => dns::validate(name, record, place, problems),
            Self::Udp { send, expect } => udp::validate(send, expect.as_deref(), place, problems),
            Self::Grpc { service, host, tls } => {
                grpc::validate(service, host.as_deref(), tls.as_ref(), place, problems);
            }
            Self::Exec { command, user } => exec::validate(command, user, place, problems),
        }
    }
}

impl HealthCheck {
    /// Validates this check by itself.
    pub(crate) fn validate(&self, place: &Place, problems: &mut Problems) {
        problems.take(&place.key("interval"), within(self.interval, &INTERVAL, print_duration));
        let timeout = self.timeout;
        if timeout < SHORTEST_TIMEOUT || timeout > self.interval {
            problems.add(
                &place.key("timeout"),
                format!(
                    "{} is not from {} to the interval ({}), since one check ends before the next begins; \
                     write less, or a longer interval",
                    print_duration(timeout),
                    print_duration(SHORTEST_TIMEOUT),
                    print_duration(self.interval)
                ),
            );
        }
        if let Some(fast) = self.fast_interval
            && (fast < *INTERVAL.start() || fast > self.interval)
        {
            problems.add(
                &place.key("fast_interval"),
                format!(
                    "{} is not from {} to the interval ({}); write less, or a longer interval",
                    print_duration(fast),
                    print_duration(*INTERVAL.start()),
                    print_duration(self.interval)
                ),
            );
        }
        problems.take(&place.key("jitter"), within(self.jitter, &JITTER, |percent| percent.to_string()));
        for (key, value) in [("rise", self.rise), ("fall", self.fall)] {
            problems.take(&place.key(key), within(value, &RISE_FALL, |number| number.to_string()));
        }
        if let Some(source) = self.source {
            problems.take(&place.key("source"), unicast(source, None));
        }
        if let Some(port) = self.port {
            problems.take(&place.key("port"), within(port, &PORT, |number| number.to_string()));
        }
        self.probe.validate(place, problems);
    }

    /// Validates that programs are allowed, and that only the config file names another user.
    pub(crate) fn validate_leave(
        &self,
        allow_exec_checks: bool,
        origin: Origin,
        place: &Place,
        problems: &mut Problems,
    ) {
        let Probe::Exec { user, .. } = &self.probe else { return };
        if !allow_exec_checks {
            problems.add(
                &place.key("type"),
                "\"exec\" runs a program on this host, which is not allowed; write allow_exec_checks = true at the \
                 top of the config file, or use another type",
            );
        } else if origin == Origin::Runtime && user != exec::DEFAULT_USER {
            problems.add(
                &place.key("user"),
                format!(
                    "a program of a service that was added at runtime runs as {}, not as {}; write the service into the \
                     config file",
                    quoted(exec::DEFAULT_USER),
                    quoted(user)
                ),
            );
        }
    }
}

impl TryFrom<WrittenCheck> for HealthCheck {
    type Error = TableErrors;

    fn try_from(mut written: WrittenCheck) -> Result<Self, TableErrors> {
        let mut errors = Self::no_errors();
        let kind = written.r#type.clone();
        if TYPES.contains(&kind.as_str()) {
            for key in written.owned().filter(|key| !key.owners.contains(&kind.as_str())) {
                errors.all.push((key.name, foreign(key.owners, &kind)));
            }
        }

        let default = Self::new(Probe::None);
        let interval = errors.read("interval", written.interval.take(), text::duration);
        let interval = interval.unwrap_or(default.interval);
        let timeout = errors.read("timeout", written.timeout.take(), text::duration);
        let fast_interval = errors.read("fast_interval", written.fast_interval.take(), text::duration);
        let source: Option<IpAddr> = errors.read("source", written.source.take(), text::address);
        let via = errors.read("via", written.via.take(), Via::from_str);
        let check = Self {
            interval,
            fast_interval,
            jitter: written.jitter.unwrap_or(default.jitter),
            timeout: timeout.unwrap_or(default.timeout.min(interval)),
            rise: written.rise.unwrap_or(default.rise),
            fall: written.fall.unwrap_or(default.fall),
            source,
            port: written.port,
            via: via.unwrap_or_default(),
            probe: Probe::read(&kind, written, &mut errors),
        };
        if errors.all.is_empty() { Ok(check) } else { Err(errors) }
    }
}

fn foreign(owners: &[&str], kind: &str) -> String {
    if owners.len() > 3 {
        return format!("does not belong to a check of type \"{kind}\"; remove it or change the type");
    }
    format!(
        "belongs to a check of type {}, but this one has type \"{kind}\"; remove it or change the type",
        text::alternatives(owners)
    )
}

impl From<HealthCheck> for WrittenCheck {
    fn from(check: HealthCheck) -> Self {
        let written = Self {
            r#type: check.probe.kind().into(),
            interval: Some(print_duration(check.interval)),
            fast_interval: check.fast_interval.map(print_duration),
            jitter: (check.jitter != DEFAULT_JITTER).then_some(check.jitter),
            timeout: Some(print_duration(check.timeout)),
            rise: Some(check.rise),
            fall: Some(check.fall),
            source: check.source.map(|source| source.to_string()),
            port: check.port,
            via: (check.via != Via::default()).then(|| check.via.to_string()),
            ..Self::default()
        };
        check.probe.write(written)
    }
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
        write!(f, ", every {}", print_duration(self.interval))?;
        if let Some(fast) = self.fast_interval {
            write!(f, " ({} while changing)", print_duration(fast))?;
        }
        if self.jitter != DEFAULT_JITTER {
            write!(f, ", jitter {} %", self.jitter)?;
        }
        let timeout = print_duration(self.timeout);
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

fn too_long(length: usize, longest: usize) -> String {
    format!("has {length} bytes; write at most {longest}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(json: &str) -> Result<HealthCheck, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn json_is_flat_with_durations_as_text() {
        let json = r#"{"type":"http","path":"/healthz","host":"example.com","status":"200-299","interval":"1m 30s","timeout":"500ms","rise":2,"fall":3}"#;
        let check = read(json).expect("valid");
        assert_eq!(check.interval, Duration::from_secs(90));
        assert_eq!(serde_json::to_string(&check).expect("printed"), json);
    }

    #[test]
    fn each_type_has_its_keys_and_is_printed_as_it_was_written() {
        for json in [
            r#"{"type":"icmp","interval":"1s","timeout":"500ms","rise":2,"fall":3,"source":"198.51.100.2"}"#,
            r#"{"type":"https","path":"/","host":"a.example","method":"HEAD","headers":["X-A: b: c"],"status":"200-299, 401","server_name":"b.example","verify":false,"min_tls":"1.3","interval":"1s","timeout":"500ms","rise":2,"fall":3}"#,
            r#"{"type":"http","path":"/","status":"200","body_regex":"^o+k$","interval":"1s","fast_interval":"250ms","jitter":0,"timeout":"500ms","rise":2,"fall":3,"port":81}"#,
            r#"{"type":"http","path":"/","status":"200","body":"ok","interval":"1s","timeout":"500ms","rise":2,"fall":3}"#,
            r#"{"type":"tcp","interval":"1s","timeout":"500ms","rise":2,"fall":3,"via":"vip"}"#,
            r#"{"type":"udp","send":"ping","expect_hex":"00ff","interval":"1s","timeout":"500ms","rise":2,"fall":3}"#,
            r#"{"type":"grpc","tls":true,"ca_file":"/etc/ca.pem","service":"shop.Cart","interval":"1s","timeout":"500ms","rise":2,"fall":3}"#,
            r#"{"type":"exec","command":["/bin/check","-v"],"user":"nobody","interval":"1s","timeout":"500ms","rise":2,"fall":3}"#,
        ] {
            let check = read(json).expect("valid");
            assert_eq!(serde_json::to_string(&check).expect("printed"), json);
        }
        let Probe::Udp { send, expect } =
            read(r#"{"type":"udp","send_hex":"00 fF","expect":"é"}"#).expect("valid").probe
        else {
            panic!("not udp")
        };
        assert_eq!((send, expect), (vec![0, 255], Some("é".into())));
    }

    #[test]
    fn json_with_a_key_that_is_unknown_or_of_another_type_is_refused() {
        let message = read(r#"{"type":"tcp","pth":"/"}"#).expect_err("refused");
        assert!(message.contains("unknown field `pth`"), "{message}");
        assert_eq!(
            read(r#"{"type":"tcp","path":"/","interval":"x"}"#).expect_err("refused"),
            "health_check.path: belongs to a check of type \"http\" or \"https\", but this one has type \"tcp\"; \
             remove it or change the type\nhealth_check.interval: \"x\" is not a duration (expected number at 0); write \
             \"500ms\" or \"1m 30s\""
        );
        assert!(read("{}").expect_err("refused").contains("missing field `type`"));
    }
}
