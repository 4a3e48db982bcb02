//! What must hold of a health check beyond its form.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use hickory_proto::rr::Name;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, header};
use rustls::pki_types::ServerName;

use super::check::{Body, HealthCheck, Http, JITTER, Method, PORT, Probe, RISE_FALL, StatusRange, Tls};
use super::place::{Place, Problems};
use super::state::Origin;
use super::text::{print_duration, quoted};
use super::values::{absolute_path, unicast, within};
use super::written_check::DEFAULT_USER;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_HTTP_PATH: usize = 2048;
const LONGEST_HTTP_HOST: usize = 255;
const MOST_HEADERS: usize = 32;
const LONGEST_HEADER: usize = 1024;
const MOST_STATUSES: usize = 32;
const LONGEST_BODY: usize = 1024;
/// What fits one packet on any path that IPv6 takes, with room to spare on most (RFC 8200 section 5).
const LONGEST_DATAGRAM: usize = 1400;
const LONGEST_GRPC_SERVICE: usize = 255;
const LONGEST_COMMAND: usize = 4096;
const DNS_RECORDS: [&str; 12] =
    ["A", "AAAA", "CAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"];

impl HealthCheck {
    /// The rules that look at this check alone.
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

    /// The rule that a program needs leave, which only the config file gives; and that only the file says whom it runs as.
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
        } else if origin == Origin::Runtime && user != DEFAULT_USER {
            problems.add(
                &place.key("user"),
                format!(
                    "a program of a service that was added at runtime runs as \"{DEFAULT_USER}\", not as {}; write \
                     the service into the config file",
                    quoted(user)
                ),
            );
        }
    }
}

impl Probe {
    fn validate(&self, place: &Place, problems: &mut Problems) {
        match self {
            Self::None | Self::Tcp | Self::Icmp => {}
            Self::Http(http) => http.validate(place, problems),
            Self::Dns { name, record } => {
                problems.take(&place.key("name"), dns_name(name));
                if !DNS_RECORDS.contains(&record.as_str()) {
                    problems.add(
                        &place.key("record"),
                        format!(
                            "{} is not a supported record type; write one of {}",
                            quoted(record),
                            DNS_RECORDS.join(", ")
                        ),
                    );
                }
            }
            Self::Udp { send, expect } => {
                if send.len() > LONGEST_DATAGRAM {
                    problems.add(&place.key("send"), too_long(send.len(), LONGEST_DATAGRAM));
                }
                match expect.as_ref().map(Vec::len) {
                    Some(0) => problems.add(
                        &place.key("expect"),
                        "is empty; write text that the answer must contain, or remove it to accept any answer",
                    ),
                    Some(length) if length > LONGEST_DATAGRAM => {
                        problems.add(&place.key("expect"), too_long(length, LONGEST_DATAGRAM));
                    }
                    _ => {}
                }
            }
            Self::Grpc { service, host, tls } => {
                if service.len() > LONGEST_GRPC_SERVICE || service.chars().any(char::is_control) {
                    problems.add(
                        &place.key("service"),
                        format!(
                            "{} is not the name of a service; write it as its .proto file has it, \"shop.v1.Cart\", \
                             in at most {LONGEST_GRPC_SERVICE} bytes",
                            quoted(service)
                        ),
                    );
                }
                if let Some(host) = host {
                    problems.take(&place.key("host"), http_host(host));
                }
                if let Some(tls) = tls {
                    tls.validate(place, problems);
                }
            }
            Self::Exec { command, user } => {
                problems.take(&place.key("command"), command_line(command));
                if user.is_empty() || user.contains('\0') {
                    problems.add(&place.key("user"), "is not a user; write one of this host's, \"nobody\"");
                }
            }
        }
    }
}

impl Http {
    fn validate(&self, place: &Place, problems: &mut Problems) {
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

impl Tls {
    fn validate(&self, place: &Place, problems: &mut Problems) {
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            problems.add(
                &place.key("server_name"),
                format!("{} is not the name in a certificate; write \"www.example.com\"", quoted(name)),
            );
        }
        let Some(file) = &self.ca_file else { return };
        problems.take(&place.key("ca_file"), absolute_path(&file.to_string_lossy()));
        if !self.verify {
            problems.add(
                &place.key("ca_file"),
                "conflicts with verify = false, which accepts any certificate; remove one of them",
            );
        }
    }
}

fn too_long(length: usize, longest: usize) -> String {
    format!("has {length} bytes; write at most {longest}")
}

fn http_path(path: &str) -> Result<(), String> {
    let good = path.starts_with('/')
        && path.len() <= LONGEST_HTTP_PATH
        && PathAndQuery::try_from(path).is_ok_and(|parsed| parsed.as_str() == path)
        && path.bytes().all(|byte| byte.is_ascii_graphic());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not the path of a request; write it from its \"/\" on, with spaces and the like as %20, \
         at most {LONGEST_HTTP_PATH} characters",
        quoted(path)
    ))
}

fn http_host(host: &str) -> Result<(), String> {
    let good = host.len() <= LONGEST_HTTP_HOST
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

pub(crate) fn dns_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && Name::from_ascii(name).is_ok() {
        return Ok(());
    }
    Err(format!("{} is not a DNS name; write \"example.com\", or \".\" for the root", quoted(name)))
}

fn command_line(command: &[String]) -> Result<(), String> {
    let Some(program) = command.first() else {
        return Err("is empty; write command = [\"/usr/local/bin/check-web\"]".into());
    };
    absolute_path(program).map_err(|what| format!("its program {what}"))?;
    if command.iter().any(|word| word.contains('\0')) {
        return Err("contains a NUL byte; remove it".into());
    }
    let length = command.iter().map(|word| word.len() + 1).sum();
    if length > LONGEST_COMMAND { Err(too_long(length, LONGEST_COMMAND)) } else { Ok(()) }
}
