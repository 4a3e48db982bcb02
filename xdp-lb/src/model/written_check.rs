//! A health check as it is written: flat, one key a value, every key but `type` optional.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::check::{
    Body, DEFAULT_JITTER, HealthCheck, Http, JITTER, Method, PORT, Pattern, Probe, RISE_FALL, StatusRange,
    Tls, TlsVersion, Via, print_statuses,
};
use super::table::{TableErrors, table};
use super::text;

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
            probe: match kind.as_str() {
                "none" => Probe::None,
                "tcp" => Probe::Tcp,
                "icmp" => Probe::Icmp,
                "http" => Probe::Http(http(written, None, &mut errors)),
                "https" => {
                    let tls = tls(&mut written, &mut errors);
                    Probe::Http(http(written, Some(tls), &mut errors))
                }
                "dns" => dns(written),
                "udp" => udp(written, &mut errors),
                "grpc" => grpc(written, &mut errors),
                "exec" => exec(written, &mut errors),
                _ => {
                    errors.all.push(("type", text::unknown_word(&kind, &TYPES)));
                    Probe::None
                }
            },
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

fn http(written: WrittenCheck, tls: Option<Tls>, errors: &mut TableErrors) -> Http {
    let default = Http::get("/");
    let body = errors.read("body_regex", written.body_regex, Pattern::from_str).map(Body::Matches);
    if body.is_some() && written.body.is_some() {
        errors.all.push(("body_regex", "conflicts with \"body\"; remove one of them".into()));
    }
    Http {
        tls,
        method: errors.read("method", written.method, Method::from_str).unwrap_or_default(),
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

fn tls(written: &mut WrittenCheck, errors: &mut TableErrors) -> Tls {
    let default = Tls::default();
    let min_version = errors.read("min_tls", written.min_tls.take(), TlsVersion::from_str);
    Tls {
        server_name: written.server_name.take(),
        verify: written.verify.unwrap_or(default.verify),
        ca_file: written.ca_file.take().map(PathBuf::from),
        min_version: min_version.unwrap_or_default(),
    }
}

fn dns(written: WrittenCheck) -> Probe {
    let name = written.name.unwrap_or_else(|| ".".into());
    let default_record = if name == "." { "NS" } else { "A" };
    let record = written.record.unwrap_or_else(|| default_record.into()).to_ascii_uppercase();
    Probe::Dns { name, record }
}

fn udp(written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let send = bytes(["send", "send_hex"], written.send, written.send_hex, errors);
    let expect = bytes(["expect", "expect_hex"], written.expect, written.expect_hex, errors);
    if send.is_none() && errors.all.is_empty() {
        errors.all.push(("send", "is missing; write send = \"ping\", or send_hex = \"70696e67\"".into()));
    }
    Probe::Udp { send: send.unwrap_or_default(), expect }
}

fn grpc(mut written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let of_tls = ["server_name", "verify", "ca_file", "min_tls"];
    let with_tls = written.tls == Some(true);
    for key in written.owned().filter(|key| of_tls.contains(&key.name) && !with_tls) {
        errors.all.push((key.name, "requires TLS; write tls = true, or remove it".into()));
    }
    let tls = tls(&mut written, errors);
    Probe::Grpc {
        service: written.service.unwrap_or_default(),
        host: written.host,
        tls: with_tls.then_some(tls),
    }
}

fn exec(written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let command = written.command.unwrap_or_default();
    if command.is_empty() {
        let example = "write command = [\"/usr/local/bin/check-web\", \"--fast\"]";
        errors.all.push(("command", format!("is missing; {example}")));
    }
    Probe::Exec { command, user: written.user.unwrap_or_else(|| DEFAULT_USER.into()) }
}

/// Whom programs run as where no user is named.
pub(crate) const DEFAULT_USER: &str = "nobody";

/// Reads `200`, `200-399` or `200-299, 401`.
fn statuses(text: &str) -> Result<Vec<StatusRange>, String> {
    let one = |text: &str| {
        let range = text::range(text).or_else(|| text.parse().ok().map(|one| (one, one)));
        range.map(|(low, high)| StatusRange { low, high }).ok_or_else(|| {
            let said = text::quoted(text);
            format!(
                "{said} is not a status or a range of them; write \"200\", \"200-399\" or \"200-299, 401\""
            )
        })
    };
    text.split(',').map(|range| one(range.trim())).collect()
}

/// Reads `Name: value`.
fn split_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| {
        format!("{} is not a header; write it as it is sent, \"X-Probe: 1\"", text::quoted(text))
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Bytes that are written as text under one key or in hex under another.
fn bytes(
    [key, hex_key]: [&'static str; 2],
    text: Option<String>,
    hex: Option<String>,
    errors: &mut TableErrors,
) -> Option<Vec<u8>> {
    if text.is_some() && hex.is_some() {
        errors.all.push((hex_key, format!("conflicts with \"{key}\"; remove one of them")));
        return None;
    }
    let decoded = errors.read(hex_key, hex, |hex| {
        let digits: String = hex.split_ascii_whitespace().collect();
        hex::decode(digits).map_err(|_| {
            format!("{} is not hex; write two digits per byte, such as \"0a0b\"", text::quoted(hex))
        })
    });
    decoded.or(text.map(String::into_bytes))
}

impl From<HealthCheck> for WrittenCheck {
    fn from(check: HealthCheck) -> Self {
        let written = Self {
            r#type: check.probe.kind().into(),
            interval: Some(text::print_duration(check.interval)),
            fast_interval: check.fast_interval.map(text::print_duration),
            jitter: (check.jitter != DEFAULT_JITTER).then_some(check.jitter),
            timeout: Some(text::print_duration(check.timeout)),
            rise: Some(check.rise),
            fall: Some(check.fall),
            source: check.source.map(|source| source.to_string()),
            port: check.port,
            via: (check.via != Via::default()).then(|| check.via.to_string()),
            ..Self::default()
        };
        match check.probe {
            Probe::None | Probe::Tcp | Probe::Icmp => written,
            Probe::Http(http) => {
                let (body, body_regex) = match http.body {
                    Some(Body::Contains(text)) => (Some(text), None),
                    Some(Body::Matches(pattern)) => (None, Some(pattern.to_string())),
                    None => (None, None),
                };
                let headers = http.headers.iter().map(|(name, value)| format!("{name}: {value}"));
                Self {
                    path: Some(http.path),
                    host: http.host,
                    method: (http.method != Method::default()).then(|| http.method.to_string()),
                    headers: (!http.headers.is_empty()).then(|| headers.collect()),
                    status: Some(print_statuses(&http.status)),
                    body,
                    body_regex,
                    ..with_tls(http.tls, written)
                }
            }
            Probe::Dns { name, record } => Self { name: Some(name), record: Some(record), ..written },
            Probe::Udp { send, expect } => {
                let (send, send_hex) = text_or_hex(send);
                let (expect, expect_hex) = expect.map(text_or_hex).unwrap_or_default();
                Self { send, send_hex, expect, expect_hex, ..written }
            }
            Probe::Grpc { service, host, tls } => Self {
                service: Some(service).filter(|service| !service.is_empty()),
                host,
                tls: tls.is_some().then_some(true),
                ..with_tls(tls, written)
            },
            Probe::Exec { command, user } => Self { command: Some(command), user: Some(user), ..written },
        }
    }
}

fn with_tls(tls: Option<Tls>, written: WrittenCheck) -> WrittenCheck {
    let Some(tls) = tls else { return written };
    WrittenCheck {
        server_name: tls.server_name,
        verify: (!tls.verify).then_some(false),
        ca_file: tls.ca_file.map(|file| file.to_string_lossy().into_owned()),
        min_tls: (tls.min_version != TlsVersion::default()).then(|| tls.min_version.to_string()),
        ..written
    }
}

/// Bytes as text, or in hex where they are none.
fn text_or_hex(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(hex::encode(error.as_bytes()))),
    }
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
