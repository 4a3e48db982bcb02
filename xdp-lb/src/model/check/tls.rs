//! TLS settings of HTTPS and gRPC checks.

use std::fmt;
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::WrittenCheck;
use crate::model::choices::words;
use crate::model::place::{Place, Problems};
use crate::model::table::TableErrors;
use crate::model::text::quoted;
use crate::model::values::absolute_path;

/// TLS settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tls {
    /// The name that is sent as SNI and that the certificate must be valid for. Default: the check's `host`, else the backend's
    /// address, without SNI.
    pub server_name: Option<String>,
    /// Whether the certificate must be valid. Default: yes.
    pub verify: bool,
    /// A PEM file of trusted CAs. Default: those of this host.
    pub ca_file: Option<PathBuf>,
    /// The oldest accepted version.
    pub min_version: TlsVersion,
}

impl Default for Tls {
    fn default() -> Self {
        Self { server_name: None, verify: true, ca_file: None, min_version: TlsVersion::default() }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

words!(TlsVersion: "1.2" => V1_2, "1.3" => V1_3);

impl Tls {
    /// Reads its keys.
    pub(super) fn read(written: &mut WrittenCheck, errors: &mut TableErrors) -> Self {
        let default = Self::default();
        let min_version = errors.read("min_tls", written.min_tls.take(), str::parse);
        Self {
            server_name: written.server_name.take(),
            verify: written.verify.unwrap_or(default.verify),
            ca_file: written.ca_file.take().map(PathBuf::from),
            min_version: min_version.unwrap_or_default(),
        }
    }

    /// Writes its keys.
    pub(super) fn write(tls: Option<Self>, written: WrittenCheck) -> WrittenCheck {
        let Some(tls) = tls else { return written };
        WrittenCheck {
            server_name: tls.server_name,
            verify: (!tls.verify).then_some(false),
            ca_file: tls.ca_file.map(|file| file.to_string_lossy().into_owned()),
            min_tls: (tls.min_version != TlsVersion::default()).then(|| tls.min_version.to_string()),
            ..written
        }
    }

    pub(super) fn validate(&self, place: &Place, problems: &mut Problems) {
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            problems.add(
                &place.key("server_name"),
                format!("{} is not the name in a certificate; write \"www.example.com\"", quoted(name)),
            );
        }
        let Some(file) = &self.ca_file else { return };
        problems.take(&place.key("ca_file"), absolute_path(&file.to_string_lossy()));
        if !self.verify {
            problems.add(
                &place.key("ca_file"),
                "conflicts with verify = false, which accepts any certificate; remove one of them",
            );
        }
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS {}", self.min_version)?;
        if self.min_version != TlsVersion::V1_3 {
            f.write_str(" or later")?;
        }
        if let Some(name) = &self.server_name {
            write!(f, " with {name}")?;
        }
        match (&self.ca_file, self.verify) {
            (_, false) => f.write_str(", certificate not verified"),
            (Some(file), true) => write!(f, ", signed by {}", file.display()),
            (None, true) => Ok(()),
        }
    }
}
