//! How flags are read that hold more than one value.

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use serde::de::DeserializeOwned;

use super::Cli;
use crate::model::text::parse_endpoint;
use crate::model::{self, default_weight, patch};

/// Arguments of a command that are wrong together: an error with the usage of that command.
pub(super) fn wrong(names: &[&str], why: impl std::fmt::Display) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let mut command = &mut command;
    for name in names {
        command = command.find_subcommand_mut(name).expect("there is such a command");
    }
    command.error(ErrorKind::ValueValidation, why)
}

/// Reads the keys of a table, `KEY=VALUE,...`.
pub(super) fn parse_keys<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(patch::keys(text)?.into()).map_err(|error| error.to_string())
}

/// Reads `ADDR:PORT[=WEIGHT][,server-id=HEX][,max-flows=N][,backup]`.
pub(super) fn parse_backend(text: &str) -> Result<model::Backend, String> {
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let (address, weight) = match address.split_once('=') {
        Some((address, weight)) => {
            let weight =
                weight.parse().map_err(|_| format!("{weight:?} is not a weight; write 0 to 65535"))?;
            (address, weight)
        }
        None => (address, default_weight()),
    };
    let mut backend = model::Backend::new(parse_endpoint(address)?, weight);
    for part in parts {
        match part.split_once('=') {
            Some(("server-id", id)) => backend.server_id = Some(id.parse()?),
            Some(("max-flows", limit)) => {
                backend.max_flows =
                    limit.parse().map_err(|_| format!("{limit:?} is not a number of flows; write 1000"))?;
            }
            None if part == "backup" => backend.backup = true,
            _ => return Err(format!("{part:?} is not known; write server-id=HEX, max-flows=N or backup")),
        }
    }
    Ok(backend)
}
