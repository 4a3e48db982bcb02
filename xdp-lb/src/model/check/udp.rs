//! Checks by a UDP datagram.

use super::{Probe, WrittenCheck, too_long};
use crate::model::place::{Place, Problems};
use crate::model::table::TableErrors;
use crate::model::text;

/// What fits one packet on any path that IPv6 takes, with room to spare on most (RFC 8200 section 5).
const LONGEST: usize = 1400;

pub(super) fn read(written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let send = bytes(["send", "send_hex"], written.send, written.send_hex, errors);
    let expect = bytes(["expect", "expect_hex"], written.expect, written.expect_hex, errors);
    if send.is_none() && errors.all.is_empty() {
        errors.all.push(("send", "is missing; write send = \"ping\", or send_hex = \"70696e67\"".into()));
    }
    Probe::Udp { send: send.unwrap_or_default(), expect }
}

pub(super) fn write(send: Vec<u8>, expect: Option<Vec<u8>>, written: WrittenCheck) -> WrittenCheck {
    let (send, send_hex) = text_or_hex(send);
    let (expect, expect_hex) = expect.map(text_or_hex).unwrap_or_default();
    WrittenCheck { send, send_hex, expect, expect_hex, ..written }
}

pub(super) fn validate(send: &[u8], expect: Option<&[u8]>, place: &Place, problems: &mut Problems) {
    if send.len() > LONGEST {
        problems.add(&place.key("send"), too_long(send.len(), LONGEST));
    }
    match expect.map(<[u8]>::len) {
        Some(0) => problems.add(
            &place.key("expect"),
            "is empty; write text that the answer must contain, or remove it to accept any answer",
        ),
        Some(length) if length > LONGEST => problems.add(&place.key("expect"), too_long(length, LONGEST)),
        _ => {}
    }
}

/// Bytes given as text under one key, or in hex under another.
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

/// Bytes as text if they are UTF-8, else in hex.
fn text_or_hex(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(hex::encode(error.as_bytes()))),
    }
}

/// Bytes as text if they are printable, else in hex; shortened.
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
