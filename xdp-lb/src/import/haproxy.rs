//! HAProxy's configuration, as far as it is of mode tcp (its configuration manual, version 3.2).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml_edit::Value;

use super::{Imported, Service, set};

/// A section: `frontend web`, with what its lines say.
#[derive(Clone, Debug, Default)]
struct Proxy {
    line: usize,
    is_http: bool,
    binds: Vec<(usize, String)>,
    backend: Option<(usize, String)>,
    service: Service,
    /// The parameters of `default-server`.
    server_defaults: Vec<String>,
    servers: Vec<(usize, Vec<String>)>,
}

/// Translates it.
#[must_use]
pub fn haproxy(text: &str) -> Imported {
    let mut imported = Imported::default();
    let mut defaults = Proxy::default();
    let mut fronts: Vec<(String, Proxy)> = Vec::new();
    let mut backs: BTreeMap<String, Proxy> = BTreeMap::new();
    let mut section = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let words = words(line);
        let Some(first) = words.first() else { continue };
        let name = words.get(1).cloned().unwrap_or_default();
        match first.as_str() {
            "defaults" => defaults = Proxy::default(),
            "listen" | "frontend" => fronts.push((name, Proxy { line: number, ..defaults.clone() })),
            "backend" => drop(backs.insert(name, Proxy { line: number, ..defaults.clone() })),
            _ => {
                let proxy = match section.as_str() {
                    "defaults" => Some(&mut defaults),
                    "listen" | "frontend" => fronts.last_mut().map(|(_, proxy)| proxy),
                    "backend" => backs.values_mut().max_by_key(|proxy| proxy.line),
                    _ => None,
                };
                if let Some(what) = proxy.and_then(|proxy| proxy.read(number, &words)) {
                    imported.note(number, what);
                }
                continue;
            }
        }
        section = first.clone();
    }
    for (name, front) in fronts {
        add(&mut imported, &name, front, &backs);
    }
    imported.notes.sort_by_key(|note| note.line);
    imported
}

/// The words of a line: separated by blanks, quoted or with a backslash; `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let last = words.last_mut().expect("there is one");
        match (quote, letter) {
            (None, '#') => break,
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None | Some('"'), '\\') => last.extend(letters.next()),
            (None, _) if letter.is_whitespace() => words.push(String::new()),
            _ => last.push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Proxy {
    /// Reads a line of the section; what it says that has no counterpart.
    fn read(&mut self, line: usize, words: &[String]) -> Option<String> {
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        match (word(0), word(1)) {
            ("mode", mode) => self.is_http = mode == "http",
            ("bind", _) => {
                self.binds.extend(word(1).split(',').map(|bind| (line, bind.to_owned())));
                let more = words.get(2..).unwrap_or_default();
                let more: Vec<&str> = more.iter().map(String::as_str).collect();
                return (!more.is_empty())
                    .then(|| format!("bind parameters `{}` have no counterpart", more.join(" ")));
            }
            ("default_backend", name) => self.backend = Some((line, name.to_owned())),
            ("server", _) => self.servers.push((line, words[1..].to_vec())),
            ("default-server", _) => self.server_defaults.extend_from_slice(&words[1..]),
            ("balance", "roundrobin" | "static-rr" | "random" | "hash") => {}
            ("balance", "source") => self.service.set("affinity", "source"),
            ("option", "httpchk") => {
                self.service.check.clear();
                set(&mut self.service.check, "type", "http");
                let path = [word(3), word(2)].into_iter().find(|word| word.starts_with('/'));
                set(&mut self.service.check, "path", path.unwrap_or("/"));
                if ["HEAD", "GET"].contains(&word(2)) {
                    set(&mut self.service.check, "method", word(2));
                }
            }
            ("http-check", "expect") if word(2) == "status" => {
                set(&mut self.service.check, "status", word(3))
            }
            ("http-check", "send") => return self.http_check_send(&words[2..]),
            // These say nothing that would change a packet's way.
            ("log" | "timeout" | "maxconn" | "fullconn" | "retries" | "description" | "id", _) => {}
            (
                "option",
                "tcplog" | "dontlognull" | "tcp-check" | "redispatch" | "tcpka" | "clitcpka" | "srvtcpka",
            ) => {}
            ("use_backend" | "acl" | "http-request" | "tcp-request", _) => {
                return Some(format!("`{}`: rules belong to a proxy behind xdp-lb", word(0)));
            }
            (key, value) => return Some(format!("`{key} {value}` has no counterpart").replace(" `", "`")),
        }
        None
    }

    /// `http-check send meth GET uri /healthz hdr Host www.example.com`
    fn http_check_send(&mut self, words: &[String]) -> Option<String> {
        let mut rest = words.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let value = rest.next().unwrap_or_default();
            match word {
                "meth" => set(&mut self.service.check, "method", value),
                "uri" => set(&mut self.service.check, "path", value),
                "hdr" if value.eq_ignore_ascii_case("host") => {
                    set(&mut self.service.check, "host", rest.next().unwrap_or_default());
                }
                other => {
                    return Some(format!(
                        "`http-check send {other}`: write it into the health check by hand"
                    ));
                }
            }
        }
        None
    }
}

/// Adds the services of a front: one for each address that it binds.
fn add(imported: &mut Imported, name: &str, front: Proxy, backs: &BTreeMap<String, Proxy>) {
    if front.is_http {
        imported.note(front.line, format!("{name} is of mode http: keep HAProxy for it, behind xdp-lb"));
        return;
    }
    let back = match &front.backend {
        Some((line, back)) => match backs.get(back) {
            Some(back) => back.clone(),
            None => return imported.note(*line, format!("there is no backend {back}")),
        },
        None => front.clone(),
    };
    let mut service = back.service.clone();
    let mut from = Vec::new();
    for (line, words) in &back.servers {
        match server(&back.server_defaults, words, &mut service) {
            Ok(notes) => from.extend(notes.into_iter().map(|what| (*line, what))),
            Err(what) => from.push((*line, what)),
        }
    }
    if !back
        .servers
        .iter()
        .any(|(_, words)| words.iter().chain(&back.server_defaults).any(|word| word == "check"))
    {
        service.check = vec![("type", Value::from("none"))];
    } else if service.check.first().is_none_or(|(key, _)| *key != "type") {
        service.check.insert(0, ("type", Value::from("tcp")));
    }
    from.into_iter().for_each(|(line, what)| imported.note(line, what));
    for (place, (line, bind)) in front.binds.iter().enumerate() {
        let Ok(vip) = bind.parse::<SocketAddr>() else {
            let all = "name the address: xdp-lb balances single addresses, not all of a host";
            imported.note(*line, format!("bind {bind}: {all}"));
            continue;
        };
        let mut keys = vec![
            ("name", Value::from(if place == 0 { name.to_owned() } else { format!("{name}-{}", place + 1) })),
            ("vip", Value::from(vip.to_string())),
            ("mode", Value::from("full-nat")),
        ];
        keys.extend(service.keys.clone());
        imported.services.push(Service { keys, ..service.clone() });
    }
}

/// Reads a server's line into a backend of the service: `NAME ADDRESS PARAMETERS`. What has no counterpart.
fn server(defaults: &[String], words: &[String], service: &mut Service) -> Result<Vec<String>, String> {
    let name = words.first().map_or("", String::as_str);
    let address = words.get(1).map_or("", String::as_str);
    let parsed: SocketAddr = address.parse().map_err(|_| {
        format!("server {name}: {address:?} is not an address with a port; names are found by a service's `discovery`")
    })?;
    let mut backend = vec![("address", Value::from(parsed.to_string()))];
    let mut notes = Vec::new();
    let own = words.get(2..).unwrap_or_default();
    let mut rest = defaults.iter().chain(own).map(String::as_str);
    while let Some(word) = rest.next() {
        let mut value = || rest.next().unwrap_or_default();
        let mut for_check = |key: &'static str, value: Value| set(&mut service.check, key, value);
        match word {
            "check" => {}
            "inter" => for_check("interval", duration(value())?),
            "fastinter" => for_check("fast_interval", duration(value())?),
            "rise" => for_check("rise", number(value())?),
            "fall" => for_check("fall", number(value())?),
            "port" => for_check("port", number(value())?),
            "slowstart" => {
                let time = duration(value())?;
                service.set("slow_start", time);
            }
            "weight" => set(&mut backend, "weight", number(value())?),
            "maxconn" => set(&mut backend, "max_flows", number(value())?),
            "backup" => set(&mut backend, "backup", true),
            "disabled" => set(&mut backend, "weight", 0),
            "downinter" | "minconn" | "maxqueue" | "cookie" | "id" => {
                let value = value();
                notes.push(format!("server {name}: `{word} {value}` has no counterpart"));
            }
            "agent-port" | "agent-inter" | "agent-addr" | "agent-send" | "addr" | "source" => {
                let value = value();
                notes.push(format!(
                    "server {name}: `{word} {value}`: write it into [service.agent] or the check by hand"
                ));
            }
            other => notes.push(format!("server {name}: `{other}` has no counterpart")),
        }
    }
    service.backends.push(backend);
    Ok(notes)
}

fn number(text: &str) -> Result<Value, String> {
    text.parse::<u32>()
        .map(|number| Value::from(i64::from(number)))
        .map_err(|_| format!("{text:?} is not a number"))
}

/// HAProxy's times are milliseconds unless they have a unit.
fn duration(text: &str) -> Result<Value, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "ms" => "ms",
        unit @ ("s" | "m" | "h") => unit,
        "d" => "days",
        _ => return Err(format!("{text:?} is not a time that xdp-lb can have")),
    };
    digits.parse::<u32>().map_err(|_| format!("{text:?} is not a time"))?;
    Ok(Value::from(format!("{digits}{unit}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const PLAIN: &str = r#"
global
    maxconn 20000
defaults
    mode tcp
    timeout client 1m
    default-server inter 2s fall 3 rise 2
listen web   # the shop
    bind 192.0.2.10:80
    bind 192.0.2.11:80,[2001:db8::10]:80
    option httpchk GET /healthz
    http-check send hdr Host "www.example.com"
    http-check expect status 200
    balance source
    server s1 198.51.100.11:8080 check weight 100
    server s2 198.51.100.12:8080 check weight 50 backup maxconn 500 slowstart 30s
frontend mail
    bind 192.0.2.10:25
    default_backend mail
backend mail
    balance leastconn
    server m1 198.51.100.21:25 check inter 500 send-proxy
    server m2 mail.example.com:25 check
frontend shop
    mode http
    bind 192.0.2.10:8080
"#;

    #[test]
    fn a_plain_file_of_mode_tcp_becomes_a_valid_one() {
        let imported = haproxy(PLAIN);
        let toml = imported.toml(&["eth0".to_owned(), "eth1".to_owned()]);
        // The address of another family than the backends is for the operator to see.
        let toml = toml.replace("[2001:db8::10]:80", "192.0.2.12:80");
        let config = parse(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["web", "web-2", "web-3", "mail"]);
        assert_eq!(config.services[0].backends.len(), 2);
        assert_eq!(config.services[3].backends.len(), 1);
        for expected in [
            "affinity = \"source\"",
            "host = \"www.example.com\"",
            "max_flows = 500",
            "interval = \"500ms\"",
            "slow_start = \"30s\"",
        ] {
            assert!(toml.contains(expected), "{expected}: {toml}");
        }
    }

    #[test]
    fn what_cannot_be_translated_is_noted_with_its_line() {
        let imported = haproxy(PLAIN);
        let notes: Vec<(usize, &str)> =
            imported.notes.iter().map(|note| (note.line, note.what.as_str())).collect();
        let lines: Vec<usize> = notes.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [21, 22, 23, 24], "{notes:?}");
        for (note, expected) in notes.iter().zip(["leastconn", "send-proxy", "discovery", "mode http"]) {
            assert!(note.1.contains(expected), "{note:?}");
        }
        assert!(haproxy("listen a\n bind *:80\n").notes[0].what.contains("name the address"));
    }
}
