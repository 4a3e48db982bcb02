//! `xdp-lb flows`.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use comfy_table::Cell;

use super::Done;
use super::output::{Screen, number, text};
use super::pinned::PinPath;
use super::repeat::Repeat;
use super::units::{grouped, number_of, span};
use crate::api::client::Client;
use crate::model::request::FlowQuery;
use crate::model::text::parse_endpoint;
use crate::report::documents::FlowsView;

/// List the tracked flows: every flow of a service in mode `full-nat` or with `flow_tracking = "always"`, and flows whose
/// slot of the ring has moved recently
#[derive(Clone, Debug, Args)]
pub(super) struct Flows {
    /// Only flows of this service
    service: Option<String>,
    /// Only flows of this backend
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_endpoint)]
    backend: Option<SocketAddr>,
    /// Only flows of this client
    #[arg(long, value_name = "ADDR")]
    client: Option<IpAddr>,
    /// Maximum number of flows to list
    #[arg(long, value_name = "N", default_value_t = FlowQuery::DEFAULT_LIMIT, value_parser = number_of(0..=u32::MAX))]
    limit: u32,
    #[command(flatten)]
    repeat: Repeat,
    #[command(flatten)]
    pinned: PinPath,
}

impl Flows {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        self.repeat.show(screen, async || Ok(self.list(client, screen).await?.into())).await
    }

    async fn list(&self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        let Self { service, backend, client: of, limit, pinned, .. } = self.clone();
        let mut query = FlowQuery { service, backend, client: of, limit, cursor: None };
        let mut view = match client.flows(&query).await {
            Ok(view) => view,
            Err(error) => {
                let view = pinned.flows(error, &query)?;
                return screen.show(&view, || table(screen, &view));
            }
        };
        while let Some(next) = view.next.take() {
            query.limit = limit.saturating_sub(view.flows.len() as u32);
            if query.limit == 0 {
                view.next = Some(next);
                break;
            }
            query.cursor = Some(next);
            let page = client.flows(&query).await?;
            view.flows.extend(page.flows);
            (view.matching, view.next) = (page.matching, page.next);
        }
        screen.show(&view, || table(screen, &view))
    }
}

fn table(screen: &Screen, view: &FlowsView) -> String {
    if view.matching == 0 {
        return "no flows are tracked; in modes other than full-nat, flows of settled slots need no record"
            .into();
    }
    let columns = [
        text("SERVICE").leaves(5),
        text("PROTOCOL").leaves(2),
        text("CLIENT"),
        text("VIP").leaves(3),
        text("BACKEND"),
        text("SOURCE SEEN").leaves(1),
        text("STAGE").leaves(4),
        number("IDLE"),
    ];
    let rows = view.flows.iter().map(|flow| {
        vec![
            Cell::new(&flow.service),
            Cell::new(flow.protocol),
            Cell::new(flow.client),
            Cell::new(flow.vip),
            Cell::new(flow.backend),
            Cell::new(flow.seen_from),
            Cell::new(flow.stage.name()),
            Cell::new(span(flow.idle_seconds.into())),
        ]
    });
    let table = screen.table(&columns, rows);
    match view.matching.saturating_sub(view.flows.len() as u64) {
        0 => table,
        more => format!("{}\n{} more; to list them: --limit", table.trim_end(), grouped(more)),
    }
}
