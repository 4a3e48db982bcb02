//! What `status`, `counters` and `flows` show while no daemon is running: what it has left pinned, by which forwarding goes on.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use comfy_table::Cell;
use serde::Serialize;
use xdp_lb_common::tables::{BackendIndex, BackendState, Service, Traffic};

use super::output::{Screen, number, text};
use super::units::{counted, grouped, span};
use super::{Done, IN_TROUBLE};
use crate::api::client::{self, Client};
use crate::datapath::Pinned;
use crate::model;
use crate::report::documents::{CounterView, CountersView, FlowView, FlowsView};
use crate::tables::Tables;

const USUAL: &str = "/sys/fs/bpf/xdp-lb";

/// Where to look while no daemon is running.
#[derive(Clone, Debug, Args)]
pub(super) struct PinPath {
    /// If no daemon is running: the bpffs directory of what it has left pinned
    #[arg(long, value_name = "DIRECTORY", default_value = USUAL)]
    pin_path: PathBuf,
}

/// What is pinned, as `--output json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Unattended {
    /// What is wrong.
    trouble: String,
    /// For how long no daemon has watched.
    unattended_seconds: u64,
    interfaces: Vec<String>,
    services: Vec<PinnedService>,
}

#[derive(Debug, Serialize)]
struct PinnedService {
    vip: SocketAddr,
    protocol: String,
    backends: Vec<PinnedBackend>,
}

#[derive(Debug, Serialize)]
struct PinnedBackend {
    address: SocketAddr,
    /// What the program does with it.
    state: &'static str,
    packets_in: u64,
    packets_out: u64,
    new_flows: u64,
}

impl PinPath {
    /// What is pinned, if the error says that no daemon is running and there is something; else the error.
    fn instead_of(&self, error: client::Error) -> anyhow::Result<Pinned> {
        if !matches!(error, client::Error::NoDaemon(_)) {
            return Err(error.into());
        }
        match Pinned::open(&self.pin_path) {
            Ok(Some(pinned)) => Ok(pinned),
            Ok(None) => Err(error.into()),
            Err(why) => Err(anyhow::anyhow!("{error}; and what it has pinned cannot be read: {why:#}")),
        }
    }

    /// The status of what is pinned.
    pub(super) fn status(&self, error: client::Error, screen: &Screen) -> anyhow::Result<Done> {
        let pinned = self.instead_of(error)?;
        let view = unattended(&pinned)?;
        let text = screen.show(&view, || shown(screen, &view))?;
        Ok(Done { text, code: ExitCode::from(IN_TROUBLE) })
    }

    /// The counters.
    pub(super) async fn counters(&self, client: &Client) -> anyhow::Result<CountersView> {
        match client.counters().await {
            Ok(view) => Ok(view),
            Err(error) => {
                let pinned = self.instead_of(error)?;
                warn(&pinned);
                let counter = |(reason, packets): (xdp_lb_common::reason::Reason, u64)| CounterView {
                    name: reason.name().into(),
                    verdict: reason.kind().name().into(),
                    packets,
                    meaning: reason.words().into(),
                    packets_per_second: 0.0,
                };
                let counters = pinned.reasons()?.into_iter().map(counter).collect();
                Ok(CountersView { counters, losses: Vec::new(), refusals: Vec::new(), evictions: Vec::new() })
            }
        }
    }

    /// The flows that match; services are named by their VIPs.
    pub(super) fn flows(
        &self,
        error: client::Error,
        query: &model::request::FlowQuery,
    ) -> anyhow::Result<FlowsView> {
        let pinned = self.instead_of(error)?;
        warn(&pinned);
        let mut view = FlowsView::default();
        let now = pinned.now;
        pinned.flows(|record| {
            let (client, vip, backend) =
                (record.client().socket(), record.vip().socket(), record.destination().socket());
            let matches = query.client.is_none_or(|wanted| wanted == client.ip())
                && query.backend.is_none_or(|wanted| wanted == backend)
                && query.service.as_ref().is_none_or(|wanted| *wanted == vip.to_string());
            if !matches {
                return;
            }
            view.matching += 1;
            if view.flows.len() >= query.limit as usize {
                return;
            }
            view.flows.push(FlowView {
                service: vip.to_string(),
                protocol: protocol(record.protocol()),
                client,
                vip,
                backend,
                seen_from: record.source().socket(),
                stage: record.life().stage(record.protocol()).into(),
                idle_seconds: record.life().idle(now),
            });
        });
        view.flows.sort_by_key(|flow| (flow.vip, flow.backend, flow.client));
        Ok(view)
    }
}

fn protocol(number: xdp_lb_common::net::Protocol) -> model::Protocol {
    if number == xdp_lb_common::net::Protocol::UDP { model::Protocol::Udp } else { model::Protocol::Tcp }
}

/// What is wrong, in one line.
fn trouble(pinned: &Pinned) -> String {
    format!(
        "no daemon has been running for {}: forwarding goes on by what it left, but nobody checks backends or follows \
         changes; start it: systemctl start xdp-lb",
        span(pinned.unattended_seconds)
    )
}

fn warn(pinned: &Pinned) {
    // A closed stderr is not an error.
    let _ = writeln!(io::stderr(), "TROUBLE: {}", trouble(pinned));
}

fn unattended(pinned: &Pinned) -> anyhow::Result<Unattended> {
    let tables = pinned.tables()?;
    let mut traffic = BTreeMap::new();
    for index in tables.backends.keys() {
        traffic.insert(*index, pinned.traffic(*index)?);
    }
    let services = tables.services.iter().map(|(vip, service)| PinnedService {
        vip: vip.socket(),
        protocol: protocol(vip.protocol).to_string(),
        backends: backends(&tables, service, &traffic),
    });
    Ok(Unattended {
        trouble: trouble(pinned),
        unattended_seconds: pinned.unattended_seconds,
        interfaces: pinned.interfaces.clone(),
        services: services.collect(),
    })
}

fn backends(
    tables: &Tables,
    service: &Service,
    traffic: &BTreeMap<BackendIndex, Traffic>,
) -> Vec<PinnedBackend> {
    let its = tables.backends.iter().filter(|(_, backend)| backend.service == service.index);
    let view = |(index, backend): (&BackendIndex, &xdp_lb_common::tables::Backend)| {
        let traffic = traffic.get(index).copied().unwrap_or_default();
        let states = [
            (BackendState::Up, "up"),
            (BackendState::Draining, "draining"),
            (BackendState::Failing, "failing"),
            (BackendState::Ending, "ending"),
        ];
        PinnedBackend {
            address: SocketAddr::new(backend.address.into(), backend.port.get()),
            state: states.iter().find(|(state, _)| backend.state == *state).map_or("down", |(_, name)| name),
            packets_in: traffic.packets_in,
            packets_out: traffic.packets_out,
            new_flows: traffic.new_flows,
        }
    };
    its.map(view).collect()
}

fn shown(screen: &Screen, view: &Unattended) -> String {
    let columns = [
        text("VIP"),
        text("PROTOCOL"),
        text("BACKEND"),
        text("STATE"),
        number("PACKETS IN"),
        number("PACKETS OUT"),
        number("NEW FLOWS"),
    ];
    let rows = view.services.iter().flat_map(|service| {
        service.backends.iter().map(move |backend| {
            vec![
                Cell::new(service.vip),
                Cell::new(&service.protocol),
                Cell::new(backend.address),
                Cell::new(backend.state),
                Cell::new(grouped(backend.packets_in)),
                Cell::new(grouped(backend.packets_out)),
                Cell::new(grouped(backend.new_flows)),
            ]
        })
    });
    format!(
        "TROUBLE: {}\n\nthe program is on {}; {}\n\n{}",
        view.trouble,
        view.interfaces.join(", "),
        counted(view.services.len() as u64, "service"),
        screen.table(&columns, rows)
    )
}
