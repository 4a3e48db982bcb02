//! Checks by a DNS query.

use hickory_proto::rr::Name;

use super::{Probe, WrittenCheck};
use crate::model::place::{Place, Problems};
use crate::model::text::quoted;

const RECORDS: [&str; 12] =
    ["A", "AAAA", "CAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"];

pub(super) fn read(written: WrittenCheck) -> Probe {
    let name = written.name.unwrap_or_else(|| ".".into());
    let default_record = if name == "." { "NS" } else { "A" };
    let record = written.record.unwrap_or_else(|| default_record.into()).to_ascii_uppercase();
    Probe::Dns { name, record }
}

pub(super) fn write(name: String, record: String, written: WrittenCheck) -> WrittenCheck {
    WrittenCheck { name: Some(name), record: Some(record), ..written }
}

pub(super) fn validate(name: &str, record: &str, place: &Place, problems: &mut Problems) {
    problems.take(&place.key("name"), dns_name(name));
    if !RECORDS.contains(&record) {
        problems.add(
            &place.key("record"),
            format!("{} is not a supported record type; write one of {}", quoted(record), RECORDS.join(", ")),
        );
    }
}

/// A name that can be looked up.
pub(crate) fn dns_name(name: &str) -> Result<(), String> {
    if !name.is_empty() && Name::from_ascii(name).is_ok() {
        return Ok(());
    }
    Err(format!("{} is not a DNS name; write \"example.com\", or \".\" for the root", quoted(name)))
}
