//! What the load balancers of a fleet have in common: a secret, and the keys made of it.
//!
//! A key is used in one direction between two nodes for one session. HKDF (RFC 5869) derives it from the fleet's secret, the fleet's
//! name, both nodes' names and a random session number. Messages are sealed by AES-256-GCM (NIST SP 800-38D) under the session's
//! next number, so that no number is used twice with a key.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};

use crate::file;

/// How many bytes a seal takes.
pub const SEAL: usize = 16;

/// How many bytes a session's number has.
pub const SESSION: usize = 16;

/// The number of a session: random, so that no two are the same.
pub type Session = [u8; SESSION];

/// The fewest bytes of a secret.
const SHORTEST: usize = 32;
const LARGEST: u64 = 4096;

/// The fleet's secret, for making keys.
#[derive(Clone)]
pub struct Secret {
    fleet: String,
    root: Prk,
}

impl Secret {
    /// The secret in a file: what is in it, without the white space around.
    ///
    /// # Errors
    /// Where the file cannot be read, others than its owner may read it, or it has too few bytes.
    pub fn read(fleet: &str, path: &Path) -> Result<Self> {
        let shown = path.display();
        let read = file::within_patience(path, |path: &Path| -> io::Result<_> {
            let (_, metadata) = file::open(path)?;
            Ok((file::read(path, LARGEST)?, metadata.mode()))
        });
        let (bytes, mode) =
            read.and_then(|read| read).with_context(|| format!("fleet.key_file: cannot read {shown}"))?;
        // Neither the group nor others have a bit.
        ensure!(
            mode.trailing_zeros() >= 6,
            "fleet.key_file: {shown} can be read by others than its owner: run `chmod 600 {shown}`"
        );
        let Some(bytes) = bytes else { bail!("fleet.key_file: {shown} is larger than {LARGEST} bytes") };
        let secret = bytes.trim_ascii();
        ensure!(
            secret.len() >= SHORTEST,
            "fleet.key_file: {shown} has {} bytes, and needs {SHORTEST}: write the output of \"openssl rand -hex 32\" \
             into it, the same on every node",
            secret.len()
        );
        Ok(Self::new(fleet, secret))
    }

    /// A fleet of this name with this secret.
    pub fn new(fleet: &str, secret: &[u8]) -> Self {
        let root = Salt::new(HKDF_SHA256, b"xdp-lb fleet v1").extract(secret);
        Self { fleet: fleet.to_owned(), root }
    }

    /// The key of one direction: for this purpose, from one node to another, in a session.
    pub fn key(&self, purpose: &str, from: &str, to: &str, session: &[u8]) -> Key {
        let parts = [purpose.as_bytes(), self.fleet.as_bytes(), from.as_bytes(), to.as_bytes(), session];
        // Each with its length, so that no two lists of parts read the same.
        let lengths = parts.map(|part| (part.len() as u32).to_be_bytes());
        let info: Vec<&[u8]> =
            lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]).collect();
        let key = self.root.expand(&info, &AES_256_GCM).expect("it is as long as one block of the hash");
        Key(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// A key of one direction.
pub struct Key(LessSafeKey);

/// What was received was not sealed by who should have sealed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forged;

impl Key {
    /// Seals a message under a number that was never used with this key. `head`: goes with it as it is, and cannot be changed either.
    pub fn seal(&self, number: u64, head: &[u8], mut message: Vec<u8>) -> Vec<u8> {
        let sealed = self.0.seal_in_place_append_tag(nonce(number), Aad::from(head), &mut message);
        sealed.expect("messages are far shorter than 2^36 bytes");
        message
    }

    /// The message that was sealed under this number.
    ///
    /// # Errors
    /// Where it was not sealed with this key, number and head.
    pub fn open<'a>(&self, number: u64, head: &[u8], sealed: &'a mut [u8]) -> Result<&'a [u8], Forged> {
        match self.0.open_in_place(nonce(number), Aad::from(head), sealed) {
            Ok(message) => Ok(message),
            Err(_) => Err(Forged),
        }
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn secret() -> Secret {
        Secret::new("edge", &[7; 32])
    }

    #[test]
    fn only_the_same_fleet_direction_purpose_and_session_open_what_was_sealed() {
        let sealed = secret().key("data", "a", "b", &[1; 16]).seal(5, b"head", b"message".to_vec());
        let open = |key: &Key, number, head: &[u8]| {
            let mut sealed = sealed.clone();
            key.open(number, head, &mut sealed).map(<[u8]>::to_vec)
        };
        let right = secret().key("data", "a", "b", &[1; 16]);
        assert_eq!(open(&right, 5, b"head"), Ok(b"message".to_vec()));
        assert_eq!(open(&right, 6, b"head"), Err(Forged), "another number");
        assert_eq!(open(&right, 5, b"Head"), Err(Forged), "another head");
        for (fleet, key) in [
            ("edge", ("control", "a", "b", 1)),
            ("edge", ("data", "b", "a", 1)),
            ("edge", ("data", "ab", "", 1)),
            ("edge", ("data", "a", "b", 2)),
            ("core", ("data", "a", "b", 1)),
        ] {
            let (purpose, from, to, session) = key;
            let other = Secret::new(fleet, &[7; 32]).key(purpose, from, to, &[session; 16]);
            assert_eq!(open(&other, 5, b"head"), Err(Forged), "{fleet} {key:?}");
        }
        let other = Secret::new("edge", &[8; 32]).key("data", "a", "b", &[1; 16]);
        assert_eq!(open(&other, 5, b"head"), Err(Forged), "another secret");
    }

    #[test]
    fn a_key_file_that_others_may_read_or_that_is_short_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.key");
        let refused = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Secret::read("edge", &path).err().map(|error| format!("{error:#}"))
        };
        let long = "0f".repeat(32) + "\n";
        assert_eq!(refused(&long, 0o600), None);
        assert!(refused(&long, 0o640).unwrap().contains("run `chmod 600"));
        assert!(refused("secret\n", 0o600).unwrap().contains("has 6 bytes, and needs 32"));
        fs::remove_file(&path).unwrap();
        let missing = Secret::read("edge", &path).err().unwrap();
        assert!(format!("{missing:#}").contains("cannot read"), "{missing:#}");
    }
}
