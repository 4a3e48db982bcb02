//! Captures that Wireshark and tcpdump read: pcapng (draft-ietf-opsawg-pcapng).

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use crate::report::trace::{FrameView, TraceView};

// Section 4: the types of blocks.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
// Sections 3.5, 4.2 and 4.3: options.
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
/// Section 4.1: which byte order the file has.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Section 4.3.1: the direction of a packet.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture in the making.
pub(super) struct Capture<W: Write> {
    to: W,
    /// The interfaces that were described, by their numbers.
    interfaces: Vec<String>,
}

impl<W: Write> Capture<W> {
    /// One without packets.
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut capture = Self { to, interfaces: Vec::new() };
        let mut section = BYTE_ORDER.to_ne_bytes().to_vec();
        // Version 1.0, of unknown length.
        section.extend([1_u16, 0].iter().flat_map(|half| half.to_ne_bytes()));
        section.extend(u64::MAX.to_ne_bytes());
        capture.block(SECTION_HEADER, &section)?;
        Ok(capture)
    }

    /// Writes a packet: as it came, with what became of it as a comment, and as it left.
    pub(super) fn write(&mut self, packet: &TraceView) -> io::Result<()> {
        let time = humantime::parse_rfc3339(&packet.time).ok();
        let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let words: Vec<&str> = [packet.service.as_deref(), packet.reason.as_deref(), Some(&packet.decision)]
            .into_iter()
            .flatten()
            .collect();
        self.packet(&packet.before, INBOUND, time, &words.join(": "))?;
        match &packet.after {
            // A nanosecond later, so that a reader that sorts keeps the order.
            Some(after) => self.packet(after, OUTBOUND, time + Duration::from_nanos(1), "as it left"),
            None => Ok(()),
        }
    }

    /// Ends the capture.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn packet(&mut self, frame: &FrameView, direction: u32, time: Duration, comment: &str) -> io::Result<()> {
        let interface = self.interface(&frame.interface)?;
        let bytes = hex::decode(&frame.bytes).map_err(io::Error::other)?;
        let time = time.as_nanos() as u64;
        let length = bytes.len() as u32;
        let mut body = Vec::new();
        for word in [interface, (time >> 32) as u32, time as u32, length, frame.length.max(length)] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(padded(&bytes));
        option(&mut body, COMMENT, comment.as_bytes());
        option(&mut body, PACKET_FLAGS, &direction.to_ne_bytes());
        option(&mut body, 0, &[]);
        self.block(ENHANCED_PACKET, &body)
    }

    /// The number of an interface, which is described before its first packet.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.iter().position(|known| known == name) {
            return Ok(number as u32);
        }
        let mut body = ETHERNET.to_ne_bytes().to_vec();
        // Reserved, and no limit of what is captured.
        body.extend([0; 6]);
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        // Nanoseconds.
        option(&mut body, TIME_RESOLUTION, &[9]);
        option(&mut body, 0, &[]);
        self.block(INTERFACE_DESCRIPTION, &body)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (12 + body.len()) as u32;
        self.to.write_all(&kind.to_ne_bytes())?;
        self.to.write_all(&length.to_ne_bytes())?;
        self.to.write_all(body)?;
        self.to.write_all(&length.to_ne_bytes())
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(padded(value));
}

/// Up to the next multiple of 4 bytes.
fn padded(value: &[u8]) -> Vec<u8> {
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(4), 0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_and_an_interface_is_described_once_before_its_packets() {
        let frame = |interface: &str| FrameView {
            interface: interface.into(),
            length: 60,
            summary: String::new(),
            bytes: "0102030405".into(),
        };
        let packet = TraceView {
            time: "2026-01-02T03:04:05.000006Z".into(),
            interface: "eth0".into(),
            verdict: "forward".into(),
            reason: None,
            decision: "sent to 198.51.100.11:8080".into(),
            service: Some("web".into()),
            backend: None,
            skipped: 0,
            before: frame("eth0"),
            after: Some(frame("eth1")),
        };
        let mut bytes = Vec::new();
        let mut capture = Capture::new(&mut bytes).unwrap();
        capture.write(&packet).unwrap();
        capture.write(&packet).unwrap();
        capture.finish().unwrap();
        let mut kinds = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(4) as usize;
            assert_eq!((length % 4, word(length - 4) as usize), (0, length), "its length is at both ends");
            kinds.push(word(0));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [SECTION_HEADER, 1, 6, 1, 6, 6, 6]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("web: sent to 198.51.100.11:8080") && text.contains("as it left"));
    }
}
