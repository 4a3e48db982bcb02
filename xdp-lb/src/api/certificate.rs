//! The holder of a client certificate, and its role.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::api::caller::{Caller, Role, Who};
use crate::model::Remote;

/// The caller with this certificate, which a CA of `client_ca` has signed.
pub(super) fn caller(certificate: Option<&CertificateDer>, from: SocketAddr, config: &Remote) -> Caller {
    let parsed = certificate.and_then(|der| X509Certificate::from_der(der).ok());
    let Some((_, certificate)) = parsed else { return Caller { who: Who::Unknown, role: Role::None } };
    let names = names(&certificate);
    let named = |list: &[String]| names.iter().find(|name| list.iter().any(|listed| name.is(listed)));
    let reads_anyway = config.read_certificates.iter().any(|name| name == Remote::ANY);
    let (role, name) = match (named(&config.admin_certificates), named(&config.read_certificates)) {
        (Some(name), _) => (Role::Admin, Some(name)),
        (None, Some(name)) => (Role::Read, Some(name)),
        (None, None) if reads_anyway => (Role::Read, names.first()),
        (None, None) => (Role::None, names.first()),
    };
    let name = name.map(|name| name.text.to_owned()).unwrap_or_default();
    Caller { who: Who::Certificate { name, serial: certificate.raw_serial_as_string(), from }, role }
}

/// The expiry of a certificate, in seconds since 1970 (UTC).
pub(super) fn expiry(certificate: &CertificateDer) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// A name in a certificate.
struct Name<'a> {
    text: &'a str,
    ignores_case: bool,
}

impl Name<'_> {
    fn is(&self, listed: &str) -> bool {
        if self.ignores_case { self.text.eq_ignore_ascii_case(listed) } else { self.text == listed }
    }
}

/// The subject's common name, then those of its alternative names (RFC 5280, section 4.2.1.6) that are text: DNS names, URIs, and
/// e-mail addresses.
fn names<'a>(certificate: &'a X509Certificate) -> Vec<Name<'a>> {
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.into_iter().flat_map(|names| &names.value.general_names);
    let alternative = alternative.filter_map(|name| match name {
        GeneralName::DNSName(text) => Some(Name { text, ignores_case: true }),
        GeneralName::URI(text) | GeneralName::RFC822Name(text) => Some(Name { text, ignores_case: false }),
        _ => None,
    });
    common.map(|text| Name { text, ignores_case: false }).chain(alternative).collect()
}
