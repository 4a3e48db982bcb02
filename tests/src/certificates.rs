//! Certificates, good and bad.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    SanType, date_time_ymd,
};

/// A CA that signs what it is asked to.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
}

/// A certificate and its key, PEM and DER.
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The key, PKCS #8 in PEM.
    pub key: String,
    /// The certificate, DER.
    pub certificate_der: Vec<u8>,
    /// The key, PKCS #8 in DER.
    pub key_der: Vec<u8>,
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validity {
    /// From 1975 to 4096.
    Now,
    /// Until the beginning of 29 February 2020.
    Expired,
    /// From the beginning of the year 3020.
    NotYet,
}

impl Authority {
    /// One of this name.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("no names")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("cannot make a CA")?;
        Ok(Self { issuer, name: name.to_owned() })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Writes its own certificate into a folder, and returns the file.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let file = dir.join(format!("{}.pem", self.name));
        fs::write(&file, self.certificate()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Signs a server's certificate for these names and addresses.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).context("bad names")?, validity)
    }

    /// Signs a client's certificate with this common name and these alternative names, which are URIs.
    pub fn issue_client(&self, name: &str, uris: &[&str], validity: Validity) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().context("bad URI")?));
        }
        self.sign(params, validity)
    }

    fn sign(&self, mut params: CertificateParams, validity: Validity) -> Result<Identity> {
        match validity {
            Validity::Now => {}
            Validity::Expired => params.not_after = date_time_ymd(2020, 2, 29),
            Validity::NotYet => params.not_before = date_time_ymd(3020, 1, 1),
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign")?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        })
    }
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` into a folder, the key for its owner alone, and returns the two files.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        for (file, text, mode) in [(&certificate, &self.certificate, 0o644), (&key, &self.key, 0o600)] {
            fs::write(file, text)
                .and_then(|()| fs::set_permissions(file, Permissions::from_mode(mode)))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok((certificate, key))
    }
}
