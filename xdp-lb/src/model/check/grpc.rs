//! Checks by gRPC's health service.

use super::http::http_host;
use super::tls::Tls;
use super::{Probe, WrittenCheck};
use crate::model::place::{Place, Problems};
use crate::model::table::TableErrors;
use crate::model::text::quoted;

const LONGEST_SERVICE: usize = 255;

pub(super) fn read(mut written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let of_tls = ["server_name", "verify", "ca_file", "min_tls"];
    let with_tls = written.tls == Some(true);
    for key in written.owned().filter(|key| of_tls.contains(&key.name) && !with_tls) {
        errors.all.push((key.name, "requires TLS; write tls = true, or remove it".into()));
    }
    let tls = Tls::read(&mut written, errors);
    Probe::Grpc {
        service: written.service.unwrap_or_default(),
        host: written.host,
        tls: with_tls.then_some(tls),
    }
}

pub(super) fn write(
    service: String,
    host: Option<String>,
    tls: Option<Tls>,
    written: WrittenCheck,
) -> WrittenCheck {
    WrittenCheck {
        service: Some(service).filter(|service| !service.is_empty()),
        host,
        tls: tls.is_some().then_some(true),
        ..Tls::write(tls, written)
    }
}

pub(super) fn validate(
    service: &str,
    host: Option<&str>,
    tls: Option<&Tls>,
    place: &Place,
    problems: &mut Problems,
) {
    if service.len() > LONGEST_SERVICE || service.chars().any(char::is_control) {
        problems.add(
            &place.key("service"),
            format!(
                "{} is not the name of a service; write it as its .proto file has it, \"shop.v1.Cart\", in at most \
                 {LONGEST_SERVICE} bytes",
                quoted(service)
            ),
        );
    }
    if let Some(host) = host {
        problems.take(&place.key("host"), http_host(host));
    }
    if let Some(tls) = tls {
        tls.validate(place, problems);
    }
}
