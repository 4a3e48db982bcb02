//! What all that speaks TLS shares: files of certificates and keys, and what goes wrong in words.

use std::fmt::Display;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, RootCertStore};

use crate::file;
use crate::model::TlsVersion;

/// The certificates of a PEM file, in its order.
///
/// # Errors
/// The file cannot be read, or has none; in words that begin with its path.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn Display| format!("cannot read {}: {error}", file.display());
    let text = text(file)?.1;
    let read = CertificateDer::pem_slice_iter(&text);
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| unreadable(&error))?;
    if read.is_empty() {
        return Err(format!("{} contains no certificate", file.display()));
    }
    Ok(read)
}

/// The CAs of a PEM file.
///
/// # Errors
/// As of [`certificates`].
pub fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    }
    Ok(roots)
}

/// The CAs that this host trusts.
///
/// # Errors
/// It trusts none.
pub fn host_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("this host trusts no CA{why}; install the package ca-certificates"));
    }
    Ok(roots)
}

/// The key of a PEM file.
///
/// # Errors
/// The file cannot be read, has none, or is there for every user of this host; in words that begin with its path.
pub fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    const OTHERS: u32 = 0o007;
    let name = file.display();
    let (metadata, text) = text(file)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(format!(
            "every user of this host can read the key {name} (mode {mode:04o}): chmod 600 {name}"
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        format!("{name} contains no usable key; write it as unencrypted PEM: openssl pkey -in OLD -out NEW")
    })
}

/// What a file of certificates or keys is and holds; in words that begin with its path, why not.
fn text(file: &Path) -> Result<(Metadata, Vec<u8>), String> {
    /// The CAs of a whole distribution take a quarter of this.
    const LARGEST: u64 = 1 << 20;
    let read = |file: &Path| {
        let metadata = file::open(file)?.1;
        let text = file::read(file, LARGEST)?;
        let too_large = || io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20));
        Ok((metadata, text.ok_or_else(too_large)?))
    };
    file::within_patience(file, read)
        .and_then(|read| read)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// What TLS has against a server, in words, where it is TLS that an error is of; `ca` is where its CA may be named.
pub fn told(error: &io::Error, oldest: TlsVersion, ca: &str) -> Option<String> {
    use rustls::Error as E;
    let words = match error.get_ref()?.downcast_ref::<E>()? {
        E::InvalidCertificate(error) => refusal(error, &format!("; for a CA of your own, set {ca}")),
        E::AlertReceived(AlertDescription::ProtocolVersion) | E::PeerIncompatible(_) => {
            let spoken = if oldest == TlsVersion::V1_3 { "1.3" } else { "1.2 or 1.3" };
            format!("the server does not support TLS {spoken}")
        }
        E::AlertReceived(alert) => {
            format!("the server refused the handshake: {}", spaced(&format!("{alert:?}")))
        }
        E::InvalidMessage(_) => "the response is not TLS".to_owned(),
        E::NoApplicationProtocol => "the server does not support the application protocol".to_owned(),
        error => error.to_string(),
    };
    Some(format!("TLS: {words}"))
}

/// `HandshakeFailure` as `handshake failure`, `UnknownCA` as `unknown ca`.
fn spaced(name: &str) -> String {
    let mut text = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && was_lower {
            text.push(' ');
        }
        was_lower = c.is_ascii_lowercase();
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// Why a certificate is refused, in words; `unknown` is what to say besides where nobody known signed it.
pub fn refusal(error: &CertificateError, unknown: &str) -> String {
    use CertificateError as C;
    match error {
        C::ExpiredContext { not_after, .. } => format!("the certificate expired on {}", date(*not_after)),
        C::Expired => "the certificate has expired".to_owned(),
        C::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", date(*not_before))
        }
        C::NotValidYet => "the certificate is not valid yet".to_owned(),
        C::NotValidForNameContext { expected, presented } => {
            let expected = match expected {
                ServerName::DnsName(name) => name.as_ref().to_owned(),
                ServerName::IpAddress(address) => std::net::IpAddr::from(*address).to_string(),
                other => format!("{other:?}"),
            };
            match presented.as_slice() {
                [] => format!("the certificate is not for {expected}, and contains no names"),
                some => {
                    let names: Vec<_> = some.iter().map(|name| bare(name)).collect();
                    format!("the certificate is not for {expected}, but for {}", names.join(", "))
                }
            }
        }
        C::NotValidForName => "the certificate is for another name".to_owned(),
        // A CA of the same name that has another key.
        C::UnknownIssuer | C::BadSignature => {
            format!("the certificate is not signed by a trusted CA{unknown}")
        }
        C::Revoked => "the certificate was revoked".to_owned(),
        error => format!("the certificate is not valid: {error}"),
    }
}

/// `a.example` of `DnsName("a.example")`, as the library has names.
fn bare(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, name)| name.trim_matches(['(', ')', '"']))
}

/// A moment, as RFC 3339 has it.
pub fn date(time: UnixTime) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(at).to_string()
}
