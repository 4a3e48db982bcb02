//! What `ipvsadm --save --numeric` prints (ipvsadm(8)).

use std::net::SocketAddr;

use super::{Imported, set};

/// Translates it.
#[must_use]
pub fn ipvs(text: &str) -> Imported {
    let mut imported = Imported::default();
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match words.first().copied() {
            Some("-A" | "--add-service") => service(&mut imported, number, &words[1..]),
            Some("-a" | "--add-server") => server(&mut imported, number, &words[1..]),
            None => Ok(()),
            Some(word) if word.starts_with('#') => Ok(()),
            Some(word) => {
                Err(format!("`{word}`: only -A and -a are read: print them by `ipvsadm --save --numeric`"))
            }
        };
        if let Err(what) = result {
            imported.note(number, what);
        }
    }
    imported
}

/// The protocol and VIP that `-t` or `-u` names.
fn endpoint(words: &[&str]) -> Result<(&'static str, SocketAddr), String> {
    let protocol = match words.first() {
        Some(&"-t") => "tcp",
        Some(&"-u") => "udp",
        Some(&"-f") => {
            return Err("a firewall mark: name the address and port of the service instead".to_owned());
        }
        Some(word) => return Err(format!("`{word}`: xdp-lb balances TCP and UDP")),
        None => return Err("names no service".to_owned()),
    };
    let vip = words.get(1).copied().unwrap_or_default();
    Ok((protocol, vip.parse().map_err(|_| format!("{vip:?} is not an address with a port"))?))
}

fn service(imported: &mut Imported, line: usize, words: &[&str]) -> Result<(), String> {
    let (protocol, vip) = endpoint(words)?;
    let mut service = super::Service::default();
    let name = format!("{protocol}-{}-{}", vip.ip().to_string().replace(':', "-"), vip.port());
    service.set("name", name.trim_matches('-'));
    service.set("vip", vip.to_string());
    service.set("protocol", protocol);
    let mut rest = words[2..].iter();
    while let Some(word) = rest.next() {
        match *word {
            "-s" => match rest.next().copied().unwrap_or_default() {
                "rr" | "wrr" | "mh" => {}
                "sh" | "dh" => service.set("affinity", "source"),
                other => imported.note(line, format!("scheduler {other}: weights and a hash take its place")),
            },
            "-p" => {
                service.set("affinity", "source");
                let seconds = rest.next().copied().unwrap_or_default();
                imported.note(line, format!("persistence of {seconds} s: affinity by source has no timeout"));
            }
            "-M" => {
                let mask = rest.next().copied().unwrap_or_default();
                imported.note(line, format!("persistence mask {mask}: write affinity = \"source/PREFIX\""));
            }
            "-b" => drop(rest.next()),
            other => imported.note(line, format!("`{other}` has no counterpart")),
        }
    }
    imported.services.push(service);
    Ok(())
}

fn server(imported: &mut Imported, line: usize, words: &[&str]) -> Result<(), String> {
    let (protocol, vip) = endpoint(words)?;
    let mut backend = Vec::new();
    let mut mode = "dsr";
    let mut rest = words[2..].iter();
    let mut notes = Vec::new();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().unwrap_or_default();
        match *word {
            "-r" => {
                let address = value();
                let parsed: SocketAddr =
                    address.parse().map_err(|_| format!("{address:?} is not an address with a port"))?;
                set(&mut backend, "address", parsed.to_string());
            }
            "-m" => mode = "nat",
            "-g" => mode = "dsr",
            "-i" => mode = "ipip",
            "--tun-type" => match value() {
                "ipip" => mode = "ipip",
                "gue" => mode = "gue",
                other => notes.push(format!("tunnels of type {other}: xdp-lb has ipip and gue")),
            },
            "--tun-port" => match value() {
                "6080" => {}
                other => notes.push(format!("tunnel port {other}: xdp-lb sends to 6080")),
            },
            "-w" => set(&mut backend, "weight", number(value())?),
            "-x" => match number(value())? {
                0 => {}
                limit => set(&mut backend, "max_flows", limit),
            },
            "-y" => drop(value()),
            other => notes.push(format!("`{other}` has no counterpart")),
        }
    }
    notes.into_iter().for_each(|what| imported.note(line, what));
    let is_it = |service: &&mut super::Service| {
        let has = |key: &str, wanted: &str| {
            service.keys.iter().any(|(name, value)| *name == key && value.as_str() == Some(wanted))
        };
        has("vip", &vip.to_string()) && has("protocol", protocol)
    };
    let service =
        imported.services.iter_mut().find(is_it).ok_or_else(|| format!("no -A for {vip} comes before"))?;
    let other = service.keys.iter().find(|(key, value)| *key == "mode" && value.as_str() != Some(mode));
    if other.is_some() {
        return Err(format!(
            "this server is of mode {mode} and others of {vip} are not: a service has one mode"
        ));
    }
    service.set("mode", mode);
    service.backends.push(backend);
    Ok(())
}

fn number(text: &str) -> Result<i64, String> {
    text.parse::<u32>().map(i64::from).map_err(|_| format!("{text:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn services_of_each_mode_become_a_valid_file() {
        let saved = "-A -t 192.0.2.10:80 -s wrr -p 300\n-a -t 192.0.2.10:80 -r 198.51.100.11:8080 -m -w 100\n\
                     -a -t 192.0.2.10:80 -r 198.51.100.12:8080 -m -w 0 -x 1000\n-A -u [2001:db8::53]:53 -s lc\n\
                     -a -u [2001:db8::53]:53 -r [2001:db8:1::53]:53 -g -w 1\n-A -t 192.0.2.11:443 -s mh\n\
                     -a -t 192.0.2.11:443 -r 198.51.100.11:443 -i -w 1 --tun-type gue --tun-port 6080\n";
        let imported = ipvs(saved);
        let toml = imported.toml(&["eth0".to_owned()]);
        let config = parse(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        let modes: Vec<String> = config.services.iter().map(|service| service.mode.to_string()).collect();
        assert_eq!(modes, ["nat", "dsr", "gue"]);
        assert_eq!(config.services[0].backends.len(), 2);
        let notes: Vec<usize> = imported.notes.iter().map(|note| note.line).collect();
        assert_eq!(notes, [1, 4], "{:?}", imported.notes);
    }

    #[test]
    fn what_cannot_be_translated_is_noted_with_its_line() {
        for (line, expected) in [
            ("-A -f 1 -s rr", "firewall mark"),
            ("-A -t 192.0.2.10 -s rr", "not an address with a port"),
            ("-a -t 192.0.2.10:80 -r 198.51.100.11:80 -m", "no -A"),
            ("IP Virtual Server version 1.2.1", "only -A and -a"),
            (
                "-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 198.51.100.11:80 -w many",
                "\"many\" is not a number",
            ),
        ] {
            let notes = ipvs(line).notes;
            assert!(notes.iter().any(|note| note.what.contains(expected)), "{line}: {notes:?}");
        }
    }
}
