//! `xdp-lb backend`.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use comfy_table::Cell;

use super::confirm::{self, Removal};
use super::drain::{self, Patience, Subject};
use super::flags::{Given, wrong};
use super::output::{self, Screen, number, text, words};
use super::target::{Target, patch};
use super::units::{byte_rate, grouped, latency, number_of, percent, rate, span};
use super::{Done, set};
use crate::api::client::Client;
use crate::model::change::FlowsLeft;
use crate::model::request::BackendPatch;
use crate::model::state::AdminState;
use crate::model::{self, default_weight};
use crate::report::documents::BackendView;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the backends of one service or of all, with state, share, flows, rates and reason
    List {
        /// Only backends of this service
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        service: Option<String>,
    },
    /// Add a backend to a service; it gets flows once its health check succeeds
    Add {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        given: Given<model::Backend>,
    },
    /// Remove a backend: it drains, and is removed once its last flow has ended
    ///
    /// It is removed after `drain_timeout` (an hour by default) at the latest. If you add it again before that, it
    /// keeps its flows.
    Remove {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        removal: Removal,
    },
    /// Change options of a backend while it runs; its flows stay where they are
    ///
    /// All of it is validated and saved before it takes effect, and survives restarts.
    #[command(after_help = set::help::<model::Backend>("xdp-lb backend set web 198.51.100.11:8080 weight=50 max_flows=1000"))]
    Set {
        #[command(flatten)]
        target: Target,
        /// An option and its new value; without any, the options are listed
        #[arg(value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Drain a backend: it gets no new flows and keeps the ones it has
    ///
    /// With --wait, returns once the last flow has ended (exit code 0) or the timeout has passed (exit code 1), and
    /// says which. In both cases the backend stays drained, also across restarts, until `xdp-lb backend enable`.
    #[command(after_help = "\
Examples:
  xdp-lb backend drain web 198.51.100.11:8080
  xdp-lb backend drain web '[2001:db8::11]:8080' --wait --timeout 10m && ssh backend-11 reboot")]
    Drain {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a drained backend back into service
    Enable(Target),
    /// Change a backend's share of new flows; it keeps the flows it has
    SetWeight {
        #[command(flatten)]
        target: Target,
        /// The share relative to the other backends, 0 to 65535; 0: no new flows
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = number_of(0..=u16::MAX))]
        weight: u16,
    },
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let outcome = match self {
            Self::List { service } => {
                let backends = client.backends(service.as_deref()).await?;
                return Ok(screen.show(&backends, || table(screen, &backends))?.into());
            }
            Self::Set { target, options } if options.is_empty() => {
                let backend = client.backend(&target.service, target.address).await?;
                let why = set::nothing_to_set(&backend.options, "xdp-lb backend set");
                return Err(wrong(&["backend", "set"], why).into());
            }
            Self::Set { target, options } => {
                let options = set::patch_of(&options).map_err(|why| wrong(&["backend", "set"], why))?;
                patch(client, &target, BackendPatch { options, ..BackendPatch::default() }).await?
            }
            Self::Drain { target, patience } => {
                return drain::execute(client, screen, &Subject::Backend(target), &patience).await;
            }
            Self::Add { target, given } => {
                let backend = given.over(model::Backend::new(target.address, default_weight()));
                let backend = backend.map_err(|why| wrong(&["backend", "add"], why))?;
                client.add_backend(&target.service, &backend).await?
            }
            Self::Remove { target: Target { service, address }, removal } => {
                if removal.asks() {
                    let flows = flows_left(&client.backend(&service, address).await?);
                    confirm::ask(&format!("service {service}: backend {address}: this ends {flows}."))?;
                }
                client.remove_backend(&service, address, removal.query()).await?
            }
            Self::Enable(target) => patch(client, &target, BackendPatch::admin(AdminState::Enabled)).await?,
            Self::SetWeight { target, weight } => {
                patch(client, &target, BackendPatch::of("weight", weight)).await?
            }
        };
        Done::of(&outcome, screen)
    }
}

/// A backend's flows.
pub(super) fn flows_left(backend: &BackendView) -> FlowsLeft {
    FlowsLeft { recorded: backend.flows, packets_per_second: backend.traffic.packets_per_second }
}

/// A backend's weight, and its current part if adjusted.
fn weight(backend: &BackendView) -> String {
    let percent = (backend.weight_ratio * 100.0).round();
    if percent == 100.0 { backend.weight.to_string() } else { format!("{percent} % of {}", backend.weight) }
}

/// Its flows, and their limit.
fn flows(backend: &BackendView) -> String {
    match backend.max_flows {
        0 => grouped(backend.flows),
        limit => format!("{} of {}", grouped(backend.flows), grouped(limit.into())),
    }
}

/// The table of backends.
pub(super) fn table(screen: &Screen, backends: &[BackendView]) -> String {
    if backends.is_empty() {
        return "no backends; to add one: xdp-lb backend add SERVICE ADDR:PORT".into();
    }
    let columns = [
        text("SERVICE"),
        text("ADDRESS"),
        text("STATE"),
        number("FOR"),
        number("WEIGHT"),
        number("SHARE"),
        number("FLOWS"),
        number("NEW"),
        number("PPS"),
        number("BYTES"),
        number("CHECK"),
        text("ORIGIN"),
        words("REASON"),
    ];
    let rows = backends.iter().map(|backend| {
        vec![
            Cell::new(&backend.service),
            Cell::new(backend.address),
            output::state(backend.state),
            Cell::new(span(backend.since_seconds)),
            Cell::new(weight(backend)),
            Cell::new(percent(backend.share)),
            Cell::new(flows(backend)),
            Cell::new(rate(backend.traffic.new_flows_per_second)),
            Cell::new(rate(backend.traffic.packets_per_second)),
            Cell::new(byte_rate(backend.traffic.bytes_per_second)),
            Cell::new(backend.check_latency_seconds.map_or_else(|| "-".into(), latency)),
            Cell::new(backend.origin.name()),
            Cell::new(&backend.reason),
        ]
    });
    screen.table(&columns, rows)
}
