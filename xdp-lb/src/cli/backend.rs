//! `xdp-lb backend`.

use std::net::{IpAddr, SocketAddr};

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Cell;

use super::confirm::{self, Removal};
use super::drain::{self, Patience, Subject};
use super::flags::{Given, wrong};
use super::output::{self, Screen, number, text, words};
use super::repeat::Repeat;
use super::sort::{Key, Order};
use super::target::{Target, patch};
use super::units::{byte_rate, grouped, latency, number_of, percent, rate, span};
use super::{Done, set};
use crate::api::client::Client;
use crate::model::change::FlowsLeft;
use crate::model::request::BackendPatch;
use crate::model::state::{AdminState, BackendState};
use crate::model::{self, default_weight};
use crate::report::documents::BackendView;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(List),
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

/// List the backends of one service or of all, with state, share, flows, rates and reason
///
/// FLOWS has the active flows where each has a record (mode full-nat, flow_tracking = "always", max_flows, or a backend whose
/// slots have all moved away). Where only some have, `12+` counts those that do, and `-` stands for none.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only backends of this service
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: Option<String>,
    /// Only backends in one of these states
    #[arg(long, value_name = "STATE,...", value_delimiter = ',', value_parser = state_parser())]
    state: Vec<BackendState>,
    #[command(flatten)]
    order: Order<By>,
    #[command(flatten)]
    repeat: Repeat,
}

/// By what backends are ordered.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Service,
    Address,
    State,
    For,
    Weight,
    Share,
    Flows,
    New,
    Pps,
    Bytes,
    Check,
}

fn state_parser() -> impl clap::builder::TypedValueParser<Value = BackendState> {
    let names = PossibleValuesParser::new(BackendState::ALL.map(BackendState::name));
    names.try_map(|name| {
        BackendState::ALL.into_iter().find(|state| state.name() == name).ok_or("unknown state")
    })
}

impl List {
    async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let Self { service, state, order, repeat } = self;
        let list = async || {
            let mut backends = client.backends(service.as_deref()).await?;
            let is_any = !backends.is_empty();
            backends.retain(|backend| state.is_empty() || state.contains(&backend.state));
            order.sort(&mut backends, By::key);
            let words = || match (backends.is_empty(), is_any) {
                (true, true) => "no backend is in this state".into(),
                _ => table(screen, &backends),
            };
            Ok(screen.show(&backends, words)?.into())
        };
        repeat.show(screen, list).await
    }
}

impl By {
    fn key(backend: &BackendView, by: Self) -> Key {
        let traffic = &backend.traffic;
        match by {
            Self::Service => Key::Words(backend.service.clone()),
            // As numbers: .9 is before .10.
            Self::Address => Key::Words(ordinal(backend.address)),
            Self::State => Key::Words(backend.state.name().into()),
            Self::For => Key::Number(backend.since_seconds as f64),
            Self::Weight => Key::Number(present_weight(backend)),
            Self::Share => Key::Number(backend.share),
            Self::Flows => Key::Number(backend.flows as f64),
            Self::New => Key::Number(traffic.new_flows_per_second),
            Self::Pps => Key::Number(traffic.packets_per_second),
            Self::Bytes => Key::Number(traffic.bytes_per_second),
            Self::Check => Key::Number(backend.check_latency_seconds.unwrap_or(-1.0)),
        }
    }
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let outcome = match self {
            Self::List(list) => return list.execute(client, screen).await,
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

/// Its weight as adjusted.
pub(super) fn present_weight(backend: &BackendView) -> f64 {
    f64::from(backend.weight) * backend.weight_ratio
}

/// A backend's weight, and its current part if adjusted.
fn weight(backend: &BackendView) -> String {
    let percent = (backend.weight_ratio * 100.0).round();
    if percent == 100.0 { backend.weight.to_string() } else { format!("{percent} % of {}", backend.weight) }
}

/// Its flows as far as they are known, and their limit.
pub(super) fn flows(backend: &BackendView) -> String {
    let flows = match (backend.flows, backend.flows_complete) {
        (flows, true) => grouped(flows),
        (0, false) => "-".into(),
        (flows, false) => format!("{}+", grouped(flows)),
    };
    match backend.max_flows {
        0 => flows,
        limit => format!("{flows} of {}", grouped(limit.into())),
    }
}

/// An address and port as words whose alphabetical order is that of the numbers: `.9` comes before `.10`.
pub(super) fn ordinal(address: SocketAddr) -> String {
    let (family, bits) = match address.ip() {
        IpAddr::V4(address) => (4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (6, address.to_bits()),
    };
    format!("{family} {bits:032x} {:05}", address.port())
}

/// Why it is in its state, and how long ago its check failed last, where that is not when it came into it.
fn reason(backend: &BackendView) -> String {
    match backend.last_failure_seconds {
        Some(seconds) => format!("{}; last failed {} ago", backend.reason, span(seconds)),
        None => backend.reason.clone(),
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
        number("FOR").leaves(5),
        number("WEIGHT").leaves(3),
        number("SHARE").leaves(6),
        number("FLOWS").leaves(8),
        number("NEW").leaves(7),
        number("PPS").leaves(9),
        number("BYTES").leaves(4),
        number("CHECK").leaves(2),
        text("ORIGIN").leaves(1),
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
            Cell::new(reason(backend)),
        ]
    });
    screen.table(&columns, rows)
}
