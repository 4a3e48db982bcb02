//! Checks by a program of this host.

use super::{Probe, WrittenCheck, too_long};
use crate::model::place::{Place, Problems};
use crate::model::table::TableErrors;
use crate::model::values::absolute_path;

const LONGEST_COMMAND: usize = 4096;

/// The user that programs run as if the check names none.
pub(super) const DEFAULT_USER: &str = "nobody";

pub(super) fn read(written: WrittenCheck, errors: &mut TableErrors) -> Probe {
    let command = written.command.unwrap_or_default();
    if command.is_empty() {
        let example = "write command = [\"/usr/local/bin/check-web\", \"--fast\"]";
        errors.all.push(("command", format!("is missing; {example}")));
    }
    Probe::Exec { command, user: written.user.unwrap_or_else(|| DEFAULT_USER.into()) }
}

pub(super) fn write(command: Vec<String>, user: String, written: WrittenCheck) -> WrittenCheck {
    WrittenCheck { command: Some(command), user: Some(user), ..written }
}

pub(super) fn validate(command: &[String], user: &str, place: &Place, problems: &mut Problems) {
    problems.take(&place.key("command"), command_line(command));
    if user.is_empty() || user.contains('\0') {
        problems.add(&place.key("user"), "is not a user; write one of this host's, \"nobody\"");
    }
}

fn command_line(command: &[String]) -> Result<(), String> {
    let Some(program) = command.first() else {
        return Err("is empty; write command = [\"/usr/local/bin/check-web\"]".into());
    };
    absolute_path(program).map_err(|what| format!("its program {what}"))?;
    if command.iter().any(|word| word.contains('\0')) {
        return Err("contains a NUL byte; remove it".into());
    }
    let length = command.iter().map(|word| word.len() + 1).sum();
    if length > LONGEST_COMMAND { Err(too_long(length, LONGEST_COMMAND)) } else { Ok(()) }
}
