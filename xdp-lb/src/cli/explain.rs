//! `xdp-lb explain`.

use std::net::SocketAddr;

use clap::Args;
use comfy_table::Cell;

use super::output::{Screen, number, text, words};
use super::units::{grouped, number_of, percent};
use crate::api::client::Client;
use crate::model::request::ExplainRequest;
use crate::model::text::parse_endpoint;
use crate::model::{Protocol, TcpFlag};
use crate::report::explain::{ExplainView, SpreadView};

/// Tell what would become of a packet, and why, step by step
///
/// The daemon runs the datapath itself on such a packet, over the tables as they are, and changes nothing: no flow is recorded, and
/// nothing is counted or sent. Only administrators may ask, because the answers depend on the secret of the flow hash.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The packet's sender: 192.0.2.2:1234, '[2001:db8::2]:1234'
    #[arg(value_name = "CLIENT:PORT", value_parser = parse_endpoint)]
    client: SocketAddr,
    /// Whom it is sent to
    #[arg(value_name = "VIP:PORT", value_parser = parse_endpoint)]
    vip: SocketAddr,
    /// Its protocol: tcp, udp
    #[arg(long, value_name = "PROTOCOL", default_value_t)]
    protocol: Protocol,
    /// Its TCP flags: syn, ack, fin, rst, psh, separated by commas
    #[arg(long, value_name = "FLAGS", value_delimiter = ',', default_value = "syn")]
    flags: Vec<TcpFlag>,
    /// The interface that it comes in by [default: the one that leads to the client]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Tell where the flows of this many clients go, whose addresses and ports follow that of CLIENT:PORT
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number_of(1..=ExplainRequest::MOST_CLIENTS))]
    clients: u32,
}

impl Explain {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        let Self { client: of, vip, protocol, flags, interface, clients } = self;
        let request = ExplainRequest { client: of, vip, protocol, flags, interface, clients };
        let view = client.explain(&request).await?;
        screen.show(&view, || told(screen, &view))
    }
}

fn told(screen: &Screen, view: &ExplainView) -> String {
    let columns = [text("STEP"), words("FINDING")];
    let rows = view.steps.iter().map(|it| vec![Cell::new(&it.step), Cell::new(&it.finding)]);
    let mut told = format!("{}\n\n{}", view.message, screen.table(&columns, rows));
    if !view.spread.is_empty() {
        told += &format!("\n{}", spread(screen, &view.spread));
    }
    told
}

fn spread(screen: &Screen, spread: &[SpreadView]) -> String {
    let columns = [text("BACKEND"), number("FLOWS"), number("SHARE"), number("RING"), words("NOT FORWARDED")];
    let rows = spread.iter().map(|it| {
        vec![
            Cell::new(it.backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string())),
            Cell::new(grouped(it.flows)),
            Cell::new(percent(it.share)),
            Cell::new(it.ring_share.map_or_else(String::new, percent)),
            Cell::new(it.reason.as_deref().unwrap_or_default()),
        ]
    });
    screen.table(&columns, rows)
}
