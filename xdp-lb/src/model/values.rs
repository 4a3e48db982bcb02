//! Validation of single values.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use super::text::{grouped, quoted};

const LONGEST_NAME: usize = 63;

/// The wildcard for the names of all certificates.
pub(crate) const EVERY_CERTIFICATE: &str = "*";

/// A service's name, as used in metrics, CLI arguments and URLs.
pub(crate) fn service_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty; write a name".into());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "{} has {} characters; write at most {LONGEST_NAME}",
            quoted(name),
            name.chars().count()
        ));
    }
    if name == "." || name == ".." {
        return Err(format!("{} is not a name; write one with a letter or a digit", quoted(name)));
    }
    match name.chars().find(|&c| !c.is_ascii_alphanumeric() && !"-_.".contains(c)) {
        Some(stray) => Err(format!(
            "{} contains {:?}; write only letters, digits, \"-\", \"_\" and \".\"",
            quoted(name),
            stray
        )),
        None => Ok(()),
    }
}

/// An address and port that packets can be sent to.
pub(crate) fn endpoint(endpoint: SocketAddr) -> Result<(), String> {
    host(endpoint)?;
    if endpoint.port() == 0 {
        return Err(format!("\"{endpoint}\" has port 0; write 1 to 65535"));
    }
    Ok(())
}

/// An address that packets can be sent to, whatever the port.
pub(crate) fn host(endpoint: SocketAddr) -> Result<(), String> {
    unicast(endpoint.ip(), Some(endpoint.port()))?;
    if let SocketAddr::V6(v6) = endpoint
        && v6.scope_id() != 0
    {
        return Err(format!("\"{endpoint}\" has a scope ID; write an address that needs none"));
    }
    Ok(())
}

/// An address of one host on a network.
pub(crate) fn unicast(address: IpAddr, port: Option<u16>) -> Result<(), String> {
    let written = |address: IpAddr| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let said = written(address);
    let kind = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
            return Err(format!(
                "\"{said}\" is an IPv4-mapped IPv6 address; write \"{}\"",
                written(v4.into())
            ));
        }
        IpAddr::V4(v4) if v4.is_unspecified() => "is the unspecified address",
        IpAddr::V6(v6) if v6.is_unspecified() => "is the unspecified address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is in 0.0.0.0/8, which no host may use (RFC 1122)",
        _ if address.is_loopback() => "is a loopback address, whose packets never reach a network interface",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is link-local, which is ambiguous without an interface"
        }
        _ => return Ok(()),
    };
    Err(format!("\"{said}\" {kind}; write the address of a host on the network"))
}

/// A value in its range.
pub(crate) fn within<T: PartialOrd + Copy>(
    value: T,
    range: &RangeInclusive<T>,
    print: impl Fn(T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "{} is out of range; write {} to {}",
        print(value),
        print(*range.start()),
        print(*range.end())
    ))
}

/// What to write for a number of this range: `a whole number from 0 to 65,535, such as 100`.
pub(crate) fn whole_number(range: &RangeInclusive<u64>) -> String {
    let example =
        [100, 10, *range.start()].into_iter().find(|number| range.contains(number) && number != range.end());
    let range = format!("{WHOLE_NUMBER} from {} to {}", grouped(*range.start()), grouped(*range.end()));
    example.map_or(range.clone(), |example| format!("{range}, such as {example}"))
}

const WHOLE_NUMBER: &str = "a whole number";

/// The error for a text that is not what was expected.
pub(crate) fn is_not(text: &str, wanted: &str) -> String {
    match wanted.strip_prefix(WHOLE_NUMBER).and_then(|range| range.strip_prefix(" from ")) {
        Some(range) => format!("{} is not {WHOLE_NUMBER}; write {range}", quoted(text)),
        None => format!("{} is not {wanted}", quoted(text)),
    }
}

/// Parses a number of this range.
pub(crate) fn number(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.parse().map_err(|_| is_not(text, &whole_number(range)))?;
    within(number, range, grouped)
}

/// An interface's name, as the kernel takes it (`dev_valid_name` in net/core/dev.c).
pub(crate) fn interface_name(name: &str) -> Result<(), String> {
    let good = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not an interface's name; write 1 to 15 bytes without \"/\", \":\" or spaces, \
         as \"ip link\" shows it",
        quoted(name)
    ))
}

/// An absolute path of a file or directory.
pub(crate) fn absolute_path(path: &str) -> Result<(), String> {
    if path.contains('\0') {
        return Err(format!("{} contains a NUL byte; remove it", quoted(path)));
    }
    if !Path::new(path).is_absolute() {
        return Err(format!("{} is not absolute; write the path from \"/\" on", quoted(path)));
    }
    if Path::new(path).file_name().is_none() || path.ends_with('/') {
        return Err(format!("{} has no file name; write the whole path", quoted(path)));
    }
    Ok(())
}

/// The name of a fleet or of a node.
pub(crate) fn node_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name {
        "" => Err("is empty; write a name, such as \"lb1\"".into()),
        name if name.len() <= 63 && name.chars().all(is_plain) => Ok(()),
        name => Err(format!(
            "{} is not a name; write up to 63 letters, digits, \"-\", \"_\" and \".\", such as \"lb1\"",
            quoted(name)
        )),
    }
}

/// The name of a group; whether it exists is not checked.
pub(crate) fn group_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',');
    match name {
        "" => Err("is empty; write the name of a group, such as \"netops\"".into()),
        name if name.chars().all(is_plain) => Ok(()),
        name => Err(format!("{} is not a group name; write one, such as \"netops\"", quoted(name))),
    }
}

/// A name of the certificates whose holders may do everything.
pub(crate) fn admin_certificate(name: &str) -> Result<(), String> {
    if name == EVERY_CERTIFICATE {
        let words = "\"*\" would let everyone with a certificate signed by client_ca change everything; list the names of \
             those who may";
        return Err(words.into());
    }
    certificate_name(name)
}

/// A name in a certificate, or the wildcard.
pub(crate) fn certificate_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("is empty; write a name from the certificate, such as \"alice\"".into()),
        name if name.trim() != name || name.contains(char::is_control) => Err(format!(
            "{} begins or ends with a space, or contains a control character; write a name exactly as in the \
             certificate",
            quoted(name)
        )),
        _ => Ok(()),
    }
}

/// The path of a Unix socket: it must fit into `sockaddr_un` (unix(7)).
pub(crate) fn socket_path(path: &str) -> Result<(), String> {
    const LONGEST: usize = 107;
    absolute_path(path)?;
    if path.len() > LONGEST {
        return Err(format!(
            "{} has {} bytes; a socket path has at most {LONGEST}, so write a shorter one",
            quoted(path),
            path.len()
        ));
    }
    Ok(())
}
