//! The file that discovery watches: `{"backends": [{"address": "198.51.100.11:8080", "weight": 100}]}`. Pure.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::Reasons;
use crate::model::{Backend, Service, refusal};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(borrow)]
    backends: Vec<&'a RawValue>,
}

/// The backends in the file's text, at most `most`: all of them, or none.
///
/// # Errors
/// Every error, a line each, with the line of the file and the fix.
pub(super) fn parse(text: &[u8], service: &Service, most: usize) -> Result<Vec<Backend>, Vec<String>> {
    let text = std::str::from_utf8(text).map_err(|error| {
        vec![format!("line {}: is not UTF-8; save the file as UTF-8", line_at(text, error.valid_up_to()))]
    })?;
    let document: Document = serde_json::from_str(text).map_err(|error| vec![located(1, &error)])?;
    if document.backends.len() > most {
        return Err(vec![format!(
            "lists {} backends, but max_backends is {most}; raise that, or list fewer",
            document.backends.len()
        )]);
    }
    let mut reasons = Reasons::default();
    let mut seen = HashMap::new();
    let mut backends: Vec<Backend> = Vec::new();
    for item in document.backends {
        let offset = item.get().as_ptr() as usize - text.as_ptr() as usize;
        let line = line_at(text.as_bytes(), offset);
        let backend: Backend = match serde_json::from_str(item.get()) {
            Ok(backend) => backend,
            Err(error) => {
                reasons.add(located(line, &error));
                continue;
            }
        };
        let address = backend.address;
        if let Some(why) = refusal(service, &backend) {
            reasons.add(format!("line {line}: backend {address}: {why}"));
        } else if let Some(first) = seen.insert(address, line) {
            reasons
                .add(format!("line {line}: backend {address} is also on line {first}; remove one of them"));
        } else if let Some(other) =
            backends.iter().find(|it| it.server_id.is_some() && it.server_id == backend.server_id)
        {
            reasons.add(format!("line {line}: backend {address} has the server_id of {}", other.address));
        } else {
            backends.push(backend);
        }
    }
    let errors = reasons.into_lines();
    if errors.is_empty() { Ok(backends) } else { Err(errors) }
}

fn line_at(text: &[u8], offset: usize) -> usize {
    text[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// An error in JSON that begins on this line of the file.
fn located(first: usize, error: &serde_json::Error) -> String {
    let line = first + error.line().max(1) - 1;
    let said = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    let what = said.strip_suffix(&at).unwrap_or(&said);
    let fix = if error.is_eof() {
        "; the file is truncated: write a new file beside it, then rename it into place"
    } else if error.is_syntax() {
        "; fix JSON's syntax here"
    } else if what.contains("; ") {
        ""
    } else {
        "; write {\"backends\": [{\"address\": \"198.51.100.11:8080\", \"weight\": 100}]}"
    };
    format!("line {line}: {what}{fix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Backend>, Vec<String>> {
        let service = Service::new("web", "192.0.2.10:80".parse().unwrap());
        super::parse(text.as_bytes(), &service, 3)
    }

    #[test]
    fn a_backend_has_an_address_and_perhaps_a_weight() {
        let text = "{\"backends\": [\n {\"address\": \"198.51.100.1:80\"},\n {\"address\": \"198.51.100.2:80\", \"weight\": 7}]}";
        let backend = |text: &str, weight| Backend::new(text.parse().unwrap(), weight);
        assert_eq!(parse(text), Ok(vec![backend("198.51.100.1:80", 100), backend("198.51.100.2:80", 7)]));
        assert_eq!(parse("{\"backends\": []}"), Ok(vec![]));
    }

    #[test]
    fn every_error_is_told_with_its_line_and_its_fix_and_nothing_is_taken() {
        let text = r#"{
  "backends": [
    {"address": "198.51.100.1:80"},
    {"address": "127.0.0.1:80"},
    {"address":
      "198.51.100.2"}
  ]
}"#;
        assert_eq!(
            parse(text).expect_err("refused"),
            [
                "line 4: backend 127.0.0.1:80: \"127.0.0.1:80\" is a loopback address, whose packets never reach a \
                 network interface; write the address of a host on the network",
                "line 6: \"198.51.100.2\" has no port; write \"198.51.100.2:80\"",
            ]
        );
        let twice =
            "{\"backends\": [{\"address\": \"198.51.100.1:80\"},\n{\"address\": \"198.51.100.1:80\"}]}";
        assert_eq!(
            parse(twice).expect_err("refused"),
            ["line 2: backend 198.51.100.1:80 is also on line 1; remove one of them"]
        );
        let four = format!("{{\"backends\": [{}]}}", ["{}"; 4].join(","));
        assert!(parse(&four).expect_err("refused")[0].contains("max_backends is 3"));
    }

    #[test]
    fn a_torn_file_is_told_from_a_wrong_one() {
        let whole = "{\"backends\": [\n{\"address\": \"198.51.100.1:80\", \"weight\": 1}\n]}";
        for end in 0..whole.len() {
            let errors = parse(&whole[..end]).expect_err("refused");
            assert!(errors[0].contains("rename it into place"), "{end}: {errors:?}");
        }
        for (text, words) in [
            ("{\"backends\": [}", "line 1: expected value; fix JSON's syntax"),
            ("[]", "line 1: "),
            (
                "{\"backend\": []}",
                "line 1: unknown field `backend`, expected `backends`; write {\"backends\"",
            ),
            (
                "{\"backends\": [\n{\"address\": \"198.51.100.1:80\", \"wait\": 1}]}",
                "line 2: unknown field `wait`",
            ),
            (
                "{\"backends\": [\n{\"address\": \"198.51.100.1:80\", \"weight\": 70000}]}",
                "line 2: invalid value: integer `70000`",
            ),
        ] {
            let errors = parse(text).expect_err("refused");
            assert!(errors[0].starts_with(words), "{errors:?}");
        }
        let errors = super::parse(b"{\n\xff", &Service::new("web", "192.0.2.10:80".parse().unwrap()), 3);
        assert_eq!(errors.expect_err("refused"), ["line 2: is not UTF-8; save the file as UTF-8"]);
    }
}
