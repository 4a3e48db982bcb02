//! `xdp-lb counters`.

use comfy_table::Cell;

use super::output::{Screen, number, text, words};
use super::units::grouped;
use crate::api::client::Client;
use crate::report::documents::CounterView;

pub(super) async fn execute(client: &Client, screen: &Screen) -> anyhow::Result<String> {
    let view = client.counters().await?;
    screen.show(&view, || table(screen, &view.counters))
}

fn table(screen: &Screen, counters: &[CounterView]) -> String {
    let columns = [text("VERDICT"), text("NAME"), number("PACKETS"), words("MEANING")];
    let rows = counters.iter().map(|counter| {
        vec![
            Cell::new(&counter.verdict),
            Cell::new(&counter.name),
            Cell::new(grouped(counter.packets)),
            Cell::new(&counter.meaning),
        ]
    });
    screen.table(&columns, rows)
}
