//! Parsing and printing values as text. Every error says what is wrong, then what to write.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Reads an address and port: `192.0.2.10:80`, `[2001:db8::10]:80`.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse_endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let said = quoted(text);
        let unbracketed = |host: &str| host.strip_prefix('[')?.strip_suffix(']').map(str::to_owned);
        if let Ok(address) = unbracketed(text).as_deref().unwrap_or(text).parse::<IpAddr>() {
            return format!("{said} has no port; write \"{}\"", SocketAddr::new(address, 80));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return format!("{said} is not an address and port; write \"192.0.2.10:80\"");
        };
        let bare = unbracketed(host).unwrap_or_else(|| host.into());
        match (bare.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(address), Ok(port)) => {
                format!("{said} is not an address and port; write \"{}\"", SocketAddr::new(address, port))
            }
            (Ok(_), Err(_)) => format!("{} is not a port; write 1 to 65535", quoted(port)),
            (Err(_), _) => format!(
                "{said}: {} is not an IP address; write one, such as \"192.0.2.10:80\" or \
                 \"[2001:db8::10]:80\" (names are not looked up)",
                quoted(&bare)
            ),
        }
    })
}

/// [`parse_endpoint`]'s form, for the schemas of documents.
pub(crate) const ENDPOINT: &str = concat!(
    r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}",
    r"|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"
);

/// Reads [`parse_endpoint`]'s form through serde.
pub(crate) fn deserialize_endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    parse_endpoint(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// Reads an address without a port.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| match text.parse::<SocketAddr>() {
        Ok(endpoint) => {
            format!("{} must not have a port; write \"{}\"", quoted(text), endpoint.ip())
        }
        Err(_) => format!("{} is not an IP address; write \"198.51.100.2\"", quoted(text)),
    })
}

/// Reads a duration: `500ms`, `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("{} is not a duration ({error}); write \"500ms\" or \"1m 30s\"", quoted(text))
    })
}

/// A duration through serde, as text.
pub mod duration_text {
    use super::{Deserialize, Deserializer, Duration, duration, print_duration};

    /// Prints it as `1m 30s`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: serde::Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print_duration(*value))
    }

    /// Reads `1m 30s`.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        duration(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A duration that may be absent, through serde, as text.
pub mod duration_option {
    use super::{Deserialize, Deserializer, Duration, duration, print_duration};

    /// Prints it as `1m 30s`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: serde::Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_some(&print_duration(*value)),
            None => to.serialize_none(),
        }
    }

    /// Reads `1m 30s`.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| duration(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

/// Prints a duration as [`duration`] reads it.
pub(crate) fn print_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads two numbers with a dash between them.
pub(crate) fn range<T: FromStr>(text: &str) -> Option<(T, T)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// The error for an unknown word.
pub(crate) fn unknown_word(text: &str, known: &[&str]) -> String {
    let hint = match nearest(text, known) {
        Some(near) => format!("did you mean \"{near}\"? One of: {}", listed(known)),
        None => format!("write {}", alternatives(known)),
    };
    format!("{} is not known; {hint}", quoted(text))
}

/// The known word that was most likely meant.
pub(crate) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    // A hostile file may have a key of megabytes; no known word is this long.
    if text.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(text, word), *word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Text as it was written, in quotes, escaped and clipped.
pub(crate) fn quoted(text: &str) -> String {
    clipped(text, 80)
}

/// The same, of no more than this many characters.
pub(crate) fn clipped(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `"a", "b", "c"`.
pub(crate) fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// `"a", "b" or "c"`.
pub(crate) fn alternatives(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or \"{last}\"", listed(first)),
        _ => listed(words),
    }
}

/// A number with its digits in groups: 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `no backends`, `1 backend`, `3 backends`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    match number {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}
