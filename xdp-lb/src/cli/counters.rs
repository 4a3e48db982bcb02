//! `xdp-lb counters`.

use clap::Args;
use comfy_table::Cell;

use super::output::{Screen, number, text, words};
use super::units::{counted, grouped};
use crate::api::client::Client;
use crate::report::documents::CounterView;

/// Show why packets were dropped or passed to the host: every counter with its meaning
///
/// Counters that are zero are left out of the table. With --output json, all counters are printed.
#[derive(Debug, Args)]
pub(super) struct Counters {
    /// Also list the counters that are zero
    #[arg(long)]
    all: bool,
}

impl Counters {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        let view = client.counters().await?;
        screen.show(&view, || self.table(screen, &view.counters))
    }

    fn table(&self, screen: &Screen, counters: &[CounterView]) -> String {
        let shown: Vec<_> = counters.iter().filter(|it| self.all || it.packets > 0).collect();
        if shown.is_empty() {
            return "no packet was dropped, answered or passed to the host; to list all counters: xdp-lb counters --all"
                .into();
        }
        let columns = [text("VERDICT"), text("NAME"), number("PACKETS"), words("MEANING")];
        let rows = shown.iter().map(|counter| {
            vec![
                Cell::new(&counter.verdict),
                Cell::new(&counter.name),
                Cell::new(grouped(counter.packets)),
                Cell::new(&counter.meaning),
            ]
        });
        let table = screen.table(&columns, rows);
        match counters.len() - shown.len() {
            0 => table,
            zero => format!(
                "{table}{} at zero; to list them: xdp-lb counters --all\n",
                counted(zero as u64, "counter")
            ),
        }
    }
}
