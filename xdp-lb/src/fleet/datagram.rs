//! The datagrams between load balancers.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | `XLBF` |
//! | 1 | the version of all that follows: 1 |
//! | 1 | 0: flows, numbered from 0 on and sent again until acknowledged; 1: an acknowledgement, which also shows that its sender lives |
//! | 16 | the sender's session |
//! | 8 | the datagram's number, big-endian |
//! | rest | sealed: the message |
//!
//! A message of flows is their bytes, one behind the other. An acknowledgement has the session of the one it is for (zeros: none is
//! known), the number before which all have come, and ranges behind it: the first and the last number of each.

use super::flow::{Malformed, take};
use super::seal::{Forged, Key, SEAL, SESSION, Session};

const MAGIC: [u8; 4] = *b"XLBF";
const VERSION: u8 = 1;

/// The kind of datagrams with flows.
pub const DATA: u8 = 0;
/// The kind of acknowledgements.
pub const CONTROL: u8 = 1;

const HEAD: usize = 4 + 1 + 1 + SESSION + 8;

/// The longest datagram: it fits into a packet of 1,500 bytes, in a tunnel, too.
const LARGEST: usize = 1400;

/// The most bytes of flows in one datagram.
pub const ROOM: usize = LARGEST - HEAD - SEAL;

/// The head of a datagram, not yet known to be genuine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// [`DATA`] or [`CONTROL`].
    pub kind: u8,
    /// The sender's session.
    pub session: Session,
    /// The datagram's number among those of its kind and session.
    pub number: u64,
}

/// Makes a datagram.
pub fn seal(key: &Key, kind: u8, session: &Session, number: u64, message: Vec<u8>) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(HEAD + message.len() + SEAL);
    datagram.extend(MAGIC);
    datagram.extend([VERSION, kind]);
    datagram.extend(session);
    datagram.extend(number.to_be_bytes());
    let sealed = key.seal(number, &datagram, message);
    datagram.extend(sealed);
    datagram
}

impl Head {
    /// The head of a datagram.
    ///
    /// # Errors
    /// Where it is something else, or of a version that this one does not know.
    pub fn read(mut datagram: &[u8]) -> Result<Self, Malformed> {
        let bytes = &mut datagram;
        if take(bytes)? != MAGIC || take(bytes)? != [VERSION] {
            return Err(Malformed);
        }
        let [kind] = take(bytes)?;
        if kind > CONTROL {
            return Err(Malformed);
        }
        Ok(Self { kind, session: take(bytes)?, number: u64::from_be_bytes(take(bytes)?) })
    }
}

/// The message in a datagram.
///
/// # Errors
/// Where it was not sealed by who has the key.
pub fn open<'a>(key: &Key, number: u64, datagram: &'a mut [u8]) -> Result<&'a [u8], Forged> {
    let (head, sealed) = datagram.split_at_mut_checked(HEAD).ok_or(Forged)?;
    key.open(number, head, sealed)
}

/// What a node has of a peer's flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledgement {
    /// The peer's session; nothing: none is known.
    pub session: Option<Session>,
    /// All datagrams before this number have come.
    pub before: u64,
    /// The first and the last number of ranges behind it that have come, too.
    pub ranges: Vec<(u64, u64)>,
}

impl Acknowledgement {
    /// Its bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = self.session.unwrap_or_default().to_vec();
        bytes.extend(self.before.to_be_bytes());
        for (first, last) in &self.ranges {
            bytes.extend(first.to_be_bytes());
            bytes.extend(last.to_be_bytes());
        }
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn read(mut message: &[u8]) -> Result<Self, Malformed> {
        let bytes = &mut message;
        let session: Session = take(bytes)?;
        let before = u64::from_be_bytes(take(bytes)?);
        let mut ranges = Vec::new();
        while !bytes.is_empty() {
            ranges.push((u64::from_be_bytes(take(bytes)?), u64::from_be_bytes(take(bytes)?)));
        }
        Ok(Self { session: (session != Session::default()).then_some(session), before, ranges })
    }
}
