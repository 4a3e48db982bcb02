//! A backend of a service, as commands name it.

use std::net::SocketAddr;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::api::client::Client;
use crate::model::request::{BackendPatch, Outcome};
use crate::model::text::parse_endpoint;

/// Which backend of which service.
#[derive(Clone, Debug, Args)]
pub(super) struct Target {
    /// The service's name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) service: String,
    /// The backend: 198.51.100.11:8080, '[2001:db8::11]:8080'
    #[arg(value_name = "ADDR:PORT", value_parser = parse_endpoint)]
    pub(super) address: SocketAddr,
}

pub(super) async fn patch(client: &Client, target: &Target, patch: BackendPatch) -> anyhow::Result<Outcome> {
    Ok(client.patch_backend(&target.service, target.address, &patch).await?)
}
